"""Each loss against its formula in float64 and another library's form of it.

In    numbers written out.
Out   equal values; gradients where the formula has a constant in it.
Run   pytest tests/test_model_losses.py
"""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, huber
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from redheart_hf.labels import BASIC_EMOTIONS, POLARITIES
from redheart_hf.losses import (
    beta_nll,
    bounded_squared_error,
    bradley_terry,
    focal,
    polarity_targets,
    quantile_huber,
)

NAN = float("nan")
GRID = torch.linspace(-6, 6, 25)


def leaf(values) -> torch.Tensor:
    return torch.tensor(values, requires_grad=True)


@pytest.mark.parametrize(
    ("probability", "gamma", "loss"),
    [
        (0.1, 0.0, 2.3025850929940455),
        (0.1, 1.0, 2.072326583694641),
        (0.1, 2.0, 1.865093925325177),
        (0.5, 1.0, 0.34657359027997264),
        (0.5, 2.0, 0.17328679513998632),
        (0.9, 0.0, 0.10536051565782628),
        (0.9, 1.0, 0.010536051565782625),
        (0.9, 2.0, 0.0010536051565782623),
    ],
)
def test_focal_values_of_the_paper(probability, gamma, loss):
    logit = torch.tensor(math.log(probability / (1 - probability)), dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    assert focal(logit, one, gamma).item() == pytest.approx(loss, rel=1e-6)
    assert focal(-logit, 0 * one, gamma).item() == pytest.approx(loss, rel=1e-6)


def test_focal_without_focus_is_cross_entropy_and_soft_targets_have_their_formula():
    targets = torch.linspace(0, 1, 25)
    expected = F.binary_cross_entropy_with_logits(GRID, targets, reduction="none")
    torch.testing.assert_close(focal(GRID, targets, 0.0), expected)
    p, t = expit(GRID.double().numpy()), targets.double().numpy()
    by_hand = np.abs(t - p) ** 2 * -(t * np.log(p) + (1 - t) * np.log1p(-p))
    np.testing.assert_allclose(focal(GRID, targets, 2.0).numpy(), by_hand, rtol=1e-5, atol=1e-7)


def test_soft_focal_is_least_at_its_target_with_a_gradient_of_zero():
    logits = leaf([math.log(0.3 / 0.7)])
    (gradient,) = torch.autograd.grad(focal(logits, torch.tensor([0.3]), 2.0).sum(), logits)
    assert gradient.item() == pytest.approx(0.0, abs=1e-6)
    losses = focal(torch.logit(torch.linspace(0.05, 0.95, 19)), torch.full((19,), 0.3), 2.0)
    assert losses.argmin().item() == 5


def test_gaussian_likelihood_is_weighted_by_its_standard_deviation():
    targets, means = torch.linspace(-1, 1, 25), torch.linspace(0.9, -0.7, 25)
    log_variance = torch.linspace(-5, 1, 25).requires_grad_(True)
    deviation = log_variance.detach().double().exp().sqrt()
    losses = beta_nll(means, log_variance, targets)
    nll = -norm.logpdf(targets.double(), means.double(), deviation) - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(losses.detach().numpy(), deviation.numpy() * nll, rtol=1e-5, atol=1e-6)
    torch_nll = nn.GaussianNLLLoss(reduction="none")(means, targets, log_variance.detach().exp())
    torch.testing.assert_close(losses.detach(), log_variance.detach().exp().sqrt() * torch_nll)
    (gradient,) = torch.autograd.grad(losses.sum(), log_variance)
    error = (targets - means).double()
    expected = deviation * 0.5 * (1 - error**2 / deviation**2)  # the weight itself is a constant
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)


def test_raw_values_beyond_the_margin_are_penalised_and_pulled_back():
    raw = leaf([-5.0, -3.0, 0.0, 2.9, 4.0])
    values, targets = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), torch.tensor([0.3, 0.2, 0.0, 0.4, 0.1])
    losses = bounded_squared_error(raw, values, targets, margin=3.0, penalty=0.1)
    torch.testing.assert_close(losses, torch.tensor([0.04 + 0.4, 0.0, 0.09, 0.0, 0.16 + 0.1]))
    losses.sum().backward()
    torch.testing.assert_close(raw.grad, torch.tensor([-0.4, 0.0, 0.0, 0.0, 0.2]))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantile_huber_is_the_formula(quantile):
    targets = torch.linspace(1, -1, 25)
    error = (targets - GRID).double().numpy()
    expected = np.abs(quantile - (error < 0)) * huber(0.1, error) / 0.1
    losses = quantile_huber(GRID, targets, torch.tensor(quantile), 0.1)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_what_quantile_huber_learns_is_the_quantile(quantile):
    sample = torch.linspace(0, 1, 1001)[:, None]
    candidates = torch.linspace(0, 1, 101)
    losses = quantile_huber(candidates.expand(1001, -1), sample.expand(-1, 101), torch.tensor(quantile), 0.001).mean(0)
    assert candidates[losses.argmin()].item() == pytest.approx(quantile, abs=0.011)


def test_bradley_terry_is_the_log_odds_of_the_choice():
    better, worse, scale = torch.tensor([0.5, -0.2, 0.1]), torch.tensor([0.1, 0.4, 0.1]), torch.tensor(4.0)
    a, b = np.exp(4.0 * better.double().numpy()), np.exp(4.0 * worse.double().numpy())
    np.testing.assert_allclose(bradley_terry(better, worse, scale).numpy(), -np.log(a / (a + b)), rtol=1e-5)
    strengths = torch.stack((better, worse), -1) * scale
    torch.testing.assert_close(
        bradley_terry(better, worse, scale), F.cross_entropy(strengths, torch.zeros(3).long(), reduction="none")
    )


def test_a_polarity_is_present_as_far_as_its_strongest_emotion():
    of = {"joy": 0.3, "sadness": 0.2, "anger": 0.6, "fear": 0.1, "disgust": 0.05, "surprise": 0.4, "neutral": 0.15}
    rows = torch.tensor([[of[name] for name in BASIC_EMOTIONS], [NAN] * 7])
    expected = {"positive": 0.3, "negative": 0.6, "ambiguous": 0.4, "neutral": 0.15}
    targets = polarity_targets(rows)
    assert dict(zip(POLARITIES, targets[0].tolist(), strict=True)) == pytest.approx(expected)
    assert targets[1].isnan().all()
