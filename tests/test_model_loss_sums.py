"""The masked, count-normalised sum of the losses, as the training loop and Hugging Face's tools call it.

In    a small model on shipped scenarios, with labels taken away.
Out   absent labels that leave loss and gradient exactly as they were; one total for both callers.
Run   pytest tests/test_model_loss_sums.py
"""

import math

import pytest
import torch
from tiny_run import build_loop, tiny_config
from torch.nn import functional as F

from preprocessing.encode import encode
from redheart_hf import RedHeartForMultiTask, preset_config
from redheart_hf.labels import SURD_TERMS
from redheart_hf.losses import (
    LABEL_OF_TERM,
    ROUTER_TERM,
    TASK_OF_TERM,
    TERMS,
    label_counts,
    loss_sums,
    multi_task_loss,
)
from training.collator import MODEL_INPUTS, Collator

NAN = float("nan")


@pytest.fixture(scope="module")
def batch(tokenizer, scenarios, tmp_path_factory):
    """Three scenarios, of two languages; 56 tokens."""
    chosen = [scenarios[0], scenarios[1], scenarios[-1]]
    rows = encode(chosen, tokenizer, max_length=56, cache_dir=tmp_path_factory.mktemp("encoded"))
    collated = Collator(tokenizer)(list(rows))
    # The loop, not the data, says what SURD's terms are: here those of XOR, all of them synergy of two agents.
    terms = torch.zeros(len(collated["input_ids"]), len(SURD_TERMS))
    terms[:, SURD_TERMS.index("S12")] = 1.0
    collated["labels"]["surd_terms"] = terms
    return {key: value for key, value in collated.items() if key not in ("ids", "first_row")}


@pytest.fixture
def model(tokenizer) -> RedHeartForMultiTask:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    return RedHeartForMultiTask(preset_config("redheart-tiny", vocab_size=len(tokenizer), **sizes))


def gradients(model, batch, labels) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss, and every parameter's gradient: zeros where autograd left none."""
    model.zero_grad()
    loss = model(**batch | {"labels": labels}).loss
    loss.backward()
    return loss.detach(), {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }


def test_every_term_names_its_label_and_task(batch):
    assert set(TERMS) == set(TASK_OF_TERM)
    assert set(LABEL_OF_TERM.values()) == set(batch["labels"])
    assert set(TASK_OF_TERM.values()) == {"emotion", "ethics", "regret", "surd"}


@pytest.mark.parametrize("missing", sorted(set(LABEL_OF_TERM.values()) - {"preference"}))
def test_an_absent_label_is_exactly_no_label(missing, model, batch):
    """A field full of NaN and a field that is not there: the same bits in loss and gradient."""
    absent = {name: value for name, value in batch["labels"].items() if name != missing}
    unlabelled = batch["labels"] | {missing: torch.full_like(batch["labels"][missing], NAN)}
    loss_without, without = gradients(model, batch, absent)
    loss_unlabelled, with_nan = gradients(model, batch, unlabelled)
    assert torch.equal(loss_without, loss_unlabelled)
    assert loss_without.isfinite()
    for name, gradient in without.items():
        assert torch.equal(gradient, with_nan[name]), name


def test_an_empty_list_of_pairs_is_no_label(model, batch):
    assert batch["labels"]["preference"].shape == (0, 2)
    absent = {name: value for name, value in batch["labels"].items() if name != "preference"}
    loss_without, without = gradients(model, batch, absent)
    loss_empty, empty = gradients(model, batch, batch["labels"])
    assert torch.equal(loss_without, loss_empty)
    for name, gradient in without.items():
        assert torch.equal(gradient, empty[name]), name


def test_a_row_without_labels_pulls_at_nothing(model, batch):
    """Its own embedding rows stay without gradient, though the model reads it: one label less is exactly zero."""
    labels = {name: torch.full_like(batch["labels"][name], NAN) for name in ("vad", "culture", "acceptability")}
    labels["vad"][0, 1] = 0.4
    labels["acceptability"][0] = torch.tensor([0.0, 1.0, 0.5, NAN])
    only_seen_later = set(batch["input_ids"][1:].flatten().tolist()) - set(batch["input_ids"][0].tolist())
    model.config.router_z_loss_weight = 0.0  # the router has a loss without any label
    _, found = gradients(model, batch, labels)
    embedding = found["model.embeddings.embed_tokens.weight"]
    assert embedding[batch["input_ids"][0, :3]].abs().sum() > 0
    assert not embedding[sorted(only_seen_later)].any()


def test_an_extreme_output_at_an_absent_label_makes_no_nan(model, batch):
    with torch.no_grad():
        model.emotion_head.vad_mean_proj.bias.fill_(3e38)
        model.ethics_head.experts["utilitarian"].projections[-1].bias.fill_(1e25)
    labels = {name: torch.full_like(batch["labels"][name], NAN) for name in ("circumstances", "vad")}
    labels["culture"] = batch["labels"]["culture"]
    loss, found = gradients(model, batch, labels)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_counts_are_those_made_by_hand():
    basic = torch.full((4, 7), NAN)
    basic[1] = 0.1
    acceptability = torch.full((4, 4), NAN)
    acceptability[0, 2] = acceptability[3, 1] = 1.0
    labels = {"basic_emotions": basic, "acceptability": acceptability, "preference": torch.tensor([[0, 1], [2, 3]])}
    counts = label_counts(labels, num_sequences=4)
    assert {term: count for term, count in counts.items() if count} == {
        "basic_emotions": 7,
        "polarity": 4,
        "acceptability": 2,
        "preference": 2,
        ROUTER_TERM: 4,
    }
    assert set(counts) == set(TERMS)


def test_counts_of_real_labels_count_what_scenarios_have(batch):
    counts = label_counts(batch["labels"], len(batch["input_ids"]))
    actions = len(batch["input_ids"]) - 3
    per_record = {"basic_emotions": 7, "polarity": 4, "vad": 3, "culture": 3, "circumstances": 7, "acceptability": 4}
    for term, size in per_record.items():
        assert counts[term] == 3 * size, term
    assert counts["utility_views"] == 3 * actions
    assert counts["alternatives_regret"] == 3 * 3


def test_weights_multiply_terms_and_default_to_one():
    config = preset_config("redheart-tiny", router_z_loss_weight=0.25)
    sums = {"vad": torch.tensor(6.0), "culture": torch.tensor(5.0), "polarity": torch.tensor(0.0)}
    sums[ROUTER_TERM] = torch.tensor(8.0)
    counts = {"vad": 3, "culture": 2, "polarity": 0, ROUTER_TERM: 4}
    total, losses = multi_task_loss(sums, counts, {"vad": 10.0, ROUTER_TERM: 3.0}, config)
    assert {term: value.item() for term, value in losses.items()} == {"vad": 2.0, "culture": 2.5, ROUTER_TERM: 2.0}
    assert total.item() == pytest.approx(10 * 2.0 + 2.5 + 3 * 0.25 * 2.0)


def test_router_loss_is_squared_log_of_the_number_of_experts_at_zero_logits(model, batch):
    with torch.no_grad():
        model.emotion_head.mixture.router.weight.zero_()
        output = model(**batch)
    assert output.losses[ROUTER_TERM].item() == pytest.approx(math.log(8) ** 2, rel=1e-5)
    output.emotion.router_logits = torch.zeros(6, 4)
    sums = loss_sums(output, {}, model.config)
    assert sums[ROUTER_TERM].item() / 6 == pytest.approx(1.9218120556728056, rel=1e-6)


def test_loss_of_forward_is_that_of_the_loop(tokenizer, scenarios, tmp_path):
    """Hugging Face's Trainer takes `.loss`; our loop counts, sums and weighs by itself."""
    config = tiny_config(tmp_path / "run", loss_weighting="equal")
    loop = build_loop(tokenizer, config, scenarios[:8], hidden_dropout=0.0, attention_dropout=0.0)
    group = next(loop.groups())
    inputs = {name: group[0][name] for name in MODEL_INPUTS if name in group[0]}
    expected = loop.bare_model(**inputs, labels=group[0]["labels"])
    losses, _ = loop.take_step(group)
    assert losses["total"] == pytest.approx(expected.loss.item(), rel=1e-6)
    for term, loss in expected.losses.items():
        assert losses[term] == pytest.approx(loss.item(), rel=1e-6), term


def test_terms_of_a_real_batch_are_plain_means_over_its_labels(model, batch):
    labels = batch["labels"]
    with torch.no_grad():
        output = model(**batch)
    ethics, regret = output.ethics, output.regret

    def mean(loss_of, predicted, targets) -> float:
        present = ~targets.isnan()
        return loss_of(predicted[present], targets[present]).item()

    expected = {
        "acceptability": mean(
            F.binary_cross_entropy_with_logits, ethics.acceptability_logits, labels["acceptability"]
        ),
        "culture": mean(F.mse_loss, output.emotion.culture_logits.sigmoid(), labels["culture"]),
        "circumstances": mean(F.mse_loss, ethics.circumstances, labels["circumstances"]),
        "alternatives_regret": mean(F.huber_loss, regret.regret, labels["alternatives_regret"]),
    }
    for term, value in expected.items():
        assert output.losses[term].item() == pytest.approx(value, rel=1e-5), term


def test_the_routers_term_is_the_mean_squared_logsumexp(model, batch):
    """Zoph et al. 2022, eq. 5: a published program's value for these logits; log(4)^2 for zeros of 4 experts."""
    logits = torch.tensor(
        [
            [-0.31128955419003207, -0.7130302768401124, -0.729068152895376, -0.29920233004408114],
            [-0.25289846946065806, -0.36018000135378847, 0.9393532606557873, 1.16142070644801],
            [-0.1705634409839206, 0.014932963521677391, -0.04759475759569801, 0.548012110089419],
            [-1.2490838162314513, 0.3195131020577657, 0.594450724343618, 1.0562236505127134],
            [0.8035157004758826, 0.3739858166762804, 0.5739008402091161, 1.5697184649359581],
            [0.8734455849426772, -3.704663800207429, -1.8141539905872015, -1.8425712793844078],
            [-1.1827915167384517, 0.5462183247259068, 1.052307808929565, -0.15636439667930063],
            [-2.1010054062092243, 1.5797411191469026, 1.0833573008638342, 0.8896745158287568],
        ],
    )
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        output = model(**inputs)
        for router_logits, expected in ((logits, 3.173723265635797), (torch.zeros(3, 4), math.log(4) ** 2)):
            output.emotion.router_logits = router_logits
            found = loss_sums(output, {}, model.config)[ROUTER_TERM] / len(router_logits)
            assert found.item() == pytest.approx(expected, rel=1e-6)
