"""Readers of our own files: the scenarios that the project ships, and records written by `records.write_records`.

In    one JSON object a line.
Out   values of records.
Run   `python -m preprocessing.readers scenarios=data/scenarios/dev.jsonl`
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from preprocessing.errors import BadRow
from preprocessing.forms import Reader
from preprocessing.groups import kept
from preprocessing.records import Action, Record
from preprocessing.tables import json_lines
from preprocessing.text import listed
from redheart_hf.labels import BASIC_EMOTIONS, CIRCUMSTANCES, CULTURE, ETHICS_EXPERTS, VAD, VIEWS

LABEL_NAMES = {
    "emotions": BASIC_EMOTIONS,
    "vad": VAD,
    "culture": CULTURE,
    "circumstances": CIRCUMSTANCES,
    "acceptability": ETHICS_EXPERTS,
    "regret": VIEWS,
}
SCENARIO_KEYS = {"id", "language", "domain", "text", "actions", "chosen", "reason", *LABEL_NAMES}
SUM_TOLERANCE = 0.02


def _exact_keys(value: Any, names: Sequence[str] | set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRow(f"wrong-type: {where} is {value!r:.40}, not a JSON object")
    if unknown := sorted(set(value) - set(names)):
        raise BadRow(f"unknown-key: {listed(unknown)} in {where}")
    if missing := sorted(set(names) - set(value)):
        raise BadRow(f"missing-key: {listed(missing)} in {where}")
    return value


def _vector(value: Any, names: Sequence[str], where: str) -> list[Any]:
    named = _exact_keys(value, names, where)
    return [named[name] for name in names]


def _actions(value: Any) -> list[Action]:
    if not isinstance(value, list):
        raise BadRow(f"wrong-type: actions are {value!r:.40}, not a list")
    actions = [_exact_keys(item, {"text", "utility"}, "actions") for item in value]
    return [Action(text=item["text"], utility=_vector(item["utility"], VIEWS, "utility")) for item in actions]


def _scenario(row: dict[str, Any]) -> dict[str, Any]:
    _exact_keys(row, SCENARIO_KEYS, "the scenario")
    for key in ("id", "domain"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise BadRow(f"wrong-type: {key} is {row[key]!r:.40}, not a name")
    labels: dict[str, list[Any]] = {key: _vector(row[key], names, key) for key, names in LABEL_NAMES.items()}
    emotions = labels.pop("emotions")
    # Only numbers in range have a sum worth reading; the others are refused where ranges are checked.
    numbers = [value for value in emotions if type(value) in (int, float) and 0 <= value <= 1]
    if len(numbers) == len(emotions) and abs(sum(numbers) - 1) > SUM_TOLERANCE:
        raise BadRow(f"label-out-of-range: emotions are a distribution but sum to {sum(emotions):.3g}")
    plain = {key: row[key] for key in ("language", "text", "chosen", "reason")}
    return {**plain, **labels, "basic_emotions": emotions, "actions": _actions(row["actions"])}


def _record(row: dict[str, Any]) -> dict[str, Any]:
    record = Record.from_dict(row)
    return {item.name: getattr(record, item.name) for item in fields(record)}


READERS = {
    "scenarios": Reader(
        form="one JSON object a line: a situation, its possible actions, every label (docs/data.md)",
        rows=json_lines,
        convert=_scenario,
        language="",
    ),
    "records": Reader(
        form="one JSON object a line, as held-out rows are written: a Record with its first provenance",
        rows=json_lines,
        convert=_record,
        language="",
        group=kept,
    ),
}
