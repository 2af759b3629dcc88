"""SURD, exactly: how much of what agents tell about a target is redundant, unique or synergistic.

In    probabilities p(target, agent 1, ..., agent n), or samples of the target and of the agents.
Out   a `SURD`: terms in bits for each set of agents, overall and for each state of the target.
Run   python -c "import numpy as np; from redheart_hf.surd import *; \
          print(surd_from_probabilities(np.array([[[.25, 0], [0, .25]], [[0, .25], [.25, 0]]])).synergistic)"

What the terms are is defined in surd_terms.py. They describe what is observed together and prove no cause.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from .surd_histogram import Series, aligned, as_real, binned, bins_of_each, histogram, whole
from .surd_terms import SURD, Agents, decompose, target_probabilities

BESIDE = 4  # arrays as large as the largest histogram that are held at once beside all histograms
PER_SET = 1000  # bytes, about, that a set of agents takes without its histogram


def surd_from_probabilities(probabilities: np.ndarray) -> SURD:
    """The decomposition of p, whose axis 0 is the target and whose other axes are agents 1, 2, ...; p is not changed.

    Raises ValueError when p is not a distribution over a target and at least one agent, or when the target has one
    state only. Cells up to some 10^7 and 8 agents are comfortable: all 2^n - 1 sets of n agents are looked at.
    """
    p = as_real(probabilities, "probabilities")
    if p.ndim < 2:
        raise ValueError(f"probabilities need an axis for the target and one for each agent, got shape {p.shape}")
    if not np.isfinite(p).all() or p.min(initial=0.0) < 0:
        raise ValueError(f"probabilities must be finite and not negative, got {p.min()} to {p.max()}")
    if abs(p.sum() - 1) > 1e-6:
        raise ValueError(f"probabilities must sum to one, got {p.sum()}; divide them by their sum")
    agents = tuple(range(1, p.ndim))
    joints = {agents: p / p.sum()}
    for size in range(len(agents) - 1, 0, -1):
        for subset in combinations(agents, size):
            added = next(agent for agent in agents if agent not in subset)
            larger = tuple(sorted((*subset, added)))
            joints[subset] = joints[larger].sum(axis=1 + larger.index(added))
    return decompose(joints, target_probabilities(joints[agents]))


def surd_from_samples(
    target: np.ndarray,
    agents: Series,
    bins: int | Sequence[int],
    lag: int = 0,
    *,
    max_order: int | None = None,
    binning: str = "width",
    allow_undersampled: bool = False,
) -> SURD:
    """The decomposition of a histogram: target (N,), agents (N, n) or a list of n series (N,).

    `bins` is one number for all, or one for the target and one for each agent. `binning` "width" cuts each series into
    equal parts between its own minimum and maximum, "quantile" into parts of equal counts. With `lag`, the target's
    value at step n + lag meets the agents' at step n. `max_order` looks at sets of at most so many agents, for which
    only their own histograms are needed: all terms up to that size are what they would be, the synergies beyond are
    missing and are in the leak; redundant terms that are zero have no key then.

    Raises ValueError, with the values, for series that are none of finite real numbers and one length, with masked
    values among them, or in a range that bins cannot divide; for bins, lag or max_order that are no whole numbers or
    out of range; for histograms that this machine's memory cannot hold; and for fewer samples than the largest
    histogram has cells: what is found there is mostly chance. `allow_undersampled` insists on the last alone.
    """
    codes, sizes, order = _prepared(target, agents, bins, lag, max_order, binning, allow_undersampled)
    return _from_codes(codes, sizes, order)


@dataclass(frozen=True)
class Baseline:
    """What the decomposition finds where there is nothing to find: the target shuffled `shuffles` times.

    `mean` and `p_value` are keyed by (kind, agents) as in ("synergistic", (1, 2)), and by ("total", all agents). The
    p-value (1 + shuffles with at least as much) / (1 + shuffles) is that of Phipson and Smyth (2010).
    """

    shuffles: int
    mean: dict[tuple[str, Agents], float]
    p_value: dict[tuple[str, Agents], float]


def shuffled_baseline(
    target: np.ndarray,
    agents: Series,
    bins: int | Sequence[int],
    lag: int = 0,
    *,
    shuffles: int = 100,
    seed: int = 0,
    max_order: int | None = None,
    binning: str = "width",
) -> tuple[SURD, Baseline]:
    """The decomposition of samples, however few, beside what chance alone gives.

    Arguments and what ValueError is raised for are those of `surd_from_samples`; `shuffles` is at least 1.
    """
    shuffles = whole(shuffles, "shuffles")
    if shuffles < 1:
        raise ValueError(f"shuffles must be at least 1, got {shuffles}")
    codes, sizes, order = _prepared(target, agents, bins, lag, max_order, binning, allow_undersampled=True)
    found = _from_codes(codes, sizes, order)
    random, observed = np.random.default_rng(seed), _flat(found)
    chance = [_flat(_from_codes([random.permutation(codes[0]), *codes[1:]], sizes, order)) for _ in range(shuffles)]
    mean = {term: sum(one.get(term, 0.0) for one in chance) / shuffles for term in observed}
    p_value = {
        term: (1 + sum(one.get(term, 0.0) >= value - 1e-12 for one in chance)) / (1 + shuffles)
        for term, value in observed.items()
    }
    return found, Baseline(shuffles, mean, p_value)


def _prepared(
    target: Any, agents: Any, bins: Any, lag: Any, max_order: Any, binning: Any, allow_undersampled: bool
) -> tuple[list[np.ndarray], list[int], int]:
    """Numbers of bins by series, how many bins each has, and the order; all that may be wrong has been refused."""
    series = aligned(target, agents, lag)
    sizes = bins_of_each(bins, len(series))
    order = _order(max_order, len(series) - 1)
    _check_cells(sizes, order, len(series[0]), allow_undersampled)  # before edges and counts take their memory
    return binned(series, sizes, binning), sizes, order


def _order(max_order: Any, agents: int) -> int:
    if max_order is None:
        return agents
    order = whole(max_order, "max_order")
    if not 1 <= order <= agents:
        raise ValueError(f"max_order must lie in 1..{agents} for {agents} agents, got {max_order}")
    return order


def _check_cells(sizes: list[int], order: int, samples: int, allow_undersampled: bool) -> None:
    cells = sizes[0] * math.prod(sorted(sizes[1:])[-order:])
    if samples < cells and not allow_undersampled:
        raise ValueError(
            f"{samples} samples are too few for {cells} cells ({sizes[0]} bins of the target, {sizes[1:]} of "
            f"the agents, {order} at a time): at least {cells} are needed, and ten times as many are better. Use "
            "fewer bins, or allow_undersampled=True beside a shuffled baseline"
        )
    sets = _cells_of_all([1] * len(sizes), order)
    needed, there = 8 * (_cells_of_all(sizes, order) + BESIDE * cells) + PER_SET * sets, _memory()
    if needed > there:
        raise ValueError(
            f"the histogram of {order} of {len(sizes) - 1} agents has {cells} cells, and with those of all smaller "
            f"sets needs {needed} bytes ({needed / 2**30:.1f} GiB), more than this machine's {there / 2**30:.1f} GiB. "
            "Use a lower max_order, or fewer bins"
        )


def _cells_of_all(sizes: list[int], order: int) -> int:
    """Cells of the histograms of all sets of at most `order` agents, each with the target."""
    of_size = [1] + [0] * order  # of_size[k]: the sum over sets of k agents of the product of their bins
    for bins in sizes[1:]:
        for size in range(order, 0, -1):
            of_size[size] += bins * of_size[size - 1]
    return sizes[0] * sum(of_size[1:])


def _memory() -> float:
    """Bytes that this machine has; infinite where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # AttributeError: Windows has no sysconf
        return math.inf


def _from_codes(codes: list[np.ndarray], sizes: list[int], order: int) -> SURD:
    agents = range(1, len(codes))
    if order == len(agents):
        counts = histogram(codes, sizes)
        return surd_from_probabilities(counts / counts.sum())
    joints = {}
    for size in range(1, order + 1):
        for subset in combinations(agents, size):
            counts = histogram([codes[0], *(codes[a] for a in subset)], [sizes[0], *(sizes[a] for a in subset)])
            joints[subset] = counts / counts.sum()
    return decompose(joints, target_probabilities(joints[(1,)]))


def _flat(found: SURD) -> dict[tuple[str, Agents], float]:
    kinds = ("redundant", "unique", "synergistic")
    terms = {(kind, agents): bits for kind in kinds for agents, bits in getattr(found, kind).items()}
    return terms | {("total", tuple(sorted({agent for agents in found.unique for agent in agents}))): found.total}
