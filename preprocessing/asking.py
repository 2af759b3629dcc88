"""Asks a language model about every prepared row that lacks a label; each question once, by one process.

In    prepared rows, an `Asker`, the file of answers, the claims of all processes.
Out   an answer in the file for each row and prompt; `Asker.filled` puts answers into a record.
Run   through preprocessing/pipeline.py

Rows are asked about in pieces of like length, cut from each part: which rows share a piece follows from the input
alone. After each prompt of a piece its answers are on the disk, so that a kill costs one prompt of one piece.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from preprocessing.answers import Given
from preprocessing.claims import Claims
from preprocessing.prepared import PART_ROWS, Prepared
from preprocessing.progress import Progress
from preprocessing.records import Record

PIECE_ROWS = 64
"""Rows that one process claims at a time."""
_PIECES = -(-PART_ROWS // PIECE_ROWS)


class Questions(Protocol):
    """One prompt to one model."""

    name: str

    def wants(self, record: Record) -> bool: ...

    def key(self, record: Record) -> str: ...

    def ask(self, records: Sequence[Record]) -> list[Given]: ...

    def merged(self, record: Record, given: Given) -> Record: ...


class Answers(Protocol):
    """What has been answered, kept beyond the process."""

    def get(self, key: str) -> Given | None: ...

    def put(self, answers: Mapping[str, Given]) -> None: ...

    def close(self) -> None: ...


@dataclass
class Asker:
    questions: list[Questions]
    """In the order in which they are put: an answer may be part of the next question."""
    cache: Answers
    facts: dict[str, Any]
    """What the card says of the model."""

    def filled(self, record: Record) -> Record | None:
        """The record with all that has been answered; None where something is still to be asked."""
        for question in self.questions:
            if question.wants(record):
                given = self.cache.get(question.key(record))
                if given is None:
                    return None
                record = question.merged(record, given)
        return record

    def ask(self, records: Sequence[Record]) -> int:
        """Let every question about these be answered in the cache; how many had to be asked."""
        asked = 0
        current = list(records)
        for question in self.questions:
            keys = {number: question.key(row) for number, row in enumerate(current) if question.wants(row)}
            given = {key: self.cache.get(key) for key in dict.fromkeys(keys.values())}
            open_ = {key: current[number] for number, key in reversed(keys.items()) if given[key] is None}
            if open_:
                new = dict(zip(open_, question.ask(list(open_.values())), strict=True))
                self.cache.put(new)
                given |= new
                asked += len(new)
            for number, key in keys.items():
                answer = given[key]
                assert answer is not None
                current[number] = question.merged(current[number], answer)
        return asked


def ask_all(prepared: Prepared, asker: Asker, claims: Claims) -> None:
    """First what nobody else holds, then what others held and have left undone."""
    with Progress(prepared.rows, "asking") as progress:
        left = _go_through(prepared, asker, claims, progress, None)
        if left:
            _go_through(prepared, asker, claims, progress, left)


def _go_through(
    prepared: Prepared, asker: Asker, claims: Claims, progress: Progress, only: set[int] | None
) -> set[int]:
    """The pieces that others hold; with `only`, those alone are looked at, and waited for."""
    left: set[int] = set()
    for part in prepared.parts:
        if only is not None and not any(piece // _PIECES == part for piece in only):
            continue
        for number, rows in _pieces(prepared.part(part)):
            piece = part * _PIECES + number
            if only is not None and piece not in only:
                continue
            if all(asker.filled(row) is not None for row in rows):
                progress.add(len(rows), 0)
            elif not claims.take(piece, wait=only is not None):
                left.add(piece)
            else:
                progress.add(len(rows), asker.ask(rows))
                claims.release(piece)
    return left


def piece_count(rows: int) -> int:
    return -(-rows // PIECE_ROWS)


def pieces_of(prepared: Prepared, wanted: range) -> Iterator[list[Record]]:
    """The rows of each piece with a number in `wanted`; no part without such a piece is read."""
    for part in prepared.parts:
        if part * _PIECES < wanted.stop and (part + 1) * _PIECES > wanted.start:
            for number, rows in _pieces(prepared.part(part)):
                if part * _PIECES + number in wanted:
                    yield rows


def _pieces(rows: Sequence[Record]) -> Iterator[tuple[int, list[Record]]]:
    order = sorted(range(len(rows)), key=lambda number: (rows[number].language, len(rows[number].text), number))
    for start in range(0, len(order), PIECE_ROWS):
        yield start // PIECE_ROWS, [rows[number] for number in order[start : start + PIECE_ROWS]]
