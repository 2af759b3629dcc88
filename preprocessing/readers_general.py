"""Readers of files of any origin: plain text, JSON Lines, tables with a header, and what `datasets` loads.

In    a file, or a name that `datasets.load_dataset` knows; after `@` which column is what.
Out   values of records.
Run   `python -m preprocessing.readers csv=reviews.csv@text=review,language=ko,vad.valence=mood`

`FIELD=COLUMN` says which column a field of a record is taken from; without it the column of the field's own name is.
`language` is en, ko or a column that says so. Labels stand in columns `FIELD.NAME` (`vad.valence`), as pandas flattens
nested objects, or in JSON as a list, as an object by name, or, for emotions, as names. Other columns are left alone.
Numbers are never scaled: what a range of another kind means is not for a reader to guess.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
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

Options = Mapping[str, str]


def _general(options: Options, row: dict[str, Any]) -> dict[str, Any]:
    _check_row(options, row)
    values = {name: _taken(options, row, name) for name in (*TEXTS, *ASKED)}
    if isinstance(values["group"], int) and not isinstance(values["group"], bool):
        values["group"] = str(values["group"])
    if isinstance(values["same_as"], str):
        values["same_as"] = [values["same_as"]]
    labels = {field: _label(options, row, field) for field in ITEMS}
    found = {name: value for name, value in {**values, **labels}.items() if value is not None}
    # An empty text is no missing one: it is refused with its own reason.
    return {"text": row[options.get("text", "text")], **found, "language": _language(options, row)}


def _check_row(options: Options, row: Mapping[str, Any]) -> None:
    asked = {column for name, column in options.items() if name in COLUMNS} | {options.get("text", "text")}
    if missing := sorted(asked - set(row)):
        raise BadRow(f"missing-key: {listed(missing)}; the row has {listed(row)}; name others, as in @text=COLUMN")
    for column in row:
        field, dot, _ = column.partition(".")
        if dot and field in ITEMS and column not in COLUMNS:
            raise BadRow(f"unknown-key: {column!r:.80}; {field} has {', '.join(ITEMS[field])}")


def _check_columns(options: Options, columns: list[str]) -> None:
    """What every row would be refused for is said once."""
    try:
        _check_row(options, dict.fromkeys(columns))
        if "language" not in options and "language" not in columns:
            _language(options, dict.fromkeys(columns))
    except BadRow as bad:
        raise UserError(f"its columns do not serve: {bad.detail}") from None


def _taken(options: Options, row: Mapping[str, Any], name: str) -> Any:
    """The value of a column; None where it is empty, or was not asked for."""
    if name in ASKED and name not in options:
        return None
    value = row.get(options.get(name, name))
    return None if value in ("", []) else value


def _language(options: Options, row: Mapping[str, Any]) -> Any:
    said = options.get("language", "language")
    if said in LANGUAGES:
        return said
    if said not in row:
        raise BadRow(f"missing-key: no column {said!r:.40} says the language; add @language=en or @language=ko")
    return row[said]


def _label(options: Options, row: Mapping[str, Any], field: str) -> Any:
    names = ITEMS[field]
    together = _taken(options, row, field)
    columns = {name: options.get(f"{field}.{name}", f"{field}.{name}") for name in names}
    apart = {name: row[column] for name, column in columns.items() if column in row}
    if together is not None and any(value not in (None, "") for value in apart.values()):
        raise BadRow(f"contradicting-labels: {field} is given as one value and by name")
    if together is not None and not isinstance(together, dict):
        return _by_names(field, together) if _is_names(together) else together
    if unknown := sorted(set(together or {}) - set(names)):
        raise BadRow(f"unknown-key: {listed(unknown)} in {field}")
    values = {**apart, **(together or {})}
    vector = [_number(values.get(name)) for name in names]
    if all(value is None for value in vector):
        return None
    if None in vector and field not in NULLABLE:
        lacking = [name for name, value in zip(names, vector, strict=True) if value is None]
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
        options = dict(source.options)
        reader = replace(READERS[name], convert=partial(_general, options))
        check = partial(_check_columns, options)
        if name == "csv":
            return replace(reader, rows=headed_table(check))
        if name == "dataset":
            wanted = {*COLUMNS, "language", *options.values()}
            return replace(reader, rows=lambda _: dataset_rows(source, wanted, check), lines=lambda _: [])
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
        form="one JSON object a line with text, language, perhaps labels; @text=KEY,language=ko,vad.valence=KEY,...",
        rows=json_lines,
        convert=dict,
        language="",
        group=kept,
        takes=Takes(options=("language", *COLUMNS)),
        bind=_bound("jsonl"),
    ),
    "csv": Reader(
        form="a table whose first line names the columns, by commas, tabs or semicolons; @text=COLUMN,language=ko,...",
        rows=json_lines,
        convert=dict,
        language="",
        group=kept,
        takes=Takes(options=("language", *COLUMNS)),
        bind=_bound("csv"),
    ),
    "dataset": Reader(
        form="a name on the Hub, a folder, a .parquet or .arrow file; @SPLIT,text=COLUMN,language=ko,config=NAME,...",
        rows=json_lines,
        convert=dict,
        language="",
        group=kept,
        takes=Takes(options=("language", "config", *COLUMNS), anywhere=True),
        bind=_bound("dataset"),
    ),
}
