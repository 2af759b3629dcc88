"""What it costs to watch a run: monitoring, the checks of each step, and trackers, together and each alone.

In    the shipped scenarios; a preset; how often a line is written.
Out   median seconds of a step with all of it and with none, in turns on one model, and their ratio with what 95 % of
      resamples of the pairs find; microseconds of each part and its share of a step.
Run   OMP_NUM_THREADS=1 python benchmarks/monitoring.py

Each pair of blocks, one of either kind, takes the same batches: those of other lengths cost more than all of this.
`none` is a step without stages and memory measured, without norms by module, without a line for anybody. What both
have is the step itself, with the norm of the gradient that clipping needs. Checked each step, and part of the step in
both: that losses and the norm are finite, of numbers that the step has anyway. Where others use the machine, go by
processor time: what a step waits for its turn is not its own.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from preprocessing.encode import encode
from preprocessing.errors import run
from preprocessing.readers import parse_source, read
from redheart_hf import RedHeartForMultiTask, preset_config
from training.build import build_accelerator
from training.collator import Batch, Collator
from training.config import TrainConfig
from training.held_memory import hold_memory
from training.loop import TrainLoop
from training.memory_monitor import MemoryMonitor
from training.memory_report import MemoryReport
from training.monitor import norms_by_module, norms_of
from training.monitored_loop import MonitoredLoop
from training.run_log import RunLog
from training.trackers import import_trackers
from training.train_tokenizer import texts_of, train_tokenizer

ROOT = Path(__file__).resolve().parents[1]


def loop_of(folder: str, given: argparse.Namespace) -> MonitoredLoop:
    records = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}")).records
    tokenizer = train_tokenizer(texts_of(records), vocab_size=1024, max_length=96)
    config = TrainConfig(
        output_dir=folder,
        train=["scenarios=given"],
        batch_size=given.batch_size,
        epochs=1000,
        log_steps=given.every,
        trackers=given.trackers,
    )
    import_trackers(config)
    sizes = preset_config(given.preset, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    model, dataset = RedHeartForMultiTask(sizes).train(), encode(records, tokenizer, 96)
    memory = MemoryReport(Path(folder), MemoryMonitor())
    return MonitoredLoop(build_accelerator(config), model, dataset, Collator(tokenizer), config, memory=memory)


def with_all(loop: MonitoredLoop, log: RunLog, groups: Iterator[list[Batch]]) -> None:
    """As MonitoredLoop.take_steps does it, with batches that were read before."""
    with loop.clock.stage("read"):
        group = next(groups)
    losses, numbers = loop.take_step(group)
    loop.step += 1
    log.advance(losses["total"])
    if loop.is_logged(loop.step):
        log.write(loop.step, {"loss": loop.loss_means.take()} | numbers)
        log.write_timings(loop.step, {"seconds": 0.0} | loop.loaded.take_figures())


class Silent(MonitoredLoop):
    """The same loop object, looked at as one that nobody watches."""

    groups = TrainLoop.groups
    forward = TrainLoop.forward
    compute = TrainLoop.compute
    backward = TrainLoop.backward
    update = TrainLoop.update

    def is_logged(self, step: int) -> bool:
        return False


def with_none(loop: MonitoredLoop, log: RunLog, groups: Iterator[list[Batch]]) -> None:
    loop.__class__ = Silent
    losses, _ = loop.take_step(next(groups))
    loop.step += 1
    log.advance(losses["total"])
    loop.__class__ = MonitoredLoop


def microseconds(work: Callable[[], Any], times: int = 200) -> float:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return 1e6 * statistics.median(found)


def by_turns(
    loop: MonitoredLoop, log: RunLog, groups: Iterator[list[Batch]], given: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds a step of each block, by the clock and of the processor; the first two of either are to warm up."""
    blocks: dict[str, list[float]] = {"all": [], "none": []}
    worked: dict[str, list[float]] = {"all": [], "none": []}
    for _ in range(2 + given.steps // given.every):
        same = list(islice(groups, given.every))
        for name, work in random.sample([("all", with_all), ("none", with_none)], 2):
            loop.step, read_before = 0, iter(same)  # a block has one line, at its end
            started, computed = time.perf_counter(), time.process_time()
            for _ in range(given.every):
                work(loop, log, read_before)
            blocks[name].append((time.perf_counter() - started) / given.every)
            worked[name].append((time.process_time() - computed) / given.every)
    return blocks, worked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="redheart-tiny", help="%(default)s")
    parser.add_argument("--steps", type=int, default=150, help="steps of each kind (%(default)s)")
    parser.add_argument("--every", type=int, default=5, help="log_steps (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=8, help="%(default)s")
    parser.add_argument("--trackers", nargs="*", default=["tensorboard"], help="%(default)s")
    given = parser.parse_args()
    hold_memory()
    with tempfile.TemporaryDirectory() as folder:
        loop = loop_of(folder, given)
        groups = TrainLoop.groups(loop)
        log = RunLog(Path(folder), 0, 10**6, 0, True, given.trackers)
        log.memory = loop.memory
        blocks, worked = by_turns(loop, log, groups, given)
        step = statistics.median(blocks["none"])
        parameters = {name: torch.ones_like(part) for name, part in loop.bare_model.named_parameters()}
        norms = norms_of(list(parameters.values()))
        numbers = loop.take_step(next(groups))[1]
        parts = {
            "norms by module, a line": microseconds(lambda: norms_by_module(parameters, norms)),
            "a line of metrics.jsonl, and to trackers": microseconds(lambda: log.write(5, numbers), 50),
            "a line of timings.jsonl, and to trackers": microseconds(
                lambda: log.write_timings(5, {"seconds": 1.0}), 50
            ),
        }
        turn = microseconds(lambda: loop.memory.monitor.turn("forward"), 2000)
        log.close()
    for said, found in (("by the clock", blocks), ("processor time", worked)):
        ratios = [one / other for one, other in zip(found["all"][2:], found["none"][2:], strict=True)]
        again = sorted(statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(1000))
        print(
            f"{said:<15} a step: all {statistics.median(found['all']):.5f} s, none "
            f"{statistics.median(found['none']):.5f} s; ratio, median of {len(ratios)} pairs of {given.every} steps: "
            f"{statistics.median(ratios):.4f} [{again[25]:.4f}, {again[974]:.4f}]"
        )
    for name, taken in parts.items():
        print(f"{name:<42} {taken:8.0f} us, {100 * taken / 1e6 / given.every / step:.3f} % of a step")
    print(f"{'a turn of stage and memory, ten a step':<42} {turn:8.0f} us, {1000 * turn / 1e6 / step:.3f} % of a step")
    print(f"{torch.get_num_threads()} threads, {given.preset}, trackers {given.trackers}")


if __name__ == "__main__":
    run(main)
