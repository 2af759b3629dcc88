"""What a step of a preprocessing job is: records go in, each comes out again or is set aside with the reason.

In    records, one after another.
Out   for each of them, in their order, either a record (the same or a better one) or a `Rejected`.
Run   through preprocessing/pipeline.py

A step holds no more than it needs at a time, so that a job's memory does not grow with its rows. Nothing is lost: what
a step sets aside is counted under `step: reason` and written to rejected.jsonl by the job.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from preprocessing.readers import EXCERPT_CHARACTERS, Rejected
from preprocessing.records import Record


class Step(Protocol):
    name: str
    """As the recipe, the counts and the card call it."""

    def __call__(self, records: Iterable[Record]) -> Iterator[Record | Rejected]: ...


def set_aside(record: Record, reason: str, detail: str) -> Rejected:
    """The record as a row of rejected.jsonl; `reason` is a word or two, the same for all of its kind."""
    return Rejected(record.source, record.row, reason, detail, record.text[:EXCERPT_CHARACTERS])
