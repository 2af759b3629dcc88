"""Agreement of a model's labels with people's: known figures, an independent reference, the whole command.

In    answers written here; SmolLM2 where its package is there; labels of other libraries' formulas.
Out   measures, intervals and marks; the folder of the command.
Run   `pytest tests/test_prep_judge.py`
"""

import json

import numpy as np
import pytest
from commands import run_command
from sklearn.metrics import roc_auc_score
from tiny_llm import record_of, save_tiny_llm

from preprocessing import judge, pipeline
from preprocessing.agreement import Said, agreements, auc, unreliable
from preprocessing.folders import verify
from preprocessing.records import write_records
from redheart_hf.labels import BASIC_EMOTIONS

JOY, SADNESS = BASIC_EMOTIONS.index("joy"), BASIC_EMOTIONS.index("sadness")


def test_the_area_under_the_curve_is_that_of_scikit_learn_with_ties_and_weights():
    random = np.random.default_rng(0)
    truth = random.random(60) < 0.3
    found = random.integers(0, 6, 60) / 5  # many equal values
    weights = random.integers(0, 4, (5, 60)).astype(float)
    assert auc(truth.astype(float), found)[0] == pytest.approx(roc_auc_score(truth, found))
    expected = [roc_auc_score(truth, found, sample_weight=row) for row in weights]
    np.testing.assert_allclose(auc(truth.astype(float), found, weights), expected)
    assert np.isnan(auc(np.ones(5), found[:5])[0])


def said(joyful: list[bool], given: list[float]) -> list[Said]:
    """Rows that are joyful or sad, for which the model gave joy this value and sadness the rest."""
    rows = []
    for joy, value in zip(joyful, given, strict=True):
        human, model = [0.0] * len(BASIC_EMOTIONS), [0.0] * len(BASIC_EMOTIONS)
        human[JOY], human[SADNESS] = float(joy), float(not joy)
        model[JOY], model[SADNESS] = value, 1 - value
        rows.append(Said(human, model, 0.5))
    return rows


def test_a_field_is_unreliable_when_its_interval_reaches_down_to_chance():
    joyful = [number % 2 == 0 for number in range(80)]
    right = [0.9 if joy else 0.2 for joy in joyful]
    drawn = np.random.default_rng(1).random(80).tolist()
    good = list(agreements("basic_emotions", "en", "a", said(joyful, right)))
    assert [line.label for line in good] == ["joy", "sadness", "all"]
    assert [line.value for line in good] == [1.0, 1.0, 1.0]
    assert unreliable(good) == []
    bad = list(agreements("basic_emotions", "ko", "b", said(joyful, drawn)))
    assert bad[-1].interval[0] < 0.5 < bad[-1].interval[1]
    assert unreliable(good + bad) == ["basic_emotions"]


def test_what_nobody_said_of_dominance_is_not_made_up():
    rows = [Said([value, -value, None], [value / 2, value, 0.1], 0.5) for value in (-1.0, -0.2, 0.3, 0.9)]
    found = {line.label: line for line in agreements("vad", "ko", "va_kor", rows)}
    assert set(found) == {"valence", "arousal", "all"}
    assert found["valence"].value == pytest.approx(1.0)
    assert found["arousal"].value == pytest.approx(-1.0)
    assert found["all"].value == pytest.approx(0.0)


def test_pairs_are_judged_by_the_valence_of_their_texts():
    rows = [Said([], [better, 0, 0], 0.5, [worse, 0, 0]) for better, worse in ((0.5, 0.1), (0.2, 0.2), (0.0, 0.4))]
    (line, whole) = agreements("vad", "en", "ethics_util", rows)
    assert (line.label, line.value, line.chance) == ("valence of pairs", 0.5, 0.5)
    assert whole.value == 0.5


def test_the_command_writes_a_table_and_a_plot_and_says_what_is_unreliable(tokenizer, tmp_path):
    pytest.importorskip("llguidance")
    pytest.importorskip("bitsandbytes")
    model = save_tiny_llm(tmp_path / "llm", tokenizer)
    texts = ["I won!", "He died.", "What a day.", "They left me.", "Thank you!", "I lost it all."]
    labels = [[float(place == (JOY if row % 2 == 0 else SADNESS)) for place in range(7)] for row in range(6)]
    records = [
        record_of(text, row=row, basic_emotions=emotions)
        for row, (text, emotions) in enumerate(zip(texts, labels, strict=True), start=1)
    ]
    write_records(tmp_path / "labelled.jsonl", records)
    options = ("--model", model, "--data", f"records={tmp_path / 'labelled.jsonl'}", "--output", tmp_path / "judged")
    code, out, err = run_command(judge, *options, "--rows", 6)
    assert code == 0, err
    told = json.loads((tmp_path / "judged" / "judged.json").read_text(encoding="utf-8"))
    assert {line["label"] for line in told["agreement"]} == {"joy", "sadness", "all"}
    assert told["unreliable"] == sorted(
        {line["field"] for line in told["agreement"] if line["label"] == "all" and line["interval"][0] <= 0.5}
    )
    assert f"unreliable: [{', '.join(told['unreliable']) or 'none'}]" in out
    assert (tmp_path / "judged" / "judged.png").read_bytes().startswith(b"\x89PNG")
    # A job of the same model and prompt takes the list, one of another does not.
    job = ("--data", f"records={tmp_path / 'labelled.jsonl'}", "--steps", "[]", "--enrich", model)
    job = (*job, "--judged", tmp_path / "judged", "--prompts")
    code, _, err = run_command(pipeline, *job, "[affect@1]", "--output", tmp_path / "set")
    assert code == 0, err
    facts = verify(tmp_path / "set", what="data set")
    assert facts["unreliable"] == told["unreliable"]
    code, _, err = run_command(pipeline, *job, "[culture@1]", "--output", tmp_path / "other")
    assert (code, "judged affect@1, and this job asks culture@1" in err) == (2, True), err
    code, _, err = run_command(pipeline, *job, "[affect@1]", "--quantization", "bf16", "--output", tmp_path / "other")
    assert (code, "judged quantization nf4, and this job asks bf16" in err) == (2, True), err


def test_rows_that_nobody_labelled_are_refused(tmp_path):
    write_records(tmp_path / "plain.jsonl", [record_of("Nothing is said of this.")])
    source = f"records={tmp_path / 'plain.jsonl'}"
    code, _, err = run_command(judge, "--model", "none", "--data", source, "--output", tmp_path / "judged")
    assert (code, "no row has a label that can be judged" in err) == (2, True), err


def test_nothing_but_an_earlier_judgement_is_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    write_records(tmp_path / "rows.jsonl", [record_of("I won!", basic_emotions=[1.0] + [0.0] * 6)])
    options = ("--model", "none", "--data", f"records={tmp_path / 'rows.jsonl'}", "--output")
    code, _, err = run_command(judge, *options, tmp_path / "mine")
    assert (code, "is there already and is no judgement" in err) == (2, True), err
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    code, _, err = run_command(judge, *options, tmp_path / "new", "--rows", "-3")
    assert (code, "--rows must be at least 1, got -3" in err) == (2, True), err
