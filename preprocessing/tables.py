"""Cuts a file into rows without losing one: comma or tab separated, or one JSON object a line.

In    a path.
Out   for every row its line number, its first line (for reports) and its fields, or a BadRow that says why not.
Run   `python -c "from preprocessing.tables import *; print(*table(('a', 'b'))(['1,2', '3']), sep=chr(10))"`
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from preprocessing.errors import BadRow, UserError

ROW_LINES = 64
_UNDECODABLE = re.compile("[\udc80-\udcff]")

# The csv module refuses fields over 131,072 characters with an error of its own; length is checked
# in one place, `first_fault`.
csv.field_size_limit(2**31 - 1)


class Row(NamedTuple):
    number: int
    line: str
    fields: dict[str, Any] | BadRow


RowCutter = Callable[[list[str]], Iterator[Row]]


def read_lines(path: Path) -> list[str]:
    """Bytes that are not UTF-8 survive as surrogates, so that one bad row does not end the file."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one file in it")
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except FileNotFoundError:
        raise UserError(f"there is no file {path} (looked from {Path.cwd()})") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not text.strip():
        raise UserError(f"{path} is empty; give a file with at least one row")
    return [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]


def table(columns: Sequence[str], *, delimiter: str = ",", header: bool = False, row_start: str = "(?!)") -> RowCutter:
    """A cutter for separated values, quoted where needed; `row_start` is how only first lines of rows begin."""
    starts = re.compile(row_start)

    def cut(lines: list[str]) -> Iterator[Row]:
        start = 0
        if header:
            if lines[0].split(delimiter) != list(columns):
                expected = delimiter.join(columns)
                raise UserError(
                    f"the first line should be {expected!r} but is {lines[0]!r:.80}; is this the right reader?"
                )
            start = 1
        while start < len(lines):
            fields, used = _row(lines[start : start + ROW_LINES], columns, delimiter, starts)
            yield Row(start + 1, lines[start], fields)
            start += used

    return cut


def _row(
    window: list[str], columns: Sequence[str], delimiter: str, starts: re.Pattern[str]
) -> tuple[dict[str, Any] | BadRow, int]:
    """The row that begins a window of lines, and how many lines it covers.

    A quote that is never closed would swallow the rows after it. So a row over several lines counts only if it has the
    right number of fields and none of its later lines looks like a row; otherwise its first line alone is bad and
    reading goes on with the next.
    """
    reader = csv.reader((line + "\n" for line in window), delimiter=delimiter, strict=True)
    try:
        values = next(reader)
    except csv.Error as error:
        return BadRow(_undecodable(window[:1]) or f"stray-quote: {error}"), 1
    used = reader.line_num
    if used > 1 and (len(values) != len(columns) or any(map(starts.match, window[1:used]))):
        return BadRow("stray-quote: a quote is opened and not closed on this line"), 1
    if bad := _undecodable(window[:used]):
        return BadRow(bad), used
    if not values:
        return BadRow("empty-row: the line is blank"), 1
    if len(values) != len(columns):
        expected = f"{len(columns)} ({', '.join(columns)})"
        return BadRow(f"wrong-field-count: {len(values)} instead of {expected}"), 1
    return dict(zip(columns, values, strict=True)), used


def json_lines(lines: list[str]) -> Iterator[Row]:
    """A cutter for one JSON object a line."""
    for number, line in enumerate(lines, start=1):
        yield Row(number, line, _json(line))


def _json(line: str) -> dict[str, Any] | BadRow:
    if bad := _undecodable([line]):
        return BadRow(bad)
    if not line.strip():
        return BadRow("empty-row: the line is blank")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(f"not-json: {error}")
    return (
        value
        if isinstance(value, dict)
        else BadRow(f"wrong-type: the line holds a {type(value).__name__}, not a JSON object")
    )


def _undecodable(lines: list[str]) -> str | None:
    for line in lines:
        if found := _UNDECODABLE.search(line):
            return f"invalid-utf8: byte 0x{ord(found.group()) - 0xDC00:02x} at character {found.start() + 1}"
    return None
