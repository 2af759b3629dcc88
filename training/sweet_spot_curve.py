"""What a curve over checkpoints says: whether there is a best one before the end, and how sure that is.

In    a score of each checkpoint, and the same on resamples of dev's rows; or how far a module moved before each.
Out   a Finding: the verdict, the checkpoint, the confidence, and why.
Run   through training/sweet_spot.py

The curve is smoothed by a local fit: at each checkpoint a parabola through the five nearest, weighed by distance
(tricube; Cleveland 1979). A sweet spot is claimed where the smoothed peak lies above the smoothed end by all of

  * more than z standard errors, which come from the resamples (the same rows for both: what makes a row hard is not
    in the difference). z is such that among all comparisons of the analysis, modules times checkpoints, a false one
    is claimed in one analysis of 500 (Bonferroni), if errors are normal and known; with a hundred rows they are
    neither, and it is one of 100 at most (tests/test_train_sweet_spot.py);
  * more than three standard errors of what the curve jumps from checkpoint to checkpoint, by the median of its
    second differences, in which neither a slope nor one cliff counts: of curves that do nothing but jump, however far,
    some 5 in 100 pass this;
  * LEAST, half a point: what is less is not worth a name.

The checkpoint named is the best measured one among the smoothed peak and its two neighbours, since smoothing rounds a
sharp peak off to the flatter side; of those that follow and are no more than LEAST below it the last, which learned
from the most: what fell did so after that one. The confidence is the share of resamples in which the same rule names
it or one next to it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from preprocessing.metrics import Floats

LEAST_CHECKPOINTS = 4
LEAST = 0.005
FALSE_CLAIMS = 0.002
JUMPS = 3.0
MEDIAN_TO_SPREAD = 1.4826  # of a normal distribution about zero, its spread over its median size
NEAREST = 5
SETTLED = 0.1

SWEET, RISING, LEVEL, FLAT = "sweet spot", "still rising", "levelled off", "flat"
FEW, UNMOVED, AT_REST, MOVING = "too few checkpoints", "did not learn", "settled", "still moving"
CLAIMS = (SWEET, AT_REST)
"""Verdicts that name a checkpoint."""


@dataclass
class Finding:
    """Of one module. `best` counts checkpoints from 0; None where the curve names none."""

    verdict: str
    why: str
    best: int | None = None
    confidence: float | None = None
    smoothed: list[float] | None = None


def smoother(places: Sequence[float]) -> Floats:
    """(E, E): smoothed = matrix @ values, for checkpoints at these places, which need not be evenly spaced."""
    at = np.asarray(places, dtype=float)
    nearest = min(NEAREST, len(at))
    matrix = np.zeros((len(at), len(at)))
    for row, place in enumerate(at):
        distance = np.abs(at - place)
        reach = np.sort(distance)[nearest - 1] * 1.5
        weights = (1 - (distance / reach).clip(max=1) ** 3) ** 3
        near = np.argsort(distance, kind="stable")[:nearest]
        powers = np.stack([((at[near] - place) / reach) ** power for power in range(3)], axis=1)
        root = np.sqrt(weights[near])
        matrix[row, near] = np.linalg.pinv(powers * root[:, None])[0] * root
    return matrix


def critical(comparisons: int) -> float:
    """Standard errors that any of so many comparisons exceeds by chance in FALSE_CLAIMS of analyses."""
    return NormalDist().inv_cdf(1 - FALSE_CLAIMS / max(1, comparisons))


def peak_of(values: Floats, matrix: Floats) -> np.ndarray:
    """(…,) the checkpoint that each row of (…, E) names."""
    smoothed = values @ matrix.T
    peaks = smoothed.argmax(axis=-1)
    last = values.shape[-1] - 1
    around = np.stack([(peaks + step).clip(0, last) for step in (0, -1, 1)], axis=-1)
    best = np.take_along_axis(values, around, axis=-1).argmax(axis=-1)
    named = np.take_along_axis(around, best[..., None], axis=-1)[..., 0]
    as_good = values >= np.take_along_axis(values, named[..., None], axis=-1) - LEAST
    for place in range(1, last + 1):
        named = np.where((named == place - 1) & as_good[..., place], place, named)
    return named


def judge_scores(values: Floats, samples: Floats, places: Sequence[float], modules: int) -> Finding:
    """`values` (E,), `samples` (B, E), of E checkpoints at `places` (epochs); `modules` are judged in the analysis."""
    if len(values) < LEAST_CHECKPOINTS:
        return Finding(FEW, f"{len(values)} checkpoints; a curve is judged from {LEAST_CHECKPOINTS} on")
    matrix = smoother(places)
    smoothed = matrix @ values
    z = critical(modules * (len(values) - 1))
    best, peak = int(peak_of(values, matrix)), int(smoothed.argmax())
    drop, drop_error, jumps = difference(values, samples, matrix, peak, -1)
    rise, rise_error, _ = difference(values, samples, matrix, -1, 0)
    confidence = float(np.mean(np.abs(peak_of(samples, matrix) - best) <= 1))
    said = (
        f"the peak is {drop:.4f} above the end, {drop_error:.4f} the standard error over rows, {jumps:.4f} that of "
        f"jumps between checkpoints; claimed from {z:.1f} and {JUMPS:g} of them, and from {LEAST}"
    )
    if best < len(values) - 1 and drop >= LEAST and drop > z * drop_error and drop > JUMPS * jumps:
        begins = "; the first checkpoint is the best: an earlier one may have been better" if best == 0 else ""
        return Finding(SWEET, said + begins, best, confidence, smoothed.tolist())
    if rise >= LEAST and rise > z * rise_error:
        verdict = RISING if peak == len(values) - 1 else LEVEL
        return Finding(verdict, f"the end is {rise:.4f} above the first; {said}", None, confidence, smoothed.tolist())
    return Finding(FLAT, said, None, confidence, smoothed.tolist())


def difference(values: Floats, samples: Floats, matrix: Floats, one: int, other: int) -> tuple[float, float, float]:
    """Smoothed `one` less smoothed `other`; its standard error over rows; that over jumps between checkpoints."""
    weights = matrix[one] - matrix[other]
    jump = MEDIAN_TO_SPREAD * float(np.median(np.abs(np.diff(values, 2)))) / math.sqrt(6)
    return float(weights @ values), float(np.std(samples @ weights)), jump * float(np.linalg.norm(weights))


def judge_movement(moved: Floats, steps: Sequence[int], why: str) -> Finding:
    """`moved` (E,) before each checkpoint, the first unknown (NaN); `why` says why there is no score to go by.

    Settled is from where on it moves, a step, less than a tenth of the most it did; that is no word on quality.
    """
    if len(moved) < LEAST_CHECKPOINTS:
        return Finding(FEW, f"{len(moved)} checkpoints; movement is judged from {LEAST_CHECKPOINTS} on")
    speed = moved[1:] / np.diff(steps)
    if not speed.any():
        return Finding(UNMOVED, "its tensors are the same in all checkpoints")
    fast = np.flatnonzero(speed > SETTLED * speed.max())
    best = int(fast[-1]) + 1  # the checkpoint that its last fast stretch led to
    if best == len(moved) - 1:
        return Finding(MOVING, f"{why}; it still moves more than {SETTLED:.0%} of its most at the end")
    return Finding(
        AT_REST,
        f"{why}; from there on it moves less than {SETTLED:.0%} of its most, which says nothing of how good it is",
        best,
    )
