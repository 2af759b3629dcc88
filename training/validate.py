"""Is this checkout fit to train? Environment, data, model, and a checkpoint's way there and back, in under a minute.

In    nothing: the checkout it stands in, the shipped scenarios, this machine.
Out   a line a check: ok, with what there is to say, or FAILED with what to do; nothing is left on the disk.
Run   bash run_learning.sh validate
      python -m training.validate

Nothing is trained that anybody keeps: a tiny model takes four steps on the shipped scenarios, is saved after two of
them, and a second one that goes on from there must end with the same bits.

Exit codes: 0 all checks passed, 1 one failed.
"""

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from preprocessing.errors import UserError, run
from preprocessing.folders import write_folder
from preprocessing.memory_room import room
from preprocessing.overlap import find_overlaps
from preprocessing.progress import without_bars
from preprocessing.readers import parse_source, read
from preprocessing.records import Record
from training.build import build_accelerator, build_model
from training.checkpoint import checkpoints
from training.checkpoint_choice import find_checkpoint
from training.collator import MODEL_INPUTS, Collator
from training.config import TrainConfig
from training.creation import save_model
from training.data import prepare_data
from training.dry_run import digest_of
from training.inference import evaluation_mode
from training.loading import load_model
from training.loop import TrainLoop
from training.native import has_compiler
from training.run_state import load_run
from training.tokenizer_files import save_tokenizer
from training.train_tokenizer import save, texts_of, train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ROOT / "data" / "scenarios"
GIB = 2**30
NEEDED = ("torch", "transformers", "accelerate", "datasets", "safetensors", "numpy", "jsonargparse", "tensorboard")
STEPS, LEAST_DISK_GIB = 4, 5.0
Notes = Iterator[str]
"""What a check has to say beside that it passed; it raises UserError where it does not pass."""


def environment() -> Notes:
    """The packages, beside the versions that are tested; memory and disk."""
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    for name in NEEDED:
        try:
            found = version(name)
        except PackageNotFoundError:
            raise UserError(f"{name} is not installed; `bash run_learning.sh setup` installs it") from None
        if found.split("+")[0] != tested.get(name, found):
            yield f"{name} {found} is not the tested {tested[name]}"
    if not has_compiler():
        yield "no C++ compiler: memory is not held, and adamw_8bit cannot be used"
    where = "a GPU" if torch.cuda.is_available() else "the CPU, no GPU is found"
    disk = shutil.disk_usage(ROOT).free / GIB
    yield f"{where}; {room().free / GIB:.1f} GiB of memory free, {disk:.1f} GiB of disk"
    if disk < LEAST_DISK_GIB:
        raise UserError(f"{disk:.1f} GiB are free on the disk of {ROOT}, {LEAST_DISK_GIB:.0f} are wanted: make room")


def data() -> Notes:
    """The shipped scenarios: every row can be read, no text is in two splits."""
    splits: dict[str, list[Record]] = {}
    for path in sorted(SCENARIOS.glob("*.jsonl")):
        result = read(parse_source(f"scenarios={path}"))
        if result.rejected:
            row = result.rejected[0]
            raise UserError(f"{path}: {len(result.rejected)} rows cannot be read, the first: {row.reason}")
        splits[path.stem] = result.records
    if not splits.get("train") or not splits.get("dev"):
        raise UserError(f"{SCENARIOS} holds {sorted(splits)}, train.jsonl and dev.jsonl are missing; check out again")
    everything = [record for records in splits.values() for record in records]
    if not (shared := str(find_overlaps(everything))).startswith("no text occurs"):
        raise UserError(f"splits of {SCENARIOS} share texts: {shared}")
    yield ", ".join(f"{name} {len(records)}" for name, records in splits.items()) + " scenarios"


class Trial:
    """Tiny runs on the shipped data, in a folder that passes."""

    def __init__(self, folder: Path):
        self.folder = folder
        records = read(parse_source(f"scenarios={SCENARIOS / 'train.jsonl'}")).records
        save(train_tokenizer(texts_of(records), 2048, 160), folder / "tokenizer")

    def config(self, name: str) -> TrainConfig:
        fields: dict[str, Any] = {"max_steps": STEPS, "save_steps": STEPS // 2, "batch_size": 4, "warmup_steps": 1}
        return TrainConfig(
            output_dir=str(self.folder / name),
            train=[f"scenarios={SCENARIOS / 'train.jsonl'}"],
            tokenizer=str(self.folder / "tokenizer"),
            model={"max_length": 160},
            train_rows=16,
            **fields,
        )

    def loop(self, name: str) -> TrainLoop:
        config = self.config(name)
        tokenizer, model = build_model(config)
        with contextlib.redirect_stdout(io.StringIO()):
            data = prepare_data(config, model.config, tokenizer, write=False)
        return TrainLoop(build_accelerator(config), model, data.train, Collator(tokenizer), config)


def model(trial: Trial) -> Notes:
    """A model with all modules: its answers are finite, and the same after it was saved and loaded."""
    loop = trial.loop("model")
    batch = next(iter(loop.groups()))[0]
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    write_folder(trial.folder / "saved", lambda folder: save_all(loop, folder))
    loaded, _ = load_model(trial.folder / "saved")
    with evaluation_mode(loop.bare_model), evaluation_mode(loaded):
        one, other = loop.bare_model(**inputs), loaded(**inputs)
    for name in ("basic_logits", "vad_mean"):
        first, second = getattr(one.emotion, name), getattr(other.emotion, name)
        if not torch.isfinite(first).all():
            raise UserError(f"{name} of a fresh model is not finite: torch does not compute soundly here")
        if not torch.equal(first, second):
            raise UserError(f"{name} differs by {(first - second).abs().max():.3g} after saving and loading")
    yield f"{sum(parameter.numel() for parameter in loaded.parameters()):,} weights, saved and loaded to the same bits"


def save_all(loop: TrainLoop, folder: Path) -> None:
    save_model(loop.bare_model, folder)
    save_tokenizer(loop.collator.tokenizer, folder)


def checkpoint(trial: Trial) -> Notes:
    """Four steps at once, and two, a checkpoint, and two more: the same bits."""
    whole = trial.loop("whole")
    whole.train()
    half = checkpoints(whole.output_dir)[0]
    shutil.copytree(half, trial.folder / "resumed" / half.relative_to(whole.output_dir))
    resumed = trial.loop("resumed")
    found = find_checkpoint(resumed.output_dir, "auto")
    if found is None:
        raise UserError(f"no checkpoint is found in {resumed.output_dir} after it was saved there")
    load_run(resumed, found)
    resumed.train()
    one, other = digest_of(whole.bare_model), digest_of(resumed.bare_model)
    if one != other:
        raise UserError(f"taken up at step {STEPS // 2} a run ends with weights {other}, uninterrupted with {one}")
    yield f"a run taken up at step {STEPS // 2} of {STEPS} ends with the same bits"


def checked(name: str, check: Callable[[], Notes]) -> bool:
    """Whether it passed; prints a line or more."""
    try:
        with without_bars(), contextlib.redirect_stderr(io.StringIO()):  # of a few steps
            notes = list(check())
    except (UserError, OSError, RuntimeError, ValueError) as error:
        print(f"FAILED  {name}: {error}", flush=True)
        return False
    print(f"ok      {name}: {'; '.join(notes)}", flush=True)
    return True


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m training.validate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory(prefix="redheart-validate-") as folder:
        passed = [checked("environment", environment), checked("data", data)]
        if all(passed):  # without the one or the other these could only fail
            trial = Trial(Path(folder))
            passed += [checked("model", partial(model, trial)), checked("checkpoint", partial(checkpoint, trial))]
    if not all(passed):
        print("not fit to train: see above", file=sys.stderr)
        sys.exit(1)
    print("fit to train")


if __name__ == "__main__":
    run(main)
