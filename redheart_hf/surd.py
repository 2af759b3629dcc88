"""SURD, exactly: how much of what agents tell about a target is redundant, unique or synergistic.

In    probabilities p(target, agent 1, ..., agent n), or samples of the target and of the agents.
Out   a `SURD`: terms in bits for each set of agents, overall and for each state of the target.
Run   python -c "import numpy as np; from redheart_hf.surd import *; \
          print(surd_from_probabilities(np.array([[[.25, 0], [0, .25]], [[0, .25], [.25, 0]]])).synergistic)"

Definition (Martinez-Sanchez, Arranz and Lozano-Duran, Nature Communications 15:9296, 2024). A set S of agents tells
about state t of the target

    i_t(S) = sum over a of p(a | t) log2( p(a | t) / p(a) )  >= 0   bits, and no less than any of its subsets does.

For each t, agents are taken in rising order of i_t: each rise above the one before is redundant between this agent
and all that come later; the last rise, of the best agent alone, is unique to it. Then, for sets of two, of three and
so on, in rising order: each rise above the most that any smaller set tells is synergy of that set. The terms of t add
up to i_t(all agents); weighted by p(t), to their mutual information with the target. Information leak is the share of
the target's entropy that all agents together leave open.

For two agents these are the atoms of Williams and Beer's decomposition with I_min, whose habit they share: two
independent bits that are both copied into the target count as one redundant bit. The terms describe what is observed
together and prove no cause. Of sets that tell the same to 1e-12 bits, synergy is credited to the one with more
occupied cells, as the authors' program does in effect; between equals, to the one named first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

import numpy as np

from .surd_histogram import Series, binned, histogram

Agents = tuple[int, ...]
TIE = 12  # decimals of a bit up to which two sets of agents tell the same
TINY = 1e-300  # beside any probability nothing, and makes 0 log2 0 = 0


@dataclass(frozen=True)
class SURD:
    """Terms in bits. Keys are tuples of agents, numbered from 1 as they were given.

    `states` has the same terms for each state of the target: what they tell when it is t, as arrays (states,), which
    weighted by `states.probabilities` give the ones here.
    """

    redundant: dict[Agents, float]
    unique: dict[Agents, float]
    synergistic: dict[Agents, float]
    mutual_information: dict[Agents, float]
    target_entropy: float
    information_leak: float
    states: "StateSURD"

    @property
    def total(self) -> float:
        """The sum of all terms; with every set of agents looked at, all agents' mutual information with the target."""
        return sum(map(sum, (self.redundant.values(), self.unique.values(), self.synergistic.values())))


@dataclass(frozen=True)
class StateSURD:
    """Terms and surprise -log2 p(t) in bits for each state t, and the share of the surprise that is left open."""

    probabilities: np.ndarray
    redundant: dict[Agents, np.ndarray]
    unique: dict[Agents, np.ndarray]
    synergistic: dict[Agents, np.ndarray]
    information: dict[Agents, np.ndarray]
    surprise: np.ndarray
    information_leak: np.ndarray


def surd_from_probabilities(probabilities: np.ndarray) -> SURD:
    """The decomposition of p, whose axis 0 is the target and whose other axes are agents 1, 2, ...; p is not changed.

    Raises ValueError when p is not a distribution over a target and at least one agent, or when the target has one
    state only. Cells up to some 10^7 and 8 agents are comfortable: all 2^n - 1 sets of n agents are looked at.
    """
    p = np.asarray(probabilities, dtype=np.float64)
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
    return _decompose(joints, _target(joints[agents]))


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

    Raises ValueError for series of unequal length, values that are not finite, a lag that leaves nothing, and fewer
    samples than the largest histogram has cells: what is found there is mostly chance. `allow_undersampled` insists.
    """
    codes, sizes = binned(target, agents, bins, lag, binning)
    return _from_codes(codes, sizes, _order(max_order, len(codes) - 1), allow_undersampled)


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
    """The decomposition of samples, however few, beside what chance alone gives; arguments as `surd_from_samples`."""
    if shuffles < 1:
        raise ValueError(f"shuffles must be at least 1, got {shuffles}")
    codes, sizes = binned(target, agents, bins, lag, binning)
    order = _order(max_order, len(codes) - 1)
    found = _from_codes(codes, sizes, order, allow_undersampled=True)
    random, observed = np.random.default_rng(seed), _flat(found)
    chance = [
        _flat(_from_codes([random.permutation(codes[0]), *codes[1:]], sizes, order, allow_undersampled=True))
        for _ in range(shuffles)
    ]
    mean = {term: sum(one.get(term, 0.0) for one in chance) / shuffles for term in observed}
    p_value = {
        term: (1 + sum(one.get(term, 0.0) >= value - 1e-12 for one in chance)) / (1 + shuffles)
        for term, value in observed.items()
    }
    return found, Baseline(shuffles, mean, p_value)


def _order(max_order: int | None, agents: int) -> int:
    if max_order is not None and not 1 <= max_order <= agents:
        raise ValueError(f"max_order must lie in 1..{agents} for {agents} agents, got {max_order}")
    return max_order or agents


def _from_codes(codes: list[np.ndarray], sizes: list[int], order: int, allow_undersampled: bool) -> SURD:
    cells = sizes[0] * int(np.prod(sorted(sizes[1:])[-order:], dtype=object))
    if len(codes[0]) < cells and not allow_undersampled:
        raise ValueError(
            f"{len(codes[0])} samples are too few for {cells} cells ({sizes[0]} bins of the target, {sizes[1:]} of "
            f"the agents, {order} at a time): at least {cells} are needed, and ten times as many are better. Use "
            "fewer bins, or allow_undersampled=True beside a shuffled baseline"
        )
    agents = range(1, len(codes))
    if order == len(agents):
        counts = histogram(codes, sizes)
        return surd_from_probabilities(counts / counts.sum())
    joints = {}
    for size in range(1, order + 1):
        for subset in combinations(agents, size):
            counts = histogram([codes[0], *(codes[a] for a in subset)], [sizes[0], *(sizes[a] for a in subset)])
            joints[subset] = counts / counts.sum()
    return _decompose(joints, _target(joints[(1,)]))


def _flat(found: SURD) -> dict[tuple[str, Agents], float]:
    kinds = ("redundant", "unique", "synergistic")
    terms = {(kind, agents): bits for kind in kinds for agents, bits in getattr(found, kind).items()}
    return terms | {("total", tuple(sorted({agent for agents in found.unique for agent in agents}))): found.total}


# ---------------------------------------------------------------- from joint probabilities to terms


def _target(joint: np.ndarray) -> np.ndarray:
    probabilities = joint.reshape(len(joint), -1).sum(axis=1)
    if np.count_nonzero(probabilities) < 2:
        raise ValueError(
            f"the target takes one value only (probabilities {probabilities}): there is nothing to explain"
        )
    return probabilities


def _information(joint: np.ndarray) -> np.ndarray:
    """i_t of one set of agents for each state t, (states,), from their joint p(t, a); zero where p(t) is.

    As sum over a of p(t, a) (log2 p(t, a) - log2 p(a)) / p(t), less log2 p(t): one logarithm a cell and no quotient.
    """
    joint = joint.reshape(len(joint), -1)
    p_target, p_agents = joint.sum(axis=1), joint.sum(axis=0)
    bits = np.einsum("ta,ta->t", joint, np.log2(joint + TINY)) - joint @ np.log2(p_agents + TINY)
    told = np.divide(bits, p_target, out=np.zeros_like(bits), where=p_target > 0) - np.log2(p_target + TINY)
    return np.where(p_target > 0, told, 0.0).clip(min=0.0)


def _rises(values: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `values` (sets, states) in rising order for each state, and how far each rises above all before it."""
    order = np.argsort(values.round(TIE), axis=0, kind="stable")
    reached = np.maximum.accumulate(np.maximum(np.take_along_axis(values, order, axis=0), floor), axis=0)
    return order, np.diff(reached, axis=0, prepend=floor[None])


def _first_level(values: np.ndarray, named: bool) -> tuple[dict[Agents, np.ndarray], dict[Agents, np.ndarray]]:
    """Redundant and unique terms by state, from i_t of the single agents (agents, states).

    `named` gives every set of agents a key; else redundant terms that no state has are left out.
    """
    agents = range(1, len(values) + 1)
    order, rises = _rises(values, np.zeros_like(values[0]))
    # A rise belongs to the agent it is reached with and all that come later: as bits, bit k for agent k + 1.
    sharing = np.cumsum((np.int64(1) << order.astype(np.int64))[::-1], axis=0)[::-1]
    sets: dict[Agents, np.ndarray] = {(agent,): np.zeros_like(values[0]) for agent in agents}
    if named:
        subsets = (subset for size in agents[1:] for subset in combinations(agents, size))
        sets |= {subset: np.zeros_like(values[0]) for subset in subsets}
    for mask in np.unique(sharing).tolist():
        subset = tuple(agent for agent in agents if mask >> (agent - 1) & 1)
        sets[subset] = np.where(sharing == mask, rises, 0.0).sum(axis=0)
    redundant = {subset: bits for subset, bits in sets.items() if len(subset) > 1}
    return redundant, {(agent,): sets[(agent,)] for agent in agents}


def _levels(joints: dict[Agents, np.ndarray]) -> list[list[Agents]]:
    """The agents, the sets of two, and so on; of sets that tell the same, the first one gets the credit."""
    occupied = {subset: np.count_nonzero(joint.sum(axis=0)) for subset, joint in joints.items() if len(subset) > 1}
    by_size = [list(level) for _, level in groupby(sorted(joints, key=lambda subset: (len(subset), subset)), key=len)]
    return [by_size[0], *(sorted(level, key=lambda subset: -occupied[subset]) for level in by_size[1:])]


def _decompose(joints: dict[Agents, np.ndarray], probabilities: np.ndarray) -> SURD:
    """Terms from p(t, a) of every set of agents up to some size; see the definition above."""
    information = {subset: _information(joint) for subset, joint in sorted(joints.items())}
    levels = _levels(joints)
    values = [np.stack([information[subset] for subset in level]) for level in levels]
    redundant, unique = _first_level(values[0], named=len(levels) == len(levels[0]))
    synergistic: dict[Agents, np.ndarray] = {}
    for subsets, told, smaller in zip(levels[1:], values[1:], values, strict=False):
        order, rises = _rises(told, smaller.max(axis=0))
        bits = np.empty_like(told)
        np.put_along_axis(bits, order, rises, axis=0)
        synergistic |= dict(zip(subsets, bits, strict=True))
    surprise = -np.log2(probabilities, out=np.full_like(probabilities, -np.inf), where=probabilities > 0)
    terms = [*redundant.values(), *unique.values(), *synergistic.values()]
    open_share = 1 - np.sum(terms, axis=0) / surprise
    states = StateSURD(probabilities, redundant, unique, synergistic, information, surprise, open_share.clip(min=0.0))

    def overall(by_state: dict[Agents, np.ndarray]) -> dict[Agents, float]:
        return {subset: float(probabilities @ bits) for subset, bits in by_state.items()}

    entropy = float(probabilities @ np.where(probabilities > 0, surprise, 0.0))
    explained = float(probabilities @ np.sum(terms, axis=0))
    return SURD(
        redundant=overall(redundant),
        unique=overall(unique),
        synergistic=overall(synergistic),
        mutual_information=overall(information),
        target_entropy=entropy,
        information_leak=max(0.0, 1 - explained / entropy),
        states=states,
    )
