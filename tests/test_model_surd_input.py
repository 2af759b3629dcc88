"""What SURD does with input that is no distribution, no samples, or more than the machine can hold.

In    probabilities and samples that are wrong in one way each, and some at the limits of what is right.
Out   errors that name the values; for what is right, terms without a warning.
Run   `pytest tests/test_model_surd_input.py`
"""

import math
import re
import tracemalloc
from itertools import combinations

import numpy as np
import pytest

from redheart_hf import surd
from redheart_hf.surd import shuffled_baseline, surd_from_probabilities, surd_from_samples

UNIFORM = np.full((2, 2), 0.25)
LARGEST = 1.7e308
NARROW = 5e-324  # the least number above zero


@pytest.fixture(scope="module")
def samples() -> tuple[np.ndarray, np.ndarray]:
    """A target that is the sum of two agents, and a third agent that has nothing to do with it."""
    agents = np.random.default_rng(0).normal(size=(600, 3))
    return agents[:, 0] + agents[:, 1], agents


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (np.full(4, 0.25), r"axis for the target.*\(4,\)"),
        (UNIFORM - [[0.3, 0], [-0.3, 0]], "not negative, got -0.0"),
        (UNIFORM * [[np.nan, 1], [1, 1]], "finite"),
        (UNIFORM * 2, r"sum to one, got 2\.0"),
        (np.array([[0.5, 0.5], [0.0, 0.0]]), "one value only"),
        (UNIFORM + 0.1j, "real numbers, got complex128"),
        (None, r"axis for the target.*\(\)"),
        ({}, "probabilities must be an array of real numbers, got dict"),
        ([[0.5, 0.5], [0.5]], "probabilities must be an array of real numbers, got list"),
        (np.ma.masked_less(UNIFORM * [[0, 2], [1, 1]], 0.1), "probabilities: 1 of 4 values are masked"),
    ],
)
def test_what_is_no_distribution_is_refused(p, said: str):
    with pytest.raises(ValueError, match=said):
        surd_from_probabilities(p)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rare", [1e-17, 1e-30])
def test_a_state_that_is_certain_to_rounding_is_told_nothing_of(rare: float):
    found = surd_from_probabilities(np.array([[0.5, 0.5], [0.0, rare]]))
    assert found.states.surprise == pytest.approx([0, -math.log2(rare)], abs=1e-12)
    assert not np.signbit(found.states.surprise).any()
    # The rare state is met in half of the cases only: one bit. Of the other one there is nothing to be told.
    assert found.states.unique[(1,)] == pytest.approx([0, 1], abs=1e-12)
    assert found.states.information_leak == pytest.approx([0, 1 + 1 / math.log2(rare)], abs=1e-12)
    # By hand: H = p log2 1/p + (1 - p) log2 1/(1 - p), of which the second part, p / ln 2, is lost in rounding.
    assert found.target_entropy == pytest.approx(-rare * math.log2(rare), rel=1e-9)
    assert found.information_leak == pytest.approx(1 + 1 / math.log2(rare), abs=1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(20))
def test_a_state_whose_probability_is_rounded_above_one_has_no_surprise_below_zero(seed: int):
    """Of random tables with a state that is nearly certain, rounding leaves some with a sum beyond one."""
    p = np.random.default_rng(seed).dirichlet(np.ones(77)).reshape(1, 7, 11)
    states = surd_from_probabilities(np.concatenate([p, np.full((1, 7, 11), 1e-20)])).states
    assert (states.surprise >= 0).all()
    assert all((bits >= 0).all() and np.isfinite(bits).all() for bits in states.information.values())
    assert ((states.information_leak >= 0) & (states.information_leak <= 1)).all()
    assert all(bits[0] <= states.surprise[0] for bits in states.information.values())


def test_too_few_samples_are_refused_with_the_number_needed(samples):
    target, agents = samples[0][:500], samples[1][:500]
    with pytest.raises(ValueError, match="500 samples are too few for 625 cells.*at least 625"):
        surd_from_samples(target, agents, 5)
    assert surd_from_samples(target, agents, 5, allow_undersampled=True).total > 0
    assert surd_from_samples(target, agents, 5, max_order=2).total > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lag": 600}, "lag must lie in 0..599 for 600 samples, got 600"),
        ({"lag": -1}, "got -1"),
        ({"lag": 1.5}, "lag must be a whole number, got 1.5"),
        ({"lag": None}, "lag must be a whole number, got None"),
        ({"bins": 0}, "bins must be a positive number, or 4"),
        ({"bins": [2, 2]}, r"bins.*\[2, 2\]"),
        ({"bins": []}, r"bins.*\[\]"),
        ({"bins": 3.0}, "bins must be a whole number, got 3.0"),
        ({"bins": None}, "bins must be a whole number, got None"),
        ({"bins": True}, "bins must be a whole number, got True"),
        ({"bins": "3"}, "bins must be a whole number, got '3'"),
        ({"bins": [3.7, 3, 3, 3]}, r"bins must be a whole number, got 3.7 in \[3.7, 3, 3, 3\]"),
        ({"bins": [3, [3], 3, 3]}, r"bins must be a whole number, got \[3\] in"),
        ({"agents": np.zeros((3, 600))}, r"shapes \[\(3,\), \(600,\)\]"),
        ({"agents": []}, "at least one agent, got none"),
        ({"agents": np.zeros((600, 0))}, "at least one agent, got none"),
        ({"target": []}, r"the target must be one series \(N,\) of at least one sample, got shape \(0,\)"),
        ({"target": ["a"] * 600}, "the target must be an array of real numbers, got list"),
        ({"agents": np.full((600, 3), np.nan)}, r"series \[1, 2, 3\].*not finite"),
        ({"agents": np.full((600, 3), 1j)}, "the agents must be real numbers, got complex128"),
        ({"max_order": 4}, "max_order must lie in 1..3 for 3 agents, got 4"),
        ({"max_order": 0}, "max_order must lie in 1..3 for 3 agents, got 0"),
        ({"max_order": 1.5}, "max_order must be a whole number, got 1.5"),
        ({"binning": "equal"}, "binning must be one of width, quantile, got 'equal'"),
        ({"binning": ["width"]}, r"binning must be one of width, quantile, got \['width'\]"),
    ],
)
def test_samples_that_do_not_fit_are_refused_with_their_values(changes: dict, said: str, samples):
    arguments = {"target": samples[0], "agents": samples[1], "bins": 3} | changes
    for decompose in (surd_from_samples, shuffled_baseline):
        with pytest.raises(ValueError, match=said):
            decompose(**arguments)


@pytest.mark.parametrize(("shuffles", "said"), [(1.5, "whole number, got 1.5"), (None, "got None"), (0, "got 0")])
def test_shuffles_that_are_no_number_of_times_are_refused(shuffles, said: str, samples):
    with pytest.raises(ValueError, match=f"shuffles must be .*{said}"):
        shuffled_baseline(*samples, 3, shuffles=shuffles)


@pytest.mark.parametrize("bins", [np.int64(3), np.uint8(3), np.array(3), np.array([3, 3, 3, 3]), (3, 3, 3, 3)])
def test_whole_numbers_of_any_type_are_taken(bins, samples):
    plain = surd_from_samples(*samples, 3, 1, max_order=2)
    assert surd_from_samples(*samples, bins, np.int32(1), max_order=np.int64(2)).unique == plain.unique
    assert shuffled_baseline(*samples, bins, shuffles=np.int64(2))[1].shuffles == 2


# ---------------------------------------------------------------- values that cannot be cut into bins


@pytest.mark.parametrize("binning", ["width", "quantile"])
def test_a_range_too_wide_for_a_float_is_refused(binning: str, samples):
    target, agents = samples
    wide = np.where(target > 0, LARGEST, -LARGEST)
    with pytest.raises(ValueError, match=re.escape("the target spans -1.7e+308 to 1.7e+308, more than a float64")):
        surd_from_samples(wide, agents, 3, binning=binning)
    with pytest.raises(ValueError, match="agent 2 spans -1.7e"):
        surd_from_samples(target, [agents[:, 0], wide], 3, binning=binning)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("low", "high"), [(0.0, NARROW), (0.0, 2e-323), (1.0, 1 + 2**-52), (-1e300, -1e300 * (1 - 2**-52))]
)
def test_a_range_too_narrow_for_bins_is_refused_as_numpy_does(low: float, high: float, samples):
    values = np.where(samples[0] > 0, low, high)
    with pytest.raises(ValueError, match="Too many bins for data range"):
        np.histogram(values, 9)
    with pytest.raises(
        ValueError, match=f"agent 1 spans {re.escape(str(low))} to {re.escape(str(high))}, too little for 9"
    ):
        surd_from_samples(samples[0], values, [3, 9])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e300, -LARGEST, NARROW])
@pytest.mark.parametrize("binning", ["width", "quantile"])
def test_a_constant_tells_nothing_whatever_its_size(constant: float, binning: str, samples):
    found = surd_from_samples(samples[0], np.full(600, constant), 4, binning=binning)
    assert found.total == pytest.approx(0, abs=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e305])
def test_scale_changes_no_bin(scale: float, samples):
    target, agents = np.round(samples[0] * 8), np.round(samples[1] * 8)
    exact = 2.0 ** round(math.log2(scale))
    assert surd_from_samples(target * exact, agents * exact, 4).synergistic == (
        surd_from_samples(target, agents, 4).synergistic
    )


def test_masked_values_are_refused_with_their_number(samples):
    target, agents = samples
    masked = np.ma.masked_greater(agents, 1.0)
    count = int((agents > 1.0).sum())
    with pytest.raises(ValueError, match=f"the agents: {count} of 1800 values are masked"):
        surd_from_samples(target, masked, 3)
    with pytest.raises(ValueError, match=r"agent 2: \d+ of 600 values are masked"):
        surd_from_samples(target, [agents[:, 0], masked[:, 1]], 3)
    with pytest.raises(ValueError, match="the target: 1 of 600 values are masked"):
        shuffled_baseline(np.ma.array(target, mask=np.arange(600) == 7), agents, 3)
    nothing = surd_from_samples(np.ma.array(target), np.ma.array(agents), 3)
    assert nothing.unique == surd_from_samples(target, agents, 3).unique


# ---------------------------------------------------------------- memory


def test_histograms_that_no_machine_holds_are_refused_before_they_are_made():
    agents = np.random.default_rng(0).normal(size=(100, 12))
    with pytest.raises(ValueError, match=rf"12 of 12 agents has {10**13} cells.* \d+ bytes.*lower max_order"):
        surd_from_samples(agents[:, 0], agents, 10, allow_undersampled=True)
    with pytest.raises(ValueError, match="lower max_order"):
        shuffled_baseline(agents[:, 0], agents, 10, shuffles=1)
    assert surd_from_samples(agents[:, 0], agents, 10, max_order=1, allow_undersampled=True).total > 0
    # With 30 agents in one bin each there are two cells, and a thousand million sets of agents.
    with pytest.raises(ValueError, match="30 of 30 agents has 2 cells"):
        surd_from_samples(agents[:, 0], np.zeros((100, 30)), [2] + [1] * 30)


@pytest.mark.parametrize(("count", "bins", "order"), [(3, 20, 3), (8, 3, 8), (5, 20, 3)])
def test_the_memory_asked_for_is_what_is_taken(count: int, bins: int, order: int, monkeypatch):
    agents = np.random.default_rng(0).normal(size=(500, count))
    tracemalloc.start()
    surd_from_samples(agents[:, 0], agents, bins, max_order=order, allow_undersampled=True)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    subsets = [subset for size in range(1, order + 1) for subset in combinations(range(count), size)]
    monkeypatch.setattr(surd, "_memory", lambda: 1)
    with pytest.raises(ValueError, match="has") as refused:
        surd_from_samples(agents[:, 0], agents, bins, max_order=order, allow_undersampled=True)
    asked = int(re.search(r"needs (\d+) bytes", str(refused.value))[1])
    assert asked >= 8 * sum(bins ** (1 + len(subset)) for subset in subsets)
    assert 0.8 * taken < asked < 1.25 * taken
    monkeypatch.setattr(surd, "_memory", lambda: asked)
    assert surd_from_samples(agents[:, 0], agents, bins, max_order=order, allow_undersampled=True).total > 0
