"""Gives each record a weight, how often it comes in an epoch, so that sources and labels count as asked.

In    records; shares of readers, or temperatures.
Out   the same records with `weight`; `table` says what each stratum has and gets.
Run   through preprocessing/pipeline.py; training follows the weights by itself (training/weights.py)

A stratum is a reader, or a reader and a label. Of N records in all, stratum i with n_i is drawn with the probability
p_i ~ n_i^(1/T) (Devlin 2018 for multilingual BERT; Arivazhagan et al. 2019, arXiv 1907.05019): T = 1 leaves all as it
is, a high T makes all alike. Its records get the weight p_i N / n_i, so that an epoch keeps its length. Readers come
first, by the shares that are asked for or by temperature; within a reader its labels, by a temperature of their own.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from preprocessing.errors import UserError
from preprocessing.readers import Rejected
from preprocessing.records import Record
from preprocessing.spool import Spool
from redheart_hf.labels import EMOTION_FIELDS

LABELS = (*EMOTION_FIELDS, "acceptability")
UNLABELLED = "none"

Stratum = tuple[str, str]


@dataclass(frozen=True)
class Share:
    """A line of the table: `rows` records of a reader and label, each with `weight`, `drawn` in an epoch."""

    reader: str
    label: str
    rows: int
    weight: float
    drawn: int


class Balance:
    """`shares` are of the whole, by reader; readers without one share the rest by `temperature`."""

    name = "balance"

    def __init__(
        self,
        temperature: float = 1.0,
        shares: Mapping[str, float] | None = None,
        label: str | None = None,
        label_temperature: float = 1.0,
    ) -> None:
        for name, value in (("temperature", temperature), ("label_temperature", label_temperature)):
            if not 1 <= value < math.inf:
                raise UserError(f"{name} of balance must be finite and 1 or more, got {value}")
        if label is not None and label not in LABELS:
            raise UserError(f"balance goes by the label {label!r}; it can go by {', '.join(LABELS)}")
        self.temperature, self.shares = temperature, dict(shares or {})
        self.label, self.label_temperature = label, label_temperature
        self.counts: Counter[str] = Counter()
        self.table: list[Share] = []

    def __call__(self, records: Iterable[Record]) -> Iterator[Record | Rejected]:
        with Spool() as spool:
            rows: Counter[Stratum] = Counter()
            for record in records:
                spool.append(record)
                rows[self._stratum(record)] += 1
            if not rows:
                return
            self.table = balanced(rows, self.temperature, self.shares, self.label_temperature)
            weights = {(line.reader, line.label): line.weight for line in self.table}
            for record in spool:
                yield replace(record, weight=weights[self._stratum(record)])

    def _stratum(self, record: Record) -> Stratum:
        return record.reader, "" if self.label is None else label_of(record, self.label)


def label_of(record: Record, field: str) -> str:
    """The strongest emotion, the first of those alike; for acceptability yes or no, of the first expert with one."""
    values = getattr(record, field)
    if values is None:
        return UNLABELLED
    if field == "acceptability":
        judged = next((value for value in values if value is not None), None)
        return UNLABELLED if judged is None else ("acceptable" if judged >= 0.5 else "not acceptable")
    return EMOTION_FIELDS[field][max(range(len(values)), key=values.__getitem__)]


def balanced(
    rows: Mapping[Stratum, int],
    temperature: float = 1.0,
    shares: Mapping[str, float] | None = None,
    label_temperature: float = 1.0,
) -> list[Share]:
    """One line a stratum, in the order of their names; each is drawn whole times in an epoch, once at least."""
    by_reader: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (reader, label), count in sorted(rows.items()):
        by_reader[reader][label] = count
    total = sum(rows.values())
    of_readers = _with_shares(
        {reader: sum(of.values()) for reader, of in by_reader.items()}, temperature, shares or {}
    )
    table = []
    for reader, labels in by_reader.items():
        for label, share in _tempered(labels, label_temperature).items():
            count, drawn = labels[label], max(1, round(of_readers[reader] * share * total))
            table.append(Share(reader, label, count, drawn / count, drawn))
    return table


def _with_shares(rows: Mapping[str, int], temperature: float, shares: Mapping[str, float]) -> dict[str, float]:
    if unknown := sorted(set(shares) - set(rows)):
        raise UserError(f"balance names {unknown[0]!r}, of which there are no records; there are {', '.join(rows)}")
    if wrong := sorted(reader for reader, share in shares.items() if not 0 < share <= 1):
        raise UserError(f"the share of {wrong[0]} must lie above 0 and be 1 at most, got {shares[wrong[0]]}")
    asked = math.fsum(shares.values())
    rest = {reader: count for reader, count in rows.items() if reader not in shares}
    if asked > 1 + 1e-9 or (rest and asked > 1 - 1e-9) or (not rest and asked < 1 - 1e-9):
        must = (
            f"stay below 1, to leave some for {', '.join(rest)}"
            if rest
            else "be 1 together, as they name every reader"
        )
        raise UserError(f"the shares of balance sum to {asked:g}; they must {must}")
    return dict(shares) | {reader: (1 - asked) * part for reader, part in _tempered(rest, temperature).items()}


def _tempered(rows: Mapping[str, int], temperature: float) -> dict[str, float]:
    powers = {name: count ** (1 / temperature) for name, count in rows.items()}
    total = math.fsum(powers.values())
    return {name: power / total for name, power in powers.items()}
