"""Weights that move during the backward pass: as they would move after it, and with hardly a gradient in memory.

In    a small model on shipped scenarios; optimizer adamw_8bit, with and without `update_in_backward`.
Out   weights of both ways side by side; what clipping lets through; which gradients were there at one time.
Run   `pytest tests/test_train_in_backward.py`
"""

import math

import pytest
import torch
from commands import NEEDS_COMPILER
from tiny_run import build_loop, tiny_config
from torch import nn

import training.build
from preprocessing.errors import UserError
from training.adamw_8bit import AdamW8bit
from training.checkpoint import checkpoint_at
from training.in_backward import InBackward
from training.nonfinite import NonFiniteError
from training.run_state import load_run

pytestmark = NEEDS_COMPILER
STEPS = 3
IN_BACKWARD = {"optimizer": "adamw_8bit", "update_in_backward": True}


def trained(tokenizer, scenarios, tmp_path, model=None, **fields):
    config = tiny_config(tmp_path, max_steps=STEPS, save_steps=STEPS, **({"optimizer": "adamw_8bit"} | fields))
    loop = build_loop(tokenizer, config, scenarios[:24], **(model or {"hidden_dropout": 0.1}))
    norms, update = [], loop.update

    def updated(*arguments):
        losses, numbers = update(*arguments)
        norms.append(numbers["gradient_norm"])
        return losses, numbers

    loop.update = updated
    loop.train()
    return loop, norms


def weights_of(loop) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in loop.bare_model.state_dict().items()}


def test_unclipped_it_is_the_plain_way_bit_for_bit(tokenizer, scenarios, tmp_path):
    """Dropout included: the pass that moves repeats the pass that measures."""
    plain, norms = trained(tokenizer, scenarios, tmp_path / "plain", max_grad_norm=1e6)
    moved, norms_too = trained(tokenizer, scenarios, tmp_path / "moved", max_grad_norm=1e6, **IN_BACKWARD)
    assert norms_too == pytest.approx(norms, rel=1e-5)
    for name, value in weights_of(plain).items():
        assert torch.equal(value, moved.bare_model.state_dict()[name]), name


@pytest.mark.parametrize("accumulation", [1, 3])
def test_clipped_by_the_global_norm_it_is_the_plain_way(accumulation, tokenizer, scenarios, tmp_path):
    """A byte of a moment may round the other way where a gradient differs in its last bit: hence an eighth of a step
    for few, and next to nothing for most."""
    fields = {"max_grad_norm": 0.05, "gradient_accumulation_steps": accumulation}
    plain, norms = trained(tokenizer, scenarios, tmp_path / "plain", **fields)
    moved, norms_too = trained(tokenizer, scenarios, tmp_path / "moved", **fields, **IN_BACKWARD)
    assert min(norms) > 0.1  # all steps are cut
    assert norms_too == pytest.approx(norms, rel=1e-3)
    off = torch.cat(
        [(value - moved.bare_model.state_dict()[name]).flatten() for name, value in weights_of(plain).items()]
    ).abs()
    assert off.max() < 0.3 * STEPS * plain.config.learning_rate
    assert off.mean() < 1e-3 * plain.config.learning_rate


class Slopes(nn.Module):
    """Its gradient is whatever it is given."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))

    def step(self, way: InBackward, gradient: torch.Tensor, measured: bool = False) -> torch.Tensor:
        """How far one step moves the weight."""
        before = self.weight.detach().clone()
        if measured:
            way.measure()
            (self.weight * gradient).sum().backward()
        way.move()
        (self.weight * gradient).sum().backward()
        way.end()
        return self.weight.detach() - before


def build(clipping: str, max_norm: float = 1.0, shape=(64, 80)) -> tuple[Slopes, InBackward]:
    model = Slopes(*shape)
    return model, InBackward(model, AdamW8bit(model.parameters(), lr=1e-2, weight_decay=0.0), clipping, max_norm)


def slopes(seed: int, shape=(64, 80)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(64, 80), (64, 8)], ids=["bytes", "floats"])
def test_per_parameter_no_update_has_a_root_mean_square_above_one(shape):
    """400 small gradients and a large one g: Adam's update is then 0.1 g / sqrt(0.001 g^2 / (1 - 0.999^401)), 1.8."""
    found = {}
    for clipping in ("per_parameter", "previous_norm"):
        model, way = build(clipping, max_norm=1e9, shape=shape)
        small = [model.step(way, 1e-3 * slopes(seed, shape), measured=seed == 0) for seed in range(400)]
        found[clipping] = (small[-1], model.step(way, slopes(99, shape)))
    (small, large), (free_small, free_large) = found["per_parameter"], found["previous_norm"]
    assert (small - free_small).abs().mean() < 1e-2 * free_small.abs().mean()  # they were not cut
    assert free_large.square().mean().sqrt() > 1.5 * 1e-2
    assert large.square().mean().sqrt() == pytest.approx(1e-2, rel=1e-3)
    shares = large / free_large
    torch.testing.assert_close(shares, shares.mean().expand_as(shares), rtol=1e-3, atol=0.0)


def test_by_the_previous_norm_a_step_is_cut_as_the_one_before_would_have_been():
    """Steps of Adam do not depend on a constant factor of the gradients; a factor that differs by step shows."""
    gradients = [slopes(0), 10 * slopes(1), slopes(2)]
    cut = [min(1.0, 1.0 / (float(norm) + 1e-6)) for norm in map(torch.linalg.vector_norm, gradients)]
    factors = [cut[0], cut[0], cut[1]]
    model, way = build("previous_norm")
    moved = [model.step(way, gradient, measured=index == 0) for index, gradient in enumerate(gradients)]
    plain = Slopes(64, 80)
    optimizer = AdamW8bit(plain.parameters(), lr=1e-2, weight_decay=0.0)
    for gradient, factor, found in zip(gradients, factors, moved, strict=True):
        before = plain.weight.detach().clone()
        plain.weight.grad = gradient * factor
        optimizer.step()
        torch.testing.assert_close(found, plain.weight.detach() - before, rtol=1e-4, atol=1e-6)
    assert way.previous_norm == pytest.approx(float(torch.linalg.vector_norm(gradients[-1])), rel=1e-5)


def test_a_gradient_that_is_not_finite_moves_nothing_and_stops_the_run(tokenizer, scenarios, tmp_path):
    config = tiny_config(tmp_path, **IN_BACKWARD, clipping="per_parameter")
    loop = build_loop(tokenizer, config, scenarios[:24], num_hidden_layers=2)
    broken = loop.bare_model.model.blocks[1].mlp.down_proj.weight
    broken.register_hook(lambda gradient: gradient * float("nan"))
    before = weights_of(loop)
    with pytest.raises(NonFiniteError, match="model.blocks.1.mlp.down_proj.weight"):
        loop.train()
    after = weights_of(loop)
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert any(name.startswith("emotion_head") for name in moved)  # what came before it in that pass
    assert "model.blocks.1.mlp.down_proj.weight" not in moved
    assert not any(name.startswith(("model.blocks.0", "model.embeddings")) for name in moved)
    assert all(torch.isfinite(value).all() for value in after.values())


def test_measured_first_nothing_at_all_moves(tokenizer, scenarios, tmp_path):
    loop = build_loop(tokenizer, tiny_config(tmp_path, **IN_BACKWARD), scenarios[:24])
    loop.bare_model.model.blocks[0].mlp.up_proj.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights_of(loop)
    with pytest.raises(NonFiniteError, match="up_proj"):
        loop.train()
    assert all(torch.equal(value, before[name]) for name, value in weights_of(loop).items())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_all_micro_batches_go_through_a_layer_before_any_goes_on(checkpointing, tokenizer, scenarios, tmp_path):
    """Each block's weights arrive once, when the block below has not yet given a gradient for any micro-batch."""
    batches, layers = 3, 4
    config = tiny_config(
        tmp_path,
        **IN_BACKWARD,
        clipping="per_parameter",
        max_steps=1,
        gradient_accumulation_steps=batches,
        gradient_checkpointing=checkpointing,
    )
    loop = build_loop(tokenizer, config, scenarios[:24], num_hidden_layers=layers)
    events: list[tuple[str, int]] = []
    for number, block in enumerate(loop.bare_model.model.blocks):
        block.register_full_backward_hook(lambda *_, number=number: events.append(("through", number)))
        weight = block.attention.q_proj.weight
        weight.register_post_accumulate_grad_hook(lambda _, number=number: events.append(("arrived", number)))
    loop.train()
    expected = [event for n in reversed(range(layers)) for event in [("arrived", n)]]
    assert [event for event in events if event[0] == "arrived"] == expected
    for number in range(1, layers):
        arrived, below = events.index(("arrived", number)), events.index(("through", number - 1))
        assert arrived < below, events
    assert all(parameter.grad is None for parameter in loop.bare_model.parameters())


def test_a_killed_run_goes_on_with_the_norm_of_the_step_before(tokenizer, scenarios, tmp_path):
    fields = IN_BACKWARD | {"clipping": "previous_norm", "max_grad_norm": 0.05}
    whole, norms = trained(tokenizer, scenarios, tmp_path / "whole", **fields)
    config = tiny_config(tmp_path / "parts", max_steps=STEPS, save_steps=1, **fields)
    first = build_loop(tokenizer, config, scenarios[:24], hidden_dropout=0.1)
    first.total_steps = 2
    first.train()
    second = build_loop(tokenizer, config, scenarios[:24], hidden_dropout=0.1)
    load_run(second, checkpoint_at(tmp_path / "parts", 2))
    assert second.in_backward.previous_norm == pytest.approx(norms[1])
    second.train()
    for name, value in weights_of(whole).items():
        assert torch.equal(value, second.bare_model.state_dict()[name]), name
    assert math.isfinite(norms[-1])


def test_several_processes_are_refused(tokenizer, scenarios, tmp_path, monkeypatch):
    """Their gradients would be added up after the weights had moved."""
    monkeypatch.setattr(training.build.Accelerator, "num_processes", property(lambda accelerator: 2))
    with pytest.raises(UserError, match="moves weights before 2 processes could add their gradients up"):
        training.build.build_accelerator(tiny_config(tmp_path, **IN_BACKWARD))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"update_in_backward": True}, "update_in_backward moves one parameter at a time, which adamw cannot"),
        ({"clipping": "per_parameter"}, "clipping per_parameter is an approximation for update_in_backward"),
        ({"weight_precision": "bf16"}, "weight_precision bf16 needs an optimizer that rounds by chance"),
        ({"weight_precision": "bf16", "optimizer": "adamw_8bit"}, "needs mixed_precision bf16, got no"),
        (
            {"weight_precision": "bf16", "optimizer": "adamw_8bit", "mixed_precision": "bf16", "start_from": "m"},
            "is for a model that starts fresh; start_from 'm' brings weights of float32",
        ),
    ],
)
def test_what_does_not_hold_together_is_refused(fields, said, tmp_path):
    with pytest.raises(UserError, match=said):
        tiny_config(tmp_path, **fields)
