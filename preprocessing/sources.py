"""What a user names on the command line or in a recipe: a reader, a file, perhaps a split of it.

In    "READER=PATH", "READER=PATH@split" or "READER=PATH@option=value@..."; ${NAME} is an environment variable.
Out   `Source`, or a UserError that says what to write instead.
Run   `python -c "from preprocessing.sources import *; print(parse('text=a@language=en', {'text': Takes()}))"`
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
class Takes:
    """What a reader takes after `@`."""

    splits: tuple[str, ...] = ()
    """The splits that one of its files may hold."""
    options: tuple[str, ...] = ()
    """Names of what may be set, as in `text=review`."""
    anywhere: bool = False
    """The path may be a folder or a name of something that is not on this disk, and its splits are found in it."""


@dataclass(frozen=True)
class Source:
    """One file, how to read it, which of its splits (None: all of its rows), and what was set for it."""

    reader: str
    path: Path
    split: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        said = [*([self.split] if self.split else []), *(f"{name}={value}" for name, value in self.options)]
        return f"{self.reader}={self.path}" + (f"@{'@'.join(said)}" if said else "")


def parse(argument: str, readers: Mapping[str, Takes]) -> Source:
    """`readers` gives for every known reader what it takes."""
    reader, equals, location = argument.partition("=")
    if not equals or not location:
        raise UserError(f"{argument!r} names no file; write READER=PATH or READER=PATH@split")
    if reader not in readers:
        near = difflib.get_close_matches(reader, readers, n=1)
        meant = f", did you mean {near[0]!r}?" if near else "."
        raise UserError(f"there is no reader {reader!r}{meant} Known readers: {', '.join(sorted(readers))}")
    location = expand(location)
    takes = readers[reader]
    path, said = _split_off(location)
    check_name(path)
    split, options = _said(argument, reader, said)
    if split is not None and split not in takes.splits and not takes.anywhere:
        offered = f"its splits are {', '.join(takes.splits)}" if takes.splits else "its files hold no splits"
        raise UserError(f"{argument!r} asks for split {split!r} of reader {reader!r}, but {offered}")
    for name in options:
        if name not in takes.options:
            raise UserError(f"{argument!r} sets {name!r}, {_not_taken(name, reader, takes.options)}")
    if takes.anywhere:
        return Source(reader, path, split, tuple(options.items()))
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one file in it, as in {reader}={path / 'FILE'}")
    if not path.exists():
        raise UserError(f"there is no file {path} (looked from {Path.cwd()}); check the path")
    return Source(reader, path, split, tuple(options.items()))


def _said(argument: str, reader: str, said: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """'dev' and 'text=review' are a split and an option; either may be missing, and a split goes first."""
    split, options = None, {}
    for position, item in enumerate(said):
        name, equals, value = item.partition("=")
        if not equals and position == 0:
            split = item
        elif not (equals and name and value) or name in options:
            raise UserError(f"{argument!r}: {item!r} should be NAME=VALUE, once each, as in {reader}=PATH@text=review")
        else:
            options[name] = value
    return split, options


def _not_taken(name: str, reader: str, options: Sequence[str]) -> str:
    if not options:
        return f"but nothing can be set for reader {reader!r}"
    near = difflib.get_close_matches(name, options, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    plain = [option for option in options if "." not in option]
    return f"which reader {reader!r} does not know{meant} It takes {', '.join(plain)}"


def refuse_repeated(sources: Sequence[Source]) -> None:
    """Raises UserError when two sources name the same rows: the same file for the same reader, splits that meet.

    However it is spelled: rows that count twice would go unnoticed, and dev rows that are trained on be taken out.
    """
    for index, source in enumerate(sources):
        for other in sources[:index]:
            same = source.reader == other.reader and _same_place(source, other)
            if same and (source.split == other.split or None in (source.split, other.split)):
                raise UserError(
                    f"{other} and {source} name the same rows; give them once (to judge by rows of a training file, "
                    "use holdout)"
                )


def _same_place(one: Source, other: Source) -> bool:
    if dict(one.options).get("config") != dict(other.options).get("config"):
        return False
    if one.path.exists() and other.path.exists():
        return os.path.samefile(one.path, other.path)
    return one.path == other.path


def expand(location: str) -> str:
    def value(match: re.Match[str]) -> str:
        if not (found := os.environ.get(match[1])):
            raise UserError(
                f"{location!r} needs the environment variable {match[1]}, which is not set; export {match[1]}=..."
            )
        return found

    return os.path.expanduser(_VARIABLE.sub(value, location))


def _split_off(location: str) -> tuple[Path, list[str]]:
    """An '@' may belong to a name: what exists as written is a path, and a split holds no '/'; an option may."""
    said: list[str] = []
    while not Path(location).exists():
        path, at, item = location.rpartition("@")
        if not at or ("/" in item and "=" not in item):
            break
        location, said = path, [item, *said]
    return Path(location), said
