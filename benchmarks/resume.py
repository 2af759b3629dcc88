"""What it takes to go on after ten steps, and after a hundred thousand.

In    the shipped scenarios; a tiny model, trained for real for three steps after each of the two.
Out   a table: seconds from the checkpoint to the end of the first step, the median of several, and the ratio.
Run   OMP_NUM_THREADS=1 python benchmarks/resume.py

The steps between are not taken: the run is told that it has taken them, and its logs are given the lines that they
would have written. Both are measured in turn, in one process, which has done each once before.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(ROOT / "tests"))

from tiny_run import build_loop, tiny_config  # noqa: E402
from transformers import PreTrainedTokenizerBase  # noqa: E402

from preprocessing.errors import run  # noqa: E402
from preprocessing.readers import parse_source, read  # noqa: E402
from training.checkpoint import checkpoints  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.loading import load_tokenizer  # noqa: E402
from training.memory_monitor import MemoryMonitor  # noqa: E402
from training.memory_report import MemoryReport  # noqa: E402
from training.monitored_loop import MonitoredLoop  # noqa: E402
from training.run_state import load_run  # noqa: E402
from training.train_tokenizer import texts_of, train_tokenizer  # noqa: E402

STEPS, LOG_STEPS = (10, 100_000), 5
LINE = {"seconds": 1.0, "stages": {"forward": 0.5, "backward": 0.5}, "memory": {"cpu": {"peak": 1, "phases": {}}}}


class Runs:
    def __init__(self, folder: Path):
        self.folder = folder
        self.records = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}")).records[:64]
        train_tokenizer(texts_of(self.records), 1024, 128).save_pretrained(folder / "tokenizer")
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder / "tokenizer")

    def config(self, step: int) -> TrainConfig:
        changes = {"max_steps": step + 4, "save_steps": step + 3, "log_steps": LOG_STEPS, "trackers": []}
        return tiny_config(self.folder / str(step) / "run", **changes)

    def loop(self, step: int) -> MonitoredLoop:
        config = self.config(step)
        memory = MemoryReport(Path(config.output_dir), MemoryMonitor())
        return build_loop(self.tokenizer, config, self.records, lambda *given: MonitoredLoop(*given, memory=memory))

    def write(self, step: int) -> None:
        """A run with a checkpoint three steps after `step`, and one at its end."""
        loop = self.loop(step)
        loop.output_dir.mkdir(parents=True)
        for name in ("metrics.jsonl", "timings.jsonl"):
            lines = (json.dumps({"step": at} | LINE) for at in range(LOG_STEPS, step + 1, LOG_STEPS))
            (loop.output_dir / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        loop.metrics_bytes = (loop.output_dir / "metrics.jsonl").stat().st_size
        loop.step = step
        loop.train()

    def seconds(self, step: int) -> float:
        loop = self.loop(step)
        found = checkpoints(loop.output_dir)[0]
        started = time.perf_counter()
        loop.memory.recall(loop.output_dir)
        load_run(loop, found)
        take_step, ended = loop.take_step, [0.0]

        def timed(group):
            taken = take_step(group)
            ended[0] = time.perf_counter()
            return taken

        loop.take_step = timed
        loop.save = lambda *_: None  # the next is to begin where this one did
        loop.train()
        return ended[0] - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="of each (%(default)s)")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        for step in STEPS:
            runs.write(step)
            runs.seconds(step)
        found = [[runs.seconds(step) for step in STEPS] for _ in range(repeats)]
    early, late = (statistics.median(column) for column in zip(*found, strict=True))
    print(f"after step {STEPS[0]:,}: {early:.3f} s; after step {STEPS[1]:,}: {late:.3f} s; ratio {late / early:.2f}")


if __name__ == "__main__":
    run(main)
