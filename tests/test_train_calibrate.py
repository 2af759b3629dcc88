"""Calibration: what is fitted is what the data were made with, and no decision changes by it.

In    outcomes drawn with known probabilities; the shipped scenarios and an untrained tiny model.
Out   fitted numbers beside the known ones; a calibration error counted by hand; predictions before and after.
Run   `pytest tests/test_train_calibrate.py`
"""

import json
import shutil

import numpy as np
import pytest
from commands import run_command
from prep_rows import write_goemotions
from scipy.optimize import minimize

from preprocessing.errors import UserError
from redheart_hf import calibration, preset_config
from redheart_hf.calibration import (
    expected_calibration_error,
    fit_scaling,
    normalised_squared_error,
    variance_factors,
)
from training import calibrate
from training.calibrate import logit, moved_thresholds, sigmoid, unless_changed
from training.inference import predict_records
from training.loading import load_model


def drawn(rows: int = 40_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of an overconfident model, outcomes, and the scale and offset that would have been right."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(rows, 2)) * 3
    right = np.array([[0.5, -1.0], [1.5, 0.25]])
    return logits, generator.random((rows, 2)) < sigmoid(right[:, 0] * logits + right[:, 1]), right


def test_scaling_finds_what_the_outcomes_were_drawn_with():
    logits, truth, right = drawn()
    np.testing.assert_allclose(fit_scaling(logits, truth), right, atol=0.05)


def test_calibration_brings_the_error_down_to_chance():
    logits, truth, _ = drawn()
    half = len(truth) // 2
    scaling = fit_scaling(logits[:half], truth[:half])
    before = expected_calibration_error(sigmoid(logits[half:]), truth[half:])
    after = expected_calibration_error(sigmoid(scaling[:, 0] * logits[half:] + scaling[:, 1]), truth[half:])
    assert before > 0.05
    assert after < 0.01


def test_labels_that_teach_nothing_keep_their_probabilities():
    logits = np.array([[0.0, 1.0, -2.0], [1.0, 2.0, -1.0], [2.0, 0.5, 0.0], [3.0, -1.0, 1.0]])
    truth = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 1], [1, 0, 1]], dtype=bool)
    found = fit_scaling(logits, truth)
    assert found[:2].tolist() == [[1.0, 0.0], [1.0, 0.0]]  # always there, never there
    assert np.isfinite(found).all()  # the third can be told apart without error
    assert found[2, 0] > 0
    assert fit_scaling(logits[:, 2:], ~truth[:, 2:]).tolist() == [[1.0, 0.0]]  # its logits fall with the label


def least_by_search(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Scale and offset of one label with the least cross-entropy to Platt's targets, by a search without slopes."""
    positives = truth.sum()
    targets = np.where(truth, (positives + 1) / (positives + 2), 1 / (len(truth) - positives + 2))

    def cost(scaling: np.ndarray) -> float:
        scores = scaling[0] * logits + scaling[1]
        return float(np.mean(np.logaddexp(0, scores) - targets * scores))

    tight = {"xatol": 1e-9, "fatol": 1e-15, "maxiter": 4000, "maxfev": 4000}
    return minimize(cost, [0.0, 0.0], method="Nelder-Mead", options=tight).x


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e6, 1e12, 1e300])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_scaling_is_found_whatever_the_size_of_the_logits(unit: float, shift: float):
    logits, truth, _ = drawn(2_000)
    for label in range(2):
        plain = logits[:, label] + shift
        scale, offset = fit_scaling(unit * plain[:, None], truth[:, label, None])[0]
        np.testing.assert_allclose([scale * unit, offset], least_by_search(plain, truth[:, label]), atol=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("logits", "truth"),
    [
        pytest.param(np.array([1e6, *np.linspace(-2, 2, 39)]), np.arange(40) % 3 != 1, id="one far away"),
        pytest.param(np.repeat([-40.0, 40.0], 20), np.arange(40) >= 20, id="told apart"),
        pytest.param(np.linspace(-1, 1, 40) ** 9, np.arange(40) % 4 > 1, id="uneven"),
    ],
)
def test_hard_logits_are_fitted_as_a_search_does(logits: np.ndarray, truth: np.ndarray):
    found = fit_scaling(logits[:, None], truth[:, None])[0]
    unit = np.abs(logits).max()
    np.testing.assert_allclose(found * [unit, 1], least_by_search(logits / unit, truth), rtol=1e-5, atol=1e-5)


def test_a_step_that_only_raises_the_cost_is_not_taken(monkeypatch):
    """As rounding may leave one: no half of it is any better."""
    solve = np.linalg.solve
    monkeypatch.setattr(np.linalg, "solve", lambda curvature, gradient: -solve(curvature, gradient))
    logits, truth, _ = drawn(200)
    assert calibration._newton(logits[:, 1], truth[:, 1] * 0.8 + 0.1).tolist() == [0, 0]


def test_logits_that_are_not_finite_are_refused_with_their_number():
    logits, truth, _ = drawn(500)
    logits[[3, 7], 1] = np.nan
    logits[9, 1] = np.inf
    with pytest.raises(ValueError, match=r"3 of 1000 logits are not finite, of labels \[1\]; take out the rows"):
        fit_scaling(logits, truth)
    kept = np.isfinite(logits).all(axis=1)
    assert (fit_scaling(logits[kept], truth[kept])[:, 0] != 1).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e9])
def test_logits_that_are_all_the_same_keep_their_probabilities(constant: float):
    assert fit_scaling(np.full((30, 1), constant), np.arange(30)[:, None] < 9).tolist() == [[1.0, 0.0]]


def test_the_error_is_the_one_counted_by_hand():
    # Two bins: .2, .4 (one of two is so: said .3, is .5) and .6, .8, 1 (two of three: said .8, is .667).
    probabilities = np.array([[0.2], [0.4], [0.6], [0.8], [1.0]])
    truth = np.array([[0], [1], [1], [0], [1]])
    expected = (2 * abs(0.3 - 0.5) + 3 * abs(0.8 - 2 / 3)) / 5
    assert expected_calibration_error(probabilities, truth, bins=2) == pytest.approx(expected)


def test_variances_are_made_as_wide_as_the_errors():
    errors = np.random.default_rng(0).normal(size=(20_000, 3)) * [0.1, 0.2, 0.4]
    log_variance = np.log(np.broadcast_to([0.04, 0.04, 0.04], errors.shape))
    factors = variance_factors(errors, log_variance)
    np.testing.assert_allclose(factors, [0.25, 1.0, 4.0], rtol=0.05)
    assert normalised_squared_error(errors, log_variance + np.log(factors)) == pytest.approx(3.0)


def test_a_moved_threshold_separates_the_same_rows():
    logits, truth, _ = drawn(500)
    fitted = {"basic_emotions": fit_scaling(logits, truth)}
    thresholds = {"basic_emotions": [0.2, 0.7], "fine_emotions": [0.5]}
    moved = moved_thresholds(thresholds, fitted)
    assert moved["fine_emotions"] == [0.5]
    assert moved_thresholds({}, fitted) == moved_thresholds({"basic_emotions": [0.5, 0.5]}, fitted)
    before = sigmoid(logits) >= thresholds["basic_emotions"]
    scaling = fitted["basic_emotions"]
    after = sigmoid(scaling[:, 0] * logits + scaling[:, 1]) >= moved["basic_emotions"]
    assert (before == after).all()


def test_a_calibrated_model_predicts_with_it(tiny_model_dir, scenarios):
    model, tokenizer = load_model(tiny_model_dir)
    records = scenarios[:3]
    plain = predict_records(model, tokenizer, records, progress=False, cache=False)
    scaling = [[0.5 + 0.1 * label, 0.3 - 0.2 * label] for label in range(7)]
    model.config.calibration = {"basic_emotions": scaling, "vad": [[2.0], [1.0], [0.5]]}
    found = predict_records(model, tokenizer, records, progress=False, cache=False)
    scales, offsets = np.array(scaling).T
    expected = sigmoid(scales * logit(plain["basic_emotions"]) + offsets)
    np.testing.assert_allclose(found["basic_emotions"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["vad_log_variance"], plain["vad_log_variance"] + np.log([2.0, 1.0, 0.5]))
    np.testing.assert_array_equal(found["fine_emotions"], plain["fine_emotions"])


def test_the_command_keeps_what_it_fitted_with_the_model_and_tells_its_card(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "final")
    (folder / "README.md").write_text("# Red Heart\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text()) | {"thresholds": {"basic_emotions": [0.3] * 7}}
    (folder / "config.json").write_text(json.dumps(config))
    data = write_goemotions(tmp_path / "ekman.tsv")
    code, out, _ = run_command(calibrate, "--model", folder, "--data", f"goemotions={data}")
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("basic_emotions"))
    before, after = map(float, line.split()[-2:])
    assert after < before
    model, tokenizer = load_model(folder)
    fitted = np.array(model.config.calibration["basic_emotions"])
    moved = sigmoid(fitted[:, 0] * logit(np.array(0.3)) + fitted[:, 1])
    np.testing.assert_allclose(model.config.thresholds["basic_emotions"], moved)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# Red Heart\n")
    assert line in card
    code, _, err = run_command(calibrate, "--model", folder, "--data", f"goemotions={data}")
    assert code == 2
    assert "is calibrated already" in err
    assert (folder / "README.md").read_text(encoding="utf-8") == card


@pytest.mark.parametrize(
    "calibration", [{"basic": [[1.0, 0.0]] * 7}, {"basic_emotions": [[1.0, 0.0]] * 6}, {"vad": [[0.0]] * 3}]
)
def test_a_calibration_that_does_not_fit_is_refused(calibration):
    with pytest.raises(ValueError, match="calibration"):
        preset_config("redheart-tiny", calibration=calibration)


def test_thresholds_chosen_meanwhile_are_not_overwritten(tmp_path):
    read, changes = {"calibration": None, "thresholds": {"fine_emotions": [0.5]}}, {"calibration": {}}
    stored = {"calibration": None, "thresholds": {"fine_emotions": [0.5]}, "memory_slots": 8}
    assert unless_changed(tmp_path, read, changes)(stored) == changes
    with pytest.raises(UserError, match="another command has changed `thresholds`"):
        unless_changed(tmp_path, read, changes)(stored | {"thresholds": {"fine_emotions": [0.4]}})
    with pytest.raises(UserError, match="another command has changed `calibration`"):
        unless_changed(tmp_path, read, changes)(stored | {"calibration": {"vad": [[1.0]]}})
