"""Which records of one file belong together, so that a hold-out never separates them.

In    the records of one file, in its order.
Out   one group name a record.
Run   `python -m preprocessing.readers ethics_util=util_train.csv` prints how many groups a file has.
"""

import re
from collections.abc import Hashable, Iterable, Sequence

from preprocessing.records import Record
from preprocessing.text import normalise

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_REASON = re.compile(r"\b(?:because|since)\b", re.IGNORECASE)
CLAUSE_WORDS = 6
FAMILY_SHARE = 0.4


def by_text(records: Sequence[Record]) -> list[str]:
    return [normalise(record.text) for record in records]


def kept(records: Sequence[Record]) -> list[str]:
    """The groups that records came with, and the text where they came with none."""
    return [record.group or text for record, text in zip(records, by_text(records), strict=True)]


def by_scenario(records: Sequence[Record]) -> list[str]:
    """Preference pairs: "X. Y." over "X." shares scenario X with every pair on X."""
    keys = []
    for record in records:
        texts = (record.text, record.worse or "")
        opening = _common_opening(*texts)
        scenarios = [_SENTENCE_END.split(text, maxsplit=1)[0] for text in texts]
        keys.append([normalise(text) for text in (*texts, *scenarios, opening) if text])
    return _named(records, connected(keys))


def by_family(records: Sequence[Record]) -> list[str]:
    """Justice: authors wrote two to four variants in a row, which differ in the claim or in the reason for it."""
    keys: list[list[Hashable]] = []
    words: list[str] = []
    for position, record in enumerate(records):
        clauses = [part for part in _REASON.split(record.text, maxsplit=1) if len(part.split()) >= CLAUSE_WORDS]
        keys.append([position, *map(normalise, (record.text, *clauses))])
        before, words = words, [normalise(word) for word in record.text.split()]
        if _common_length(before, words) >= CLAUSE_WORDS or _share(before, words) >= FAMILY_SHARE:
            keys[-1].append(position - 1)
    return _named(records, connected(keys))


def connected(keys: Iterable[Iterable[Hashable]]) -> list[int]:
    """For every row the first row of its component; rows that share a key, directly or through others, are one."""
    parent: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    firsts = []
    for first, *others in keys:
        firsts.append(first)
        for other in others:
            parent[root(other)] = root(first)
    rows: dict[Hashable, int] = {}
    return [rows.setdefault(root(first), row) for row, first in enumerate(firsts)]


def _named(records: Sequence[Record], firsts: Iterable[int]) -> list[str]:
    return [normalise(records[row].text) for row in firsts]


def _common_opening(one: str, other: str) -> str:
    """The words both begin with, where they are enough to tell a scenario."""
    words = one.split()
    length = _common_length([normalise(word) for word in words], [normalise(word) for word in other.split()])
    return " ".join(words[:length]) if length >= CLAUSE_WORDS else ""


def _share(one: Sequence[str], other: Sequence[str]) -> float:
    """How much of the shorter text is a beginning or an ending that both have."""
    shorter = min(len(one), len(other))
    if not shorter:
        return 0.0
    beginning = _common_length(one, other)
    ending = min(_common_length(one[::-1], other[::-1]), shorter - beginning)
    return (beginning + ending) / shorter


def _common_length(one: Sequence[str], other: Sequence[str]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
