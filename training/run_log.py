"""The run's memory of itself: metrics.jsonl, timings.jsonl, its trackers, the progress bar.

In    numbers of a step.
Out   metrics.jsonl (what resume repeats to the byte), timings.jsonl (what it cannot), trackers' files, a bar.
Run   `python -m training.curves outputs/main` draws all of it

A line of timings.jsonl is written when its step is done with evaluating and saving, so that these are in it.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm.auto import tqdm

from preprocessing.errors import UserError
from training.trackers import Trackers

if TYPE_CHECKING:
    from training.memory_report import MemoryReport


TIMINGS = "timings.jsonl"
BLOCK = 1 << 16


class RunLog:
    """Writes only where `active` (the main process)."""

    memory: "MemoryReport | None" = None
    """Of a run whose memory is measured (training/monitored_loop.py)."""

    def __init__(
        self,
        output_dir: Path,
        start_step: int,
        total_steps: int,
        metrics_bytes: int,
        active: bool,
        trackers: Sequence[str] = (),
    ):
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
        drop_torn_line(output_dir / TIMINGS)
        self.timings = (output_dir / TIMINGS).open("a", encoding="utf-8")
        self.trackers = Trackers(trackers, output_dir, start_step)
        self.bar = tqdm(total=total_steps, initial=start_step, desc="train", unit="step", dynamic_ncols=True)

    def advance(self, loss: float) -> None:
        if self.active:
            memory = self.memory.on_bar() if self.memory else {}
            self.bar.set_postfix({"loss": f"{loss:.4f}"} | memory, refresh=False)
            self.bar.update()

    def write(self, step: int, numbers: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        if self.active:
            self.put(self.metrics, step, numbers)

    def write_timings(self, step: int, timings: dict[str, Any]) -> None:
        """One line of timings.jsonl, memory with it."""
        if self.active:
            self.put(self.timings, step, timings | (self.measured() if self.memory else {}))

    def measured(self) -> dict[str, Any]:
        """Of a run whose memory is: seconds by stage and memory, since last asked."""
        assert self.memory is not None
        monitor = self.memory.monitor
        stages = {"stages": monitor.clock.take()} if monitor.clock is not None else {}
        return stages | {"memory": monitor.take_recent()}

    def put(self, file: TextIO, step: int, numbers: dict[str, Any]) -> None:
        file.write(json.dumps({"step": step} | numbers) + "\n")
        file.flush()
        self.trackers.log(dict(flatten(numbers)), step)

    def saving(self) -> AbstractContextManager[None]:
        """Around what writes a checkpoint."""
        return self.memory.monitor.phase("save") if self.memory else nullcontext()

    def saved(self) -> None:
        """A killed run leaves what it had measured by then."""
        if self.memory:
            self.memory.write()

    def metrics_bytes(self) -> int:
        """Length of metrics.jsonl."""
        return self.path.stat().st_size

    def flush(self) -> None:
        """Have on the disk what metrics.jsonl says."""
        os.fsync(self.metrics.fileno())

    def close(self) -> None:
        if self.active:
            self.bar.close()
            self.trackers.finish()
            self.metrics.close()
            self.timings.close()


class LossMeans:
    """Each term's loss over all labels since it was last written; in the checkpoint, so that resume repeats it."""

    def __init__(self):
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}
        self.last: float | None = None
        """The mean of `total` that was taken last."""

    def add(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> None:
        for term, value in sums.items():
            self.sums[term] = self.sums.get(term, 0.0) + value
            self.counts[term] = self.counts.get(term, 0.0) + counts[term]

    def take(self) -> dict[str, float]:
        """The means, after which counting begins anew."""
        means = {term: self.sums[term] / self.counts[term] for term in self.sums}
        self.sums, self.counts, self.last = {}, {}, means.get("total", self.last)
        return means

    def latest(self) -> float | None:
        """The mean of `total` last taken; before the first, that of the steps so far."""
        if self.last is None and self.counts.get("total"):
            return self.sums["total"] / self.counts["total"]
        return self.last

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "counts": dict(self.counts), "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums, self.counts, self.last = dict(state["sums"]), dict(state["counts"]), state["last"]


def drop_torn_line(path: Path) -> None:
    """Cut off what comes after the last line's end: a kill or a full disk may have left half a line."""
    if path.exists():
        os.truncate(path, whole_lines(path))


def whole_lines(path: Path) -> int:
    """Bytes up to the last line's end, looked for from the end: as quick after a million lines as after ten."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - BLOCK)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                return start + newline + 1
            end = start
    return 0


def lines_logged(output_dir: Path, start: int = 0, stop: int | None = None) -> list[dict[str, Any]]:
    """Of timings.jsonl, all earlier stretches of a run, steps taken twice included; its bytes from `start` to `stop`,
    which are ends of lines. Of a file that ends before `start`, all. Raises UserError for a damaged one."""
    path = output_dir / TIMINGS
    stop = whole_lines(path) if stop is None else stop
    if not stop:
        return []
    with path.open("rb") as file:
        start = file.seek(start if start <= stop else 0)
        lines = file.read(stop - start).splitlines()
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}. It holds times and memory alone: remove it, and the run goes on"
        ) from error


def seconds_logged(output_dir: Path, stop: int | None = None) -> float:
    """What timings.jsonl adds up to, in its first `stop` bytes."""
    return sum(line["seconds"] for line in lines_logged(output_dir, stop=stop))


def flatten(numbers: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Nested numbers as (a/b/c, value); what is not a finite number is left to metrics.jsonl."""
    flat = []
    for name, value in numbers.items():
        if isinstance(value, dict):
            flat += flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            flat.append((prefix + name, float(value)))
    return flat
