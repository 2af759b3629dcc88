"""Cuts files whose form is not fixed by a reader: JSON arrays, tables that name their own columns, lines of text.

In    the lines of a file.
Out   rows, as `tables.py` gives them.
Run   `python -c "from preprocessing.cutters import *; print(*json_array(['[{}, 3]']), sep=chr(10))"`
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from preprocessing.errors import BadRow, UserError
from preprocessing.tables import LINE_ENDS, Row, RowCutter, carriage_return, table, undecodable, unique_keys
from preprocessing.text import listed

_BLANKS = re.compile("[ \t\r\n]*")
_EXCERPT = 400
_DELIMITERS = (",", "\t", ";")


def json_array(lines: list[str]) -> Iterator[Row]:
    """A cutter for one JSON array of objects. What is no JSON ends it: where the next row begins is then unknown."""
    text = "\n".join(lines)
    position = _skip(text, 0)
    if text[position : position + 1] != "[":
        raise UserError(f"it should begin with '[', a JSON array, but begins {text[position : position + 40]!r}")
    number, counted = 1, 0
    closing = _skip(text, position + 1)
    while text[closing : closing + 1] != "]":
        start = _skip(text, position + 1)
        number, counted = number + text.count("\n", counted, start), start
        try:
            value, end = _value(text, start)
        except (ValueError, RecursionError) as error:
            raise UserError(f"it is no JSON from line {number} on: {error}; fetch it again, or mend it") from None
        position = closing = _skip(text, end)
        if text[closing : closing + 1] not in (",", "]"):
            raise UserError(f"it is no JSON: a comma or ']' is missing after the row of line {number}; fetch it again")
        yield Row(number, text[start : min(end, start + _EXCERPT)], value)
    if rest := text[closing + 1 :].strip():
        raise UserError(f"it goes on after the end of the JSON array: {rest[:40]!r}; one array a file")


def _value(text: str, start: int) -> tuple[dict[str, Any] | BadRow, int]:
    """The row that begins there, and where it ends."""
    try:
        value, end = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode(text, start)
    except BadRow as repeated:  # which does not say where the object ends
        return repeated, json.JSONDecoder().raw_decode(text, start)[1]
    if isinstance(value, dict):
        return value, end
    return BadRow(f"wrong-type: the array holds a {type(value).__name__}, not a JSON object"), end


def _skip(text: str, position: int) -> int:
    found = _BLANKS.match(text, position)
    return found.end() if found else position


def headed_table(check: Callable[[list[str]], None]) -> RowCutter:
    """A cutter for a table whose first line names the columns, separated by commas, tabs or semicolons.

    `check` raises UserError for columns that do not serve. Of the three signs the one that the first line has most of
    separates.
    """

    def cut(lines: list[str]) -> Iterator[Row]:
        head = lines[0]
        if "\r" in head:
            raise UserError(f"the first line holds a carriage return; {LINE_ENDS}")
        delimiter = max(_DELIMITERS, key=head.count)
        try:
            (columns,) = csv.reader([head], delimiter=delimiter, strict=True)
        except csv.Error as error:
            raise UserError(f"the first line should name the columns but is {head!r:.80}: {error}") from None
        if repeated := sorted({name for name in columns if columns.count(name) > 1}):
            raise UserError(f"the first line names {listed(repeated)} more than once; rename one")
        check(columns)
        for row in table(columns, delimiter=delimiter)(lines[1:]):
            yield row._replace(number=row.number + 1)

    return cut


def text_lines(lines: list[str]) -> Iterator[Row]:
    """A cutter for plain text: a line is a row, and blank lines part rows without being any."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            fault = undecodable([line]) or carriage_return(line)
            yield Row(number, line, BadRow(fault) if fault else {"text": line})
