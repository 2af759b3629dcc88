"""Samples as counts: series are cut into bins and met in a joint histogram, as fast as the memory is read.

In    a target (N,) and agents (N, n), or a list of n series (N,).
Out   the number of each value's bin; counts in each cell.
Run   through redheart_hf/surd.py.
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np

Series = np.ndarray | Sequence[np.ndarray]


def as_real(values: np.ndarray) -> np.ndarray:
    """The values as float64; raises ValueError for complex ones, whose imaginary parts would be lost."""
    if np.iscomplexobj(values):
        raise ValueError(
            f"values must be real numbers, got {np.asarray(values).dtype}; take their parts as two series"
        )
    return np.asarray(values, dtype=np.float64)


def binned(
    target: np.ndarray, agents: Series, bins: int | Sequence[int], lag: int, binning: str
) -> tuple[list[np.ndarray], list[int]]:
    """Each series as numbers of bins, the target's first, and how many bins each has."""
    target = as_real(target)
    if target.ndim != 1:
        raise ValueError(f"the target must be one series (N,), got shape {target.shape}")
    columns = agents if isinstance(agents, (list, tuple)) else np.atleast_2d(np.asarray(agents).T)
    series = [target, *(as_real(column) for column in columns)]
    shapes = sorted({column.shape for column in series})
    if len(shapes) > 1:
        raise ValueError(f"target {target.shape} and agents must have one value a sample, got shapes {shapes}")
    if not 0 <= lag < len(target):
        raise ValueError(f"lag must lie in 0..{len(target) - 1} for {len(target)} samples, got {lag}")
    sizes = [bins] * len(series) if isinstance(bins, (int, np.integer)) else list(bins)
    if len(sizes) != len(series) or min(sizes) < 1:
        raise ValueError(f"bins must be a positive number, or {len(series)} of them (target, agents), got {bins}")
    kinds = {"width": _equal_width, "quantile": _equal_counts}
    if binning not in kinds:
        raise ValueError(f"binning must be one of {', '.join(kinds)}, got {binning!r}")
    cut = [series[0][lag:], *(column[: len(target) - lag] for column in series[1:])]
    if broken := [number for number, column in enumerate(cut) if not np.isfinite(column).all()]:
        raise ValueError(f"series {broken} (0 is the target) hold values that are not finite; take those samples out")
    return [kinds[binning](column, size) for column, size in zip(cut, sizes, strict=True)], sizes


def _equal_width(values: np.ndarray, bins: int) -> np.ndarray:
    """Bins as numpy.histogram makes them: equal parts of [min, max], each with its left edge, the last with both."""
    low, high = values.min(), values.max()
    if low == high:
        low, high = low - 0.5, high + 0.5
    position = (values - low) * (bins / (high - low))
    codes = position.astype(np.intp)
    # Rounding may put what lies at an edge on its wrong side; a search among the edges themselves decides there. Edges
    # far from zero are rounded most: by parts of a bin as large as this.
    rounding = 8 * np.finfo(np.float64).eps * max(abs(low), abs(high)) * bins / (high - low)
    near = np.flatnonzero(np.abs(position - np.rint(position)) < max(1e-6, rounding))
    edges = np.linspace(low, high, bins + 1)
    codes[near] = np.searchsorted(edges, values[near], side="right") - 1
    return np.minimum(codes, bins - 1, out=codes)


def _equal_counts(values: np.ndarray, bins: int) -> np.ndarray:
    """Bins of equal counts; equal values always share one, so that with many of them counts differ."""
    edges = np.quantile(values, np.arange(1, bins) / bins)
    return np.searchsorted(edges, values, side="right")


def histogram(codes: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Counts, with an axis of `sizes[k]` bins for each of `codes`."""
    flat = reduce(lambda index, each: index * each[1] + each[0], zip(codes[1:], sizes[1:], strict=True), codes[0])
    return np.bincount(flat, minlength=int(np.prod(sizes))).reshape(sizes)
