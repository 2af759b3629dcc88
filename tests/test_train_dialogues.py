"""Dialogues: a text with the turns before it, from a file of records to what is said of it.

In    records with turns, in Korean and English; a redheart model of a few thousand weights with an affect filter.
Out   batches, predictions, figures and the command's answer.
Run   `pytest tests/test_train_dialogues.py`
"""

import json

import numpy as np
import pytest
import torch
from commands import run_command
from prep_rows import read_text
from tiny_run import tiny_config, tiny_model

from preprocessing.encode import encode
from preprocessing.errors import UserError
from preprocessing.overlap import without_overlaps
from preprocessing.records import Record, write_records
from training import predict
from training.collator import Collator
from training.data import prepare_data
from training.figures import CENTRAL_90, measure
from training.inference import predict_records

ASKED, DENIED, SAID = "무슨 일 있어?", "아니, 아무 일도.", "괜찮다니까, 그냥 좀 피곤해서 그래."


def record(row: int, text: str, turns: list[str] | None = None, **labels) -> Record:
    return Record(
        id=f"talk:{row}", reader="records", language="ko", text=text, turns=turns, source="talk", row=row, **labels
    )


@pytest.fixture
def talk() -> list[Record]:
    return [
        record(1, SAID, [ASKED, DENIED], vad=[-0.4, -0.2, -0.1]),
        record(2, "We made it!", vad=[0.8, 0.6, 0.4]),
        record(3, "Fine. Leave me alone then.", ["Are you coming tonight?"], vad=[-0.5, 0.3, 0.2]),
    ]


@pytest.fixture
def model(tokenizer):
    return tiny_model(tokenizer, modules=["affect_filter"], hidden_dropout=0.0).eval()


def test_each_dialogue_is_a_row_of_turns_with_the_text_last(talk, tokenizer, tmp_path):
    batch = Collator(tokenizer)(list(encode(talk, tokenizer, max_length=48, cache_dir=tmp_path)))
    assert batch["turns"].tolist() == [[1, 2, 0], [5, 4, -1]]
    said = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in batch["input_ids"]]
    assert said == [SAID, ASKED, DENIED, "We made it!", "Fine. Leave me alone then.", "Are you coming tonight?"]
    assert torch.isnan(batch["labels"]["vad"]).all(dim=1).tolist() == [False, True, True, False, False, True]


def test_what_was_said_before_moves_the_text_and_no_other(talk, tokenizer, model):
    found = predict_records(model, tokenizer, talk, progress=False, cache=False)
    alone = [record(item.row, item.text, vad=item.vad) for item in talk]
    without = predict_records(model, tokenizer, alone, progress=False, cache=False)
    np.testing.assert_allclose(found["vad_mean"], without["vad_mean"], atol=1e-6)
    moved = np.abs(found["turn_vad_mean"] - without["turn_vad_mean"]).max(axis=1) > 1e-4
    assert moved.tolist() == [True, False, True]
    # More turns leave less doubt.
    assert (found["turn_vad_log_variance"][[0, 2]] < without["turn_vad_log_variance"][[0, 2]]).all()


def test_figures_of_dialogues_are_those_written_out(talk, tokenizer, model):
    predicted = predict_records(model, tokenizer, talk, progress=False, cache=False)
    figures = measure("records", talk, predicted, {})
    told = [0, 2]
    errors = np.array([talk[row].vad for row in told]) - predicted["turn_vad_mean"][told]
    squares = errors**2 / np.exp(predicted["turn_vad_log_variance"][told])
    assert figures["nees_turn"] == pytest.approx(squares.sum(axis=1).mean(), abs=1e-5)
    assert figures["coverage_turn"] == pytest.approx((squares <= CENTRAL_90**2).mean(), abs=1e-5)
    assert figures["nees_turn_rows"] == 2


def test_a_file_of_dialogues_is_read_back_and_trained_on(talk, tokenizer, model, tmp_path):
    write_records(tmp_path / "talk.jsonl", talk)
    config = tiny_config(tmp_path / "run")
    config.train = [f"records={tmp_path / 'talk.jsonl'}"]
    data = prepare_data(config, model.config, tokenizer, write=False)
    assert sorted(data.train["num_turns"]) == [0, 1, 2]
    with pytest.raises(UserError, match="talk:1 has 2 turns before its text, but the model has no affect_filter"):
        prepare_data(config, tiny_model(tokenizer).config, tokenizer, write=False)


def test_a_turn_that_was_trained_on_keeps_the_dialogue_out_of_dev(talk):
    train = [record(9, DENIED)]
    kept, dropped = without_overlaps(talk, train)
    assert [item.row for item in dropped] == [1]
    assert [item.row for item in kept] == [2, 3]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"turns": []}, "wrong-type"),
        ({"turns": "무슨 일 있어?"}, "wrong-type"),
        ({"turns": ["무슨 일 있어?", ""]}, "empty-text"),
        ({"turns": ["무슨 일 있어?", 3]}, "wrong-type"),
        ({"turns": ["무슨 일 있어?"], "worse": "아니."}, "contradicting-labels"),
    ],
)
def test_turns_that_are_none_are_set_aside(changes, reason, tmp_path):
    rows = [record(1, SAID).to_dict(), record(2, SAID).to_dict() | changes]
    result = read_text(tmp_path, "records", "".join(json.dumps(row) + "\n" for row in rows))
    assert len(result.records) == 1
    assert [row.reason for row in result.rejected] == [reason]


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ([[0, 5]], r"one of 0..1 or -1 for none; got the shape \(1, 2\) and \[\[0, 5\]\]"),
        ([[0, -5]], r"one of 0..1 or -1 for none; got the shape \(1, 2\) and \[\[0, -5\]\]"),
        ([0, 1], r"shape \(2,\)"),
        ([[0, 1], [1, -1]], "row 1 twice"),
        ([[0, 0]], "row 0 twice"),
    ],
)
def test_turns_that_name_no_row_of_the_batch_are_refused(turns, told, model):
    with pytest.raises(ValueError, match=told):
        model(torch.ones(2, 4, dtype=torch.long), turns=torch.tensor(turns))


def test_turns_without_a_filter_to_follow_them_are_refused(model):
    model.affect_filter = None
    with pytest.raises(ValueError, match="no affect_filter"):
        model(torch.ones(2, 4, dtype=torch.long), turns=torch.tensor([[0, 1]]))


def test_the_command_says_what_the_turns_change(model, tokenizer, tmp_path):
    model.config.trained_labels = ["vad"]
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    arguments = ["--model", tmp_path / "model", SAID, "--turn", ASKED, "--turn", DENIED]
    _, out, _ = run_command(predict, *arguments, "--json")
    answer = json.loads(out)
    assert answer["turns"] == [ASKED, DENIED]
    assert set(answer["turn_vad"]) == {"valence", "arousal", "dominance"}
    _, out, _ = run_command(predict, *arguments)
    assert "given the 2 turns before" in out
    code, _, err = run_command(predict, *arguments, "--action", "쉬게 둔다", "--action", "더 묻는다")
    assert (code, "not both" in err) == (2, True)
