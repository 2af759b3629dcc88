"""What holding memory is for: a run's peak and its processor time, held, with glibc as it is, and with glibc told.

In    REDHEART_DATA_DIR with goemotions/, whose longest texts are taken; the shipped scenarios, for a tokenizer.
Out   a table: peak over the start, beside what is planned of tensors, and seconds of the processor a step; then what
      KERNELS (training/memory_kinds.py) stands for: peak less planned tensors less the start, by precision.
Run   REDHEART_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/held_memory.py
      REDHEART_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/held_memory.py --preset redheart-tiny

Each run is a process of its own and does what training/train.py does: it plans (the start is before that), makes the
model and takes steps of TrainLoop, with AdamW. Seconds are the least and the most of all steps but the first of each
run. "told" is glibc made to give back at once (mallopt, the two thresholds that a held run sets too) and nothing else.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from accelerate.utils import set_seed

from preprocessing.errors import UserError, run
from preprocessing.memory_room import most_resident, resident
from preprocessing.readers import parse_source, read
from training.build import build_accelerator, build_model, read_architecture
from training.collator import Collator
from training.config import TrainConfig
from training.data import prepare_data
from training.held_memory import LEAST_HELD, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
from training.loop import TrainLoop
from training.memory_kinds import KERNELS
from training.memory_run import hold, plan_with
from training.train_tokenizer import texts_of, train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
STEPS, RECORDS, LENGTH = 4, 8, 64
WAYS = {"held": "held", "told": "glibc, told to give back", "plain": "glibc"}


def tell_glibc() -> None:
    c_library = ctypes.CDLL(None)
    if not hasattr(c_library, "mallopt"):
        raise UserError("this C library has no mallopt: it is not glibc, and there is nothing to compare with")
    c_library.mallopt(M_MMAP_THRESHOLD, LEAST_HELD)
    c_library.mallopt(M_TRIM_THRESHOLD, LEAST_HELD)


def one_run(way: str, config: TrainConfig) -> dict[str, Any]:
    """Bytes at the start and at the most, planned bytes of tensors, seconds of each step."""
    accelerator = build_accelerator(config)
    if way == "told":
        tell_glibc()
    hold(config, accelerator)
    tokenizer, model_config = read_architecture(config)
    data = prepare_data(config, model_config, tokenizer, write=False)
    data.train = data.train.select(np.argsort(data.train["length"], kind="stable")[-STEPS * RECORDS :])
    collator, start = Collator(tokenizer), resident()
    plan = plan_with(data, collator, model_config, config)
    _, model = build_model(config)
    loop, seconds = TrainLoop(accelerator, model, data.train, collator, config), []
    loop.model.train()
    for group in loop.groups():
        set_seed(loop.seed_of_step())
        began = time.process_time()
        loop.take_step(group)
        loop.step += 1
        seconds.append(time.process_time() - began)
    shape = list(group[0]["input_ids"].shape)
    of_tensors = max(size for phase, size in plan.phases.items() if phase != "read")
    of_tensors -= plan.process + KERNELS[config.mixed_precision]
    return {"start": start, "most": most_resident(), "tensors": of_tensors, "seconds": seconds, "shape": shape}


def ask(way: str, precision: str, preset: str, folder: Path) -> dict[str, Any]:
    """`one_run` in a process of its own."""
    source = f"goemotions={Path(os.environ['REDHEART_DATA_DIR']) / 'goemotions' / 'ekman_dev.tsv'}"
    fields = {"output_dir": str(folder / "run"), "train": [source], "tokenizer": str(folder), "preset": preset}
    fields |= {"batch_size": RECORDS, "max_steps": STEPS, "mixed_precision": precision}
    fields |= {"model": {"max_length": LENGTH}, "hold_memory": "on" if way == "held" else "off"}
    command = [sys.executable, __file__, "--one-run", json.dumps([way, fields])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def as_line(said: str, runs: list[dict[str, Any]]) -> str:
    over = [(found["most"] - found["start"]) / MIB for found in runs]
    seconds = [second for found in runs for second in found["seconds"][1:]]
    return f"{said:<26}{min(over):10.0f}{max(over):8.0f}{min(seconds):12.2f}{max(seconds):8.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="redheart-200m", help="the model (%(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="runs of each way (%(default)s)")
    parser.add_argument("--one-run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_run:
        way, fields = json.loads(arguments.one_run)
        print(json.dumps(one_run(way, TrainConfig(**fields))))
        return
    if arguments.turns < 1 or "REDHEART_DATA_DIR" not in os.environ:
        raise UserError(f"give --turns of at least 1 (got {arguments.turns}), and REDHEART_DATA_DIR")
    records = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}")).records
    with tempfile.TemporaryDirectory() as name:
        train_tokenizer(texts_of(records), vocab_size=4096, max_length=512).save_pretrained(name)
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for _ in range(arguments.turns):  # in turn, so that a busy moment meets all of them
            for way, precision in [*((way, "no") for way in WAYS), ("held", "bf16")]:
                found.setdefault((way, precision), []).append(ask(way, precision, arguments.preset, Path(name)))
    first = found["held", "no"][0]
    rows, length = first["shape"]
    print(
        f"{arguments.preset}, float32, AdamW, {STEPS} steps of {rows} x {length} tokens, {arguments.turns} runs each\n"
    )
    print(f"{'':<26}{'peak over the start, MiB':>24}{'processor, s a step':>20}")
    planned = first["tensors"] / MIB
    print(f"{'the plan, tensors':<26}{planned:10.0f}")
    print(f"{'the plan, with KERNELS':<26}{planned + KERNELS['no'] / MIB:10.0f}")
    for way, said in WAYS.items():
        print(as_line(said, found[way, "no"]))
    print("\npeak less planned tensors less the start, held, MiB")
    for precision in ("no", "bf16"):
        sizes = [(one["most"] - one["start"] - one["tensors"]) / MIB for one in found["held", precision]]
        print(f"{precision:<6}{min(sizes):8.1f} to {max(sizes):.1f}; KERNELS has {KERNELS[precision] / MIB:.0f}")


if __name__ == "__main__":
    run(main)
