"""What a run prints, kept: OUTPUT_DIR/logs/training.log, and a run that outlives its terminal.

In    the run's folder.
Out   all that the main process writes to stdout and stderr, in the log as on the terminal; of a bar, its last state.
Run   through training/train.py; `tail -f runs/unified_train/logs/training.log`

A terminal that goes away makes every write to it fail, and the first progress bar after that would end the run. From
then on the run writes to the log alone. Lines that C and C++ libraries write themselves reach the terminal only.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TextIO

GONE = (errno.EIO, errno.EPIPE, errno.EBADF)
"""What writing to a terminal fails with that was closed, to a pipe nobody reads, to a file that was shut."""


class Log:
    """A file that is there from the first line on: a start that is refused before it says anything leaves none."""

    def __init__(self, path: Path):
        self.path = path
        self.file: TextIO | None = None

    def write(self, text: str) -> None:
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a", encoding="utf-8", buffering=1)
        self.file.write(text)

    def flush(self) -> None:
        if self.file is not None:
            self.file.flush()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


class Kept:
    """A stream whose text also goes to a log; without the terminal it goes on with the log alone."""

    def __init__(self, terminal: TextIO, log: Log):
        self.terminal, self.log = terminal, log
        self.gone, self.line = False, ""

    def write(self, text: str) -> int:
        self._to_terminal(lambda: self.terminal.write(text))
        self._to_log(text)
        return len(text)

    def flush(self) -> None:
        self._to_terminal(self.terminal.flush)
        self.log.flush()

    def __getattr__(self, name: str):
        """Whether it is a terminal, its encoding and so on: as the terminal says."""
        return getattr(self.terminal, name)

    def close_line(self) -> None:
        if self.line:
            self.log.write(self.line + "\n")
            self.line = ""

    def _to_terminal(self, act) -> None:
        if self.gone:
            return
        try:
            act()
        except OSError as error:
            if error.errno not in GONE:
                raise
            self.gone = True

    def _to_log(self, text: str) -> None:
        """Whole lines; a carriage return begins the line anew, as a terminal would."""
        *lines, rest = (self.line + text).split("\n")
        for line in lines:
            self.log.write(line.rpartition("\r")[2] + "\n")
        self.line = rest.rpartition("\r")[2] if not rest.endswith("\r") else rest


@contextmanager
def kept_output(output_dir: Path) -> Iterator[None]:
    """While the block runs, in the first of a run's processes."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    before = sys.stdout, sys.stderr
    with closing(Log(output_dir / "logs" / "training.log")) as log:
        sys.stdout, sys.stderr = streams = Kept(before[0], log), Kept(before[1], log)
        try:
            yield
        except BaseException as error:
            if log.file is not None:
                log.write(f"{type(error).__name__}: {error}\n")
            raise
        finally:
            sys.stdout, sys.stderr = before
            for stream in streams:
                stream.close_line()
