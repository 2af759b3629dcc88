"""Samples as counts: series are cut into bins and met in a joint histogram, as fast as the memory is read.

In    a target (N,) and agents (N, n), or a list of n series (N,).
Out   the number of each value's bin; counts in each cell.
Run   through redheart_hf/surd.py.
"""

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

Series = np.ndarray | Sequence[np.ndarray]


def as_real(values: Any, name: str) -> np.ndarray:
    """The values as float64; raises ValueError, with `name`, where some would be lost: masked or imaginary ones."""
    if masked := np.ma.count_masked(values) if np.ma.isMaskedArray(values) else 0:
        raise ValueError(
            f"{name}: {masked} of {np.size(values)} values are masked; take those samples out of all series"
        )
    try:
        array = np.asarray(values)
        if not np.iscomplexobj(array):
            return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # the last from a tensor that wants its gradient
        raise ValueError(
            f"{name} must be an array of real numbers, got {type(values).__name__} ({error}); convert it first"
        ) from error
    raise ValueError(f"{name} must be real numbers, got {array.dtype}; take their parts as two series")


def whole(value: Any, name: str, of: Any = None) -> int:
    """The value as int, from any integer type but bool; raises ValueError, with `name` and what it is a part `of`."""
    try:
        # Python counts True as 1, which as a number of bins or of shuffles is a mistake.
        if np.asarray(value).dtype != bool:
            return operator.index(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name} must be a whole number, got {value!r}" + (f" in {of!r}" if of is not None else ""))


def aligned(target: Any, agents: Any, lag: Any) -> list[np.ndarray]:
    """The series (N - lag,), the target's first, so that it is `lag` steps ahead.

    Raises ValueError for what is no series of finite real numbers, unequal lengths, no agents, and a lag that leaves
    nothing.
    """
    target = as_real(target, "the target")
    if target.ndim != 1 or not len(target):
        raise ValueError(f"the target must be one series (N,) of at least one sample, got shape {target.shape}")
    if not isinstance(agents, (list, tuple)):
        agents = np.atleast_2d(as_real(agents, "the agents").T)
    columns = [as_real(column, f"agent {number}") for number, column in enumerate(agents, start=1)]
    if not columns:
        raise ValueError("there must be at least one agent, got none; give agents (N, n) or a list of series (N,)")
    series = [target, *columns]
    shapes = sorted({column.shape for column in series})
    if len(shapes) > 1:
        raise ValueError(f"target {target.shape} and agents must have one value a sample, got shapes {shapes}")
    lag = whole(lag, "lag")
    if not 0 <= lag < len(target):
        raise ValueError(f"lag must lie in 0..{len(target) - 1} for {len(target)} samples, got {lag}")
    cut = [series[0][lag:], *(column[: len(target) - lag] for column in columns)]
    if broken := [number for number, column in enumerate(cut) if not np.isfinite(column).all()]:
        raise ValueError(f"series {broken} (0 is the target) hold values that are not finite; take those samples out")
    return cut


def bins_of_each(bins: Any, series: int) -> list[int]:
    """The number of bins of each series, from one number for all or one for each; raises ValueError else."""
    several = isinstance(bins, (list, tuple)) or np.ndim(bins) == 1
    sizes = [whole(size, "bins", bins) for size in bins] if several else [whole(bins, "bins")] * series
    if len(sizes) != series or min(sizes) < 1:
        raise ValueError(f"bins must be a positive number, or {series} of them (target, agents), got {bins}")
    return sizes


def binned(series: list[np.ndarray], sizes: list[int], binning: Any) -> list[np.ndarray]:
    """Each series as numbers of its bins; raises ValueError for a binning unknown and a range that cannot be cut."""
    kinds = {"width": _equal_width, "quantile": _equal_counts}
    if not isinstance(binning, str) or binning not in kinds:
        raise ValueError(f"binning must be one of {', '.join(kinds)}, got {binning!r}")
    return [
        _cut(kinds[binning], column, size, f"agent {number}" if number else "the target")
        for number, (column, size) in enumerate(zip(series, sizes, strict=True))
    ]


def _cut(
    kind: Callable[[np.ndarray, int, float, float], np.ndarray | None], values: np.ndarray, bins: int, name: str
) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.full(len(values), bins // 2)  # where numpy.histogram puts the only value there is
    # Halves: the span itself may be more than the largest number there is.
    if high / 2 - low / 2 > np.finfo(np.float64).max / 2:
        raise ValueError(f"{name} spans {low} to {high}, more than a float64 holds; divide it by a constant")
    codes = kind(values, bins, low, high)
    if codes is None:
        raise ValueError(
            f"{name} spans {low} to {high}, too little for {bins} bins of a width above rounding; use fewer bins, or "
            "take a constant away from it and multiply it by another"
        )
    return codes


def _equal_width(values: np.ndarray, bins: int, low: float, high: float) -> np.ndarray | None:
    """Bins as numpy.histogram makes them: equal parts of [min, max], each with its left edge, the last with both.

    None where bins would be so narrow that some had no width.
    """
    edges = np.linspace(low, high, bins + 1)
    if not (np.diff(edges) > 0).all() or high - low < bins * np.finfo(np.float64).tiny:
        return None
    position = (values - low) * (bins / (high - low))
    codes = position.astype(np.intp)
    # Rounding may put what lies at an edge on its wrong side; a search among the edges themselves decides there. Edges
    # far from zero are rounded most: by parts of a bin as large as this.
    rounding = 8 * np.finfo(np.float64).eps * max(abs(low), abs(high)) * bins / (high - low)
    near = np.flatnonzero(np.abs(position - np.rint(position)) < max(1e-6, rounding))
    codes[near] = np.searchsorted(edges, values[near], side="right") - 1
    return np.minimum(codes, bins - 1, out=codes)


def _equal_counts(values: np.ndarray, bins: int, low: float, high: float) -> np.ndarray:
    """Bins of equal counts; equal values always share one, so that with many of them counts differ."""
    edges = np.quantile(values, np.arange(1, bins) / bins)
    return np.searchsorted(edges, values, side="right")


def histogram(codes: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Counts, with an axis of `sizes[k]` bins for each of `codes`."""
    flat = reduce(lambda index, each: index * each[1] + each[0], zip(codes[1:], sizes[1:], strict=True), codes[0])
    return np.bincount(flat, minlength=int(np.prod(sizes))).reshape(sizes)
