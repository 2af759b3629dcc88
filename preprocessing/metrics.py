"""Figures by which a model is judged, and how far each would move on other rows of the same kind.

In    numpy arrays of truths and predictions, one row a record.
Out   a number; with `weights` (samples, rows), one number a sample, each row counted as often as its weight says.
Run   `bootstrap_interval(lambda weights: macro_f1(truth, predicted, weights), rows=len(truth))`

Every figure is one formula over weighted rows: its value is the formula with weights of one, its interval the same
formula with the counts of a thousand resamples at once, as matrix products.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from redheart_hf.labels import DEFAULT_THRESHOLD

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

RESAMPLE_CELLS = 4_000_000  # weights held at once: 32 MB


def _weights(rows: int, weights: Floats | None) -> Floats:
    return np.ones((1, rows)) if weights is None else weights


def macro_f1(truth: ArrayLike, predicted: ArrayLike, weights: Floats | None = None) -> Floats:
    """Mean over labels of F1; both (rows, labels), boolean. A label neither true nor predicted counts 0."""
    true, found = np.asarray(truth, dtype=float), np.asarray(predicted, dtype=float)
    weights = _weights(len(true), weights)
    hits, sizes = weights @ (true * found), weights @ (true + found)
    return np.divide(2 * hits, sizes, out=np.zeros_like(hits), where=sizes > 0).mean(axis=1)


def pearson(one: ArrayLike, other: ArrayLike, weights: Floats | None = None) -> Floats:
    """Correlation of two rows of numbers; NaN where either does not vary."""
    x, y = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    weights = _weights(len(x), weights)
    # Moving all values by one of them costs no accuracy and makes the variance of a constant exactly zero.
    x, y = x - x[:1], y - y[:1]
    sums = weights @ np.stack((np.ones_like(x), x, y, x * x, y * y, x * y), axis=1)
    total, sum_x, sum_y, sum_xx, sum_yy, sum_xy = sums.T
    square = (total * sum_xx - sum_x**2) * (total * sum_yy - sum_y**2)
    undefined = np.full_like(square, np.nan)
    return np.divide(total * sum_xy - sum_x * sum_y, np.sqrt(square.clip(min=0)), out=undefined, where=square > 0)


def mean(values: ArrayLike, weights: Floats | None = None) -> Floats:
    """Mean of one number a row."""
    numbers = np.asarray(values, dtype=float)
    weights = _weights(len(numbers), weights)
    return weights @ numbers / weights.sum(axis=1)


def accuracy(truth: ArrayLike, predicted: ArrayLike, weights: Floats | None = None) -> Floats:
    """Share of rows predicted as they are."""
    return mean(np.asarray(truth) == np.asarray(predicted), weights)


def pair_accuracy(better: ArrayLike, worse: ArrayLike, weights: Floats | None = None) -> Floats:
    """Share of pairs in which the better text has the greater value; an equal value counts half."""
    difference = np.asarray(better, dtype=float) - np.asarray(worse, dtype=float)
    return mean(np.heaviside(difference, 0.5), weights)


def best_thresholds(truth: ArrayLike, probabilities: ArrayLike) -> list[float]:
    """Per label the threshold with the highest F1, halfway between two neighbouring probabilities.

    Every cut is tried; of equal ones the highest is taken. A label without a positive keeps 0.5.
    """
    true, found = np.asarray(truth, dtype=bool), np.asarray(probabilities, dtype=float)
    return [_best_threshold(true[:, label], found[:, label]) for label in range(true.shape[1])]


def _best_threshold(truth: NDArray[np.bool_], probabilities: Floats) -> float:
    if not truth.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    f1 = 2 * truth[order].cumsum() / (np.arange(1, len(truth) + 1) + truth.sum())
    below = np.append(falling[1:], 0.0)
    # A cut between equal probabilities cannot be made.
    f1[below == falling] = -1.0
    best = int(f1.argmax())
    return float((falling[best] + below[best]) / 2)


def bootstrap_interval(statistic: Statistic, rows: int, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of `statistic` over `samples` resamples of `rows` rows, drawn with replacement.

    `statistic` takes weights (samples, rows). Resamples on which it is undefined (NaN) are left out.
    """
    random = np.random.default_rng(seed)
    chunk = max(1, min(samples, RESAMPLE_CELLS // max(rows, 1)))
    values = np.concatenate(
        [statistic(resample_weights(random, rows, min(chunk, samples - start))) for start in range(0, samples, chunk)]
    )
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def resample_weights(random: np.random.Generator, rows: int, samples: int) -> Floats:
    """How often each row occurs in each resample (samples, rows)."""
    drawn = random.integers(0, rows, size=(samples, rows)) + np.arange(samples)[:, None] * rows
    return np.bincount(drawn.ravel(), minlength=samples * rows).reshape(samples, rows).astype(float)
