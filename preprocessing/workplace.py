"""Where a job works until its data set is whole, and who may do what there: several processes share one job.

In    the folder of the finished data set.
Out   a hidden folder beside it with what was read, and the locks; it goes when the last process leaves.
Run   through preprocessing/pipeline.py
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from preprocessing.claims import Claims, held
from preprocessing.errors import UserError
from preprocessing.files import write_lines
from preprocessing.folders import MANIFEST, read_manifest
from preprocessing.readers_enriched import KIND


class Workplace:
    """Of the data set `output`. Use it as a context: leaving it, also by an error, leaves the job to others."""

    def __init__(self, output: Path):
        self.output = Path(os.path.realpath(output))
        self.folder = self.output.parent / f".{self.output.name}.work"
        self.prepared = self.folder / "prepared"
        self._workers: int | None = None

    def finished(self, fingerprint: str, overwrite: bool) -> bool:
        """Whether the data set is there; raises UserError where something else is in its place."""
        if not self.output.exists() or (self.output.is_dir() and not any(self.output.iterdir())):
            return False
        if not (self.output / MANIFEST).is_file():
            raise UserError(f"{self.output} is there and no finished data set; name another --output, or move it away")
        facts = read_manifest(self.output, "data set")["facts"]
        if facts.get("kind") != KIND:
            raise UserError(f"{self.output} was not written by this command; name another --output")
        if facts.get("fingerprint") == fingerprint:
            return True
        if not overwrite:
            raise UserError(
                f"{self.output} is a finished data set of other sources or settings; give --overwrite to replace "
                "it, or name another --output"
            )
        return False

    def __enter__(self) -> "Workplace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._workers is not None:
            os.close(self._workers)
            self._workers = None

    @contextmanager
    def alone(self, meanwhile: str) -> Iterator[None]:
        """One process of the job at a time."""
        with held(self.folder / "lock", meanwhile):
            yield

    def join(self, fingerprint: str) -> None:
        """Be one of those who work here; call it alone. Raises UserError where others do so with other settings."""
        self._workers = os.open(self.folder / "workers", os.O_RDWR | os.O_CREAT, 0o666)
        plan = self.folder / "plan"
        if (plan.read_text(encoding="utf-8").strip() if plan.exists() else "") != fingerprint:
            if not _lock(self._workers, fcntl.LOCK_EX):
                raise UserError(
                    f"another process is making {self.output} with other settings; wait for it, or name another "
                    "--output"
                )
            write_lines(plan, [fingerprint])
        _lock(self._workers, fcntl.LOCK_SH)

    def leave(self) -> None:
        """Called alone, after the data set is whole: remove what is no longer needed, if nobody else is at work."""
        if self._workers is not None and _lock(self._workers, fcntl.LOCK_EX):
            shutil.rmtree(self.folder, ignore_errors=True)

    def claims(self) -> Claims:
        return Claims(self.folder / "claims")


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True
