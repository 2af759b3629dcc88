"""Where a label comes from when it is not from people, and how sure that source was of it.

In    `origins` and `confidence` of a record: label -> origin, label -> number in [0, 1].
Out   what is wrong with them.
Run   `python -c "from preprocessing.origins import *; print(*origin_faults({'vad': 'me'}, {}, {'vad'}))"`

A label that `origins` does not name is from people: files written before there were origins stay right. What was
taken from the record of a like case is named after that record, so that every row can be led back to it.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from preprocessing.text import listed

DERIVED = "derived"
"""Computed from other labels of the record."""
RETRIEVED = "retrieved"
"""Taken from the record of a like case: retrieved:ENCODERHASH/READER/FILE:ROW."""
_RETRIEVED = re.compile(RETRIEVED + r":([0-9a-f]+)/(([\w.-]+)/[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+:[0-9]+)")
_ORIGIN = re.compile(r"llm:[\w.-]+@[0-9a-f]+/[\w.-]+@[0-9]+|" + DERIVED)


def origin_faults(origins: Any, confidence: Any, held: Collection[str]) -> Iterator[str]:
    """As "reason: detail"; `held` are the labels that the record has."""
    for name, value in (("origins", origins), ("confidence", confidence)):
        if not isinstance(value, dict):
            yield f"wrong-type: {name} is {value!r:.80}, not an object"
            return
    if unknown := sorted(set(origins) - set(held), key=repr):
        yield f"unknown-label: origins names {listed(unknown)}, which this record does not have"
    for label, origin in origins.items():
        if not isinstance(origin, str) or not (_ORIGIN.fullmatch(origin) or _RETRIEVED.fullmatch(origin)):
            yield (
                f"unknown-label: the origin of {label} is {origin!r:.80}, not llm:MODEL@HASH/PROMPT@1, "
                "retrieved:HASH/READER/FILE:ROW or derived"
            )
    if unknown := sorted(set(confidence) - set(origins), key=repr):
        yield f"unknown-label: confidence names {listed(unknown)}, of which origins does not speak"
    for label, number in confidence.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
            yield f"label-out-of-range: the confidence of {label} is {number!r:.80}; it must lie in [0, 1]"


def in_short(origin: str) -> str:
    """Without the row it was taken from: what many labels have in common."""
    found = _RETRIEVED.fullmatch(origin)
    return f"{RETRIEVED}:{found[1]}" if found else origin


def taken_from(origins: Mapping[str, str]) -> set[tuple[str, str]]:
    """(id, reader) of the records from which labels were taken."""
    found = map(_RETRIEVED.fullmatch, origins.values())
    return {(match[2], match[3]) for match in found if match}
