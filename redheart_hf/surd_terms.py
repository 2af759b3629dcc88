"""What SURD's terms are, and how they follow from joint probabilities.

In    p(target, S) for every set S of agents up to some size.
Out   a `SURD`: terms in bits for each set of agents, overall and for each state of the target.
Run   through redheart_hf/surd.py.

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

from dataclasses import dataclass
from itertools import combinations, groupby

import numpy as np

Agents = tuple[int, ...]
TIE = 1e-12  # bits by which sets of agents may differ and still tell the same
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
    """Terms and surprise -log2 p(t) in bits for each state t, and the share of the surprise that is left open.

    A state that p(t) = 1 rounds to has no surprise: its terms are 0 bits, and 0 is left open. One that never occurs
    has infinite surprise, terms of 0 bits, and all of it is left open.
    """

    probabilities: np.ndarray
    redundant: dict[Agents, np.ndarray]
    unique: dict[Agents, np.ndarray]
    synergistic: dict[Agents, np.ndarray]
    information: dict[Agents, np.ndarray]
    surprise: np.ndarray
    information_leak: np.ndarray


def target_probabilities(joint: np.ndarray) -> np.ndarray:
    """p(t), (states,), from p(t, a); raises ValueError when one state has it all."""
    probabilities = joint.reshape(len(joint), -1).sum(axis=1)
    if np.count_nonzero(probabilities) < 2:
        raise ValueError(
            f"the target takes one value only (probabilities {probabilities}): there is nothing to explain"
        )
    return probabilities


def specific_information(joint: np.ndarray) -> np.ndarray:
    """i_t of one set of agents for each state t, (states,), from their joint p(t, a); zero where p(t) is.

    As sum over a of p(t, a) (log2 p(t, a) - log2 p(a)) / p(t), less log2 p(t): one logarithm a cell and no quotient.
    """
    joint = joint.reshape(len(joint), -1)
    p_target, p_agents = joint.sum(axis=1), joint.sum(axis=0)
    bits = np.einsum("ta,ta->t", joint, np.log2(joint + TINY)) - joint @ np.log2(p_agents + TINY)
    told = np.divide(bits, p_target, out=np.zeros_like(bits), where=p_target > 0) - np.log2(p_target + TINY)
    return np.where(p_target > 0, told, 0.0).clip(min=0.0)


def _surprise(probabilities: np.ndarray) -> np.ndarray:
    """-log2 p(t), (states,); infinite where p is 0, and 0, with no sign, where rounding left it at 1 or above."""
    logs = np.log2(probabilities, out=np.full_like(probabilities, -np.inf), where=probabilities > 0)
    return np.maximum(-logs, 0.0) + 0.0


def _rising(values: np.ndarray) -> np.ndarray:
    """The order of the rows of `values` (sets, states) for each state, by value; of equal ones the first row first.

    Values are equal that differ by no more than TIE from the next. Rounding them would not do: two that only differ by
    their own rounding may lie on both sides of where a decimal is rounded up.
    """
    order = np.argsort(values, axis=0, kind="stable")
    steps = np.diff(np.take_along_axis(values, order, axis=0), axis=0, prepend=values.min(axis=0, keepdims=True))
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.cumsum(steps > TIE, axis=0), axis=0)
    return np.argsort(rank, axis=0, kind="stable")


def _rises(values: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `values` (sets, states) in rising order for each state, and how far each rises above all before it."""
    order = _rising(values)
    reached = np.maximum.accumulate(np.maximum(np.take_along_axis(values, order, axis=0), floor), axis=0)
    return order, np.diff(reached, axis=0, prepend=floor[None])


def _first_level(values: np.ndarray, named: bool) -> tuple[dict[Agents, np.ndarray], dict[Agents, np.ndarray]]:
    """Redundant and unique terms by state, from i_t of the single agents (agents, states).

    `named` gives every set of agents a key; else redundant terms that no state has are left out.
    """
    agents = range(1, len(values) + 1)
    order, rises = _rises(values, np.zeros_like(values[0]))
    # A rise belongs to the agent it is reached with and all that come later: as bits, bit k for agent k + 1. Integers
    # of the machine have 63 of them; Python's have all that are asked for.
    kind = np.int64 if len(values) < 64 else object
    sharing = np.cumsum(np.left_shift(1, order.astype(kind), dtype=kind)[::-1], axis=0)[::-1]
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


def decompose(joints: dict[Agents, np.ndarray], probabilities: np.ndarray) -> SURD:
    """Terms from p(t, a) of every set of agents up to some size; see the definition above."""
    surprise = _surprise(probabilities)
    # Nothing tells more about a state than its surprise; rounding may, when that is zero.
    information = {
        subset: np.minimum(specific_information(joint), surprise) for subset, joint in sorted(joints.items())
    }
    levels = _levels(joints)
    values = [np.stack([information[subset] for subset in level]) for level in levels]
    redundant, unique = _first_level(values[0], named=len(levels) == len(levels[0]))
    synergistic: dict[Agents, np.ndarray] = {}
    for subsets, told, smaller in zip(levels[1:], values[1:], values, strict=False):
        order, rises = _rises(told, smaller.max(axis=0))
        bits = np.empty_like(told)
        np.put_along_axis(bits, order, rises, axis=0)
        synergistic |= dict(zip(subsets, bits, strict=True))
    terms = [*redundant.values(), *unique.values(), *synergistic.values()]
    explained = np.sum(terms, axis=0)
    # Where the state has no surprise, there is nothing of which a share could be open.
    open_share = 1 - np.divide(explained, surprise, out=np.ones_like(explained), where=surprise > 0)
    states = StateSURD(probabilities, redundant, unique, synergistic, information, surprise, open_share.clip(min=0.0))

    def overall(by_state: dict[Agents, np.ndarray]) -> dict[Agents, float]:
        return {subset: float(probabilities @ bits) for subset, bits in by_state.items()}

    entropy = float(probabilities @ np.where(probabilities > 0, surprise, 0.0))
    return SURD(
        redundant=overall(redundant),
        unique=overall(unique),
        synergistic=overall(synergistic),
        mutual_information=overall(information),
        target_entropy=entropy,
        information_leak=max(0.0, 1 - float(probabilities @ explained) / entropy),
        states=states,
    )
