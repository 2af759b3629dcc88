"""What a reader is, and what the readers of tables share.

In    nothing.
Out   `Reader`; `multi_hot`, `number`, `binary` and others, which turn a field of a row into labels or raise BadRow.
Run   see `readers.py`, which puts readers to work.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.errors import BadRow
from preprocessing.groups import by_text
from preprocessing.records import Record
from preprocessing.sources import Source, Takes
from preprocessing.tables import RowCutter, read_lines
from preprocessing.text import listed


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One public form of file: how it is cut into rows, and how a row becomes the values of a Record."""

    form: str
    """The form in a line, for people."""
    rows: RowCutter
    convert: Callable[[dict[str, Any]], dict[str, Any]]
    """Fields of a row to values of a Record, where these differ from what provenance gives."""
    language: str
    splits: tuple[str, ...] = ()
    """Values of the column `split`, for files that hold several."""
    labels: tuple[str, ...] = ()
    """For rows that number their labels: the names, against which a labels file lying beside is checked."""
    group: Callable[[Sequence[Record]], list[str]] = by_text
    takes: Takes = Takes()
    """What may be said of a file after `@`, besides a split that is listed in `splits`."""
    bind: "Callable[[Source], Reader] | None" = None
    """For readers that depend on more than the rows: the reader of one source."""
    lines: Callable[[Path], list[str]] = read_lines
    beside: tuple[Path, ...] = ()
    """Files that are read besides the source's own."""

    def of(self, source: Source) -> "Reader":
        return self if self.bind is None else self.bind(source)


def multi_hot(numbers: str, names: Sequence[str]) -> list[float]:
    """'3,4' to a vector with ones at 3 and 4."""
    vector = [0.0] * len(names)
    for item in numbers.split(","):
        if not (re.fullmatch("[0-9]{1,3}", item) and int(item) < len(names)):
            raise BadRow(f"unknown-label: {item!r:.40}, known are 0 to {len(names) - 1}")
        vector[int(item)] = 1.0
    return vector


def parents(vector: list[float], parent_of: Mapping[str, str], names: Sequence[str]) -> list[float]:
    """A parent label holds where one of its children does; `vector` follows the order of `parent_of`."""
    held = {parent for value, parent in zip(vector, parent_of.values(), strict=True) if value}
    return [float(name in held) for name in names]


def number(text: str) -> float:
    try:
        # Python reads 0_3 as 3; in a file it is a slip of the hand.
        return float(text if "_" not in text else "")
    except ValueError:
        raise BadRow(f"wrong-type: label is {text!r:.40}, not a number") from None


def whole(value: Any, low: int, high: int, name: str) -> int:
    """A whole number of a table, or of JSON, that must lie in [low, high]."""
    if isinstance(value, bool) or not (isinstance(value, int) or re.fullmatch("[0-9]{1,9}", str(value))):
        raise BadRow(f"wrong-type: {name} is {value!r:.40}, not a whole number")
    if not low <= int(value) <= high:
        raise BadRow(f"label-out-of-range: {name} is {value}; it must lie in [{low}, {high}]")
    return int(value)


def one_of(value: Any, known: Sequence[str], name: str) -> str:
    if value not in known:
        raise BadRow(f"unknown-label: {name} is {value!r:.40}, known are {', '.join(known)}")
    return str(value)


def held(row: Mapping[str, Any], *names: str) -> list[Any]:
    """Values of a JSON object that must be there; others may be."""
    if missing := [name for name in names if name not in row]:
        raise BadRow(f"missing-key: {listed(missing)}; the row has {listed(row)}")
    return [row[name] for name in names]


def binary(text: str) -> float:
    if text not in ("0", "1"):
        raise BadRow(f"unknown-label: {text!r:.40}, known are 0 and 1")
    return float(text)
