"""The one number by which models are compared: what is in it, on which rows, and how sure a difference is.

In    a few rows of public files, written by the test; a tiny model of random weights.
Out   failures where a choice would be made by other rows or figures than the docs say.
Run   pytest tests/test_train_score.py
"""

from dataclasses import replace

import numpy as np
import pytest
from prep_rows import write_goemotions

from preprocessing.errors import UserError
from preprocessing.overlap import half_of
from preprocessing.readers import parse_source, read
from training import evaluate
from training.evaluate import Predicted, evaluate_dev, predict_by_reader, thresholds_from
from training.loading import load_model
from training.score import score_samples, scores, total_of


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load_model(tiny_model_dir)


@pytest.fixture
def goemotions(tmp_path):
    return read(parse_source(f"goemotions={write_goemotions(tmp_path / 'ekman.tsv')}")).records


def test_a_score_is_the_mean_of_tasks_of_readers_of_figures(loaded, goemotions, scenarios):
    model, tokenizer = loaded
    predicted = predict_by_reader(model, tokenizer, {"goemotions": goemotions, "scenarios": scenarios[:60]})
    thresholds = thresholds_from(predicted)
    figures = evaluate.figures_from(predicted, thresholds, "choosing")
    of = figures["scenarios"]
    emotion = [figures["goemotions"]["macro_f1"]]
    emotion += [np.mean([of["emotion_accuracy"], of["pearson_v"], of["pearson_a"], of["pearson_d"]])]
    regret = np.mean([of["pearson_utility"], of["choice_accuracy"], of["pearson_regret"]])
    found = scores(predicted, thresholds, "choosing")
    assert found == pytest.approx(
        {"emotion": np.mean(emotion), "regret": regret, "score": (np.mean(emotion) + regret) / 2}, abs=1e-5
    )


def test_what_is_chosen_by_never_looks_at_the_rows_that_report(loaded, goemotions):
    model, tokenizer = loaded
    changed = [
        record if half_of(record) == "choosing" else replace(record, basic_emotions=None) for record in goemotions
    ]
    whole, without = (evaluate_dev(model, tokenizer, {"goemotions": rows}) for rows in (goemotions, changed))
    assert whole.scores["choosing"] == without.scores["choosing"]
    assert whole.scores["reporting"]
    assert not without.scores["reporting"]
    with pytest.raises(UserError, match="no rows in its reporting half"):
        total_of(without.scores["reporting"], "reporting")


def test_an_answer_that_is_always_the_same_counts_nothing(loaded, scenarios):
    model, tokenizer = loaded
    part = predict_by_reader(model, tokenizer, {"scenarios": scenarios[:40]})["scenarios"]
    arrays = part.arrays | {"vad_mean": np.ones_like(part.arrays["vad_mean"])}
    constant = {"scenarios": Predicted(part.records, arrays)}
    accuracy = evaluate.figures_from(constant, {})["scenarios"]["emotion_accuracy"]
    assert scores(constant, {}, None)["emotion"] == pytest.approx(accuracy / 4, abs=1e-5)


def test_two_models_are_compared_on_the_same_resamples(loaded, scenarios):
    """A model against itself: its score moves from resample to resample, the difference never does."""
    model, tokenizer = loaded
    predicted = predict_by_reader(model, tokenizer, {"scenarios": scenarios[:40]})
    one, other = (score_samples(predicted, {}, None, samples=200)["score"] for _ in range(2))
    assert one.std() > 0.005
    assert np.array_equal(one, other)
    truth, found = [record.vad[0] for record in scenarios[:40]], predicted["scenarios"].arrays["vad_mean"][:, 0]
    assert abs(np.mean(one) - scores(predicted, {}, None)["score"]) < 4 * one.std()
    assert np.corrcoef(truth, found)[0, 1] != 1
