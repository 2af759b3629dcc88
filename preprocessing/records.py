"""One record type for every source: a text and whatever labels its source gives, the rest None.

In    labels of one row, or the dict that `to_dict` wrote.
Out   `Record` and `Action`; `first_fault` says what is wrong with one.
Run   `python -m preprocessing.readers scenarios=data/scenarios/dev.jsonl` reads a file of them.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from preprocessing.errors import BadRow
from preprocessing.files import write_lines
from preprocessing.origins import origin_faults
from preprocessing.text import clean, listed, name_fault, text_fault
from redheart_hf.labels import CIRCUMSTANCES, CULTURE, EMOTION_FIELDS, ETHICS_EXPERTS, VAD, VIEWS

LANGUAGES = ("en", "ko")


@dataclass(kw_only=True, slots=True)
class Action:
    text: str
    """What could be done, as one short sentence."""
    utility: list[float]
    """Optimistic >= neutral >= pessimistic, each in [-1, 1]."""


@dataclass(kw_only=True, slots=True)
class Record:
    id: str
    """reader/file:line, for example goemotions/ekman_train.tsv:17."""
    reader: str
    """Name of the reader: figures are reported per reader."""
    language: str
    """"en" or "ko"."""
    text: str
    """What was written, in NFC; the better text where `worse` is given."""
    text_pair: str | None = None
    """Second segment: the excuse (deontology), the trait (virtue)."""
    worse: str | None = None
    """The less pleasant text of a preference pair."""
    turns: list[str] | None = None
    """What was said before in the dialogue whose last turn is `text`, the oldest first; labels are of `text`."""
    basic_emotions: list[float] | None = None
    """Share or presence of each of the seven, in [0, 1]."""
    fine_emotions: list[float] | None = None
    """Presence of each of GoEmotions' 28, in [0, 1]."""
    korean_emotions: list[float] | None = None
    """Presence of each of KOTE's 44, in [0, 1]."""
    vad: list[float | None] | None = None
    """Valence, arousal, dominance in [-1, 1], each nullable."""
    culture: list[float] | None = None
    """Jeong, han, chemyeon in [0, 1]."""
    actions: list[Action] | None = None
    """What could have been done; at least two."""
    chosen: int | None = None
    """Position in `actions` of what was done."""
    circumstances: list[float] | None = None
    """Bentham's seven, of the chosen action: intensity in [-1, 1], the others in [0, 1]."""
    acceptability: list[float | None] | None = None
    """Utilitarian, deontology, justice, virtue in [0, 1], each nullable."""
    regret: list[float] | None = None
    """Optimistic, neutral, pessimistic; 0 or more."""
    reason: str | None = None
    """Why the labels are what they are, in one line."""
    source: str
    """File name."""
    row: int
    """Line of the file on which the row starts, from 1."""
    split: str | None = None
    """train, dev, test, ... where the file or its name says so."""
    same_as: list[str] = field(default_factory=list)
    """Two records that share a key hold the same text in other words or another language."""
    group: str | None = None
    """Records of one group are never separated by a hold-out."""
    origins: dict[str, str] = field(default_factory=dict)
    """Label -> where it comes from (preprocessing/origins.py). Not named here: from people."""
    confidence: dict[str, float] = field(default_factory=dict)
    """Label -> how far answers about it agreed, or how like the case it was taken from is, in [0, 1]; of labels in
    `origins` only."""
    weight: float | None = None
    """How often the record comes in an epoch, once where there is none; set by preprocessing/balance.py."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form: fields without a value are left out."""
        return {name: value for name, value in asdict(self).items() if value not in (None, [], {})}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Record":
        """Inverse of `to_dict`; BadRow names keys that are unknown or missing."""
        values = dict(values)
        _check_keys(cls, values, "record")
        if values.get("actions") is not None:
            if not isinstance(values["actions"], list):
                raise BadRow(f"wrong-type: actions are {values['actions']!r:.80}, not a list")
            for action in values["actions"]:
                _check_keys(Action, action, "action")
            values["actions"] = [Action(**action) for action in values["actions"]]
        return cls(**values)


def _check_keys(kind: type[Any], values: Any, name: str) -> None:
    if not isinstance(values, dict):
        raise BadRow(f"wrong-type: {name} is {values!r:.80}, not an object")
    known = {item.name for item in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise BadRow(f"unknown-key: {name} has {listed(unknown)}; known are {', '.join(sorted(known))}")
    required = {item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING}
    if missing := sorted(required - set(values)):
        raise BadRow(f"missing-key: {name} lacks {', '.join(missing)}")


RANGES: dict[str, tuple[int, float, float]] = {
    **{field: (len(names), 0, 1) for field, names in EMOTION_FIELDS.items()},
    "vad": (len(VAD), -1, 1),
    "culture": (len(CULTURE), 0, 1),
    "circumstances": (len(CIRCUMSTANCES), -1, 1),
    "acceptability": (len(ETHICS_EXPERTS), 0, 1),
    # Two utilities lie at most 2 apart, and regret is d + 0.5 d^3 of that distance.
    "regret": (len(VIEWS), 0, 6),
}
"""Label -> number of items, lowest and highest value."""
NULLABLE = ("acceptability", "vad")
"""Labels of which a source may know some items and not others."""


def first_fault(record: Record) -> str | None:
    """None, or the first thing wrong with the record as "reason: detail"; reasons are listed in docs/data.md."""
    return next(_faults(record), None)


def _faults(record: Record) -> Iterator[str]:
    for name in ("id", "reader", "source", "split", "group"):
        value = getattr(record, name)
        if not (value is None and name in ("split", "group")) and (fault := name_fault(name, value)):
            yield fault
    if type(record.row) is not int:
        yield f"wrong-type: row is {record.row!r:.80}, not a whole number"
    if not (isinstance(record.same_as, list) and all(isinstance(key, str) for key in record.same_as)):
        yield f"wrong-type: same_as is {record.same_as!r:.80}, not a list of strings"
    else:
        yield from filter(None, (name_fault("same_as", key) for key in record.same_as))
    weight = record.weight
    if weight is not None and (type(weight) not in (int, float) or not 0 < weight < inf):
        yield f"label-out-of-range: weight is {weight!r:.80}; it must be a number above 0"
    if record.language not in LANGUAGES:
        yield f"unknown-label: language is {record.language!r:.40}, not one of {', '.join(LANGUAGES)}"
    if fault := _turns_fault(record):
        yield fault
        return  # what follows takes them for a list
    for name, text in _texts(record):
        if fault := text_fault(name, text):
            yield fault
    for name, (count, low, high) in RANGES.items():
        values = getattr(record, name)
        if values is None:
            continue
        if fault := _numbers_fault(name, values, count, low, high, nullable=name in NULLABLE):
            yield fault
        elif name == "circumstances" and min(values[1:]) < 0:
            yield f"label-out-of-range: circumstances after intensity must be 0 or more: {values}"
    yield from _action_faults(record)
    held = {name for name in (*RANGES, "actions") if getattr(record, name) is not None}
    yield from origin_faults(record.origins, record.confidence, held)


def cleaned(record: Record) -> Record:
    """The record with every text in NFC and without outer spaces."""
    for name in ("text", "text_pair", "worse", "reason"):
        if isinstance(value := getattr(record, name), str):
            setattr(record, name, clean(value))
    for action in record.actions or []:
        if isinstance(action.text, str):
            action.text = clean(action.text)
    if isinstance(record.turns, list):
        record.turns = [clean(turn) if isinstance(turn, str) else turn for turn in record.turns]
    return record


def by_reader(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by the reader that first made them, also when they come back through the reader `records`."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.reader, []).append(record)
    return groups


def write_records(path: Path, records: Iterable[Record]) -> None:
    """One JSON object a line, as the reader `records` reads them back."""
    write_lines(path, (json.dumps(record.to_dict(), ensure_ascii=False) for record in records))


def _texts(record: Record) -> Iterator[tuple[str, Any]]:
    yield "text", record.text
    for name in ("text_pair", "worse", "reason"):
        if getattr(record, name) is not None:
            yield name, getattr(record, name)
    for number, action in enumerate(record.actions or []):
        yield f"action {number}", action.text
    for number, turn in enumerate(record.turns or []):
        yield f"turn {number}", turn


def _turns_fault(record: Record) -> str | None:
    if record.turns is None:
        return None
    if not isinstance(record.turns, list) or not record.turns:
        return f"wrong-type: turns are {record.turns!r:.80}, not a list of one or more texts"
    if record.worse is not None or record.actions is not None:
        return "contradicting-labels: a record has turns or alternatives (worse, actions), not both"
    return None


def _numbers_fault(name: str, values: Any, count: int, low: float, high: float, nullable: bool = False) -> str | None:
    if not isinstance(values, list):
        return f"wrong-type: {name} is {values!r:.80}, not a list"
    if len(values) != count:
        return f"wrong-label-count: {name} has {len(values)} values, not {count}"
    for value in values:
        if value is None and nullable:
            continue
        # bool is an int to Python: true among numbers is a mistake in the file, not a 1.
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"wrong-type: {name} holds {value!r:.80}, not a number"
        if not low <= value <= high:
            return f"label-out-of-range: {name} holds {value!r:.80}; it must lie in [{low}, {high}]"
    return None


def _action_faults(record: Record) -> Iterator[str]:
    actions = record.actions
    if actions is None:
        if record.chosen is not None:
            yield f"missing-key: chosen is {record.chosen!r:.80} but there are no actions"
        return
    if len(actions) < 2:
        yield f"wrong-label-count: {len(actions)} action; a choice needs two or more"
    for number, action in enumerate(actions):
        name = f"utility of action {number}"
        if fault := _numbers_fault(name, action.utility, len(VIEWS), -1, 1):
            yield fault
        elif sorted(action.utility, reverse=True) != action.utility:
            yield f"contradicting-labels: {name} must fall from optimistic to pessimistic: {action.utility}"
    if type(record.chosen) is not int or not 0 <= record.chosen < len(actions):
        yield f"label-out-of-range: chosen is {record.chosen!r:.80} among {len(actions)} actions"
