"""What is measured of the SURD head: against the decomposition written out, and what a forward pass says by itself.

In    the shipped scenarios and a pair; an untrained tiny model with a SURD head; verdicts that follow predictions.
Out   figures compared with sums over rows; terms compared with those of each text alone.
Run   `pytest tests/test_train_surd_figures.py`
"""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_run import tiny_model

from redheart_hf.labels import SURD_TERMS
from redheart_hf.surd import surd_from_samples
from training.inference import predict_records
from training.surd_figures import LEAST, outcomes_of, surd_figures


@pytest.fixture(scope="module")
def judged(scenarios):
    """Records with one verdict each, and predictions of which the second tells most of it."""
    generator = np.random.default_rng(0)
    agents = generator.normal(size=(LEAST + 200, 3))
    verdicts = agents[:, 1] + 0.5 * generator.normal(size=len(agents)) > 0.3
    plain = dataclasses.replace(scenarios[0], actions=None, chosen=None, regret=None, group=None)
    records = [
        dataclasses.replace(plain, text=f"deed {row}", acceptability=[None, None, None, float(verdict)])
        for row, verdict in enumerate(verdicts)
    ]
    return records, agents, verdicts.astype(int)


def right_terms(agents: np.ndarray, verdicts: np.ndarray) -> np.ndarray:
    """(2, 12): each verdict's terms over its surprise, from quartiles of ranks."""
    codes = [np.argsort(np.argsort(column)) * 4 // len(column) for column in agents.T]
    states = surd_from_samples(verdicts, codes, [2, 4, 4, 4]).states
    kinds = {"R": states.redundant, "U": states.unique, "S": states.synergistic}
    rows = [kinds[name[0]][tuple(map(int, name[1:]))] / states.surprise for name in SURD_TERMS[:-1]]
    return np.stack([*rows, states.information_leak], axis=1)


def test_the_head_is_judged_by_the_terms_of_each_rows_verdict(judged):
    records, agents, verdicts = judged
    right = right_terms(agents, verdicts)
    answers = right[verdicts] + np.random.default_rng(1).normal(size=(len(verdicts), 12)) * 0.02
    both = {"surd_agents": np.full((len(agents), 2, 3), np.nan), "surd_terms": np.full((len(agents), 2, 12), np.nan)}
    both["surd_agents"][:, 0], both["surd_terms"][:, 0] = agents, answers
    half = len(records) // 2
    parts = [
        (records[at], {name: array[at] for name, array in both.items()}) for at in (slice(half), slice(half, None))
    ]
    found = surd_figures(parts)
    expected = 1000 * np.sqrt(((answers - right[verdicts]) ** 2).mean())
    constant = 1000 * np.sqrt(((right[verdicts].mean(axis=0) - right[verdicts]) ** 2).mean())
    assert found["rows"] == len(records)
    assert found["head_error"] == pytest.approx(expected, rel=1e-6)
    assert found["constant_error"] == pytest.approx(constant, rel=1e-6)
    low, high = found["head_error_interval"]
    assert low < expected < high
    assert found["information"] > 0.3 > 0.1 > found["information_by_chance"]


def test_the_two_verdicts_of_a_pair_are_resampled_together(judged, scenarios):
    """A pair given twice over by its two sides is no more evidence: the interval is that of half as many rows."""
    _, agents, _ = judged
    plain = dataclasses.replace(scenarios[0], actions=None, chosen=None, regret=None, acceptability=None, group=None)
    pairs = [dataclasses.replace(plain, text=f"I won {row}.", worse="I lost it.") for row in range(len(agents))]
    errors = np.random.default_rng(2).gamma(0.2, 0.1, size=(len(agents), 1, 1))
    both = np.stack((agents, agents - [0.0, 1.0, 0.0]), axis=1)
    right = right_terms(both.transpose(1, 0, 2).reshape(-1, 3), np.repeat([1, 0], len(agents)))
    found = surd_figures([(pairs, {"surd_agents": both, "surd_terms": right[[1, 0]][None] + errors})])
    low, high = found["head_error_interval"]
    squares = errors.ravel() ** 2
    # The root's spread by the delta method, from as many independent numbers as there are pairs.
    root = np.sqrt(squares.mean())
    spread = 1000 * squares.std() / np.sqrt(len(squares)) / (2 * root)
    assert (found["rows"], found["head_error_rows"]) == (len(pairs), 2 * len(pairs))
    assert found["head_error"] == pytest.approx(1000 * root, rel=1e-6)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_without_enough_verdicts_or_a_head_nothing_is_said(judged):
    records, agents, _ = judged
    arrays = {"surd_agents": agents[:, None], "surd_terms": np.zeros((len(agents), 1, 12))}
    few = {name: array[: LEAST // 2].repeat(2, axis=1) for name, array in arrays.items()}
    assert surd_figures([(records[: LEAST // 2], few)]) is None
    assert surd_figures([(records, {"utility": agents[:, 0]})]) is None
    assert surd_figures([]) is None


def test_outcomes_are_the_sides_of_a_pair_or_the_mean_verdict(scenarios):
    plain = dataclasses.replace(scenarios[0], actions=None, chosen=None, regret=None, acceptability=None)
    assert outcomes_of(dataclasses.replace(plain, worse="I lost it.")) == (1, 0)
    assert outcomes_of(dataclasses.replace(plain, acceptability=[0.0, None, 1.0, None])) == (1, -1)
    assert outcomes_of(dataclasses.replace(plain, acceptability=[0.0, 0.2, 1.0, None])) == (0, -1)
    assert outcomes_of(plain) == (-1, -1)


def test_terms_are_those_of_the_chosen_action_and_of_both_texts_of_a_pair(tokenizer, scenarios):
    model = tiny_model(tokenizer, modules=["surd_head"], hidden_dropout=0.0).eval()
    plain = dataclasses.replace(scenarios[0], actions=None, chosen=None, regret=None, acceptability=None)
    records = [scenarios[1], dataclasses.replace(plain, worse="I lost my mother's ring.")]
    arrays = predict_records(model, tokenizer, records, progress=False, cache=False)
    asked = [(records[0].text, records[0].actions[records[0].chosen].text), (records[1].text,), (records[1].worse,)]
    with torch.no_grad():
        cut = {"truncation": True, "max_length": model.config.max_length, "return_tensors": "pt"}
        outputs = [model(**tokenizer(*texts, **cut)) for texts in asked]
    places = [(0, 0), (1, 0), (1, 1)]
    for place, output in zip(places, outputs, strict=True):
        np.testing.assert_allclose(arrays["surd_terms"][place], output.surd.terms[0], atol=1e-5)
        regret = output.regret.text_regret[0, 1]
        expected = [output.emotion.vad_mean[0, 0], output.ethics.utility[0], regret]
        np.testing.assert_allclose(arrays["surd_agents"][place], expected, atol=1e-5)
    assert np.isnan(arrays["surd_terms"][0, 1]).all()
