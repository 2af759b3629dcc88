"""FAMO: the paper's algorithm, written anew with torch's autograd and Adam, beside what a run does.

In    losses drawn here; records of every kind of label and a small model.
Out   logits, factors and gradients side by side.
Run   `pytest tests/test_train_famo.py`
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_gradients import GradientLoop, distance, mixed_records
from tiny_run import build_loop, tiny_config

from redheart_hf.losses import TERMS, label_counts, loss_sums
from training.collator import MODEL_INPUTS
from training.famo import Famo

LEAST = {"vad": -1 / math.e}
NO_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
PLAYERS = [term for term in TERMS if term not in ("router_z", "turn_vad")]


class Reference:
    """Algorithm 1: z = softmax(w); loss = sum z log(l - least) / c; w moves by Adam along the change of log losses.

    A parameter of its own and an Adam for each term, so that one without labels is left alone as torch leaves it.
    """

    def __init__(self, terms):
        self.w = {term: torch.zeros((), dtype=torch.float64, requires_grad=True) for term in terms}
        self.adam = {term: torch.optim.Adam([w], lr=0.025, weight_decay=0.01) for term, w in self.w.items()}

    def z(self, present) -> torch.Tensor:
        return torch.stack([self.w[term] for term in present]).softmax(0)

    def loss(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        far = torch.stack([loss - LEAST.get(term, 0.0) + 1e-8 for term, loss in losses.items()])
        z = self.z(losses).detach().to(far.dtype)
        return (far.log() * z / (z / far).sum().detach()).sum()

    def update(self, before: dict[str, float], after: dict[str, float]) -> None:
        def logs(of) -> torch.Tensor:
            return torch.tensor([of[term] - LEAST.get(term, 0.0) + 1e-8 for term in before], dtype=torch.float64).log()

        gradients = torch.autograd.grad(
            self.z(before), [self.w[term] for term in before], grad_outputs=logs(before) - logs(after)
        )
        for term, gradient in zip(before, gradients, strict=True):
            self.w[term].grad = gradient
            self.adam[term].step()


def test_sixty_steps_are_the_papers(tmp_path):
    """Terms come and go, losses rise and fall, and VAD's are below zero."""
    famo, reference = Famo(tiny_config(tmp_path, loss_weighting="famo")), Reference(PLAYERS)
    chance = np.random.default_rng(0)
    for _ in range(60):
        present = [term for term in PLAYERS if chance.random() < 0.7] or PLAYERS[:2]
        before = {term: float(LEAST.get(term, 0.0) + chance.gamma(1.0)) for term in present}
        after = {
            term: LEAST.get(term, 0.0) + (loss - LEAST.get(term, 0.0)) * chance.uniform(0.5, 1.2)
            for term, loss in before.items()
        }
        famo.before = famo.taking_part(before)
        tensors = {term: torch.tensor(loss, dtype=torch.float64, requires_grad=True) for term, loss in before.items()}
        reference.loss(tensors).backward()
        factors = famo.factors()
        for term, tensor in tensors.items():
            assert factors[term] == pytest.approx(tensor.grad.item(), rel=1e-9), term
        assert sum(factors[term] for term in present) == pytest.approx(1)
        famo.learn(after)
        reference.update(before, after)
        for term in PLAYERS:
            assert famo.logits[term] == pytest.approx(reference.w[term].item(), rel=1e-9, abs=1e-12), term
    assert max(famo.logits.values()) - min(famo.logits.values()) > 0.1


def test_a_term_that_falls_behind_gains_weight(tmp_path):
    famo = Famo(tiny_config(tmp_path, loss_weighting="famo"))
    for step in range(50):
        famo.before = {"vad": 1.0, "culture": 0.5}
        famo.learn({"vad": 0.9, "culture": 0.499})
        assert famo.shares()["culture"] > 0.5, step
    assert famo.shares()["culture"] > 0.6


def test_who_takes_part(tmp_path):
    """Not who has no weight, no task, no least value, or nothing left to learn; fixed weights of the others stay."""
    config = tiny_config(tmp_path, loss_weighting="famo", loss_weights={"culture": 0.0, "turn_vad": 0.5, "surd": 3.0})
    famo = Famo(config)
    losses = {"culture": 0.4, "turn_vad": -3.0, "router_z": 4.0, "surd": 0.1, "vad": 0.2, "text_regret": 0.0}
    famo.before = famo.taking_part(losses)
    assert set(famo.before) == {"surd", "vad"}
    factors = famo.factors()
    assert (factors["culture"], factors["turn_vad"], factors["router_z"], factors["text_regret"]) == (0, 0.5, 1, 0)
    expected = (0.5 / 0.1) / (0.5 / 0.1 + 0.5 / (0.2 + 1 / math.e))
    assert factors["surd"] == pytest.approx(3 * expected, rel=1e-6)


def famo_loop(tokenizer, output_dir: Path, rows: int, **changes):
    config = tiny_config(output_dir, loss_weighting="famo", max_grad_norm=1e9, batch_size=rows, **changes)
    loop = build_loop(tokenizer, config, mixed_records(), GradientLoop, **NO_DROPOUT)
    loop.term_weights.logits |= {term: 0.1 * number for number, term in enumerate(PLAYERS)}
    return loop


def step_of(loop, size: int) -> None:
    loop.take_step([loop.collator([loop.dataset[row] for row in range(at, at + size)]) for at in range(0, 32, size)])


def test_a_steps_gradient_is_that_of_the_papers_loss(tokenizer, tmp_path):
    loop = famo_loop(tokenizer, tmp_path / "run", 32)
    batch = loop.collator([loop.dataset[row] for row in range(32)])
    model, reference = loop.bare_model, Reference(PLAYERS)
    for term, w in reference.w.items():
        w.data.fill_(loop.term_weights.logits[term])
    sums = loss_sums(
        model(**{name: batch[name] for name in MODEL_INPUTS if name in batch}), batch["labels"], model.config
    )
    counts = label_counts(batch["labels"], len(batch["input_ids"]))
    losses = {term: value / counts[term] for term, value in sums.items() if counts[term]}
    router = losses.pop("router_z") * model.config.router_z_loss_weight
    (reference.loss(losses) + router).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    step_of(loop, 32)
    assert distance(loop.gradients, expected) < 1e-4
    # And the logits move by what the same batch loses in that step.
    with torch.no_grad():
        outputs = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
        after = loss_sums(outputs, batch["labels"], model.config)
    reference.update(
        {term: loss.item() for term, loss in losses.items()},
        {term: (after[term] / counts[term]).item() for term in losses},
    )
    for term, w in reference.w.items():
        assert loop.term_weights.logits[term] == pytest.approx(w.item(), abs=2e-4), term


def test_four_micro_batches_are_one_large_batch(tokenizer, tmp_path):
    whole, parts = (
        famo_loop(tokenizer, tmp_path / "a", 32),
        famo_loop(tokenizer, tmp_path / "b", 8, gradient_accumulation_steps=4),
    )
    step_of(whole, 32)
    step_of(parts, 8)
    assert distance(parts.gradients, whole.gradients) < 1e-5
    for term in PLAYERS:
        assert parts.term_weights.logits[term] == pytest.approx(whole.term_weights.logits[term], abs=1e-4), term


@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_dropout_hides_is_the_same_before_and_after(accumulation, tokenizer, scenarios, tmp_path):
    """At a rate of next to nothing no loss changes, though dropout makes each pass another: logits only decay."""
    config = tiny_config(
        tmp_path / "run",
        loss_weighting="famo",
        learning_rate=1e-30,
        min_learning_rate=0.0,
        weight_decay=0.0,
        warmup_steps=0,
        gradient_accumulation_steps=accumulation,
        model={"router_bias_rate": 0.0},
        max_steps=3,
    )
    loop = build_loop(tokenizer, config, scenarios[:24], router_bias_rate=0.0, hidden_dropout=0.3)
    loop.train()
    assert set(loop.term_weights.logits.values()) == {0.0}
    assert sum(steps for _, _, steps in loop.term_weights.moments.values()) > 10
