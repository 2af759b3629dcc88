"""Draws some rows of a source, to try a job or to ask about a few.

In    the records of one source, how many are wanted, a seed.
Out   those that were drawn, in their order, and the others as rejected rows.
Run   through preprocessing/prepared.py

Which ones are drawn, their content and row decide: the same wherever the file lies. With fewer rows to draw, those
drawn are among those of more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from preprocessing.readers import Rejected
from preprocessing.records import Record
from preprocessing.steps import set_aside

NOT_DRAWN = "not-drawn"


@dataclass(frozen=True)
class Sample:
    rows: int
    seed: int = 0

    def __call__(self, records: Sequence[Record]) -> tuple[list[Record], list[Rejected]]:
        drawn = set(sorted(range(len(records)), key=lambda place: self._lot(records[place]))[: self.rows])
        kept = [record for place, record in enumerate(records) if place in drawn]
        told = f"{len(kept)} of {len(records)} were"
        return kept, [set_aside(item, NOT_DRAWN, told) for place, item in enumerate(records) if place not in drawn]

    def _lot(self, record: Record) -> bytes:
        return blake2b(f"{self.seed}/{record.row}/{record.text}".encode(), digest_size=16).digest()
