"""The run's memory of itself: metrics.jsonl, TensorBoard, the progress bar.

In    numbers of a step.
Out   metrics.jsonl (what resume repeats to the byte), timings.jsonl (what it cannot), TensorBoard files, a bar.
Run   `tensorboard --logdir outputs/main/tensorboard`
"""

import json
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from training.memory_report import MemoryReport


class RunLog:
    """Writes only where `active` (the main process)."""

    memory: "MemoryReport | None" = None
    """Of a run whose memory is measured (training/monitored_loop.py)."""

    def __init__(self, output_dir: Path, start_step: int, total_steps: int, metrics_bytes: int, active: bool):
        self.active = active
        if not active:
            return
        output_dir.mkdir(parents=True, exist_ok=True)
        self.path = output_dir / "metrics.jsonl"
        self.path.touch()
        # Steps after the checkpoint will be taken again: what they wrote is cut off, in constant time. A file that is
        # shorter belongs to a run that goes on in another folder, and must not be filled up with zeros.
        os.truncate(self.path, min(metrics_bytes, self.path.stat().st_size))
        self.metrics = self.path.open("a", encoding="utf-8")
        drop_torn_line(output_dir / "timings.jsonl")
        self.timings = (output_dir / "timings.jsonl").open("a", encoding="utf-8")
        self.board = SummaryWriter(str(output_dir / "tensorboard"), purge_step=start_step + 1)
        self.bar = tqdm(total=total_steps, initial=start_step, desc="train", unit="step", dynamic_ncols=True)

    def advance(self, loss: float) -> None:
        if self.active:
            memory = self.memory.on_bar() if self.memory else {}
            self.bar.set_postfix({"loss": f"{loss:.4f}"} | memory, refresh=False)
            self.bar.update()

    def write(self, step: int, numbers: dict[str, Any], timings: dict[str, Any] | None = None) -> None:
        """One line of metrics.jsonl and the same numbers on the board; timings go to a file of their own, and memory
        with them."""
        if not self.active:
            return
        if timings and self.memory:
            timings = timings | {"memory": self.memory.monitor.take_recent()}
        self.metrics.write(json.dumps({"step": step} | numbers) + "\n")
        self.metrics.flush()
        for name, value in flatten(numbers | (timings or {})):
            self.board.add_scalar(name, value, step)
        if timings:
            self.timings.write(json.dumps({"step": step} | timings) + "\n")
            self.timings.flush()

    def saving(self) -> AbstractContextManager[None]:
        """Around what writes a checkpoint."""
        return self.memory.monitor.phase("save") if self.memory else nullcontext()

    def saved(self) -> None:
        """A killed run leaves what it had measured by then."""
        if self.memory:
            self.memory.write()

    def metrics_bytes(self) -> int:
        """Length of metrics.jsonl, flushed to the disk: a checkpoint may not know of lines that a crash could lose."""
        os.fsync(self.metrics.fileno())
        return self.path.stat().st_size

    def close(self) -> None:
        if self.active:
            self.bar.close()
            self.board.close()
            self.metrics.close()
            self.timings.close()


class LossMeans:
    """Each term's loss over all labels since it was last written; in the checkpoint, so that resume repeats it."""

    def __init__(self):
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    def add(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> None:
        for term, value in sums.items():
            self.sums[term] = self.sums.get(term, 0.0) + value
            self.counts[term] = self.counts.get(term, 0.0) + counts[term]

    def take(self) -> dict[str, float]:
        """The means, after which counting begins anew."""
        means = {term: self.sums[term] / self.counts[term] for term in self.sums}
        self.sums, self.counts = {}, {}
        return means

    def state_dict(self) -> dict[str, dict[str, float]]:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


def drop_torn_line(path: Path) -> None:
    """Cut off what comes after the last line's end: a kill or a full disk may have left half a line."""
    if path.exists():
        whole, newline, _ = path.read_bytes().rpartition(b"\n")
        os.truncate(path, len(whole) + len(newline))


def lines_logged(output_dir: Path) -> list[dict[str, Any]]:
    """Of timings.jsonl, all earlier stretches of a run, steps taken twice included."""
    path = output_dir / "timings.jsonl"
    *lines, _ = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]  # the last may be half a line
    return [json.loads(line) for line in lines]


def seconds_logged(output_dir: Path) -> float:
    """What timings.jsonl adds up to."""
    return sum(line["seconds"] for line in lines_logged(output_dir))


def flatten(numbers: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Nested numbers as (a/b/c, value); what is not a finite number is left to metrics.jsonl."""
    flat = []
    for name, value in numbers.items():
        if isinstance(value, dict):
            flat += flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            flat.append((prefix + name, float(value)))
    return flat
