"""Several processes share one job: each piece of work is held by one of them, for as long as it lives.

In    a file that all of them can open.
Out   `Claims.take(piece)`; `held(path)`.
Run   through preprocessing/pipeline.py

A claim is a lock of the system on one byte of the file (fcntl), so it ends with its process however that ends: no
lease to renew, no clock, nothing to clean up. Locks of this kind belong to a process: a file is opened once in it.
"""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType


class Claims:
    """Pieces of work, each a byte of `path`."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, piece: int, wait: bool = False) -> bool:
        """Whether this process now holds the piece; with `wait` as soon as whoever holds it is done or dead."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, piece)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            return False
        return True

    def release(self, piece: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, piece)

    def is_at(self, path: Path) -> bool:
        """Whether the file that is open is the one that has this name now."""
        try:
            return os.path.samestat(os.fstat(self._file), path.stat())
        except FileNotFoundError:
            return False

    def __enter__(self) -> "Claims":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


@contextmanager
def held(path: Path, meanwhile: str) -> Iterator[None]:
    """Hold the whole file; `meanwhile` is printed if another process holds it and this one has to wait."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Claims(path) as claims:
            if not claims.take(0):
                print(meanwhile, file=sys.stderr, flush=True)
                claims.take(0, wait=True)
            if claims.is_at(path):  # else it was removed by the one who had it
                yield
                return
