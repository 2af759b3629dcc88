"""What the heads promise by construction, at values far beyond those of a fresh model.

In    heads with large random weights; utilities and logits written out.
Out   a hierarchy without contradictions; utility and regret as their formulas say.
Run   pytest tests/test_model_heads.py
"""

import math
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from redheart_hf import RedHeartForMultiTask, preset_config
from redheart_hf.labels import CIRCUMSTANCES, ETHICS_EXPERTS
from redheart_hf.modeling_head_emotion import (
    PARENT_OF_BASIC,
    PARENT_OF_FINE,
    PARENT_OF_KOREAN,
    RedHeartEmotionHead,
    child_logits,
)
from redheart_hf.modeling_head_ethics import RedHeartEthicsHead
from redheart_hf.modeling_head_regret import RedHeartRegretHead, regret_of

BATCH, WIDTH = 9, 96
Module = TypeVar("Module", bound=nn.Module)


def config_of(**changes):
    return preset_config("redheart-tiny", **({"vocab_size": 64, "hidden_dropout": 0.0} | changes))


def extreme(module: Module, std: float = 0.5, seed: int = 0) -> Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return module.eval()


@pytest.fixture
def task_BC() -> torch.Tensor:
    return torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(5)) * 3


# ------------------------------------------------------------------ emotion


@pytest.mark.parametrize("std", [0.02, 0.5, 5.0])
def test_no_child_is_likelier_than_its_parent(std, task_BC):
    output = extreme(RedHeartEmotionHead(config_of()), std)(task_BC)
    polarity, basic, fine, korean = (
        logits.detach().sigmoid()
        for logits in (output.polarity_logits, output.basic_logits, output.fine_logits, output.korean_logits)
    )
    assert all(level.isfinite().all() for level in (polarity, basic, fine, korean))
    assert (basic <= polarity[:, PARENT_OF_BASIC]).all()
    assert (fine <= basic[:, PARENT_OF_FINE]).all()
    assert (korean <= basic[:, PARENT_OF_KOREAN]).all()
    if std > 1:
        assert polarity.min() < 1e-6, "not extreme enough for this test to mean something"
        assert polarity.max() > 1 - 1e-6


def test_child_probability_is_the_product_with_its_parent():
    conditional = torch.linspace(-30, 30, 61)
    parent = torch.tensor([-25.0, -3.0, 0.0, 4.0])[:, None].expand(4, 61)
    log_prob, logits = child_logits(conditional.expand(4, 61), torch.nn.functional.logsigmoid(parent))
    c, p = conditional.double().numpy(), parent.double().numpy()
    expected_log = -np.log1p(np.exp(-c)) - np.log1p(np.exp(-p))
    np.testing.assert_allclose(log_prob.numpy(), expected_log, rtol=1e-5, atol=2e-7)
    np.testing.assert_allclose(torch.sigmoid(logits).numpy(), np.exp(expected_log), rtol=1e-5, atol=2e-7)


def test_certain_children_have_finite_gradients():
    conditional = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    parent = torch.tensor([[0.0, -1e-30, -150.0]])
    (gradient,) = torch.autograd.grad(child_logits(conditional, parent)[1].sum(), conditional)
    assert gradient.isfinite().all()


def test_variance_stays_inside_its_range(task_BC):
    output = extreme(RedHeartEmotionHead(config_of()), 5.0)(task_BC)
    assert ((output.vad_log_variance >= -6) & (output.vad_log_variance <= 1)).all()
    assert (output.vad_mean.abs() <= 1).all()


# ------------------------------------------------------------------ ethics


@pytest.mark.parametrize("std", [0.02, 0.5, 5.0])
def test_contributions_are_the_formula_and_sum_to_utility(std, task_BC):
    weights = [0.4, 0.1, 0.2, 0.05, 0.05, 0.1, 0.1]
    output = extreme(RedHeartEthicsHead(config_of(circumstance_weights=weights)), std)(task_BC)
    circumstances = output.circumstances.detach().double().numpy()
    intensity = circumstances[:, CIRCUMSTANCES.index("intensity")]
    expected = np.zeros(BATCH)
    for index, weight in enumerate(weights):
        expected += weight * intensity * (1 if CIRCUMSTANCES[index] == "intensity" else circumstances[:, index])
    np.testing.assert_allclose(output.utility.detach().numpy(), expected, atol=1e-6)
    torch.testing.assert_close(output.contributions.sum(-1), output.utility)
    assert (output.utility.abs() <= 1).all()
    assert (output.circumstances[:, 1:] >= 0).all()
    assert (output.circumstances <= 1).all()
    assert (output.circumstances >= -1).all()


@pytest.mark.parametrize("steepness", [-4.0, 0.0, 3.0])
def test_acceptability_to_a_utilitarian_rises_with_utility(steepness, task_BC):
    head = extreme(RedHeartEthicsHead(config_of()))
    head.acceptance.data.copy_(torch.tensor([steepness, 0.7]))
    output = head(task_BC)
    order = output.utility.argsort()
    logits = output.acceptability_logits[order, ETHICS_EXPERTS.index("utilitarian")]
    assert (output.utility[order].diff() > 0).all()
    assert (logits.diff() > 0).all()
    torch.testing.assert_close(logits, math.log1p(math.exp(steepness)) * output.utility[order] + 0.7)


# ------------------------------------------------------------------ regret


def test_loomes_sugden_values():
    missed = torch.tensor([0.0, 1.0, 2.0, 0.5])
    torch.testing.assert_close(regret_of(missed, 0.5), torch.tensor([0.0, 1.5, 6.0, 0.5625]))
    torch.testing.assert_close(regret_of(missed, 0.0), missed)
    grid = regret_of(torch.linspace(0, 2, 41, dtype=torch.float64), 0.5)
    assert (grid.diff() > 0).all()
    assert (grid.diff().diff() > 0).all()


def test_convex_regret_makes_the_published_cycle():
    """X over Y over Z over X, each by 1: equal chances of (1, 2, 3), (2, 3, 1), (3, 1, 2); none with linear regret."""
    outcomes = torch.tensor([[1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [3.0, 1.0, 2.0]])
    for first, second in ((0, 1), (1, 2), (2, 0)):
        difference = outcomes[first] - outcomes[second]
        assert regret_of(difference, 0.5).mean().item() == pytest.approx(1.0, abs=1e-6)
        assert regret_of(difference, 0.0).mean().item() == pytest.approx(0.0, abs=1e-6)


def test_savage_regret_of_a_matrix():
    """Three actions in three states of the world: with linear regret, what each choice misses in each state."""
    utilities = torch.tensor([[8.0, 2.0, 5.0], [6.0, 5.0, 4.0], [4.5, 5.0, 6.0]])
    head = RedHeartRegretHead(config_of(regret_aversion=0.0))
    regret, _ = head.compare(utilities, torch.tensor([[0, 1, 2]] * 3), torch.tensor([0, 1, 2]))
    assert regret.tolist() == [[0.0, 3.0, 1.0], [2.0, 0.0, 2.0], [3.5, 0.0, 0.0]]
    assert regret.amax(dim=1).argmin() == 1  # the least of the greatest regrets; by the worst utility it would be 2


@pytest.mark.parametrize("std", [0.02, 0.5, 5.0])
def test_views_are_ordered_and_bounded(std, task_BC):
    utility = torch.linspace(-1, 1, BATCH)
    output = extreme(RedHeartRegretHead(config_of()), std)(task_BC, utility)
    optimistic, neutral, pessimistic = output.utility_views.unbind(-1)
    assert (optimistic >= neutral).all()
    assert (neutral >= pessimistic).all()
    assert torch.equal(neutral, utility)
    assert (output.utility_views.abs() <= 1 + 1e-6).all()
    assert (output.text_regret >= 0).all()


def views_of(utility_GA: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat (rows, 3) views, the same in each, and (G, A) indices with -1 where a group is shorter."""
    widest = max(map(len, utility_GA))
    rows: list[float] = []
    indices = []
    for group in utility_GA:
        indices.append([len(rows) + i for i in range(len(group))] + [-1] * (widest - len(group)))
        rows.extend(group)
    return torch.tensor(rows)[:, None].expand(-1, 3).contiguous(), torch.tensor(indices)


def test_regret_is_that_of_the_best_alternative_in_each_view():
    """Savage's table: states are the views, and with linear Q its regrets are the published ones."""
    views = torch.tensor([[8.0, 2.0, 5.0], [6.0, 5.0, 4.0], [4.5, 5.0, 6.0]])
    expected = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 2.0], [3.5, 0.0, 0.0]])
    alternatives = torch.arange(3).expand(3, 3)
    linear, best = RedHeartRegretHead(config_of(regret_aversion=0.0)).compare(views, alternatives, torch.arange(3))
    torch.testing.assert_close(linear, expected)
    assert set(best.tolist()) <= {1, 2}  # both give 5 in the neutral view
    convex, _ = RedHeartRegretHead(config_of(regret_aversion=0.5)).compare(views, alternatives, torch.arange(3))
    torch.testing.assert_close(convex, expected + 0.5 * expected**3)


def test_regret_ignores_shifts_padding_and_the_place_in_the_batch():
    head = RedHeartRegretHead(config_of())
    chosen = torch.tensor([1, 0, 2])
    views, alternatives = views_of([[-0.9, -0.4, -0.8], [-0.5, -0.7], [0.1, 0.3, 0.2, 0.25]])
    regret, best = head.compare(views, alternatives, chosen)
    assert best.tolist() == [1, 0, 1]
    missed = torch.tensor([0.0, 0.0, 0.1])
    torch.testing.assert_close(regret, (missed + 0.5 * missed**3)[:, None].expand(3, 3))
    assert regret[0].tolist() == [0.0, 0.0, 0.0]
    shifted, shifted_best = head.compare(views + 0.37, alternatives, chosen)
    torch.testing.assert_close(shifted, regret, atol=1e-6, rtol=0)
    assert torch.equal(shifted_best, best)


def test_padded_alternatives_have_no_gradient_and_never_win():
    head = RedHeartRegretHead(config_of())
    views, _ = views_of([[0.9, -0.9, -0.8]])  # row 0, which padding points at, is the best of all rows
    views.requires_grad_(True)
    regret, best = head.compare(views, torch.tensor([[1, 2, -1, -1]]), torch.tensor([0]))
    assert best.tolist() == [1]
    (gradient,) = torch.autograd.grad(regret.sum(), views)
    assert gradient[0].tolist() == [0.0, 0.0, 0.0]
    assert (gradient[1] < 0).all()
    assert (gradient[2] > 0).all()


@pytest.mark.parametrize(
    ("alternatives", "chosen", "told"),
    [
        ([[1, 2]], None, r"shape \(1, 2\) came without `chosen`"),
        ([[1, 2]], [0, 1], r"with `chosen` of shape \(2,\): .* each of the 1 groups"),
        ([[0, 2], [1, -1]], [1, 1], r"chosen is 1 in group 1, whose alternatives are \[1, -1\]"),
        ([[1, 2]], [5], r"chosen is 5 in group 0"),
        ([[1, 2]], [-1], r"chosen is -1 in group 0"),
        ([1, 2], [0], r"\(G, A\), got the shape \(2,\)"),
        ([[1, 9]], [0], r"names row 9; rows are 0\.\.2"),
        ([[0, 1], [0, 2]], [0, 0], "names row 0 twice"),
        ([[2, 2]], [0], "names row 2 twice"),
    ],
)
def test_choices_that_are_none_are_refused(alternatives, chosen, told):
    model = RedHeartForMultiTask(config_of()).eval()
    given = None if chosen is None else torch.tensor(chosen)
    with pytest.raises(ValueError, match=told):
        model(torch.ones(3, 4, dtype=torch.long), alternatives=torch.tensor(alternatives), chosen=given)
