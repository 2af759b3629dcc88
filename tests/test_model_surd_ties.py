"""Sets of agents that tell the same: SURD in floating point against the same definition in whole numbers.

In    tables of counts; in many, the last agent repeats another one, and sets with either tell the same.
Out   our terms, against terms that are computed with fractions: there, ties are ties.
Run   `pytest tests/test_model_surd_ties.py`
"""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from redheart_hf.surd import SURD, surd_from_probabilities
from redheart_hf.surd_terms import _rising

Terms = dict[tuple[int, ...], float]


def powers(counts: np.ndarray, subset: tuple[int, ...]) -> list[Fraction]:
    """2^(n_t i_t) of one set for each state t, exactly: the product over a of (n_ta N / (n_t n_a))^n_ta."""
    joint = counts.sum(axis=tuple(axis for axis in range(1, counts.ndim) if axis not in subset))
    rows = [[int(count) for count in row.ravel()] for row in joint]
    of_cell = [sum(column) for column in zip(*rows, strict=True)]
    return [
        math.prod(
            (
                Fraction(count * sum(of_cell), sum(row) * cell) ** count
                for count, cell in zip(row, of_cell, strict=True)
                if count
            ),
            start=Fraction(1),
        )
        for row in rows
    ]


def occupied(counts: np.ndarray, subset: tuple[int, ...]) -> int:
    others = tuple(axis for axis in range(counts.ndim) if axis not in subset)
    return np.count_nonzero(counts.sum(axis=others))


def exact_terms(counts: np.ndarray) -> tuple[Terms, Terms]:
    """Redundant and unique terms, and synergistic ones, in bits; only the last logarithm is rounded."""
    agents = range(1, counts.ndim)
    levels = [list(combinations(agents, size)) for size in agents]
    told = {subset: powers(counts, subset) for level in levels for subset in level}
    shared: Terms = {}
    synergies: Terms = {subset: 0.0 for level in levels[1:] for subset in level}

    def bits(power: Fraction) -> float:  # times p(t): n_t / N bits of 1 / n_t each
        return (math.log2(power.numerator) - math.log2(power.denominator)) / int(counts.sum())

    for state in range(len(counts)):
        singles, reached = sorted(agents, key=lambda agent: told[(agent,)][state]), Fraction(1)
        for place, agent in enumerate(singles):
            key = tuple(sorted(singles[place:]))
            shared[key] = shared.get(key, 0.0) + bits(told[(agent,)][state] / reached)
            reached = told[(agent,)][state]
        for smaller, level in zip(levels, levels[1:], strict=False):
            reached = max(told[subset][state] for subset in smaller)
            for subset in sorted(level, key=lambda subset: (told[subset][state], -occupied(counts, subset), subset)):
                risen = max(reached, told[subset][state])
                synergies[subset] += bits(risen / reached)
                reached = risen
    return shared, synergies


def assert_exact(found: SURD, counts: np.ndarray) -> None:
    shared, synergies = exact_terms(counts)
    for subset, bits in (found.redundant | found.unique).items():
        assert bits == pytest.approx(shared.get(subset, 0.0), abs=1e-9), subset
    assert found.synergistic == pytest.approx(synergies, abs=1e-9)


def with_a_repeated_agent(counts: np.ndarray, order: list[int]) -> np.ndarray:
    """Counts (t, a, b, c) from those of (t, a, b), where c is b with its states in another order."""
    repeated = np.zeros((*counts.shape, counts.shape[2]), dtype=int)
    for state, other in enumerate(order):
        repeated[:, :, state, other] = counts[:, :, state]
    return repeated


@pytest.mark.parametrize(
    "counts",
    [
        # In floating point {1, 3} told some 1e-16 bits less than {1, 2} here, and took .1 bits of its synergy.
        pytest.param([[[2, 2], [1, 2]], [[0, 3], [3, 1]]], id="rounded apart"),
        # Here what they tell of a state has a 5 as its thirteenth decimal: rounded to twelve, they are apart still.
        pytest.param(
            [[[0, 3, 0], [1, 3, 3], [0, 1, 2]], [[2, 3, 3], [1, 0, 0], [2, 1, 2]], [[3, 2, 2], [0, 1, 0], [1, 0, 0]]],
            id="at a rounded decimal",
        ),
    ],
)
def test_of_sets_that_tell_the_same_the_first_has_the_credit(counts: list):
    plain = np.array(counts)
    repeated = with_a_repeated_agent(plain, list(range(plain.shape[2]))[::-1])
    found = surd_from_probabilities(repeated / repeated.sum())
    assert found.states.information[(1, 2)] == pytest.approx(found.states.information[(1, 3)], abs=1e-14)
    assert found.synergistic[(1, 2)] > 0.05
    assert_exact(found, repeated)


@pytest.mark.parametrize("tied", [0.5, 0.3000000000005, 7.0])
def test_values_that_differ_by_rounding_keep_their_order(tied: float):
    up, down = np.nextafter(tied, 8), np.nextafter(tied, 0)
    values = np.array([[up, 0.1], [tied, up], [down, tied], [0.2, down], [tied + 1e-11, tied - 1e-11]])
    assert _rising(values).T.tolist() == [[3, 0, 1, 2, 4], [0, 4, 1, 2, 3]]


@pytest.mark.parametrize("seed", range(60))
def test_terms_are_those_of_whole_numbers(seed: int):
    """Small counts, so that ties are common; in every other table one agent repeats another."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(2, 4, size=3 + seed % 2))
    counts = random.integers(1, 4, size=shape) * (random.random(shape) < 0.8)
    counts[0, 0] += 1
    counts[1, -1] += 1  # two states of the target at least
    if seed % 2 == 0:
        counts = with_a_repeated_agent(counts, random.permutation(shape[2]).tolist())
    assert_exact(surd_from_probabilities(counts / counts.sum()), counts)
