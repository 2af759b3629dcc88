"""Readers of files of any origin: plain text, JSON Lines, tables with a header, and what `datasets` loads.

In    a file, or a name that `datasets.load_dataset` knows; after `@` which column is what.
Out   values of records.
Run   `python -m preprocessing.readers csv=reviews.csv@text=review@language=ko@vad.valence=mood`

`FIELD=COLUMN` says which column a field of a record is taken from; without it the column of the field's own name is.
`language` is en, ko or a column that says so. Labels stand in columns `FIELD.NAME` (`vad.valence`), as pandas flattens
nested objects, or in JSON as a list, as an object by name, or, for emotions, as names. Other columns are left alone.
Numbers are never scaled: what a range of another kind means is not for a reader to guess.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from preprocessing.cutters import headed_table, text_lines
from preprocessing.errors import BadRow, UserError
from preprocessing.forms import Reader, number
from preprocessing.groups import kept
from preprocessing.loading import dataset_rows
from preprocessing.records import LANGUAGES, NULLABLE
from preprocessing.sources import Source, Takes
from preprocessing.tables import json_lines
from preprocessing.text import listed
from redheart_hf.labels import CIRCUMSTANCES, CULTURE, EMOTION_FIELDS, ETHICS_EXPERTS, VAD, VIEWS

ITEMS: dict[str, tuple[str, ...]] = {
    **EMOTION_FIELDS,
    "vad": VAD,
    "culture": CULTURE,
    "circumstances": CIRCUMSTANCES,
    "acceptability": ETHICS_EXPERTS,
    "regret": VIEWS,
}
TEXTS = ("text", "text_pair", "worse", "turns")
ASKED = ("reason", "group", "same_as")
"""Taken only when asked for: a column that happens to be called so may mean anything."""
COLUMNS = (*TEXTS, *ASKED, *ITEMS, *(f"{field}.{name}" for field, names in ITEMS.items() for name in names))
_KNOWN = frozenset(COLUMNS)

Options = Mapping[str, str]


class Columns:
    """Which column of a row is what; worked out once a source, because it is asked for every row."""

    def __init__(self, options: Options):
        self.language = options.get("language", "language")
        taken = [*TEXTS, *(name for name in ASKED if name in options)]
        self.texts = {name: options.get(name, name) for name in taken}
        self.asked = {column for name, column in options.items() if name in COLUMNS} | {self.texts["text"]}
        self.fields = {field: options.get(field, field) for field in ITEMS}
        self.items: dict[str, list[tuple[str, str]]] = {}
        for field, names in ITEMS.items():
            for name in names:
                column = options.get(f"{field}.{name}", f"{field}.{name}")
                self.items.setdefault(column, []).append((field, name))

    def record(self, row: dict[str, Any]) -> dict[str, Any]:
        """Values of a Record. An empty text is no missing one: it is refused with its own reason."""
        self.check_names(row)
        values = {name: row.get(column) for name, column in self.texts.items()}
        if type(values.get("group")) is int:
            values["group"] = str(values["group"])
        if isinstance(values.get("same_as"), str):
            values["same_as"] = [values["same_as"]]
        found = {name: value for name, value in values.items() if not _empty(value)}
        return {"text": values["text"], **found, **self.labels(row), "language": self.said_language(row)}

    def labels(self, row: Mapping[str, Any]) -> dict[str, Any]:
        apart: dict[str, dict[str, Any]] = {}
        for column in self.items.keys() & row.keys():
            for field, name in self.items[column]:
                if not _empty(row[column]):
                    apart.setdefault(field, {})[name] = row[column]
        together = {field: row[column] for field, column in self.fields.items() if not _empty(row.get(column))}
        if both := sorted(apart.keys() & together.keys()):
            raise BadRow(f"contradicting-labels: {listed(both)} given as one value and by name")
        return {field: _label(field, value) for field, value in {**apart, **together}.items()}

    def said_language(self, row: Mapping[str, Any]) -> Any:
        if self.language in LANGUAGES:
            return self.language
        if self.language not in row:
            raise BadRow(
                f"missing-key: no column {self.language!r:.40} says the language; add @language=en or @language=ko"
            )
        return row[self.language]

    def check_names(self, row: Mapping[str, Any]) -> None:
        if missing := sorted(self.asked - row.keys()):
            raise BadRow(f"missing-key: {listed(missing)}; the row has {listed(row)}; name others, as in @text=COLUMN")
        for column in row:
            if "." in column and (field := column.partition(".")[0]) in ITEMS and column not in _KNOWN:
                raise BadRow(f"unknown-key: {column!r:.80}; {', '.join(ITEMS[field])} are known"[:350])

    def check(self, names: list[str]) -> None:
        """What every row would be refused for is said once, as a UserError."""
        try:
            self.check_names(dict.fromkeys(names))
            self.said_language(dict.fromkeys(names))
        except BadRow as bad:
            raise UserError(f"its columns do not serve: {bad.detail}") from None


def _empty(value: Any) -> bool:
    return value is None or value == "" or value == []


def _label(field: str, value: Any) -> Any:
    """A list of numbers as it is, names of emotions or values by name as a list; None where all of these are null."""
    names = ITEMS[field]
    if not isinstance(value, dict):
        return _by_names(field, value) if _is_names(value) else value
    if unknown := sorted(set(value) - set(names)):
        raise BadRow(f"unknown-key: {listed(unknown)} in {field}")
    vector = [_number(value.get(name)) for name in names]
    if all(item is None for item in vector):
        return None
    if None in vector and field not in NULLABLE:
        lacking = [name for name, item in zip(names, vector, strict=True) if item is None]
        raise BadRow(f"wrong-label-count: {field} has no value for {listed(lacking)}")
    return vector


def _is_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _by_names(field: str, value: str | list[str]) -> list[float]:
    """Names of the emotions that hold, in a list or parted by commas, to a vector with ones there."""
    held = {name.strip() for name in (value.split(",") if isinstance(value, str) else value)}
    if field not in EMOTION_FIELDS:
        raise BadRow(f"wrong-type: {field} is {value!r:.40}; it has numbers, in columns {field}.NAME or in a list")
    if unknown := sorted(held - set(ITEMS[field])):
        raise BadRow(f"unknown-label: {listed(unknown)}; {field} has {', '.join(ITEMS[field])}"[:400])
    return [float(name in held) for name in ITEMS[field]]


def _number(value: Any) -> Any:
    """A field of a table is text; what JSON gives is checked where ranges are."""
    if value is None or value == "":
        return None
    return number(value) if isinstance(value, str) else value


def _text(source: Source) -> Reader:
    language = dict(source.options).get("language")
    if language not in LANGUAGES:
        raise UserError(f"{source} does not say its language; add @language=en or @language=ko")
    return replace(READERS["text"], language=language)


def _bound(name: str) -> Callable[[Source], Reader]:
    def bind(source: Source) -> Reader:
        columns = Columns(options := dict(source.options))
        reader = replace(READERS[name], convert=columns.record)
        if name == "csv":
            return replace(reader, rows=headed_table(columns.check))
        if name == "dataset":
            wanted = {*COLUMNS, "language", *options.values()}
            return replace(reader, rows=lambda _: dataset_rows(source, wanted, columns.check), lines=lambda _: [])
        return reader

    return bind


READERS = {
    "text": Reader(
        form="plain text, a line a record, blank lines passed over; @language=en or @language=ko",
        rows=text_lines,
        convert=dict,
        language="",
        takes=Takes(options=("language",)),
        bind=_text,
    ),
    "jsonl": Reader(
        form="one JSON object a line with text, language, perhaps labels; @text=KEY@language=ko@vad.valence=KEY@...",
        rows=json_lines,
        convert=dict,
        language="",
        group=kept,
        takes=Takes(options=("language", *COLUMNS)),
        bind=_bound("jsonl"),
    ),
    "csv": Reader(
        form="a table whose first line names the columns, by commas, tabs or semicolons; @text=COLUMN@language=ko@...",
        rows=json_lines,
        convert=dict,
        language="",
        group=kept,
        takes=Takes(options=("language", *COLUMNS)),
        bind=_bound("csv"),
    ),
    "dataset": Reader(
        form="a name on the Hub, a folder, a .parquet or .arrow file; @SPLIT@text=COLUMN@language=ko@config=NAME@...",
        rows=json_lines,
        convert=dict,
        language="",
        group=kept,
        takes=Takes(options=("language", "config", *COLUMNS), anywhere=True),
        bind=_bound("dataset"),
    ),
}
