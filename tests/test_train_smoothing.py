"""Smoothed labels: what training sees of them, and what nothing else does.

In    logits and labels written here; a small model on shipped scenarios.
Out   losses beside torch's own; labels, evaluation and the saved model as they are without.
Run   `pytest tests/test_train_smoothing.py`
"""

import pytest
import torch
from tiny_run import build_loop, tiny_config
from torch.distributions import Bernoulli
from torch.nn import functional as F

from redheart_hf import preset_config
from redheart_hf.losses import SMOOTHED, TERMS, loss_sums
from redheart_hf.outputs import EmotionOutput, EthicsOutput, RedHeartOutput
from training.collator import MODEL_INPUTS

NAN = float("nan")
E = 0.2


@pytest.fixture
def step(tokenizer, scenarios, tmp_path):
    """A loop without dropout, one of its batches, and what the model says of it."""
    config = tiny_config(tmp_path / "run", label_smoothing=E, loss_weighting="equal")
    loop = build_loop(tokenizer, config, scenarios[:8], hidden_dropout=0.0, attention_dropout=0.0)
    (batch,) = next(loop.groups())
    outputs = loop.bare_model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
    return loop, batch, outputs


def test_a_smoothed_label_costs_what_is_expected_of_it(step):
    """Cross-entropy is linear in its target: a label that holds with probability 1 - e / 2 costs the mean of both."""
    loop, batch, outputs = step
    labels, config = batch["labels"], loop.bare_model.config
    found = loss_sums(outputs, labels, config, E)["acceptability"]
    logits, truth = outputs.ethics.acceptability_logits, labels["acceptability"]
    logits, truth = logits[~truth.isnan()], truth[~truth.isnan()]
    assert len(truth) > 4
    of = F.binary_cross_entropy_with_logits
    expected = (1 - E / 2) * of(logits, truth, reduction="sum") + E / 2 * of(logits, 1 - truth, reduction="sum")
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_pair_is_in_the_given_order_with_probability_one_less_half_of_it():
    utility, scale = torch.tensor([0.4, -0.1, 0.0, 0.3]), torch.tensor(2.5)
    outputs = RedHeartOutput(
        emotion=EmotionOutput(router_logits=torch.zeros(4, 8)),
        ethics=EthicsOutput(utility=utility, preference_scale=scale),
    )
    pairs = torch.tensor([[0, 1], [2, 3]])
    config = preset_config("redheart-tiny")
    found = loss_sums(outputs, {"preference": pairs}, config, E)["preference"]
    choice = Bernoulli(logits=scale * (utility[pairs[:, 0]] - utility[pairs[:, 1]]))
    given, other = choice.log_prob(torch.ones(2)), choice.log_prob(torch.zeros(2))
    assert found.item() == pytest.approx(-((1 - E / 2) * given + E / 2 * other).sum().item(), rel=1e-6)


@pytest.mark.parametrize("truth", [0.0, 1.0, 0.5])
def test_what_is_learned_of_an_emotion_is_the_smoothed_probability(truth):
    """Focal loss has no minimum elsewhere."""
    config = preset_config("redheart-tiny")
    probabilities = torch.arange(1, 1000) / 1000
    losses = []
    for probability in probabilities:
        logits = torch.logit(probability).expand(1, 28)
        emotion = EmotionOutput(fine_logits=logits, router_logits=torch.zeros(1, 8))
        labels = {"fine_emotions": torch.full((1, 28), truth)}
        losses.append(loss_sums(RedHeartOutput(emotion=emotion), labels, config, E)["fine_emotions"])
    best = probabilities[torch.stack(losses).argmin()]
    assert best.item() == pytest.approx((1 - E) * truth + E / 2, abs=2e-3)


def test_measurements_are_not_smoothed_and_absent_labels_still_add_nothing(step):
    loop, batch, outputs = step
    config, labels = loop.bare_model.config, batch["labels"]
    plain, smooth = (loss_sums(outputs, labels, config, e) for e in (0.0, E))
    assert set(TERMS) > SMOOTHED
    for term in plain:
        assert torch.equal(plain[term], smooth[term]) == (term not in SMOOTHED or plain[term] == 0), term
    absent = labels | {"basic_emotions": torch.full_like(labels["basic_emotions"], NAN)}
    gone = loss_sums(outputs, absent, config, E)
    assert gone["basic_emotions"].item() == gone["polarity"].item() == 0
    loop.bare_model.zero_grad()
    (gone["basic_emotions"] + gone["polarity"]).backward()
    assert not any(p.grad.any() for p in loop.bare_model.parameters() if p.grad is not None)


def test_it_is_trained_on_and_nothing_else_sees_it(step, tmp_path):
    loop, batch, outputs = step
    before = {name: value.clone() for name, value in batch["labels"].items()}
    losses, _ = loop.take_step([batch])
    count = (~before["acceptability"].isnan()).sum()
    expected = loss_sums(outputs, before, loop.bare_model.config, E)["acceptability"] / count
    assert losses["acceptability"] == pytest.approx(expected.item(), rel=1e-5)
    # The labels of the batch, which SURD's outcomes are read from, are what they were; the model's own loss is plain.
    for name, value in before.items():
        torch.testing.assert_close(batch["labels"][name], value, rtol=0, atol=0, equal_nan=True)
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    with torch.no_grad():
        again = loop.bare_model(**inputs, labels=batch["labels"])
    plain = loss_sums(again, before, loop.bare_model.config)["acceptability"] / count
    assert again.losses["acceptability"].item() == pytest.approx(plain.item(), rel=1e-6)
    assert not any("smooth" in name for name in loop.bare_model.config.to_dict())
