"""Cuts a file into rows without losing one: comma or tab separated, or one JSON object a line.

In    a path; what it names may be packed with gzip.
Out   for every row its line number, its first line (for reports) and its fields, or a BadRow that says why not.
Run   `python -c "from preprocessing.tables import *; print(*table(('a', 'b'))(['1,2', '3']), sep=chr(10))"`
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from preprocessing.errors import REMEDIES, BadRow, UserError
from preprocessing.packed import GZIP, unpacked
from preprocessing.text import listed

ROW_LINES = 64
LINE_ENDS = "save the file with lines that end in LF or CR LF"
_UNDECODABLE = re.compile("[\udc80-\udcff]")

FOREIGN = {
    GZIP: "is a gzip file within a gzip file; decompress it first",
    b"PK\x03\x04": "is a zip file or a spreadsheet; decompress it first, or save it as text",
    b"BZh91AY&SY": "is a bzip2 file; decompress it first",
    b"\xfd7zXZ\0": "is an xz file; decompress it first",
    b"\x28\xb5\x2f\xfd": "is a zstd file; decompress it first",
    b"7z\xbc\xaf\x27\x1c": "is a 7z file; decompress it first",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
    b"\0\0\xfe\xff": "is UTF-32; save it as UTF-8",
}
"""How files begin that are no UTF-8 as a whole: every row would be bad, and none would say why."""

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
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {path} (looked from {Path.cwd()})") from None
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "name another")
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from error
    if content.startswith(GZIP):
        content = unpacked(path, content)
    if form := next((form for start, form in FOREIGN.items() if content.startswith(start)), None):
        raise UserError(f"{path} {form}")
    # English in UTF-16 without a mark: every other byte. A few rows with NUL are bad rows.
    if content.count(b"\0") * 4 > len(content):
        raise UserError(
            f"{path} is no text in UTF-8: {content.count(0):,} of {len(content):,} bytes are NUL; save it so"
        )
    text = content.decode("utf-8-sig", errors="surrogateescape")
    if not text.strip():
        raise UserError(f"{path} is empty; give a file with at least one row")
    return [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]


def table(
    columns: Sequence[str],
    *,
    delimiter: str = ",",
    header: bool = False,
    row_start: str = "(?!)",
    quoted: bool = True,
) -> RowCutter:
    """A cutter for separated values; `row_start` is how only first lines of rows begin.

    Without `quoted` a quote is a character like any other, and a line is a row.
    """
    starts = re.compile(row_start)

    def cut(lines: list[str]) -> Iterator[Row]:
        start = 0
        if header:
            if "\r" in lines[0]:
                raise UserError(f"the first line holds a carriage return; {LINE_ENDS}")
            if lines[0].split(delimiter) != list(columns):
                expected = delimiter.join(columns)
                raise UserError(
                    f"the first line should be {expected!r} but is {lines[0]!r:.80}; is this the right reader?"
                )
            start = 1
        while start < len(lines):
            if quoted:
                fields, used = _row(lines[start : start + ROW_LINES], columns, delimiter, starts)
            else:
                fields, used = _unquoted(lines[start], columns, delimiter), 1
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
        # csv calls a carriage return outside of quotes a new-line character, and has one error for all else.
        stray = carriage_return(window[0]) if "new-line" in str(error) else None
        return BadRow(undecodable(window[:1]) or stray or f"stray-quote: {error}"), 1
    used = reader.line_num
    if used > 1 and (len(values) != len(columns) or any(map(starts.match, window[1:used]))):
        return BadRow("stray-quote: a quote is opened and not closed on this line"), 1
    if bad := undecodable(window[:used]):
        return BadRow(bad), used
    return _fields(values, columns), used


def _unquoted(line: str, columns: Sequence[str], delimiter: str) -> dict[str, Any] | BadRow:
    if bad := undecodable([line]) or carriage_return(line):
        return BadRow(bad)
    return _fields(line.split(delimiter) if line else [], columns)


def _fields(values: Sequence[str], columns: Sequence[str]) -> dict[str, Any] | BadRow:
    if not values:
        return BadRow("empty-row: the line is blank")
    if len(values) != len(columns):
        expected = f"{len(columns)} ({', '.join(columns)})"
        return BadRow(f"wrong-field-count: {len(values)} instead of {expected}")
    return dict(zip(columns, values, strict=True))


def json_lines(lines: list[str]) -> Iterator[Row]:
    """A cutter for one JSON object a line."""
    for number, line in enumerate(lines, start=1):
        yield Row(number, line, _json(line))


def _json(line: str) -> dict[str, Any] | BadRow:
    if bad := undecodable([line]):
        return BadRow(bad)
    if not line.strip():
        return BadRow("empty-row: the line is blank")
    try:
        value = json.loads(line, object_pairs_hook=unique_keys)
    except BadRow as repeated:
        return repeated
    except (ValueError, RecursionError) as error:
        return BadRow(carriage_return(line) or f"not-json: {error}")
    return (
        value
        if isinstance(value, dict)
        else BadRow(f"wrong-type: the line holds a {type(value).__name__}, not a JSON object")
    )


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json: a key given twice leaves open which value is meant; Python would take the last."""
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise BadRow(f"repeated-key: {listed(key for key in counts if counts[key] > 1)} more than once in one object")
    return value


def carriage_return(line: str) -> str | None:
    """A line that cannot be cut and holds one: a row ends there on old Macs, nowhere else."""
    if not (count := line.rstrip("\r").count("\r")):
        return None
    return f"carriage-return: {count:,} carriage returns without a line feed; {LINE_ENDS}"


def undecodable(lines: list[str]) -> str | None:
    """Bytes that are no UTF-8, as a fault of the row."""
    for line in lines:
        if found := _UNDECODABLE.search(line):
            return f"invalid-utf8: byte 0x{ord(found.group()) - 0xDC00:02x} at character {found.start() + 1}"
    return None
