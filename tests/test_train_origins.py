"""Labels that a language model gave weigh less, or nothing, and nobody is judged by them.

In    shipped scenarios of which some labels are said to be a language model's.
Out   pass or fail.
Run   `pytest tests/test_train_origins.py`
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import SIZES, tiny_model

from preprocessing.errors import UserError
from preprocessing.origin_weights import complete
from preprocessing.readers import parse_source, read
from preprocessing.records import Record, write_records
from redheart_hf import RedHeartConfig
from redheart_hf.losses import LABEL_OF_TERM, label_counts, loss_sums, multi_task_loss
from training.collator import MODEL_INPUTS, WEIGHTS, Collator
from training.config import TrainConfig
from training.data import RunData, prepare_data

DEV = Path(__file__).resolve().parents[1] / "data" / "scenarios" / "dev.jsonl"
LLM = "llm:tiny@0a1b/affect@1"
LABELS = ("basic_emotions", "vad", "culture", "circumstances", "acceptability", "actions", "regret")


def said_by_llm(record: Record) -> Record:
    return replace(record, origins=dict.fromkeys(LABELS, LLM) | {"regret": "derived"})


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Four situations, of which the last two have nothing that people labelled."""
    people = read(parse_source(f"scenarios={DEV}")).records[:4]
    return [*people[:2], *map(said_by_llm, people[2:])]


@pytest.fixture
def prepared(records, tokenizer, tmp_path: Path):
    def prepare(rows: list[Record] = records, dev: tuple[Record, ...] = (), **weights: float) -> RunData:
        write_records(tmp_path / "rows.jsonl", rows)
        write_records(tmp_path / "dev.jsonl", dev)
        config = TrainConfig(
            output_dir=str(tmp_path / "run"),
            train=[f"records={tmp_path / 'rows.jsonl'}"],
            dev=[f"records={tmp_path / 'dev.jsonl'}"] if dev else [],
            origin_weights=weights,
        )
        return prepare_data(config, RedHeartConfig(**SIZES | {"vocab_size": len(tokenizer)}), tokenizer, write=False)

    return prepare


def losses_of(model, tokenizer, rows: list[dict]) -> dict[str, tuple[float, float]]:
    """Term -> (sum, count)."""
    batch = Collator(tokenizer)(rows)
    with torch.inference_mode():
        outputs = model.eval()(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
    counts = label_counts(batch["labels"], len(batch["input_ids"]))
    sums = loss_sums(outputs, batch["labels"], model.config)
    return {term: (float(sums[term]), float(counts[term])) for term in sums}


@pytest.mark.parametrize("weight", [0.5, 0.1, 3.0])
def test_a_loss_is_the_mean_by_weights(weight: float, prepared, tokenizer):
    """Against sums of the two kinds of rows taken apart, each in a batch of its own."""
    model = tiny_model(tokenizer, hidden_dropout=0.0, attention_dropout=0.0)
    even = list(prepared(human=1.0, llm=1.0, derived=1.0).train)
    people, machine = losses_of(model, tokenizer, even[:2]), losses_of(model, tokenizer, even[2:])
    found = losses_of(model, tokenizer, list(prepared(llm=weight, derived=weight).train))
    for term in set(LABEL_OF_TERM) & set(found) - {"preference"}:
        for place in (0, 1):
            assert found[term][place] == pytest.approx(people[term][place] + weight * machine[term][place], rel=1e-4)


def test_a_weight_of_one_label_is_of_that_label_alone(records, prepared, tokenizer):
    model = tiny_model(tokenizer, hidden_dropout=0.0, attention_dropout=0.0)
    even = losses_of(model, tokenizer, list(prepared(llm=1.0, derived=1.0).train))
    only = [replace(record, origins={"culture": LLM} if record.origins else {}) for record in records]
    found = losses_of(model, tokenizer, list(prepared(only, llm=0.5).train))
    changed = {term for term in even if found[term] != pytest.approx(even[term], rel=1e-5)}
    assert changed == {"culture"}


def test_labels_that_weigh_nothing_are_as_if_they_had_never_been_there(records, prepared):
    left_out = prepared(llm=0.0, derived=0.0)
    bare = [
        replace(record, origins={}, chosen=None, **dict.fromkeys(LABELS)) if record.origins else record
        for record in records
    ]
    assert left_out.train.to_list() == prepared(bare).train.to_list()
    assert WEIGHTS not in left_out.train.column_names


def test_derived_labels_go_with_what_they_were_derived_from(prepared):
    train = prepared(llm=0.0, derived=1.0).train
    assert train["regret"][2:] == [None, None]


def test_without_origins_nothing_is_weighed(records, prepared, tokenizer):
    train = prepared([replace(record, origins={}) for record in records]).train
    assert WEIGHTS not in train.column_names
    assert not any(name.endswith("_weights") for name in Collator(tokenizer)(list(train))["labels"])


def test_nobody_is_judged_by_what_a_language_model_said(prepared):
    others = read(parse_source(f"scenarios={DEV}")).records[10:12]
    (dev,) = prepared(dev=(others[0], replace(others[1], origins={"vad": LLM}))).dev.values()
    assert [record.vad is None for record in dev] == [False, True]
    assert dev[1].culture is not None


def test_a_run_goes_on_only_with_the_weights_it_began_with(prepared):
    told = {prepared(llm=weight, derived=1.0).train.info.description for weight in (0.5, 0.25, 0.5)}
    assert len(told) == 2


@pytest.mark.parametrize(("weights", "said"), [({"lm": 1.0}, "unknown origins"), ({"llm": -1.0}, "got -1.0")])
def test_weights_that_cannot_be_are_refused(weights: dict[str, float], said: str):
    with pytest.raises(UserError, match=said):
        TrainConfig(output_dir="out", train=["a=b"], origin_weights=weights)


def test_a_language_model_counts_half_unless_told_otherwise():
    assert complete({}) == {"human": 1.0, "llm": 0.5, "retrieved": 0.5, "derived": 0.5}


def test_gradients_of_two_small_batches_are_those_of_a_large_one(prepared, tokenizer):
    """What accumulation relies on, with weights: the counts of the whole group divide each part."""
    model = tiny_model(tokenizer, hidden_dropout=0.0, attention_dropout=0.0).eval()
    rows = list(prepared(llm=0.3).train)

    def gradient(groups: list[list[dict]]) -> torch.Tensor:
        model.zero_grad()
        batches = [Collator(tokenizer)(group) for group in groups]
        counted = [label_counts(batch["labels"], len(batch["input_ids"])) for batch in batches]
        counts = {term: sum(count[term] for count in counted) for term in counted[0]}
        for batch in batches:
            outputs = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
            multi_task_loss(loss_sums(outputs, batch["labels"], model.config), counts, {}, model.config)[0].backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])

    torch.testing.assert_close(gradient([rows[:3], rows[3:]]), gradient([rows]), rtol=1e-3, atol=1e-6)
