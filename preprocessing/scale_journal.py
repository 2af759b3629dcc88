"""Answers of tasks that run anywhere: each life of a task writes a file of its own, which only grows.

In    the folder of a job's answers, on a disk that all machines see; the number of a task.
Out   `Journal`, what a task has been answered so far; `answers_in` a file; `Growth`, the rows done so far.
Run   through preprocessing/scale_out.py

No file has two writers, so nothing is locked and any shared disk will do. A life that is killed leaves at most half a
line, the last one, which is not read; the next life of the task reads all that went before and opens a new file.
A line is `KEY ANSWERS`, `rows N` after a piece, or, the first one, `by FACTS` of the machine.
"""

import json
import os
import platform
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from preprocessing.answers import Given, given_of, text_of
from preprocessing.errors import REMEDIES, UserError
from preprocessing.folders import flush_to_disk

_KEY = re.compile(rb"[0-9a-f]{64}")


class Journal:
    """What one task knows and adds. Raises UserError where its file cannot be written or an earlier one is damaged.

    In memory are the answers of this task, about 1 KiB each.
    """

    def __init__(self, folder: Path, task: int, threads: int):
        self._known = {key: text for file in files_of(folder, task) for key, text in answers_in(file)}
        name = re.sub(r"[^\w-]", "-", socket.gethostname())
        self.path = folder / f"{_prefix(task)}{name}-{os.getpid()}-{secrets.token_hex(4)}.answers"
        try:
            self._file = self.path.open("xb")
            flush_to_disk(folder)
        except OSError as error:
            raise self._explained(error) from error
        self._write(f"by {json.dumps({'processor': processor(), 'threads': threads})}\n")

    def get(self, key: str) -> Given | None:
        text = self._known.get(key)
        return None if text is None else given_of(text)

    def put(self, answers: Mapping[str, Given]) -> None:
        """When it returns they are on the disk. After an error nothing may be put any more."""
        texts = {key: text_of(given) for key, given in answers.items()}
        self._write("".join(f"{key} {text}\n" for key, text in texts.items()))
        self._known |= texts

    def did(self, rows: int) -> None:
        """So many rows more have all their answers."""
        self._write(f"rows {rows}\n")

    def close(self) -> None:
        self._file.close()

    def _write(self, lines: str) -> None:
        try:
            self._file.write(lines.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> UserError:
        remedy = REMEDIES.get(error.errno or 0, "see to the disk and start again")
        return UserError(f"answers cannot be written to {self.path}: {error.strerror}; {remedy}")


class Growth:
    """Rows that tasks have finished, as their files tell; each byte is read once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[Path, int] = {}
        self.rows()

    def rows(self) -> int:
        """Since the last call."""
        done = 0
        for path in files_of(self.folder):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in _whole_lines(file):
                    self._read[path] = self._read.get(path, 0) + len(line)
                    if line.startswith(b"rows "):
                        done += int(line[5:])
        return done


def files_of(folder: Path, task: int | None = None) -> list[Path]:
    """In an order that does not change."""
    return sorted(folder.glob("task-*.answers" if task is None else f"{_prefix(task)}*.answers"))


def known_file(folder: Path, task: int) -> Path:
    """Where a task finds what was answered before it: a file like those of its lives."""
    return folder / f"{_prefix(task)}before.answers"


def answers_in(path: Path) -> Iterator[tuple[str, str]]:
    """Key and answers as `answers.given_of` reads them. Raises UserError for a line that no task writes."""
    for key, text in _items_in(path):
        if _KEY.fullmatch(key):
            yield key.decode(), text


def machines_in(folder: Path) -> set[str]:
    """The kinds of processor, and threads, that gave the answers."""
    return {text for path in files_of(folder) for word, text in _items_in(path, first=True) if word == b"by"}


def processor() -> str:
    """Its name as Linux tells it: matrix products are rounded otherwise on another kind."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    found = re.search(r"^(?:model name|CPU part)\s*:\s*(.+)$", told, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _items_in(path: Path, first: bool = False) -> Iterator[tuple[bytes, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(_whole_lines(file), start=1):
            word, _, rest = line.rstrip(b"\n").partition(b" ")
            try:
                if word not in (b"by", b"rows") and not _KEY.fullmatch(word):
                    raise ValueError(f"it begins with {word[:20]!r}")
                text = rest.decode()
                value: Any = json.loads(text)
                if _KEY.fullmatch(word):
                    given_of(text)
                elif not isinstance(value, dict if word == b"by" else int):
                    raise ValueError(f"{word.decode()} is {text[:40]!r}")
            except (ValueError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{path} is damaged in line {number}: {error}; remove it, and what it held is asked again"
                ) from error
            yield word, text
            if first:
                return


def _whole_lines(file: Any) -> Iterator[bytes]:
    for line in file:
        if line.endswith(b"\n"):
            yield line


def _prefix(task: int) -> str:
    return f"task-{task:05d}."
