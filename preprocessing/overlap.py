"""Keeps what is measured apart from what is learnt: shared texts, hold-outs, and the two halves of dev.

In    records.
Out   `find_overlaps` counts what sources share, `without_overlaps` keeps it out of dev, `hold_out` sets whole groups
      aside, `half_of` says which half of dev a record is in.
Run   `python -m preprocessing.readers goemotions=ekman_train.tsv goemotions=ekman_dev.tsv` prints the overlaps.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from typing import Literal

from preprocessing.errors import UserError
from preprocessing.groups import connected
from preprocessing.origins import taken_from
from preprocessing.records import Record
from preprocessing.text import normalise


@dataclass(frozen=True)
class Overlap:
    """What two sources share."""

    first: str
    second: str
    texts: int
    """Distinct texts, compared by `normalise`."""
    same_as: int
    """Distinct keys of the same text in other words or another language."""


@dataclass(frozen=True)
class Overlaps:
    pairs: list[Overlap]
    """The pairs that share anything, the largest first."""

    def __str__(self) -> str:
        lines = [
            f"{pair.first} and {pair.second} share {pair.texts} texts, {pair.same_as} same_as keys"
            for pair in self.pairs
        ]
        return "\n".join(lines) or "no text occurs in more than one source"


def find_overlaps(train: Iterable[Record], dev: Iterable[Record] = ()) -> Overlaps:
    """Counts per pair of sources (reader, file, split), within train and dev and across them."""
    homes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in (*train, *dev):
        for key in _keys(record):
            homes[key].add(source_name(record))
    counts = Counter((pair, kind) for (kind, _), names in homes.items() for pair in combinations(sorted(names), 2))
    pairs = [Overlap(*pair, counts[pair, "text"], counts[pair, "same_as"]) for pair in {pair for pair, _ in counts}]
    return Overlaps(sorted(pairs, key=lambda pair: (-max(pair.texts, pair.same_as), pair.first, pair.second)))


def without_overlaps(dev: Iterable[Record], train: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """dev as (kept, dropped): dropped are records that share a text or a same_as key with any record of train.

    So are those from which a record of train has taken its labels.
    """
    learnt: set[tuple[str, str]] = set()
    taken: set[str] = set()
    for record in train:
        learnt.update(_keys(record))
        taken.update(name for name, _ in taken_from(record.origins))
    kept: list[Record] = []
    dropped: list[Record] = []
    for record in dev:
        (kept if learnt.isdisjoint(_keys(record)) and record.id not in taken else dropped).append(record)
    return kept, dropped


def hold_out(records: Sequence[Record], rows: int, seed: int) -> tuple[list[Record], list[Record]]:
    """(rest, held out): groups in the order of a hash that depends on `seed`, until `rows` records are held out.

    The order of `records` makes no difference to which are held out. Groups that share a text or a key count as one.
    """
    if not 0 < rows < len(records):
        raise UserError(f"cannot hold out {rows:,} of {len(records):,} records; name a number from 1 to one less")
    families: dict[int, list[int]] = defaultdict(list)
    for position, family in enumerate(connected(map(_bonds, records))):
        families[family].append(position)
    held: set[int] = set()
    for _, members in sorted((_family_hash(records, members, seed), members) for members in families.values()):
        if len(held) >= rows:
            break
        held.update(members)
    if len(held) == len(records):
        raise UserError(f"holding out {rows:,} of {len(records):,} records leaves none: all are of one group")
    rest = [record for position, record in enumerate(records) if position not in held]
    return rest, [records[position] for position in sorted(held)]


def half_of(record: Record) -> Literal["choosing", "reporting"]:
    """What is chosen is chosen on one half of dev, figures come from the other; by the group, else by the text."""
    return "choosing" if _hash(kept_with(record)) % 2 == 0 else "reporting"


def kept_with(record: Record) -> str:
    """Records of one such name are never told apart: of one group, else of one text."""
    return record.group or normalise(record.text)


def source_name(record: Record) -> str:
    return f"{record.reader}/{record.source}" + (f"@{record.split}" if record.split else "")


def _keys(record: Record) -> Iterator[tuple[str, str]]:
    yield "text", normalise(record.text)
    if record.worse is not None:
        yield "text", normalise(record.worse)
    for turn in record.turns or []:
        yield "text", normalise(turn)
    for key in record.same_as:
        yield "same_as", key


def _bonds(record: Record) -> Iterator[tuple[str, str]]:
    yield from _keys(record)
    if record.group is not None:
        yield "group", record.group


def _family_hash(records: Sequence[Record], members: Iterable[int], seed: int) -> int:
    return min(_hash(f"{seed}\0{records[position].group or records[position].id}") for position in members)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
