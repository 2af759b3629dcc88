"""What a user names on the command line or in a recipe: a reader, a file, perhaps a split of it.

In    "READER=PATH" or "READER=PATH@split"; ${NAME} in a path is an environment variable.
Out   `Source`, or a UserError that says what to write instead.
Run   `python -c "from preprocessing.sources import *; print(parse('emobank=a.csv@dev', {'emobank': ('dev',)}))"`
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.files import check_name

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Source:
    """One file, how to read it, and which of its splits (None: all of its rows)."""

    reader: str
    path: Path
    split: str | None = None

    def __str__(self) -> str:
        return f"{self.reader}={self.path}" + (f"@{self.split}" if self.split else "")


def parse(argument: str, readers: Mapping[str, tuple[str, ...]]) -> Source:
    """`readers` gives for every known reader the splits that one of its files may hold."""
    reader, equals, location = argument.partition("=")
    if not equals or not location:
        raise UserError(f"{argument!r} names no file; write READER=PATH or READER=PATH@split")
    if reader not in readers:
        near = difflib.get_close_matches(reader, readers, n=1)
        meant = f", did you mean {near[0]!r}?" if near else "."
        raise UserError(f"there is no reader {reader!r}{meant} Known readers: {', '.join(sorted(readers))}")
    location = expand(location)
    path, split = _split_off(location)
    check_name(path)
    if split is not None and split not in readers[reader]:
        offered = f"its splits are {', '.join(readers[reader])}" if readers[reader] else "its files hold no splits"
        raise UserError(f"{argument!r} asks for split {split!r} of reader {reader!r}, but {offered}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one file in it, as in {reader}={path / 'FILE'}")
    if not path.exists():
        raise UserError(f"there is no file {path} (looked from {Path.cwd()}); check the path")
    return Source(reader, path, split)


def refuse_repeated(sources: Sequence[Source]) -> None:
    """Raises UserError when two sources name the same rows: the same file for the same reader, splits that meet.

    However it is spelled: rows that count twice would go unnoticed, and dev rows that are trained on be taken out.
    """
    for index, source in enumerate(sources):
        for other in sources[:index]:
            same = source.reader == other.reader and os.path.samefile(source.path, other.path)
            if same and (source.split == other.split or None in (source.split, other.split)):
                raise UserError(
                    f"{other} and {source} name the same rows; give them once (to judge by rows of a training file, "
                    "use holdout)"
                )


def expand(location: str) -> str:
    def value(match: re.Match[str]) -> str:
        if not (found := os.environ.get(match[1])):
            raise UserError(
                f"{location!r} needs the environment variable {match[1]}, which is not set; export {match[1]}=..."
            )
        return found

    return os.path.expanduser(_VARIABLE.sub(value, location))


def _split_off(location: str) -> tuple[Path, str | None]:
    """An '@' may belong to a name: what exists as written is a path, and a split holds no '/'."""
    path, at, split = location.rpartition("@")
    if not at or "/" in split or Path(location).exists():
        return Path(location), None
    return Path(path), split
