"""The mixture of experts: gates, counts of load, and the bias that balances them.

In    mixtures with large random weights.
Out   gates as the softmax says; a router that recovers from sending all texts to one expert.
Run   pytest tests/test_model_mixture.py
"""

from typing import TypeVar

import pytest
import torch
from torch import nn

from redheart_hf import preset_config
from redheart_hf.losses import terms_of
from redheart_hf.modeling_head_emotion import MixtureOfExperts

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


def test_gates_sum_to_one_and_k_experts_answer(task_BC):
    mixture = extreme(MixtureOfExperts(config_of(num_experts=5, num_experts_per_tok=3)))
    mixture.router.weight.data.mul_(0.02)  # undecided, so that the experts left out would have had a share
    for index, expert in enumerate(mixture.experts):  # expert e answers e_th unit vector: the mix shows the gates
        last = expert.get_submodule("projections.1")
        last.load_state_dict({"weight": torch.zeros(WIDTH, 64), "bias": torch.eye(WIDTH)[index]})
    mixed_BC, logits_BE, load = mixture(task_BC)
    gates = mixed_BC[:, :5]
    torch.testing.assert_close(gates.sum(-1), torch.ones(BATCH))
    assert ((gates > 0).sum(-1) == 3).all()
    assert torch.equal(load, (gates > 0).sum(0).float())
    best = logits_BE.topk(3).indices
    assert logits_BE.softmax(-1).gather(1, best).sum(-1).max() < 0.9
    torch.testing.assert_close(gates.gather(1, best), logits_BE.gather(1, best).softmax(-1))


def test_one_expert_is_that_mlp_alone(task_BC):
    mixture = extreme(MixtureOfExperts(config_of(num_experts=1, num_experts_per_tok=1)))
    torch.testing.assert_close(mixture(task_BC)[0], mixture.experts[0](task_BC))


def test_all_experts_is_the_dense_softmax_mixture(task_BC):
    mixture = extreme(MixtureOfExperts(config_of(num_experts=4, num_experts_per_tok=4)))
    mixed_BC, _, load = mixture(task_BC)
    shares = (task_BC @ mixture.router.weight.T).softmax(-1)
    dense = sum(shares[:, e : e + 1] * mixture.experts[e](task_BC) for e in range(4))
    torch.testing.assert_close(mixed_BC, dense, atol=1e-5, rtol=1e-5)
    assert load.tolist() == [BATCH] * 4


def test_sigmoid_scores_are_each_experts_own_and_gates_their_shares(task_BC):
    mixture = extreme(MixtureOfExperts(config_of(num_experts=4, num_experts_per_tok=2, router_scores="sigmoid")))
    mixed_BC, logits_BE, _ = mixture(task_BC)
    centred = task_BC - task_BC.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() @ mixture.router.weight.T
    torch.testing.assert_close(logits_BE, expected, atol=1e-5, rtol=1e-5)
    scores, two = logits_BE.sigmoid().topk(2)
    shares = scores / scores.sum(-1, keepdim=True)
    for row in range(BATCH):
        by_hand = sum(shares[row, k] * mixture.experts[two[row, k]](task_BC[row : row + 1]) for k in range(2))
        torch.testing.assert_close(mixed_BC[row : row + 1], by_hand, atol=1e-4, rtol=1e-4)


def test_sigmoid_scores_do_not_see_how_long_a_state_is(task_BC):
    mixture = extreme(MixtureOfExperts(config_of(num_experts=4, router_scores="sigmoid")))
    torch.testing.assert_close(mixture(task_BC * 100)[1], mixture(task_BC)[1], atol=1e-3, rtol=1e-4)


def test_a_sigmoid_router_has_no_loss_that_ties_its_logits():
    assert set(terms_of(config_of())) - set(terms_of(config_of(router_scores="sigmoid"))) == {"router_z"}


def test_bias_step_is_the_published_rule():
    mixture = MixtureOfExperts(config_of(num_experts=4))
    mixture.update_router_bias(torch.tensor([10.0, 2.0, 4.0, 0.0]), rate=0.001)
    torch.testing.assert_close(mixture.router_bias, torch.tensor([-0.001, 0.001, 0.0, 0.001]))


def test_a_collapsed_router_recovers_while_its_logits_stay():
    torch.manual_seed(0)
    mixture = extreme(MixtureOfExperts(config_of(num_experts=4, num_experts_per_tok=1)), 0.05)
    states = torch.randn(64, WIDTH) + 1
    mixture.router.weight.data[2] += 0.03
    with torch.no_grad():
        _, logits, load = mixture(states)
        assert load[2] == 64
        for _ in range(200):
            mixture.update_router_bias(mixture(states)[2], rate=0.01)
        _, later_logits, later = mixture(states)
    assert later.min() >= 8
    assert torch.equal(logits, later_logits)


def test_the_bias_chooses_but_does_not_weigh(task_BC):
    mixture = extreme(MixtureOfExperts(config_of(num_experts=4, num_experts_per_tok=4)))
    before = mixture(task_BC)[0]
    mixture.router_bias.copy_(torch.tensor([5.0, -5.0, 0.0, 1.0]))
    assert torch.equal(mixture(task_BC)[0], before)


def test_experts_that_only_the_bias_would_choose_still_have_a_gradient(task_BC):
    """Scores of e^-200 are zero in float32: dividing them by their sum once ended a run with a gradient of NaN."""
    mixture = extreme(MixtureOfExperts(config_of(num_experts=4, num_experts_per_tok=2)))
    mixture.router.weight.data = torch.tensor([[0.0], [-1.0], [-2.0], [-2.01]]) * torch.ones(4, WIDTH)
    mixture.router_bias.copy_(torch.tensor([-3.0, -3.0, 0.0, 0.0]))
    texts = task_BC.abs() * 50
    mixed_BC, logits_BE, load = mixture(texts)
    assert load.tolist() == [0, 0, BATCH, BATCH]
    assert (logits_BE.softmax(-1)[:, 2:] == 0).all()
    mixed_BC.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixture.parameters())
