"""Alternatives that other cases lend: what each deed is compared with, and what is then to be learned.

In    the shipped scenarios, with and without actions.
Out   batches and regrets beside ones worked out from the records by hand.
Run   `pytest tests/test_train_alternatives.py`
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from pool_runs import letters
from tiny_run import tiny_config, tiny_model

from preprocessing.encode import encode
from preprocessing.errors import UserError
from preprocessing.records import Record
from redheart_hf.losses import label_counts, loss_sums
from training.collator import MODEL_INPUTS, Collator
from training.data import with_origin_weights
from training.memory_plan import heaviest_groups
from training.regret_alternatives import Alternatives, alternatives_of
from training.regret_cases import with_cases
from training.weights import batches_of

LLM = "llm:qwen@0123456789ab/alternatives@1"
WEIGHTS = {"human": 1.0, "llm": 0.25, "retrieved": 0.5, "derived": 0.5}


@pytest.fixture
def model(tokenizer):
    return tiny_model(tokenizer).eval()


def prepared(records: Sequence[Record], tokenizer, model, tmp_path, **fields):
    config = tiny_config(tmp_path / "run", **({"num_regrets": 7} | fields))
    dataset = encode(records, tokenizer, 96, cache_dir=tmp_path / "encoded")
    dataset = with_origin_weights(dataset, list(records), WEIGHTS)
    dataset = with_cases(dataset, records, config, lambda: letters)
    return dataset, alternatives_of(dataset, config, model.config), config


def added(dataset, alternatives: Alternatives, rows: list[int], epoch: int = 0):
    return alternatives.added(dataset.__getitems__(rows), rows, epoch)


def test_each_deed_has_seven_others_beside_it_and_the_regret_is_that_beside_the_best(
    tokenizer, scenarios, model, tmp_path
):
    """Worked out from the utilities that the batch itself has for each row."""
    dataset, alternatives, _ = prepared(scenarios[:30], tokenizer, model, tmp_path)
    found, counted = added(dataset, alternatives, [4, 9, 11])
    batch = Collator(tokenizer)(found)
    assert batch["alternatives"].shape == (3, 8)
    assert (counted.samples, counted.alternatives, counted.calculations) == (3, 21, 63)
    worth = batch["labels"]["utility_views"].double().numpy()
    for group, chosen, regret in zip(
        batch["alternatives"], batch["chosen"], batch["labels"]["alternatives_regret"], strict=True
    ):
        missed = worth[group].max(axis=0) - worth[group[chosen]]
        assert regret.tolist() == pytest.approx(missed + 0.5 * missed**3, abs=1e-6)
    texts = {action.text for record in scenarios[:30] for action in record.actions}
    for record in found:
        for sequence in record["sequences"][1:]:
            assert any(action in tokenizer.decode(sequence) for action in texts)


def test_what_is_lent_is_worth_what_was_said_of_it_in_its_own_case(tokenizer, scenarios, model, tmp_path):
    known = {}
    for record in scenarios[:30]:
        for action in record.actions:
            sequence = tuple(tokenizer(record.text, action.text, truncation=True, max_length=96)["input_ids"])
            known[sequence] = action.utility
    dataset, alternatives, _ = prepared(scenarios[:30], tokenizer, model, tmp_path)
    ((record,), counted) = added(dataset, alternatives, [3])
    assert counted.lent == 7 - (len(scenarios[3].actions) - 1)
    for sequence, utility in zip(record["sequences"][1:], record["utilities"], strict=True):
        assert utility == pytest.approx(known[tuple(sequence)])


def test_other_epochs_bring_others_and_the_same_epoch_the_same(tokenizer, scenarios, model, tmp_path):
    dataset, alternatives, _ = prepared(scenarios[:30], tokenizer, model, tmp_path)
    first, again, later = (added(dataset, alternatives, [2], epoch)[0] for epoch in (0, 0, 1))
    assert first == again
    assert first != later


def test_only_cases_of_the_same_language_lend(tokenizer, scenarios, model, tmp_path):
    korean = [record for record in scenarios if record.language == "ko"][:6]
    english = [record for record in scenarios if record.language == "en"][:6]
    records = [*korean, *english]
    dataset, alternatives, _ = prepared(records, tokenizer, model, tmp_path)
    for row, record in enumerate(records):
        lenders = {place[0] for place in alternatives.lent(row, dataset[row], 9, 0)}
        assert {records[lender].language for lender in lenders} == {record.language}
        assert row not in lenders


def test_like_cases_lend_the_nearest_first(tokenizer, scenarios, model, tmp_path):
    english = [record for record in scenarios if record.language == "en"][:20]
    dataset, alternatives, _ = prepared(
        english, tokenizer, model, tmp_path, regret_alternatives="retrieved", text_encoder="letters"
    )
    vectors = letters([record.text for record in english])
    for row in range(20):
        cosines = vectors[row] @ vectors.T
        cosines[row] = -1
        lenders = list(dict.fromkeys(case for case, _ in alternatives.lent(row, dataset[row], 5, 0)))
        assert lenders == sorted(range(20), key=lambda case: -cosines[case])[: len(lenders)]


def test_enriched_takes_what_a_language_model_wrote_and_weighs_it_as_such(tokenizer, scenarios, model, tmp_path):
    english = [record for record in scenarios if record.language == "en"][:20]
    written = [replace(record, origins={"actions": LLM, "regret": "derived"}) for record in english[:5]]
    dataset, alternatives, _ = prepared(
        [*written, *english[5:]], tokenizer, model, tmp_path, regret_alternatives="enriched"
    )
    records, counted = added(dataset, alternatives, [12])
    assert counted.lent == 5
    assert {case for case, _ in alternatives.lent(12, dataset[12], 5, 0)} <= set(range(5))
    labels = Collator(tokenizer)(records)["labels"]
    assert labels["utility_views_weights"].squeeze(-1).tolist() == [1.0] * (1 + len(english[12].actions)) + [0.25] * 5
    assert labels["alternatives_regret_weights"].tolist() == [[0.25]]


def test_a_text_with_circumstances_is_a_deed_of_the_worth_that_bentham_gives_it(tokenizer, scenarios, model, tmp_path):
    """Beside the utility head, given circumstances as its answers."""
    english = [record for record in scenarios if record.language == "en"][:9]
    bare = replace(english[0], actions=None, chosen=None, regret=None)
    dataset, alternatives, _ = prepared([bare, *english[1:]], tokenizer, model, tmp_path)
    raw = torch.tensor(bare.circumstances).clamp(-0.999999, 0.999999).double()
    signed = torch.cat((raw[:1], raw[:1] * raw[1:]))
    utility = float((signed * torch.tensor(model.config.circumstance_weights).double()).sum())
    records, counted = added(dataset, alternatives, [0])
    assert (counted.lent, counted.calculations) == (7, 7)  # the neutral view alone is known
    batch = Collator(tokenizer)(records)
    best = float(batch["labels"]["utility_views"][1:, 1].max())
    missed = max(0.0, best - utility)
    assert batch["alternatives"].tolist() == [list(range(8))]
    assert batch["chosen"].tolist() == [0]
    regret = batch["labels"]["alternatives_regret"][0]
    assert torch.isnan(regret).tolist() == [True, False, True]
    assert float(regret[1]) == pytest.approx(missed + 0.5 * missed**3, abs=1e-4)


def test_of_what_nothing_is_known_nothing_is_made_up(tokenizer, scenarios, model, tmp_path):
    english = [record for record in scenarios if record.language == "en"][:9]
    bare = replace(english[0], actions=None, chosen=None, regret=None, circumstances=None, acceptability=None)
    dataset, alternatives, _ = prepared([bare, *english[1:]], tokenizer, model, tmp_path)
    records, counted = added(dataset, alternatives, [0])
    assert records == [dataset[0]]
    assert (counted.samples, counted.without_target) == (0, 7)


def test_with_one_bentham_calculation_only_the_neutral_view_is_told(tokenizer, scenarios, model, tmp_path):
    dataset, alternatives, _ = prepared(scenarios[:20], tokenizer, model, tmp_path, num_regrets=3, num_bentham=1)
    records, counted = added(dataset, alternatives, [1, 2])
    assert (counted.alternatives, counted.calculations) == (6, 6)
    labels = Collator(tokenizer)(records)["labels"]
    assert torch.isnan(labels["alternatives_regret"]).tolist() == [[True, False, True]] * 2


def test_the_model_learns_from_all_of_them(tokenizer, scenarios, model, tmp_path):
    dataset, alternatives, _ = prepared(scenarios[:20], tokenizer, model, tmp_path)
    batch = Collator(tokenizer)(added(dataset, alternatives, [0, 1])[0])
    outputs = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
    assert outputs.regret.regret.shape == (2, 3)
    counts = label_counts(batch["labels"], len(batch["input_ids"]))
    assert (counts["utility_views"], counts["alternatives_regret"]) == (2 * 8 * 3, 2 * 3)
    assert torch.isfinite(torch.stack(list(loss_sums(outputs, batch["labels"], model.config).values()))).all()


def test_no_batch_of_a_run_is_larger_than_the_one_its_memory_is_planned_by(tokenizer, scenarios, model, tmp_path):
    records = [replace(record, turns=None) for record in scenarios[:60]]
    dataset, alternatives, config = prepared(records, tokenizer, model, tmp_path, batch_size=5)
    plan, collator = batches_of(dataset, config), Collator(tokenizer)
    steps = 30
    groups = heaviest_groups(plan, steps, dataset, collator, alternatives=alternatives)
    planned = max(batch["input_ids"].numel() for group in groups for batch in group)
    taken = [
        collator(added(dataset, alternatives, rows, plan.epoch_of(step))[0])["input_ids"].numel()
        for step in range(steps)
        for rows in plan.step(step)
    ]
    plain = [collator(dataset.__getitems__(rows))["input_ids"].numel() for rows in plan.step(0)]
    assert max(plain) < max(taken) <= planned


def test_where_nobody_lends_it_is_said_before_the_run(tokenizer, scenarios, model, tmp_path):
    bare = [replace(record, actions=None, chosen=None, regret=None) for record in scenarios[:4]]
    with pytest.raises(UserError, match=r"0 of 4 training records have actions that people named"):
        prepared(bare, tokenizer, model, tmp_path)
    with pytest.raises(UserError, match="that a language model wrote"):
        prepared(scenarios[:4], tokenizer, model, tmp_path, regret_alternatives="enriched")
    with pytest.raises(UserError, match="this run has none; give text_encoder"):
        tiny_config(tmp_path, num_regrets=7, regret_alternatives="retrieved")
    with pytest.raises(UserError, match="num_bentham 1 does nothing with num_regrets 0"):
        tiny_config(tmp_path, num_bentham=1)


def test_a_column_of_cases_is_part_of_the_data_that_a_run_goes_on_with(tokenizer, scenarios, model, tmp_path):
    plain = encode(scenarios[:20], tokenizer, 96, cache_dir=tmp_path / "encoded").info.description
    names = {
        prepared(scenarios[:20], tokenizer, model, tmp_path, **fields)[0].info.description
        for fields in ({"num_regrets": 0}, {}, {"regret_alternatives": "retrieved", "text_encoder": "letters"})
    }
    assert len(names) == 3
    assert plain in names
    assert np.all([name.startswith(plain) for name in names])
