"""Reads public files in their original form into records; a bad row is set aside with its reason, never lost.

In    sources, READER=PATH, READER=PATH@split or READER=PATH@option=value@... (docs/data.md).
Out   `read(source)`: records, and what was rejected. As a command: a table of what the files hold.
Run   `python -m preprocessing.readers scenarios=data/scenarios/train.jsonl emobank=emobank.csv@dev`
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from preprocessing import (
    readers_choice,
    readers_emotion,
    readers_enriched,
    readers_ethics,
    readers_general,
    readers_json,
    readers_korean,
    sources,
)
from preprocessing.errors import BadRow, UserError, run
from preprocessing.files import write_lines
from preprocessing.forms import Reader
from preprocessing.records import Record, cleaned, first_fault
from preprocessing.sources import Source
from preprocessing.tables import Row, read_lines
from preprocessing.text import clean

READERS: dict[str, Reader] = {
    **readers_json.READERS,
    **readers_emotion.READERS,
    **readers_ethics.READERS,
    **readers_korean.READERS,
    **readers_choice.READERS,
    **readers_general.READERS,
    **readers_enriched.READERS,
}
EXCERPT_CHARACTERS = 200


@dataclass(frozen=True)
class Rejected:
    """A row that became no record, and why."""

    file: str
    row: int
    reason: str
    detail: str
    excerpt: str


@dataclass(frozen=True)
class ReadResult:
    """What one source holds."""

    source: Source
    records: list[Record] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def reasons(self) -> Counter[str]:
        return Counter(item.reason for item in self.rejected)

    def reason_lines(self) -> list[str]:
        """How many rows were set aside for each reason, for people."""
        return [f"  rejected: {reason}: {count:,}" for reason, count in self.reasons.most_common()]


def parse_source(argument: str) -> Source:
    return sources.parse(
        argument, {name: replace(reader.takes, splits=reader.splits) for name, reader in READERS.items()}
    )


def files_of(source: Source) -> list[Path]:
    """What `read` will open."""
    reader = READERS[source.reader].of(source)
    labels = _labels_file(reader, source)
    return [source.path, *reader.beside, *([] if labels is None else [labels])]


def read(source: Source) -> ReadResult:
    """Every row of the source is in the result once: as a record or as rejected; rows of other splits are not."""
    reader = READERS[source.reader].of(source)
    lines = reader.lines(source.path)
    _check_labels_file(reader, source)
    result = ReadResult(source)
    other_splits = set(reader.splits) - {source.split} if source.split else set()
    found_splits: Counter[str] = Counter()
    for row in _rows(reader, source, lines):
        try:
            if isinstance(row.fields, BadRow):
                raise row.fields
            if reader.splits:
                found_splits[row.fields["split"]] += 1
                if row.fields["split"] in other_splits:
                    continue
            result.records.append(_record(source, reader, row.number, row.fields))
        except BadRow as bad:
            excerpt = (
                row.line[:EXCERPT_CHARACTERS].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            )
            result.rejected.append(Rejected(str(source.path), row.number, bad.reason, bad.detail, excerpt))
    if not result.records:
        raise UserError(_nothing_read(result, found_splits))
    for record, group in zip(result.records, reader.group(result.records), strict=True):
        record.group = group
    return result


def _rows(reader: Reader, source: Source, lines: list[str]) -> Iterator[Row]:
    """The rows; what a file as a whole is refused for is said with its name."""
    try:
        yield from reader.rows(lines)
    except UserError as error:
        raise UserError(f"{source.path}: {error}") from None


def _record(source: Source, reader: Reader, number: int, row: dict[str, Any]) -> Record:
    # Rows of a data set are numbered within their split.
    split = source.split if reader.takes.anywhere else None
    provenance = {
        "id": f"{source.reader}/{source.path.name}{f'@{split}' if split else ''}:{number}",
        "reader": source.reader,
        "language": reader.language,
        "source": source.path.name,
        "row": number,
        "split": split or _split_in(source.path.stem),
    }
    record = cleaned(Record(**{**provenance, **reader.convert(row)}))
    if problem := first_fault(record):
        raise BadRow(problem)
    return record


def _split_in(stem: str) -> str | None:
    """ekman_train and train.jsonl say which split they hold; columns of a file, where it has them, go first."""
    found = re.search(r"(?<![a-z])(train|dev|val|valid|test)(?![a-z])", stem)
    return found[1] if found else None


def _nothing_read(result: ReadResult, found_splits: Counter[str]) -> str:
    source = result.source
    if result.rejected:
        first = result.rejected[0]
        counts = ", ".join(f"{reason}: {count}" for reason, count in result.reasons.most_common())
        return (
            f"no row of {source} could be read ({counts}; row {first.row}: {first.detail}). "
            f"Reader {source.reader!r} expects {READERS[source.reader].form}"
        )
    if not found_splits:
        return f"{source.path} holds no rows, or a header and no rows; give a file with at least one"
    held = ", ".join(f"{split}: {count}" for split, count in found_splits.items())
    return f"{source.path} holds no row of split {source.split!r}; it holds {held}"


def _labels_file(reader: Reader, source: Source) -> Path | None:
    folder, prefix = source.path.parent, source.path.stem.partition("_")[0]
    files = [folder / f"{prefix}_labels.txt", folder / "labels.txt"]
    # os.path: beside a file with a long name there is none with a longer one, which Path takes for a fault.
    return next((file for file in files if reader.labels and os.path.isfile(file)), None)


def _check_labels_file(reader: Reader, source: Source) -> None:
    """Rows number their labels, so another order would mislabel every row without an error."""
    path = _labels_file(reader, source)
    if path is None:
        return
    theirs = [clean(line) for line in read_lines(path) if line.strip()]
    for number, (mine, other) in enumerate(zip(reader.labels, theirs, strict=False)):
        if mine != other:
            raise UserError(
                f"{path} names label {number} {other!r:.40}, but reader {source.reader!r} knows it as {mine!r}; "
                "another reader is meant, or the labels file belongs to other rows"
            )
    if len(theirs) != len(reader.labels):
        raise UserError(
            f"{path} has {len(theirs)} labels, but reader {source.reader!r} knows {len(reader.labels)}; use another"
        )


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """rejected.jsonl: one JSON object a rejected row."""
    write_lines(path, (json.dumps(asdict(item), ensure_ascii=False) for item in rejected))


def main() -> None:
    from preprocessing.inspection import inspect  # it imports this module

    inspect()


if __name__ == "__main__":
    run(main)
