"""SURD against the published code's values, against dit, and against what must hold of any distribution.

In    tests/golden/surd.json: terms that the authors' program gave for gates, random distributions and time series.
Out   our terms, which must be the same.
Run   `pytest tests/test_model_surd.py`
"""

import json
import math
from functools import cache
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from redheart_hf.surd import SURD, shuffled_baseline, surd_from_probabilities, surd_from_samples

GOLDEN = json.loads((Path(__file__).parent / "golden" / "surd.json").read_text(encoding="utf-8"))
KINDS = ("redundant", "unique", "synergistic", "mutual_information")


def agents_of(key: str) -> tuple[int, ...]:
    return tuple(map(int, key))


def assert_terms(found: SURD, expected: dict, tolerance: float = 1e-9) -> None:
    for kind in KINDS:
        theirs = {agents_of(key): value for key, value in expected[kind].items()}
        ours = getattr(found, kind)
        assert ours == pytest.approx(theirs, abs=tolerance), kind
    assert found.target_entropy == pytest.approx(expected["target_entropy"], abs=tolerance)
    assert found.information_leak == pytest.approx(expected["information_leak"], abs=tolerance)


@pytest.mark.parametrize("name", GOLDEN["probabilities"])
def test_gates_and_random_distributions_agree_with_the_published_code(name: str):
    entry = GOLDEN["probabilities"][name]
    p = np.array(entry["p"]).reshape(entry["shape"])
    before = p.copy()
    assert_terms(surd_from_probabilities(p), entry["terms"])
    assert np.array_equal(p, before)


@cache
def simulate(system: str, steps: int = 100_000, dropped: int = 10_000) -> np.ndarray:
    """(3, steps - dropped): the authors' three systems, as their program draws them."""
    state = np.random.RandomState(10)
    w = [state.normal(0, 1, steps) for _ in range(3)]
    q = np.zeros((3, steps))
    for n in range(steps - 1):
        a, b, c = q[:, n]
        if system == "mediator":
            q[:, n + 1] = math.sin(b) + 0.001 * w[0][n], math.cos(c) + 0.01 * w[1][n], 0.5 * c + 0.1 * w[2][n]
        elif system == "confounder":
            q[:, n + 1] = math.sin(a + c) + 0.01 * w[0][n], math.cos(b - c) + 0.01 * w[1][n], 0.5 * c + 0.1 * w[2][n]
        else:
            q[:, n + 1] = math.sin(b * c) + 0.001 * w[0][n], 0.5 * b + 0.1 * w[1][n], 0.5 * c + 0.1 * w[2][n]
    return q[:, dropped:]


@pytest.mark.parametrize("bins", [10, 50])  # of 50^4 cells most are empty, and many sets tell the same
@pytest.mark.parametrize("system", GOLDEN["time_series"])
def test_time_series_agree_with_the_published_code(system: str, bins: int):
    series, entry = simulate(system), GOLDEN["time_series"][system]
    assert series[:, 0] == pytest.approx(entry["first_kept"], abs=1e-12)
    for target, expected in entry["bins"][str(bins)].items():
        column = series[int(target) - 1]
        assert_terms(surd_from_samples(column, series.T, bins, lag=1, allow_undersampled=bins == 50), expected)


def drawn(seed: int, *shape: int) -> np.ndarray:
    """p(target, first, second), random."""
    return np.random.default_rng(seed).dirichlet(np.ones(math.prod(shape))).reshape(shape)


def gate(name: str) -> np.ndarray:
    return np.array(GOLDEN["probabilities"][name]["p"]).reshape(GOLDEN["probabilities"][name]["shape"])


@pytest.mark.parametrize(
    "p",
    [
        pytest.param(drawn(0, 3, 2, 3), id="3x2x3"),
        pytest.param(drawn(1, 2, 2, 2), id="2x2x2"),
        pytest.param(drawn(2, 2, 4, 3), id="2x4x3"),
        pytest.param(drawn(3, 5, 3, 2), id="5x3x2"),
        *(pytest.param(gate(name), id=name) for name in ("AND", "XOR", "SUM", "COPY_two_bit", "NOISY_COPIES_0.1")),
    ],
)
def test_for_two_agents_the_terms_are_the_atoms_of_williams_and_beer(p: np.ndarray):
    dit = pytest.importorskip("dit")
    outcomes = {f"{a}{b}{t}": p[t, a, b] for t, a, b in np.argwhere(p > 0)}
    atoms = dit.pid.PID_WB(dit.Distribution(outcomes), [[0], [1]], [2])
    found = surd_from_probabilities(p)
    assert found.redundant[(1, 2)] == pytest.approx(atoms[((0,), (1,))], abs=1e-9)
    assert found.unique[(1,)] == pytest.approx(atoms[((0,),)], abs=1e-9)
    assert found.unique[(2,)] == pytest.approx(atoms[((1,),)], abs=1e-9)
    assert found.synergistic[(1, 2)] == pytest.approx(atoms[((0, 1),)], abs=1e-9)


@st.composite
def distributions(draw) -> np.ndarray:
    shape = [draw(st.integers(2, 3)), *draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))]
    sharpness = draw(st.sampled_from([0.05, 0.3, 1.0]))
    p = np.random.default_rng(draw(st.integers(0, 2**32))).dirichlet(np.full(math.prod(shape), sharpness))
    p = p.reshape(shape)
    assume(p.reshape(len(p), -1).sum(axis=1).max() < 1 - 1e-9)  # or the target is known without looking
    return p


def mutual_information(p: np.ndarray, subset: tuple[int, ...]) -> float:
    """By its definition through entropies, apart from the code under test."""
    others = tuple(axis for axis in range(1, p.ndim) if axis not in subset)
    joint = p.sum(axis=others).reshape(len(p), -1)

    def entropy(q: np.ndarray) -> float:
        return -sum(x * math.log2(x) for x in q.ravel() if x > 0)

    return entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0)) - entropy(joint)


@settings(max_examples=60, deadline=None)
@given(distributions())
def test_what_holds_of_every_distribution(p: np.ndarray):
    found = surd_from_probabilities(p)
    everyone = tuple(range(1, p.ndim))
    whole = mutual_information(p, everyone)
    assert found.total == pytest.approx(whole, abs=1e-9)
    assert found.information_leak + whole / found.target_entropy == pytest.approx(1, abs=1e-9)
    for subset, bits in found.mutual_information.items():
        assert bits == pytest.approx(mutual_information(p, subset), abs=1e-9)
    for kind in ("redundant", "unique", "synergistic"):
        assert all(bits >= 0 for bits in getattr(found, kind).values())
        for subset, bits in getattr(found, kind).items():
            by_state = getattr(found.states, kind)[subset]
            assert found.states.probabilities @ by_state == pytest.approx(bits, abs=1e-12)
    # Only one agent can be unique about a state: the one that tells most.
    assert (np.stack(list(found.states.unique.values())) > 1e-12).sum(axis=0).max() <= 1
    # For each state, terms and leak share out its surprise.
    terms = sum(
        np.stack(list(part.values())).sum(axis=0)
        for part in (found.states.redundant, found.states.unique, found.states.synergistic)
        if part
    )
    assert terms / found.states.surprise + found.states.information_leak == pytest.approx(1, abs=1e-9)


def test_renaming_agents_renames_terms():
    p = np.random.default_rng(5).dirichlet(np.full(3 * 2 * 3 * 2, 0.3)).reshape(3, 2, 3, 2)
    plain = surd_from_probabilities(p)
    for order in permutations((1, 2, 3)):
        renamed = surd_from_probabilities(p.transpose(0, *order))
        for kind in KINDS:
            for subset, bits in getattr(renamed, kind).items():
                of_old = tuple(sorted(order[agent - 1] for agent in subset))
                assert getattr(plain, kind)[of_old] == pytest.approx(bits, abs=1e-12)


# ---------------------------------------------------------------- from samples


@pytest.fixture(scope="module")
def samples() -> tuple[np.ndarray, np.ndarray]:
    """A target that is the sum of two agents, nearly, and a third agent that has nothing to do with it."""
    agents = np.random.default_rng(0).normal(size=(20_000, 3))
    return agents[:, 0] + agents[:, 1] + 0.1 * np.random.default_rng(1).normal(size=20_000), agents


@pytest.mark.parametrize("bins", [5, [3, 4, 5, 2]])
def test_bins_are_those_of_numpy(samples, bins):
    target, agents = samples
    counts, _ = np.histogramdd(np.column_stack([target, agents]), bins=bins)
    expected, found = surd_from_probabilities(counts / counts.sum()), surd_from_samples(target, agents, bins)
    assert found.synergistic == expected.synergistic
    assert found.redundant == expected.redundant
    assert surd_from_samples(target, list(agents.T), bins).unique == expected.unique


def test_values_on_the_edges_fall_where_numpy_puts_them():
    grid = np.repeat(np.arange(11) / 10, 40)
    counts, _, _ = np.histogram2d(grid, grid[::-1], bins=10)
    assert surd_from_samples(grid, grid[::-1, None], 10).unique == surd_from_probabilities(counts / 440).unique


def test_values_far_from_zero_fall_where_numpy_puts_them():
    far = 1e6 + np.random.default_rng(6).integers(0, 2_000, size=40_000) * 2.0**-30
    target = np.random.default_rng(7).normal(size=40_000)
    counts, _, _ = np.histogram2d(target, far, bins=[3, 1_000])
    found = surd_from_samples(target, far, [3, 1_000])
    assert found.unique == surd_from_probabilities(counts / counts.sum()).unique


def test_lag_lets_agents_come_before_the_target():
    noise = np.random.default_rng(2).normal(size=5_000)
    target, agent = np.roll(noise, 3), noise
    assert surd_from_samples(target, agent, 4, lag=3).unique[(1,)] > 1.0
    assert surd_from_samples(target, agent, 4).unique[(1,)] < 0.01


def test_quantile_bins_hold_equal_counts():
    skewed = np.exp(np.random.default_rng(3).normal(size=4_000))
    found = surd_from_samples(skewed, skewed, 4, binning="quantile")
    assert found.states.probabilities == pytest.approx([0.25] * 4, abs=1e-3)
    assert found.unique[(1,)] == pytest.approx(2.0, abs=1e-4)


def test_a_lower_order_leaves_out_the_higher_synergies_alone(samples):
    target, agents = samples
    whole = surd_from_samples(target, agents, 4)
    pairs = surd_from_samples(target, agents, 4, max_order=2)
    assert all(len(subset) <= 2 for subset in pairs.synergistic)
    for kind in ("redundant", "unique", "synergistic"):
        for subset, bits in getattr(pairs, kind).items():
            assert bits == pytest.approx(getattr(whole, kind)[subset], abs=1e-9)
    missing = whole.synergistic[(1, 2, 3)] / whole.target_entropy
    assert pairs.information_leak - whole.information_leak == pytest.approx(missing, abs=1e-9)


def test_twenty_agents_are_decomposed_in_pairs():
    agents = np.random.default_rng(4).normal(size=(3_000, 20))
    target = agents[:, 3] * agents[:, 11]
    found = surd_from_samples(target, agents, 4, max_order=2)
    assert max(found.synergistic, key=found.synergistic.__getitem__) == (4, 12)
    assert set(found.synergistic) == set(combinations(range(1, 21), 2))


def test_seventy_agents_are_all_met():
    """More of them than an integer of the machine has bits; what they tell of a state is what the best one does."""
    agents = np.random.default_rng(8).normal(size=(2_000, 70))
    found = surd_from_samples(agents[:, 3] + agents[:, 68], agents, 3, max_order=1)
    told = np.stack([found.states.information[(agent,)] for agent in range(1, 71)])
    second, best = np.sort(told, axis=0)[-2:]
    weights = found.states.probabilities
    assert found.total == pytest.approx(weights @ best, abs=1e-12)
    for agent in range(1, 71):
        leads = np.where(told[agent - 1] == best, best - second, 0)
        assert found.unique[(agent,)] == pytest.approx(weights @ leads, abs=1e-12)


def test_the_baseline_tells_what_is_there_from_what_chance_gives(samples):
    target, agents = samples[0][:800], samples[1][:800]
    found, chance = shuffled_baseline(target, agents, 4, shuffles=39, seed=1)
    assert chance.p_value["synergistic", (1, 2)] == pytest.approx(1 / 40)
    assert chance.p_value["total", (1, 2, 3)] == pytest.approx(1 / 40)
    assert chance.p_value["unique", (3,)] > 0.05
    # Of 800 samples in 256 cells, chance alone makes up some 0.2 bits, nearly all of them synergy.
    assert 0.1 < chance.mean["total", (1, 2, 3)] < found.total
    synergy = sum(bits for (kind, _), bits in chance.mean.items() if kind == "synergistic")
    assert synergy > 0.6 * chance.mean["total", (1, 2, 3)]
    again = shuffled_baseline(target, agents, 4, shuffles=39, seed=1)[1]
    assert again == chance
