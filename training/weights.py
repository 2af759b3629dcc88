"""Draws each record as often in an epoch as its weight says; from that, a run's plan of batches.

In    a data set, the records it was encoded from, passes by reader.
Out   the data set with a column `weight`; names and passes for `BatchPlan`; the BatchPlan, and how many steps it has.
Run   through training/data.py and training/loop.py

Records of one reader and one weight are a stratum, which BatchPlan treats as a reader of its own: its passes are those
of the reader times the weight. A data set without weights goes through as it is, and its batches are what they were.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from datasets import Dataset

from preprocessing.errors import UserError
from preprocessing.records import Record
from training.batch_plan import BatchPlan, as_list
from training.sampling import passes_of

if TYPE_CHECKING:
    from training.config import TrainConfig

Passes = Mapping[str, float | Sequence[float]]
MOST_STRATA = 10_000


def with_weights(dataset: Dataset, records: Sequence[Record]) -> Dataset:
    """`dataset` has one row a record, in their order; a column is added only where any record has a weight."""
    weights = [record.weight for record in records]
    if all(weight is None for weight in weights):
        return dataset
    known = [1.0 if weight is None else float(weight) for weight in weights]
    weighted = dataset.add_column("weight", known)
    # A run goes on only with the data it began with, and these weights are part of them.
    digest = hashlib.blake2b(repr(known).encode(), digest_size=8).hexdigest()
    weighted.info.description = f"{dataset.info.description}-weights-{digest}"
    return weighted


def drawn_as(dataset: Dataset, passes: Passes | None) -> tuple[Sequence[str], Passes | None]:
    """(names, passes) for BatchPlan: a name a row, and how often each name's rows come in an epoch."""
    if "weight" not in dataset.column_names:
        return dataset["reader"], passes
    strata = list(zip(dataset["reader"], dataset["weight"], strict=True))
    counts = Counter(strata)
    if unknown := sorted(set(passes or {}) - {reader for reader, _ in counts}):
        known = ", ".join(sorted({reader for reader, _ in counts}))
        raise UserError(f"passes names {unknown}, not among the training readers: {known}")
    if len(counts) > MOST_STRATA:
        raise UserError(f"the records have {len(counts):,} weights; at most {MOST_STRATA:,}, round them")
    by_name: dict[str, list[float]] = {}
    for (reader, weight), rows in counts.items():
        listed = [weight * time for time in as_list((passes or {}).get(reader, 1.0))]
        if not any(round(rows * time) for time in listed):
            raise UserError(
                f"{rows} records of {reader} have the weight {weight:g} and would never be drawn; give them more, or "
                "one weight to more records"
            )
        by_name[_name(reader, weight)] = listed
    return [_name(*stratum) for stratum in strata], by_name


def batches_of(dataset: Dataset, config: "TrainConfig", process: int = 0, num_processes: int = 1) -> BatchPlan:
    """The plan of a run's batches."""
    names, passes = drawn_as(dataset, passes_of(dataset["reader"], config))
    return BatchPlan(
        dataset["length"],
        names,
        config.batch_size,
        config.seed,
        passes,
        config.gradient_accumulation_steps,
        config.bucket_batches,
        process,
        num_processes,
        config.chunk_rows,
    )


def _name(reader: str, weight: float) -> str:
    return reader if weight == 1.0 else f"{reader} at {weight!r}"


def steps_of(config: "TrainConfig", plan: BatchPlan) -> int:
    """All optimizer steps of the run."""
    return config.max_steps or plan.first_step(config.epochs)
