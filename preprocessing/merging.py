"""What a language model said of a record, and how it gets into the record.

In    a record; field -> `Answer`.
Out   the record with what it lacked, where each value comes from, and how sure the model was.
Run   through preprocessing/questions.py
"""

from dataclasses import dataclass, replace
from typing import Any

from preprocessing.records import Record


@dataclass(frozen=True)
class Answer:
    value: Any
    """As Record holds it, or None."""
    confidence: float
    """In [0, 1]; 0 where nothing could be asked."""
    origin: str
    """llm:MODEL@HASH/PROMPT@VERSION, or derived."""


def merged(record: Record, answers: dict[str, Answer]) -> Record:
    """The record with what it lacked. What people have labelled stays as it is, and a None adds nothing."""
    changes: dict[str, Any] = {}
    origins, confidence = dict(record.origins), dict(record.confidence)
    for field, answer in answers.items():
        if answer.value is None or getattr(record, field) is not None:
            continue
        changes[field] = answer.value
        origins[field], confidence[field] = answer.origin, answer.confidence
    if "actions" in changes:
        changes["chosen"] = 0
    elif "regret" in changes and record.actions is None:
        raise ValueError("a regret is derived from actions, and the record has none")
    return replace(record, **changes, origins=origins, confidence=confidence)
