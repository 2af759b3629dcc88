"""Calibration: probabilities that come true as often as they say, and a variance as wide as the errors are.

In    logits and 0/1 labels of rows the model did not learn from; errors and log variances.
Out   per label [scale, offset], p = sigmoid(scale * logit + offset) (Platt 1999); a factor for each variance.
Run   `python -m training.calibrate --help`

They are kept in `config.calibration` and change no order of rows: what a threshold separated, it still separates.
Letters: N rows, L labels.
"""

from collections.abc import Sequence

import numpy as np
import torch

STEPS = 50
BINS = 15


def fit_scaling(logits_NL: np.ndarray, truth_NL: np.ndarray) -> np.ndarray:
    """(L, 2): scale and offset of each label with the least cross-entropy, by Newton's method.

    Targets are Platt's, (n + 1) / (n + 2) and 1 / (n + 2), so that labels that can be told apart without error keep
    finite scales. A label that is never or always there, or whose logits do not rise with it, keeps [1, 0].

    Raises ValueError when logits are not finite: what would be fitted to them says nothing of the others.
    """
    logits, truth = np.asarray(logits_NL, dtype=np.float64), np.asarray(truth_NL, dtype=bool)
    if broken := np.count_nonzero(~np.isfinite(logits)):
        labels = np.flatnonzero(~np.isfinite(logits).all(axis=0)).tolist()
        raise ValueError(
            f"{broken} of {logits.size} logits are not finite, of labels {labels}; take out the rows they are in"
        )
    found = np.tile([1.0, 0.0], (logits.shape[1], 1))
    for label in range(logits.shape[1]):
        positives = int(truth[:, label].sum())
        if not 0 < positives < len(truth):
            continue
        high, low = (positives + 1) / (positives + 2), 1 / (len(truth) - positives + 2)
        scaling = _fitted(logits[:, label], np.where(truth[:, label], high, low))
        if scaling[0] > 0:
            found[label] = scaling
    return found


def _fitted(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Scale and offset at the least cross-entropy, [0, 0] for logits that are all the same.

    They are fitted to logits of mean 0 and deviation 1: a search that starts at those given would have the slope of
    most sigmoids vanish where logits are large.
    """
    largest = np.abs(logits).max() or 1.0  # their squares could be more than the largest number there is
    held = logits / largest
    mean, deviation = held.mean(), held.std()
    if deviation <= np.finfo(np.float64).eps * abs(mean):
        return np.zeros(2)
    scale, offset = _newton((held - mean) / deviation, targets)
    return np.array([scale / deviation / largest, offset - scale * mean / deviation])


def _newton(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Scale and offset at the least cross-entropy; steps are halved until it falls, and end where none lets it."""
    inputs = np.stack((logits, np.ones_like(logits)), axis=1)

    def cost(scaling: np.ndarray) -> float:
        scores = inputs @ scaling
        return float((np.logaddexp(0, scores) - targets * scores).mean())

    scaling = np.array([0.0, 0.0])
    for _ in range(STEPS):
        chance = 0.5 + 0.5 * np.tanh(inputs @ scaling / 2)  # the sigmoid, without an exponential that overflows
        gradient = inputs.T @ (chance - targets)
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-6 and cost(scaling - size * step) > cost(scaling):
            size /= 2
        if cost(scaling - size * step) > cost(scaling):
            break
        scaling = scaling - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return scaling


def calibrated(logits: torch.Tensor, scaling: Sequence[Sequence[float]] | None) -> torch.Tensor:
    """Probabilities (..., L), in float32; plain sigmoids where nothing was fitted."""
    logits = logits.float()
    if scaling is None:
        return logits.sigmoid()
    scales, offsets = logits.new_tensor(scaling).unbind(dim=1)
    return (scales * logits + offsets).sigmoid()


def expected_calibration_error(probabilities_NL: np.ndarray, truth_NL: np.ndarray, bins: int = BINS) -> float:
    """Mean over labels of the mean distance between what is said and how often it is so, over bins of equal width
    weighted by their rows (Naeini et al. 2015)."""
    probabilities, truth = np.asarray(probabilities_NL, dtype=np.float64), np.asarray(truth_NL, dtype=np.float64)
    codes = np.minimum((probabilities * bins).astype(int), bins - 1)
    errors = [
        np.abs(np.bincount(codes[:, label], weights=probabilities[:, label] - truth[:, label], minlength=bins)).sum()
        for label in range(probabilities.shape[1])
    ]
    return float(np.mean(errors) / len(truth))


def variance_factors(errors_NL: np.ndarray, log_variance_NL: np.ndarray) -> np.ndarray:
    """(L,): what each variance is to be multiplied by so that squared errors over it have a mean of one."""
    return np.mean(np.square(errors_NL) / np.exp(log_variance_NL), axis=0)


def normalised_squared_error(errors_NL: np.ndarray, log_variance_NL: np.ndarray) -> float:
    """NEES for independent dimensions: the mean of the sum over them; L for a variance as wide as the errors."""
    return float(np.mean(np.sum(np.square(errors_NL) / np.exp(log_variance_NL), axis=1)))
