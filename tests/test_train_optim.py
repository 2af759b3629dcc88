"""What moves the weights: the learning rate by hand arithmetic, who decays, and what the terms' weights settle at.

In    configs, the tiny model, a small BERT as text encoder.
Out   numbers compared with ones worked out on paper.
Run   `pytest tests/test_train_optim.py`
"""

import math
from pathlib import Path

import pytest
import torch
from tiny_run import SIZES, build_loop, tiny_config, tiny_model
from transformers import BertConfig

from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from redheart_hf.losses import TERMS
from training.moving import clip_gradients
from training.optim import TermWeights, build_optimizer, learning_rate_at


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),  # the first of 4 warm-up updates: 0.4 / 4
        (1, 0.2),
        (3, 0.4),  # the last of them is the peak
        (4, 0.4),  # and so is the first of the cosine
        (7, 0.3),  # 3 of 9 parts: 0.2 (1 + cos 60 degrees)
        (10, 0.1),  # 6 of 9: 0.2 (1 + cos 120 degrees)
        (13, 0.0),  # the last of 14
        (20, 0.0),  # and never below
    ],
)
def test_the_learning_rate_at_named_steps(step: int, expected: float):
    assert learning_rate_at(step, 0.4, 0.0, 4, 14) == pytest.approx(expected, abs=1e-12)


def test_the_cosine_ends_at_the_minimum():
    # Halfway between 1e-4 and 1e-6 is 5.05e-5.
    assert learning_rate_at(10, 1e-4, 1e-6, 0, 21) == pytest.approx(5.05e-5, rel=1e-12)
    assert learning_rate_at(20, 1e-4, 1e-6, 0, 21) == pytest.approx(1e-6, rel=1e-12)


def test_a_run_of_one_step_has_the_peak():
    assert learning_rate_at(0, 0.4, 0.0, 0, 1) == 0.4


@pytest.fixture(scope="module")
def model_on_bert() -> RedHeartForMultiTask:
    bert = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    return RedHeartForMultiTask(RedHeartConfig(**SIZES, text_encoder_config=bert))


def groups_of(model, **changes) -> dict[str, dict]:
    """Name of each parameter -> the optimizer's group that moves it; no parameter may have two."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: dict[str, dict] = {}
    for group in build_optimizer(model, tiny_config("out", **changes)).param_groups:
        for parameter in group["params"]:
            assert name_of[id(parameter)] not in groups
            groups[name_of[id(parameter)]] = group
    return groups


def test_every_weight_is_moved_once_and_vectors_do_not_decay(tokenizer):
    model = tiny_model(tokenizer)
    groups = groups_of(model, weight_decay=0.05)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    spared = {name for name, group in groups.items() if group["weight_decay"] == 0.0}
    assert {group["weight_decay"] for group in groups.values()} == {0.0, 0.05}
    norms = {
        f"{name}.{kind}"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for kind in ("weight", "bias")
    }
    biases = {name for name in groups if name.endswith(".bias")}
    assert norms | biases | {"ethics_head.log_preference_scale"} <= spared
    matrices = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
    }
    assert not matrices & spared


def test_the_text_encoder_has_a_rate_of_its_own(model_on_bert):
    groups = groups_of(model_on_bert, learning_rate=3e-3, text_encoder_learning_rate=2e-5)
    encoder = {name: group["peak"] for name, group in groups.items() if name.startswith("model.embeddings.encoder.")}
    assert set(encoder.values()) == {2e-5}
    assert {group["peak"] for name, group in groups.items() if name not in encoder} == {3e-3}


def test_the_last_layers_of_the_heads_have_a_rate_of_their_own(model_on_bert):
    groups = groups_of(model_on_bert, learning_rate=1e-4, answer_learning_rate=1e-3)
    fast = {name for name in groups if groups[name]["peak"] == 1e-3}
    numbers = {"ethics_head.acceptance", "ethics_head.log_preference_scale"}  # of utility: acceptance, preference
    assert numbers < fast
    fast -= numbers
    answers = {name.removesuffix(".weight") for name in fast if name.endswith(".weight")}
    assert fast == {f"{name}.{part}" for name in answers for part in ("weight", "bias")}
    heads = {name.split(".")[0] for name in answers}
    assert heads >= {"emotion_head", "ethics_head", "regret_head"}
    assert {f"emotion_head.{name}_proj" for name in ("basic", "korean", "vad_mean")} <= answers
    assert "ethics_head.experts.virtue.projections.1" in answers
    assert not any("trunk" in name or "level" in name or "mixture" in name for name in answers)
    assert {group["peak"] for name, group in groups.items() if name.startswith("model.")} == {1e-4}


def test_the_text_encoder_goes_along_where_no_rate_is_given(model_on_bert):
    assert {group["peak"] for group in groups_of(model_on_bert, learning_rate=3e-3).values()} == {3e-3}


def test_the_text_encoder_waits_until_the_heads_know_what_to_ask(tokenizer, scenarios, tmp_path):
    bert = BertConfig(
        vocab_size=1024, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = tiny_config(tmp_path / "run", max_steps=4, warmup_steps=0, text_encoder_start=2, learning_rate=1e-3)
    loop = build_loop(tokenizer, config, scenarios[:8], text_encoder_config=bert)
    encoder = loop.bare_model.model.embeddings.encoder
    moved, rates = [], []
    for group in loop.groups():
        before = {name: value.clone() for name, value in loop.bare_model.state_dict().items()}
        loop.take_step(group)
        loop.step += 1
        moved.append({name for name, value in loop.bare_model.state_dict().items() if not value.equal(before[name])})
        rates.append(next(g["lr"] for g in loop.optimizer.param_groups if g["start"]))
    names = {f"model.embeddings.encoder.{name}" for name, _ in encoder.named_parameters()}
    assert [bool(step & names) for step in moved] == [False, False, True, True]
    assert all(step - names for step in moved)
    # Its own schedule begins when it does: no warm-up here, so that the first of its two steps has the peak.
    assert rates == [0.0, 0.0, 1e-3, pytest.approx(1e-6)]


def test_frozen_weights_are_left_out(model_on_bert):
    model_on_bert.model.embeddings.encoder.requires_grad_(False)
    groups = groups_of(model_on_bert)
    model_on_bert.model.embeddings.encoder.requires_grad_(True)
    assert groups
    assert not [name for name in groups if "embeddings.encoder" in name]


@pytest.mark.parametrize("loss", [0.3, 1.0, 5.0])
def test_a_terms_weight_settles_at_the_inverse_of_its_loss(loss: float):
    # exp(-s) L + s is least where its slope 1 - exp(-s) L is zero: s = ln L, so that the weight is 1 / L.
    weights = TermWeights(tiny_config("out", loss_weighting="uncertainty"))
    for _ in range(3000):
        weights.update({"culture": loss})
    assert weights.state_dict()["culture"] == pytest.approx(math.log(loss), abs=1e-6)
    assert weights.factors()["culture"] == pytest.approx(1 / loss, rel=1e-6)


def test_absent_terms_and_those_that_weigh_themselves_stay_at_one():
    weights = TermWeights(tiny_config("out", loss_weighting="uncertainty"))
    for _ in range(50):
        weights.update({"culture": 0.1, "vad": -2.0, "router_z": 4.0})
    moved = {term for term, factor in weights.factors().items() if factor != 1.0}
    assert moved == {"culture"}
    assert set(weights.factors()) == set(TERMS)


def test_a_terms_weight_is_bounded_and_moves_slowly():
    weights = TermWeights(tiny_config("out", loss_weighting="uncertainty"))
    weights.update({"culture": 1e9})
    assert weights.state_dict()["culture"] == pytest.approx(0.01)
    for _ in range(1000):
        weights.update({"culture": 1e9, "polarity": 0.0})
    assert weights.state_dict()["culture"] == 4.0
    assert weights.state_dict()["polarity"] == -4.0


def test_equal_weighting_never_moves_and_fixed_factors_stay():
    weights = TermWeights(tiny_config("out", loss_weighting="equal", loss_weights={"vad": 0.25}))
    weights.update({"culture": 5.0, "vad": 5.0})
    assert weights.factors() == dict.fromkeys(TERMS, 1.0) | {"vad": 0.25}


def test_a_fixed_factor_multiplies_the_learned_one(tmp_path: Path):
    weights = TermWeights(tiny_config(tmp_path, loss_weighting="uncertainty", loss_weights={"culture": 3.0}))
    for _ in range(3000):
        weights.update({"culture": 0.5})
    assert weights.factors()["culture"] == pytest.approx(3.0 / 0.5, rel=1e-6)


@pytest.mark.parametrize("allowed", [0.5, 2.0])
def test_gradients_are_cut_to_the_allowed_norm_and_shorter_ones_left_alone(tokenizer, scenarios, tmp_path, allowed):
    loop = build_loop(tokenizer, tiny_config(tmp_path / "run", max_steps=1), scenarios[:8], **SIZES)
    parameters = list(loop.bare_model.parameters())
    norm = 0.01 * math.sqrt(sum(parameter.numel() for parameter in parameters))
    loop.config.max_grad_norm = allowed * norm
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.01)
    assert float(clip_gradients(loop, [])) == pytest.approx(norm, rel=1e-5)
    for parameter in parameters:
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 0.01 * min(1, allowed)))
