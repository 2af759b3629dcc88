"""How well the SURD head tells what the model's own predictions tell of a verdict.

In    records of all readers and what a model predicted for them.
Out   figures as those of one more reader, `surd`; nothing where there is no SURD head or there are too few verdicts.
Run   through training/evaluate.py.

A verdict is which side of a pair a text is on, else whether the deed was found acceptable. The exact decomposition of
all verdicts by predicted valence, utility and regret gives each of the two verdicts its terms, and those of a row's
verdict are its right answer. head_error is how far the head is from it, constant_error how far the best answer is that
knows no text, the mean of all: both roots of mean squares, in thousandths of the verdict's surprise.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from preprocessing import metrics
from preprocessing.records import Record
from training.figures import ACCEPTED, Figure, groups_of, with_intervals
from training.inference import Predictions
from training.surd_targets import BINS, NO_OUTCOME, decompose

LEAST = 10 * 2 * BINS**3  # ten rows for each cell


def outcomes_of(record: Record) -> tuple[int, int]:
    """Of the record's deed or better text, and of the worse text of a pair."""
    if record.worse is not None:
        return 1, 0
    verdicts = [value for value in record.acceptability or () if value is not None]
    return (int(np.mean(verdicts) >= ACCEPTED) if verdicts else NO_OUTCOME), NO_OUTCOME


def surd_figures(predicted: Iterable[tuple[Sequence[Record], Predictions]]) -> dict[str, Any] | None:
    """{"head_error": …, "constant_error": …, with intervals, "information": bits, "information_by_chance", "rows"}."""
    parts = [(records, arrays) for records, arrays in predicted if records and "surd_terms" in arrays]
    if not parts:
        return None
    every = np.array([outcomes_of(record) for records, _ in parts for record in records])
    owners, sides = np.nonzero(every != NO_OUTCOME)
    outcomes = every[owners, sides]
    if len(outcomes) < LEAST or len(np.unique(outcomes)) < 2:
        return None
    agents, terms = (
        np.concatenate([arrays[name] for _, arrays in parts])[owners, sides] for name in ("surd_agents", "surd_terms")
    )
    right, found = decompose(agents, outcomes)
    answers = {"head_error": terms, "constant_error": right[outcomes].mean(axis=0)}
    groups = groups_of([record for records, _ in parts for record in records])
    judged, owners = np.unique(owners, return_inverse=True)
    figures = (
        root_mean_square(name, ((answer - right[outcomes]) ** 2).mean(axis=1), owners, judged)
        for name, answer in answers.items()
    )
    kept = {name: round(found[name], 6) for name in ("information", "information_by_chance")}
    return with_intervals(figures, len(judged), groups) | kept


def root_mean_square(name: str, squares: np.ndarray, owners: np.ndarray, judged: np.ndarray) -> Figure:
    """Of one number a verdict, in thousandths; the two verdicts of a pair are resampled together."""

    def statistic(weights: np.ndarray | None) -> np.ndarray:
        return 1000 * np.sqrt(metrics.mean(squares, None if weights is None else weights[:, owners]))

    return Figure(name, statistic, judged, len(squares))
