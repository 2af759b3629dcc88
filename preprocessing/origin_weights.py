"""How much a label counts by where it comes from: people, a language model, a like case, or other labels.

In    records with `origins`; weights by kind of origin.
Out   records without the labels that count nothing; of each record label -> weight, where it is not one.
Run   `python -c "from preprocessing.origin_weights import *; print(complete({'llm': 0.3}))"`

A language model's labels count half unless told otherwise: where people labelled the same kind of thing, theirs shall
decide. So do labels of a like case: people gave them, but to another text. A term of the loss whose labels are all of
one origin is not changed by that, as its loss is a weighted mean.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from preprocessing.errors import UserError
from preprocessing.origins import DERIVED, RETRIEVED
from preprocessing.records import RANGES, Record

LABELS = (*RANGES, "actions")
"""Of which `origins` may speak."""
DEFAULT = {"human": 1.0, "llm": 0.5, RETRIEVED: 0.5, DERIVED: 0.5}
"""Kind of origin -> weight. Derived labels follow the other two: so far they are computed from such actions."""

ONLY_HUMAN = {"human": 1.0, "llm": 0.0, RETRIEVED: 0.0, DERIVED: 0.0}
"""What a model is judged by."""


def kind_of(origin: str | None) -> str:
    return "human" if origin is None else origin.partition(":")[0]


def complete(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights with the default of what they do not name; raises UserError for what cannot be."""
    if unknown := sorted(set(weights) - set(DEFAULT)):
        raise UserError(f"origin_weights names unknown origins {unknown}; known: {', '.join(DEFAULT)}")
    for kind, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise UserError(f"origin_weights of {kind} must be finite and not negative, got {weight}")
    return DEFAULT | dict(weights)


def without(record: Record, label: str) -> Record:
    """The record without the label, and without what was derived from it."""
    gone = [label]
    changes: dict[str, Any] = {label: None}
    if label == "actions":
        changes["chosen"] = None
        if kind_of(record.origins.get("regret")) == DERIVED:
            changes["regret"] = None
            gone.append("regret")
    origins = {name: origin for name, origin in record.origins.items() if name not in gone}
    confidence = {name: value for name, value in record.confidence.items() if name not in gone}
    return replace(record, **changes, origins=origins, confidence=confidence)


def counted_only(records: Iterable[Record], weights: Mapping[str, float]) -> Iterator[Record]:
    """The records without the labels whose origin weighs nothing."""
    for record in records:
        for label in LABELS:
            if getattr(record, label) is not None and not weights[kind_of(record.origins.get(label))]:
                record = without(record, label)
        yield record


def weights_of(record: Record, weights: Mapping[str, float]) -> dict[str, float]:
    """Label -> weight, for the labels that it has and that do not count one."""
    held = [label for label in LABELS if getattr(record, label) is not None]
    said = {label: weights[kind_of(record.origins.get(label))] for label in held}
    return {label: weight for label, weight in said.items() if weight != 1.0}
