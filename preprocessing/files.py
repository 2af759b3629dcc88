"""Writes a file whole or not at all, and never over what is about to be read.

In    a path to write; the files that a command will read.
Out   the file, or a UserError before anything is read.
Run   `python -c "from pathlib import Path; from preprocessing.files import *; write_lines(Path('out.jsonl'), ['{}'])"`
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from preprocessing.errors import REMEDIES, UserError


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Each line with an end of its own. If the program is interrupted, even by a power cut, the old file is kept.

    A character that UTF-8 has no bytes for is written as a backslash and its number, which JSON reads back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        # A device or a pipe, as /dev/stdout: nothing can take its place.
        _write(path, lines)
        return
    # A link stays a link: what it points at is replaced.
    path = Path(os.path.realpath(path))
    # Always the same, so that what a kill leaves is gone with the next write; short, as the file's name may not be.
    partial = path.parent / f".partial-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}"
    try:
        partial.unlink(missing_ok=True)  # a link that somebody put there is not followed
        _write(partial, lines, "x")
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write(path: Path, lines: Iterable[str], mode: Literal["w", "x"] = "w") -> None:
    with path.open(mode, encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(line + "\n" for line in lines)


def check_output(option: str, path: Path, inputs: Iterable[Path]) -> None:
    """Refuse what `option` names if it cannot be written, is one of the `inputs`, or lies in a folder of these."""
    check_name(path)
    if path.is_dir():
        raise UserError(f"{option} {path} cannot be written: it is a folder; name a file")
    for file in inputs:
        if path.exists() and file.exists() and os.path.samefile(path, file):
            raise UserError(f"{option} {path} is one of the files to be read; name another")
        if file.is_dir() and Path(os.path.realpath(file)) in Path(os.path.realpath(path)).parents:
            raise UserError(f"{option} {path} lies in {file}, which is read here; name another place")
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"{option} {path} may not be written over; name another")
    if path.exists() and not path.is_file():
        return
    folder = next(parent for parent in Path(os.path.realpath(path)).parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "name another")
        raise UserError(f"{option} {path} cannot be written: {folder}: {error.strerror}; {remedy}") from error


def check_name(path: Path) -> None:
    """Names go into ids and reports, which are UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"the name {str(path)!r} is not UTF-8; rename the file or its folder") from None
