"""A bar for work that takes the night: rows done, rows a minute, time left.

In    how many rows there are; how many were done, and how many of these now.
Out   a bar on stderr; where that is no terminal, a line every half minute.
Run   through preprocessing/pipeline.py

The rate is of rows that this process asked about since it started: rows that were answered before, or by another
process, come at no cost and would promise an early end.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType

import datasets
from tqdm import tqdm

_EVERY_SECONDS = 30


class Progress:
    def __init__(self, rows: int, name: str):
        self.name, self.rows, self.done, self.asked_rows = name, rows, 0, 0
        self.started = self.told = time.monotonic()
        self.bar = tqdm(
            total=rows,
            desc=name,
            disable=not sys.stderr.isatty(),
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar}| {postfix}",
        )

    def add(self, rows: int, asked: int) -> None:
        """`rows` are done; if `asked` is 0, without asking."""
        now = time.monotonic()
        if not self.asked_rows and not asked:
            self.started = now
        self.done += rows
        self.asked_rows += rows if asked else 0
        self.bar.set_postfix_str(self.says(now), refresh=False)
        self.bar.update(rows)
        if self.bar.disable and (now - self.told > _EVERY_SECONDS or self.done == self.rows):
            self.told = now
            self.tell(now)

    def says(self, now: float) -> str:
        if not self.asked_rows:
            return "answered before"
        a_second = self.asked_rows / max(now - self.started, 1e-6)
        left = timedelta(seconds=round((self.rows - self.done) / a_second))
        return f"{60 * a_second:.1f} rows/min, {left} left"

    def tell(self, now: float) -> None:
        print(f"{self.name} {self.done:,}/{self.rows:,} rows: {self.says(now)}", file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of `datasets`; afterwards as it was."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
