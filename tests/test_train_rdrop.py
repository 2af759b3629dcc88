"""R-Drop: two readings in one pass, and what their difference costs.

In    records of every kind of label, a small model in which the second reading differs by something known.
Out   losses and gradients beside two passes put together by hand, with torch's own divergences.
Run   `pytest tests/test_train_rdrop.py`
"""

import json
from pathlib import Path

import pytest
import torch
from commands import run_command
from test_train_dialogues import record
from test_train_gradients import GradientLoop, distance, mixed_records
from tiny_run import build_loop, tiny_config, tiny_model
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from transformers import BertConfig

from preprocessing.encode import encode
from preprocessing.errors import UserError
from redheart_hf import preset_config
from redheart_hf.losses import LABEL_OF_TERM, label_counts, loss_sums, polarity_targets
from training import memory
from training.collator import MODEL_INPUTS, Collator
from training.rdrop import bernoulli_divergence, gaussian_divergence, halves, inputs_of, training_sums

ALPHA = 300.0  # answers of a fresh model hardly differ
NO_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
LOGITS = {
    "polarity": "polarity_logits",
    "basic_emotions": "basic_logits",
    "fine_emotions": "fine_logits",
    "korean_emotions": "korean_logits",
    "culture": "culture_logits",
}


class Blurred:
    """In place of dropout, something known: what is read the second time is 1.3 times as large in one half of its
    dimensions."""

    second: bool | None = None
    """Whether the pass is that of the second reading; None: of both."""

    def __init__(self, projection: nn.Module):
        projection.register_forward_hook(self)

    def __call__(self, _: nn.Module, args: tuple, projected: torch.Tensor) -> torch.Tensor:
        factor = torch.ones(projected.shape[-1])
        factor[::2] = 1.3
        if self.second is None:
            first, second = projected.chunk(2)
            return torch.cat((first, second * factor))
        return projected * factor if self.second else projected


def loop_with(tokenizer, output_dir: Path, **changes):
    config = tiny_config(output_dir, rdrop_alpha=ALPHA, loss_weighting="equal", max_grad_norm=1e9, **changes)
    loop = build_loop(tokenizer, config, mixed_records(), GradientLoop, **NO_DROPOUT)
    loop.blurred = Blurred(loop.bare_model.model.input_projection)
    return loop


def test_divergences_are_torchs_own():
    torch.manual_seed(0)
    a, b = 3 * torch.randn(50, dtype=torch.float64), 3 * torch.randn(50, dtype=torch.float64)
    p, q = Bernoulli(logits=a), Bernoulli(logits=b)
    expected = (kl_divergence(p, q) + kl_divergence(q, p)) / 2
    torch.testing.assert_close(bernoulli_divergence(a, b), expected, rtol=1e-9, atol=1e-12)
    m, n, v, w = torch.randn(4, 50, dtype=torch.float64)
    p, q = Normal(m, (v / 2).exp()), Normal(n, (w / 2).exp())
    expected = (kl_divergence(p, q) + kl_divergence(q, p)) / 2
    torch.testing.assert_close(gaussian_divergence(m, v, n, w), expected, rtol=1e-9, atol=1e-12)


def by_hand(loop, batch, counts, alpha: float) -> torch.Tensor:
    """Two passes of the batch, their mean loss, and half of alpha times the mean divergence over the labels there
    are."""
    inputs, labels = {name: batch[name] for name in MODEL_INPUTS if name in batch}, batch["labels"]
    model, readings = loop.bare_model, []
    for loop.blurred.second in (False, True):
        readings.append(model(**inputs))
    total = torch.zeros(())
    for reading in readings:
        sums = loss_sums(reading, labels, model.config)
        router = model.config.router_z_loss_weight
        total = total + sum(
            (router if term == "router_z" else 1.0) * value / counts[term] / 2
            for term, value in sums.items()
            if counts[term]
        )

    def cost(term, p, q, present):
        both = (kl_divergence(p, q) + kl_divergence(q, p)) / 2
        return alpha / 2 * both[present].sum() / counts[term]

    one, two = readings
    for term, name in LOGITS.items():
        target = polarity_targets(labels["basic_emotions"]) if term == "polarity" else labels[LABEL_OF_TERM[term]]
        p, q = (Bernoulli(logits=getattr(reading.emotion, name)) for reading in readings)
        total = total + cost(term, p, q, ~target.isnan())
    p, q = (Bernoulli(logits=reading.ethics.acceptability_logits) for reading in readings)
    total = total + cost("acceptability", p, q, ~labels["acceptability"].isnan())
    p, q = (Normal(of.emotion.vad_mean, (of.emotion.vad_log_variance / 2).exp()) for of in (one, two))
    total = total + cost("vad", p, q, ~labels["vad"].isnan())
    better, worse = labels["preference"].unbind(1)
    p, q = (
        Bernoulli(logits=of.ethics.preference_scale * (of.ethics.utility[better] - of.ethics.utility[worse]))
        for of in (one, two)
    )
    return total + cost("preference", p, q, torch.ones(len(better), dtype=torch.bool))


def test_one_doubled_pass_is_two_passes_and_what_parts_them(tokenizer, tmp_path):
    """Records with actions, pairs and every kind of label; the gradient goes into both readings."""
    loop = loop_with(tokenizer, tmp_path / "run", batch_size=32)
    batch = loop.collator([loop.dataset[row] for row in range(32)])
    counts = label_counts(batch["labels"], len(batch["input_ids"]))
    assert "alternatives" in batch
    assert all(counts[term] for term in (*LOGITS, "acceptability", "vad", "preference", "alternatives_regret"))
    expected = by_hand(loop, batch, counts, ALPHA)
    plain = by_hand(loop, batch, counts, 0.0)
    expected.backward()
    gradients = {n: p.grad.clone() for n, p in loop.bare_model.named_parameters() if p.grad is not None}
    loop.bare_model.zero_grad(set_to_none=True)
    loop.blurred.second = None
    losses, _ = loop.take_step([batch])
    assert losses["total"] == pytest.approx(expected.item(), rel=1e-5)
    assert expected.item() > plain.item() * 1.01  # divergence is a part of it that shows
    assert distance(loop.gradients, gradients) < 1e-4


def test_four_micro_batches_give_the_gradient_of_one(tokenizer, tmp_path):
    found = []
    for name, size in (("whole", 32), ("parts", 8)):
        loop = loop_with(
            tokenizer, tmp_path / name, batch_size=size, gradient_accumulation_steps=32 // size, label_smoothing=0.1
        )
        rows = [range(start, start + size) for start in range(0, 32, size)]
        loop.take_step([loop.collator([loop.dataset[row] for row in of]) for of in rows])
        found.append(loop.gradients)
    assert distance(found[1], found[0]) < 1e-5


def test_the_model_is_called_once_and_its_dropout_is_not_the_same_twice(tokenizer, scenarios, tmp_path):
    config = tiny_config(tmp_path / "run", rdrop_alpha=ALPHA)
    loop = build_loop(tokenizer, config, scenarios[:8])
    calls = []
    loop.bare_model.register_forward_hook(lambda _, args, kwargs, out: calls.append(out), with_kwargs=True)
    group = next(loop.groups())
    loop.take_step(group)
    (outputs,) = calls
    rows = len(group[0]["input_ids"])
    assert len(outputs.task_states) == 2 * rows
    assert not torch.allclose(outputs.task_states[:rows], outputs.task_states[rows:], atol=1e-3)
    # Without dropout both readings are one, and the loss is the plain one: no other difference is made.
    loop.bare_model.eval()
    inputs = {name: group[0][name] for name in MODEL_INPUTS if name in group[0]}
    with torch.no_grad():
        once, twice = loop.bare_model(**inputs), loop.bare_model(**inputs_of(inputs, config))
    plain = loss_sums(once, group[0]["labels"], loop.bare_model.config)
    for term, value in training_sums(twice, group[0]["labels"], loop.bare_model.config, config).items():
        torch.testing.assert_close(value, plain[term], rtol=1e-4, atol=1e-5)


def test_each_reading_is_answered_as_the_batch_alone_would_be(tokenizer, scenarios, tmp_path):
    """Rows of actions and of turns are those of the same reading."""
    talk = [record(1, "Fine.", ["Are you coming?", "No."], vad=[-0.4, 0.1, 0.0]), record(2, "We made it!")]
    model = tiny_model(tokenizer, modules=["affect_filter"], **NO_DROPOUT).eval()
    batch = Collator(tokenizer)(list(encode([*talk, *scenarios[:2]], tokenizer, 96, cache_dir=tmp_path)))
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    assert {"turns", "alternatives", "chosen"} <= set(inputs)
    with torch.no_grad():
        alone, both = model(**inputs), model(**inputs_of(inputs, tiny_config(tmp_path, rdrop_alpha=1.0)))
    for reading in halves(both):
        for part in ("emotion", "ethics", "regret", "dynamics"):
            assert getattr(reading, part).keys() == getattr(alone, part).keys()
            for name, value in getattr(alone, part).items():
                if name != "router_load":  # of both
                    torch.testing.assert_close(getattr(reading, part)[name], value, rtol=1e-4, atol=1e-5)


def test_absent_labels_add_nothing(tokenizer, tmp_path):
    loop = loop_with(tokenizer, tmp_path / "run", batch_size=32)
    batch = loop.collator([loop.dataset[row] for row in range(32)])
    labels = {name: value * float("nan") for name, value in batch["labels"].items() if value.is_floating_point()}
    labels["vad"][3, 1] = 0.25
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    outputs = loop.bare_model(**inputs_of(inputs, loop.config))
    sums = training_sums(outputs, labels, loop.bare_model.config, loop.config)
    assert {term for term, value in sums.items() if value.item() != 0} == {"vad", "router_z"}
    first, second = halves(outputs)
    said = [of.emotion for of in (first, second)]
    p, q = (Normal(of.vad_mean[3, 1].double(), (of.vad_log_variance[3, 1].double() / 2).exp()) for of in said)
    apart = ALPHA / 2 * (kl_divergence(p, q) + kl_divergence(q, p)) / 2
    plain = [loss_sums(of, labels, loop.bare_model.config)["vad"] for of in (first, second)]
    assert sums["vad"].item() == pytest.approx((sum(plain) / 2 + apart).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "works"),
    [
        (NO_DROPOUT, False),
        ({"hidden_dropout": 0.0, "attention_dropout": 0.1}, True),
        ({}, True),
    ],
)
def test_without_dropout_it_is_refused(fields, works, tmp_path):
    config = tiny_config(tmp_path, rdrop_alpha=1.0)
    model = preset_config("redheart-tiny", **fields)
    if works:
        config.refuse_idle_settings(model)
        return
    with pytest.raises(
        UserError, match=r"rdrop_alpha is 1\.0, but model\.hidden_dropout and model\.attention_dropout"
    ):
        config.refuse_idle_settings(model)


@pytest.mark.parametrize(("mode", "works"), [("frozen", False), ("trained", True)])
def test_an_encoders_dropout_counts_where_it_learns(mode, works, tmp_path):
    encoder = BertConfig(hidden_size=32, num_attention_heads=2)
    model = preset_config("redheart-tiny", text_encoder_config=encoder, text_encoder_mode=mode, **NO_DROPOUT)
    config = tiny_config(tmp_path, rdrop_alpha=1.0)
    if works:
        config.refuse_idle_settings(model)
    else:
        with pytest.raises(UserError, match="since it is frozen"):
            config.refuse_idle_settings(model)


def test_the_plan_holds_activations_of_both():
    def planned(*options: object) -> int:
        code, out, _ = run_command(memory, "--preset", "redheart-tiny", "--batch-size", 8, "--json", *options)
        assert code == 0
        return json.loads(out)["activations"]

    assert planned("--rdrop_alpha", 1) == pytest.approx(2 * planned(), rel=0.05)
