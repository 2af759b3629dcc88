"""What measuring a run's memory costs: a step of redheart-tiny measured in phases, beside ways that others measure.

In    the shipped scenarios; nothing else.
Out   nanoseconds of a turn from one phase to another, turns in a step, and their share of a step; beside it a step
      while Transformers' TrainerMemoryTracker runs, whose thread asks without rest.
Run   OMP_NUM_THREADS=1 python benchmarks/memory_monitor.py

Turns are timed by themselves, a thousand at a time, since what they take of a step is below what steps differ by. They
and the three kinds of step (not measured, measured, with the tracker's thread) alternate, on the same batches, and
the median of each counts.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers.trainer_utils import TrainerMemoryTracker

from preprocessing.encode import encode
from preprocessing.errors import run
from preprocessing.readers import parse_source, read
from redheart_hf import RedHeartForMultiTask, preset_config
from training.build import build_accelerator
from training.collator import Collator
from training.config import TrainConfig
from training.held_memory import hold_memory
from training.loop import TrainLoop
from training.memory_monitor import MemoryMonitor
from training.memory_report import MemoryReport
from training.monitored_loop import MonitoredLoop
from training.train_tokenizer import texts_of, train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
TURNS = 1000  # at a time


def loops(folder: Path) -> tuple[TrainLoop, MonitoredLoop]:
    """The same model and data, not measured and measured."""
    records = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}")).records
    tokenizer = train_tokenizer(texts_of(records), vocab_size=1024, max_length=96)
    sizes = preset_config("redheart-tiny", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    config = TrainConfig(output_dir=str(folder), train=["scenarios=given"], batch_size=8, epochs=100)
    accelerator, model = build_accelerator(config), RedHeartForMultiTask(sizes).train()
    given = (accelerator, model, encode(records, tokenizer, 96), Collator(tokenizer), config)
    return TrainLoop(*given), MonitoredLoop(*given, memory=MemoryReport(folder, MemoryMonitor()))


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def train(work: Callable[[], Any]) -> None:
    """As Trainer does with skip_memory_metrics=False: a thread that asks psutil without rest. By this function's name
    the tracker knows that it is training."""
    tracker = TrainerMemoryTracker(skip_memory_metrics=False)
    tracker.start()
    work()
    tracker.stop("train")


def turns_in(loop: MonitoredLoop, work: Callable[[], Any]) -> int:
    monitor, count, turn = loop.memory.monitor, [0], loop.memory.monitor.turn

    def counted(name: str) -> None:
        count[0] += 1
        turn(name)

    monitor.turn = counted  # type: ignore[method-assign]
    work()
    monitor.turn = turn  # type: ignore[method-assign]
    return count[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps of each kind (%(default)s)")
    steps = parser.parse_args().steps
    hold_memory()
    with tempfile.TemporaryDirectory() as folder:
        plain, measured = loops(Path(folder))
        groups = plain.groups()
        plain.take_step(next(groups))
        turns = turns_in(measured, lambda: measured.take_step(next(groups)))
        kinds: dict[str, list[float]] = {"not measured": [], "measured": [], "TrainerMemoryTracker": []}
        monitor, of_turns = measured.memory.monitor, []
        for _ in range(steps):
            group = next(groups)
            kinds["not measured"].append(seconds_of(lambda group=group: plain.take_step(group)))
            kinds["measured"].append(seconds_of(lambda group=group: measured.take_step(group)))
            kinds["TrainerMemoryTracker"].append(seconds_of(lambda group=group: train(lambda: plain.take_step(group))))
            of_turns.append(seconds_of(lambda: [monitor.turn("forward") for _ in range(TURNS)]) / TURNS)
    step, a_turn = statistics.median(kinds["not measured"]), statistics.median(of_turns)
    print(f"a turn takes {1e9 * a_turn:,.0f} ns; {turns} turns in a step of {1e3 * step:.1f} ms")
    print(f"share of a step: {turns * a_turn / step:.6f}")
    for name, found in kinds.items():
        print(f"{name:<22} median step {1e3 * statistics.median(found):8.1f} ms")
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    run(main)
