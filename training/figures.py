"""What is measured on the rows of each reader, and on which labels thresholds are chosen.

In    records of one reader and what a model predicted for them.
Out   {figure: value, figure_interval: [low, high], ..., "rows": n}, ready for JSON.
Run   through training/evaluate.py.

An interval is the 95 % bootstrap interval over records, those of one group (a scenario's five traits, a text and its
translation) drawn together: it says how far the figure would move on other rows, not how far on another training run.
A figure that rests on another number of rows than the reader has says so under figure_rows; one that cannot be
measured is None. Rows without the label a figure needs have no part in it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from preprocessing import metrics
from preprocessing.errors import UserError
from preprocessing.overlap import kept_with
from preprocessing.records import Record
from redheart_hf.labels import DEFAULT_THRESHOLD, ETHICS_EXPERTS, VAD, VIEWS
from training.inference import Predictions

NEUTRAL_VIEW = VIEWS.index("neutral")
ACCEPTED = 0.5
CENTRAL_90 = 1.6448536269514722  # standard deviations to each side that hold 90 % of a normal distribution
DIGITS = 6  # beyond these, figures differ with the processor's order of summation

Thresholds = dict[str, list[float]]


@dataclass
class Figure:
    """`statistic` takes weights (samples, rows), None for ones; `of` (rows,) is the record that each of these rows is
    of, rising; `counted` is how many values it rests on."""

    name: str
    statistic: Callable[[np.ndarray | None], np.ndarray]
    of: np.ndarray
    counted: int


Measure = Callable[[Sequence[Record], Predictions, Thresholds], Iterator[Figure]]


def labels_of(records: Sequence[Record], field: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the records that have the label, and its values; a missing item is NaN."""
    values = [getattr(record, field) for record in records]
    held = np.asarray([index for index, value in enumerate(values) if value is not None], dtype=int)
    return held, np.asarray([values[index] for index in held], dtype=float)


def averaged(name: str, values: np.ndarray, of: np.ndarray | None = None) -> Iterator[Figure]:
    """The mean of one number a record; records for which it is NaN are left out. `of`: which records, if not all."""
    known = np.flatnonzero(~np.isnan(values))
    values, of = values[known], known if of is None else of[known]
    if len(values):
        yield Figure(name, lambda weights: metrics.mean(values, weights), of, len(values))


def correlated(name: str, truth: np.ndarray, predicted: np.ndarray, of: np.ndarray) -> Iterator[Figure]:
    if len(truth):
        yield Figure(name, lambda weights: metrics.pearson(truth, predicted, weights), of, len(truth))


def multi_label(field: str) -> Measure:
    """Macro-F1 of a field of emotions at the given thresholds."""

    def measure(records: Sequence[Record], predictions: Predictions, thresholds: Thresholds) -> Iterator[Figure]:
        held, truth = labels_of(records, field)
        if not len(held):
            return
        predicted = predictions[field][held]
        found = predicted >= np.asarray(thresholds.get(field, [DEFAULT_THRESHOLD] * predicted.shape[1]))
        true = truth >= 0.5
        yield Figure("macro_f1", lambda weights: metrics.macro_f1(true, found, weights), held, len(held))

    return measure


def valence_arousal_dominance(
    records: Sequence[Record], predictions: Predictions, thresholds: Thresholds
) -> Iterator[Figure]:
    held, truth = labels_of(records, "vad")
    for index, name in enumerate(VAD):
        if len(held):
            known = ~np.isnan(truth[:, index])
            predicted = predictions["vad_mean"][held, index]
            yield from correlated(f"pearson_{name[0]}", truth[known, index], predicted[known], held[known])


def preference(records: Sequence[Record], predictions: Predictions, thresholds: Thresholds) -> Iterator[Figure]:
    pairs = np.asarray([record.worse is not None for record in records])
    better, worse = predictions["utility_better"][pairs], predictions["utility_worse"][pairs]
    if len(better):
        of = np.flatnonzero(pairs)
        yield Figure("pair_accuracy", lambda weights: metrics.pair_accuracy(better, worse, weights), of, len(of))


def expert(name: str) -> Measure:
    """Accuracy of one expert's judgement, and the macro-F1 of its two answers, which a majority cannot carry."""
    column = ETHICS_EXPERTS.index(name)

    def measure(records: Sequence[Record], predictions: Predictions, thresholds: Thresholds) -> Iterator[Figure]:
        held, truth = labels_of(records, "acceptability")
        if not len(held):
            return
        judged = ~np.isnan(truth[:, column])
        accepted = truth[judged, column] >= ACCEPTED
        predicted = predictions["acceptability"][held[judged], column] >= ACCEPTED
        both_true, both_found = np.stack((accepted, ~accepted), axis=1), np.stack((predicted, ~predicted), axis=1)
        of, rows = held[judged], len(accepted)
        if rows:
            yield Figure("accuracy", lambda weights: metrics.accuracy(accepted, predicted, weights), of, rows)
            yield Figure("macro_f1", lambda weights: metrics.macro_f1(both_true, both_found, weights), of, rows)

    return measure


def strongest_emotion(records: Sequence[Record], predictions: Predictions) -> Iterator[Figure]:
    """How often the emotion predicted as strongest is the strongest of the label, or one of them."""
    held, truth = labels_of(records, "basic_emotions")
    if len(held):
        found = predictions["basic_emotions"][held].argmax(axis=1)
        right = truth[np.arange(len(held)), found] == truth.max(axis=1)
        yield from averaged("emotion_accuracy", right.astype(float), held)


def dialogues(records: Sequence[Record], predictions: Predictions) -> Iterator[Figure]:
    """VAD, all three known, of a text given the turns before it: correlation, and whether its variance is true.

    nees_turn is the mean of the sum of squared errors over variances, 3 for honest ones; coverage_turn is how many of
    the numbers lie within the central 90 %.
    """
    known = [index for index, record in enumerate(records) if record.turns and record.vad and None not in record.vad]
    told = np.asarray(known, dtype=int)
    if not len(told):
        return
    truth = np.asarray([records[index].vad for index in told], dtype=float)
    mean, variance = predictions["turn_vad_mean"][told], np.exp(predictions["turn_vad_log_variance"][told])
    for index, name in enumerate(VAD):
        yield from correlated(f"pearson_turn_{name[0]}", truth[:, index], mean[:, index], told)
    squares = (truth - mean) ** 2 / variance
    yield from averaged("nees_turn", squares.sum(axis=1), told)
    yield from averaged("coverage_turn", (np.sqrt(squares) <= CENTRAL_90).mean(axis=1), told)


def choices(records: Sequence[Record], predictions: Predictions) -> Iterator[Figure]:
    """Utility of every action, the best of them, and the regret of the chosen one; all in the neutral view."""
    owners: list[int] = []
    positions: list[int] = []
    truth: list[float] = []
    found_best = np.full(len(records), np.nan)
    for index, record in enumerate(records):
        utilities = [action.utility[NEUTRAL_VIEW] for action in record.actions or ()]
        owners += [index] * len(utilities)
        positions += range(len(utilities))
        truth += utilities
        if utilities:
            found_best[index] = utilities[predictions["best"][index]] == max(utilities)
    if not truth:
        return
    owner, true = np.asarray(owners), np.asarray(truth)
    predicted = predictions["utility_views"][owner, np.asarray(positions), NEUTRAL_VIEW]

    def utility_correlation(weights: np.ndarray | None) -> np.ndarray:
        return metrics.pearson(true, predicted, None if weights is None else weights[:, owner])

    yield Figure("pearson_utility", utility_correlation, np.arange(len(records)), len(true))
    yield from averaged("choice_accuracy", found_best)
    held, regret = labels_of(records, "regret")
    if len(held):
        missed, known = predictions["regret"][held, NEUTRAL_VIEW], regret[:, NEUTRAL_VIEW]
        with_actions = ~np.isnan(missed)
        yield from correlated("pearson_regret", known[with_actions], missed[with_actions], held[with_actions])


def whole_record(records: Sequence[Record], predictions: Predictions, thresholds: Thresholds) -> Iterator[Figure]:
    """Everything a scenario has labels for."""
    yield from strongest_emotion(records, predictions)
    yield from valence_arousal_dominance(records, predictions, thresholds)
    yield from dialogues(records, predictions)
    yield from choices(records, predictions)
    for name in ("acceptability", "circumstances"):
        held, truth = labels_of(records, name)
        if len(held):
            missing = np.isnan(truth)
            error = np.where(missing, 0, np.abs(predictions[name][held] - truth)).sum(axis=1)
            counts = (~missing).sum(axis=1)
            errors = np.divide(error, counts, out=np.full(len(held), np.nan), where=counts > 0)
            yield from averaged(f"{name}_mae", errors, held)


PRIMARY: dict[str, Measure] = {
    "goemotions": multi_label("basic_emotions"),
    "goemotions_fine": multi_label("fine_emotions"),
    "goemotions_ko_mt": multi_label("fine_emotions"),
    "kote": multi_label("korean_emotions"),
    "va_kor": valence_arousal_dominance,
    "emobank": valence_arousal_dominance,
    "ethics_util": preference,
    "moralchoice": preference,
    "scruples_dilemmas": preference,
    "ethics_deontology": expert("deontology"),
    "ethics_justice": expert("justice"),
    "ethics_virtue": expert("virtue"),
    "scenarios": whole_record,
    "records": whole_record,
}
"""Reader -> what is measured on its rows."""

THRESHOLD_READERS = {
    "basic_emotions": "goemotions",
    "fine_emotions": "goemotions_fine",
    "korean_emotions": "kote",
}
"""Field -> the one reader on which its thresholds are chosen: labels derived from others would blur them."""


def check_measurable(readers: Iterable[str]) -> None:
    """Raises UserError for the first reader on whose rows nothing is known to measure."""
    for reader in readers:
        if reader not in PRIMARY:
            raise UserError(f"nothing is known to measure on reader {reader!r}; known: {', '.join(PRIMARY)}")


def measure(
    reader: str, records: Sequence[Record], predictions: Predictions, thresholds: Thresholds
) -> dict[str, Any]:
    """The reader's figures, each with its interval; {"rows": 0} when there is nothing to measure."""
    check_measurable([reader])
    if not records:
        return {"rows": 0}
    return with_intervals(PRIMARY[reader](records, predictions, thresholds), len(records), groups_of(records))


def groups_of(records: Sequence[Record]) -> np.ndarray:
    """(rows,): the number of each record's group, or of its text where it is in none."""
    numbers: dict[str, int] = {}
    return np.asarray([numbers.setdefault(kept_with(record), len(numbers)) for record in records], dtype=int)


def members(figure: Figure, groups: np.ndarray | None) -> tuple[int, np.ndarray]:
    """How many groups the rows of `statistic` are of, and (rows,) which of them each is of."""
    found, member = np.unique(figure.of if groups is None else groups[figure.of], return_inverse=True)
    return len(found), member


def with_intervals(figures: Iterable[Figure], rows: int, groups: np.ndarray | None = None) -> dict[str, Any]:
    """Each figure's value and interval, how many values it rests on if not `rows`, and `rows`.

    `groups` (rows,): records of one number are drawn together; without them each is drawn by itself.
    """
    result: dict[str, Any] = {"rows": rows}
    for figure in figures:
        result[figure.name] = rounded(float(figure.statistic(None)[0]))
        count, member = members(figure, groups)
        low, high = metrics.bootstrap_interval(partial(of_groups, figure.statistic, member), count)
        result[f"{figure.name}_interval"] = [rounded(low), rounded(high)]
        if figure.counted != rows:
            result[f"{figure.name}_rows"] = figure.counted
    return result


def of_groups(statistic: metrics.Statistic, member: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of weights (samples, groups)."""
    return statistic(weights[:, member])


def rounded(value: float) -> float | None:
    return round(value, DIGITS) if math.isfinite(value) else None
