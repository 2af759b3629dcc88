"""Evaluation and the thresholds it chooses, on a tiny model of random weights.

In    the fixtures `tiny_model_dir` and `scenarios`, the shipped scenarios.
Out   failures where a figure would not be what its name says, or a user's mistake would end in a traceback.
Run   pytest tests/test_train_evaluate.py
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from prep_rows import write_goemotions

from preprocessing.folders import verify, write_folder
from preprocessing.metrics import best_thresholds
from preprocessing.overlap import half_of
from preprocessing.readers import parse_source, read
from training import evaluate
from training.inference import predict_records
from training.loading import load_model

SCENARIOS = Path(__file__).resolve().parents[1] / "data" / "scenarios"


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load_model(tiny_model_dir)


def test_evaluate_reports_every_figure_and_what_it_could_not_read(tiny_model_dir, tmp_path):
    data, output = tmp_path / "scenarios.jsonl", tmp_path / "new" / "metrics.json"
    rows = (SCENARIOS / "test.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    data.write_text("\n".join([*rows, "not JSON"]) + "\n", encoding="utf-8")
    code, out, _ = run_command(
        evaluate, "--model", tiny_model_dir, "--data", f"scenarios={data}", "--output", output, "--batch-size", 5
    )
    assert code == 0
    figures = json.loads(output.read_text())["scenarios"]
    assert (figures["rows"], figures["rejected"]) == (12, 1)
    for name in ("emotion_accuracy", "pearson_v", "choice_accuracy", "pearson_regret", "circumstances_mae"):
        low, high = figures[f"{name}_interval"]
        assert low <= figures[name] <= high
        assert name in out
    assert "1 rows could not be read" in out


def test_evaluate_agrees_with_the_metric_worked_out_apart(loaded, scenarios):
    model, tokenizer = loaded
    figures = evaluate.evaluate_records(model, tokenizer, {"scenarios": scenarios[:60]}, progress=False)["scenarios"]
    arrays = predict_records(model, tokenizer, scenarios[:60], progress=False)
    valence = np.corrcoef([record.vad[0] for record in scenarios[:60]], arrays["vad_mean"][:, 0])[0, 1]
    assert figures["pearson_v"] == pytest.approx(valence, abs=1e-6)
    found = [
        record.actions[best].utility[1] == max(action.utility[1] for action in record.actions)
        for record, best in zip(scenarios[:60], arrays["best"], strict=True)
    ]
    assert figures["choice_accuracy"] == pytest.approx(np.mean(found), abs=1e-6)


def test_thresholds_are_chosen_on_one_half_stored_and_judged_on_the_other(tiny_model_dir, tmp_path):
    folder = tmp_path / "final"
    write_folder(folder, lambda staging: shutil.copytree(tiny_model_dir, staging, dirs_exist_ok=True) and None)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    source = f"goemotions={write_goemotions(tmp_path / 'ekman.tsv')}"
    output = tmp_path / "metrics.json"
    code, _, _ = run_command(evaluate, "--model", folder, "--data", source, "--choose-thresholds", "--output", output)
    assert code == 0
    model, tokenizer = load_model(folder)
    records = read(parse_source(source)).records
    choosing = [record for record in records if half_of(record) == "choosing"]
    arrays = predict_records(model, tokenizer, choosing, progress=False)
    truth = [[value == 1 for value in record.basic_emotions] for record in choosing]
    expected = best_thresholds(truth, arrays["basic_emotions"])
    assert model.config.thresholds["basic_emotions"] == pytest.approx(expected, abs=1e-5)
    figures = json.loads(output.read_text())["goemotions"]
    assert 0 < len(choosing) < len(records)
    assert (figures["rows"], figures["thresholds"]) == (len(records) - len(choosing), "chosen")
    changed = {name for name in before if (folder / name).read_bytes() != before[name]}
    assert changed == {"config.json", "manifest.json"}
    verify(folder)
    # Measured again without choosing: the stored thresholds give the same figure.
    run_command(evaluate, "--model", folder, "--data", source, "--half", "reporting", "--output", output)
    assert json.loads(output.read_text())["goemotions"]["macro_f1"] == figures["macro_f1"]


def test_one_half_of_dev_chooses_for_the_other_in_training_too(loaded, tmp_path):
    model, tokenizer = loaded
    records = read(parse_source(f"goemotions={write_goemotions(tmp_path / 'ekman.tsv')}")).records
    figures, thresholds, _ = evaluate.evaluate_dev(model, tokenizer, {"goemotions": records})
    assert thresholds == evaluate.choose_thresholds(model, tokenizer, {"goemotions": records}, progress=False)
    assert figures["goemotions"]["rows"] == sum(half_of(record) == "reporting" for record in records)
    assert model.config.thresholds is None


def test_without_stored_thresholds_the_table_says_so(tiny_model_dir, tmp_path):
    source = f"goemotions={write_goemotions(tmp_path / 'ekman.tsv')}"
    code, out, _ = run_command(evaluate, "--model", tiny_model_dir, "--data", source)
    assert code == 0
    assert "no thresholds for these labels: 0.5 was used" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "goemotion=x.tsv"], "did you mean 'goemotions'"),
        (["--data", "goemotions=missing.tsv"], "missing.tsv"),
        (["--data", "SCENARIOS", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--data", "SCENARIOS", "--choose-thresholds", "--half", "all"], "leave --half out"),
        (["--data", "SCENARIOS", "--choose-thresholds"], "nothing to choose thresholds on"),
        (["--data", "SCENARIOS", "--model", "nowhere"], "no model folder at nowhere"),
    ],
)
def test_a_mistake_in_evaluates_arguments_is_named(tiny_model_dir, arguments, message):
    filled = [f"scenarios={SCENARIOS / 'dev.jsonl'}" if item == "SCENARIOS" else item for item in arguments]
    code, _, err = run_command(evaluate, "--model", tiny_model_dir, *filled)
    assert code == 2
    assert message in err
