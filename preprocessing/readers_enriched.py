"""Reader of finished data sets: what preprocessing/pipeline.py wrote becomes the same records again.

In    a folder with manifest.json; after `@` nothing, or `unreliable=keep`.
Out   values of records, with the origin of each label.
Run   `python -m preprocessing.readers enriched=outputs/enriched`

The folder is compared with its manifest first: damaged numbers would train like others. What a language model said of
labels that its judge found no better than chance is left out, unless `unreliable=keep` asks for it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError
from preprocessing.folders import MANIFEST, verify
from preprocessing.forms import Reader
from preprocessing.groups import kept
from preprocessing.origin_weights import without
from preprocessing.records import Record
from preprocessing.shards import rows_in, shards_in
from preprocessing.sources import Source, Takes
from preprocessing.tables import Row, json_lines

KIND = "redheart-hf data set"


def facts_of(folder: Path) -> dict[str, Any]:
    """What the job wrote of the data set, its files being whole. Raises UserError."""
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} is no finished data set: it has no {MANIFEST}; let the job that writes it end")
    facts = verify(folder, what="data set")
    if facts.get("kind") != KIND:
        raise UserError(f"{folder} was not written by preprocessing.pipeline; its manifest says {facts.get('kind')!r}")
    return facts


def _bound(source: Source) -> Reader:
    keep = dict(source.options).get("unreliable")
    if keep not in (None, "keep"):
        raise UserError(f"{source}: unreliable is {keep!r}; write @unreliable=keep, or leave it out")

    def rows(_: list[str]) -> Iterator[Row]:
        facts = facts_of(source.path)
        left_out = () if keep else tuple(facts["unreliable"])
        for number, row in enumerate(rows_in(shards_in(source.path)), start=1):
            yield Row(number, row.get("text", "")[:400], row | {"left_out": left_out})

    return replace(READERS["enriched"], rows=rows)


def _record(row: dict[str, Any]) -> dict[str, Any]:
    left_out = row.pop("left_out")
    record = Record.from_dict(row)
    for label in left_out:
        if label in record.origins:
            record = without(record, label)
    return {name: getattr(record, name) for name in Record.__dataclass_fields__}


READERS = {
    "enriched": Reader(
        form="a folder that preprocessing.pipeline wrote; @unreliable=keep to read what its card marks as unreliable",
        rows=json_lines,
        convert=_record,
        language="",
        group=kept,
        lines=lambda _: [],
        takes=Takes(options=("unreliable",), anywhere=True),
        bind=_bound,
    ),
}
