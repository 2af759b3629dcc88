"""Answers of a language model, kept under a hash of everything that made them: asked once, never again.

In    keys of preprocessing/enrichment.py, and answers.
Out   the same answers, also after a kill or a power cut at any moment.
Run   through preprocessing/pipeline.py

SQLite, because it is an index on the disk (memory does not grow with the answers), several processes may write to it,
and what it has committed outlives the process and the machine: a write-ahead log with synchronous=FULL is flushed
at every commit. A file of our own that only grows would want an index in memory, or one on the disk beside it that
must agree with it after any kill. The log needs memory shared between its users: they all run on one machine, on a
disk of that machine.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from preprocessing.errors import REMEDIES, UserError
from preprocessing.records import Action

Given = dict[str, tuple[Any, float, str]]
"""Field -> (value as Record holds it, confidence, origin)."""
_WAIT_SECONDS = 600
"""How long a process waits for another one's commit, which takes milliseconds, on the slowest disk there is."""


_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "9p", "orangefs"}
MOUNTS = Path("/proc/self/mountinfo")


def check_answers(path: Path) -> None:
    """Raises UserError where `path` lies on a network share, as far as the system tells what is mounted."""
    mounts = MOUNTS.read_text(encoding="utf-8", errors="replace") if MOUNTS.is_file() else ""
    place = path.resolve()
    kinds: dict[int, str] = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].replace("\\040", " "))
        if point in (place, *place.parents):
            kinds[len(point.parts)] = after.split()[0]
    if kinds and (kind := kinds[max(kinds)]) in _NETWORK:
        raise UserError(
            f"the answers {path} would lie on a share ({kind}), where SQLite's log is not safe; name with --answers a "
            "file on a disk of this machine"
        )


class AnswerCache:
    """A file of answers; raises UserError where it cannot be opened, is damaged, or the disk is full."""

    def __init__(self, path: Path):
        self.path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
            (journal,) = self._base.execute("PRAGMA journal_mode=WAL").fetchone()
            if journal != "wal":
                self._base.close()
                raise UserError(
                    f"the answers {path} cannot be kept with a write-ahead log (SQLite says {journal!r}), and several "
                    "processes would damage them; name with --answers a file on a disk of this machine"
                )
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, given TEXT NOT NULL) WITHOUT ROWID"
            )

    def get(self, key: str) -> Given | None:
        with self._explained():
            found = self._base.execute("SELECT given FROM answers WHERE key = ?", (bytes.fromhex(key),)).fetchone()
            return None if found is None else given_of(found[0])

    def put(self, answers: Mapping[str, Given]) -> None:
        """All of them or none; when it returns they are on the disk. The first answer to a key stays."""
        rows = [(bytes.fromhex(key), text_of(given)) for key, given in answers.items()]
        with self._explained():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                self._base.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    def __len__(self) -> int:
        with self._explained():
            return int(self._base.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        self._base.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = REMEDIES.get(error.errno or 0, "name another place with --answers")
            raise UserError(f"the answers cannot be kept in {self.path}: {error}; {remedy}") from error
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise UserError(
                f"the answers in {self.path} cannot be used: {error}. Make room if the disk is full; name another "
                "file with --answers if nothing can be written there; remove it if it is damaged, and all is asked "
                "again"
            ) from error


def text_of(given: Given) -> str:
    return json.dumps(given, ensure_ascii=False, default=asdict)


def given_of(text: str) -> Given:
    """Raises ValueError or TypeError for what `text_of` does not write."""
    stored: Mapping[str, Sequence[Any]] = json.loads(text)
    return {
        field: (_value(field, value), float(confidence), str(origin))
        for field, (value, confidence, origin) in stored.items()
    }


def _value(field: str, value: Any) -> Any:
    return [Action(**action) for action in value] if field == "actions" and value is not None else value
