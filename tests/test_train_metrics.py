"""Figures agree with scikit-learn and SciPy, or with arithmetic by hand; intervals with a slow loop.

In    shipped scenarios and small arrays.
Out   failures where a figure would mislead.
Run   pytest tests/test_train_metrics.py
"""

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import f1_score

from preprocessing import metrics
from preprocessing.errors import UserError
from preprocessing.records import Action, Record
from training.figures import averaged, groups_of, measure, with_intervals


@pytest.fixture
def multi_label():
    """400 rows, 5 labels of different frequency, the last neither true nor predicted; predictions right by halves."""
    random = np.random.default_rng(7)
    truth = random.random((400, 5)) < np.array([0.5, 0.2, 0.05, 0.3, 0.0])
    probabilities = np.clip(0.35 * truth + 0.65 * random.random((400, 5)), 0, 1)
    probabilities[:, 4] *= 0.1
    return truth, probabilities


def test_macro_f1_is_that_of_scikit_learn(multi_label):
    truth, probabilities = multi_label
    predicted = probabilities >= 0.5
    assert not (truth | predicted)[:, 4].any()
    expected = f1_score(truth, predicted, average="macro", zero_division=0)
    assert metrics.macro_f1(truth, predicted)[0] == pytest.approx(expected, abs=1e-12)


def test_pearson_is_that_of_scipy_and_undefined_for_a_constant():
    random = np.random.default_rng(1)
    x = 1000 + random.normal(size=200)
    y = 0.4 * x + random.normal(size=200)
    assert metrics.pearson(x, y)[0] == pytest.approx(pearsonr(x, y).statistic, abs=1e-9)
    assert np.isnan(metrics.pearson(np.full(9, 0.1), np.arange(9))[0])


def test_pairs_and_accuracy_by_hand():
    assert metrics.pair_accuracy([2.0, 1.0, 0.5, 3.0], [1.0, 2.0, 0.5, 0.0])[0] == 2.5 / 4
    assert metrics.accuracy([1, 0, 1, 1], [1, 1, 1, 0])[0] == 0.5
    assert metrics.accuracy([1, 0], [1, 1], np.array([[3.0, 1.0]]))[0] == 0.75


def test_no_threshold_beats_the_chosen_one(multi_label):
    truth, probabilities = (part[:150] for part in multi_label)
    chosen = metrics.best_thresholds(truth, probabilities)
    for label in range(4):
        every = [
            f1_score(truth[:, label], probabilities[:, label] >= cut, zero_division=0)
            for cut in np.unique(probabilities[:, label])
        ]
        found = f1_score(truth[:, label], probabilities[:, label] >= chosen[label])
        assert found == pytest.approx(max(every), abs=1e-12)
    assert chosen[4] == 0.5


def test_a_threshold_lies_between_probabilities_and_never_splits_equal_ones():
    assert metrics.best_thresholds([[True], [True], [False]], [[0.9], [0.7], [0.3]]) == [0.5]
    # Best would be to part the two 0.6, which no threshold can do.
    (threshold,) = metrics.best_thresholds([[True], [False], [False]], [[0.6], [0.6], [0.2]])
    assert threshold == pytest.approx(0.4)


def test_interval_equals_a_slow_loop_over_the_same_resamples(multi_label):
    truth, probabilities = multi_label
    predicted = probabilities >= 0.5
    fast = metrics.bootstrap_interval(lambda weights: metrics.macro_f1(truth, predicted, weights), 400, 200, seed=3)
    random = np.random.default_rng(3)
    slow = []
    for drawn in random.integers(0, 400, size=(200, 400)):
        slow.append(f1_score(truth[drawn], predicted[drawn], average="macro", zero_division=0))
    assert fast == pytest.approx(np.percentile(slow, (2.5, 97.5)), abs=1e-12)


def test_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(size=2000)
    low, high = metrics.bootstrap_interval(lambda weights: metrics.mean(values, weights), 2000)
    error = 1.96 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.15 * error)


def test_many_rows_are_resampled_in_parts_with_the_same_result(monkeypatch):
    values = np.arange(50.0)

    def interval() -> tuple[float, float]:
        return metrics.bootstrap_interval(lambda weights: metrics.mean(values, weights), 50, 100)

    whole = interval()
    monkeypatch.setattr(metrics, "RESAMPLE_CELLS", 500)
    assert interval() == whole


def test_rows_of_one_group_are_drawn_together():
    """Ten copies of each row, in one group, say no more than the rows alone: a loop over groups is the reference."""
    random = np.random.default_rng(0)
    values, owners = random.normal(size=60), np.repeat(np.arange(60), 10)
    of = {"reader": "jsonl", "source": "x", "row": 1, "language": "en"}
    records = [Record(id=str(row), text=f"t{row}", group=f"g{owner}", **of) for row, owner in enumerate(owners)]
    groups = groups_of(records)
    assert groups.tolist() == owners.tolist()
    together = with_intervals(averaged("mean", values[owners]), 600, groups)
    drawn = np.random.default_rng(0).integers(0, 60, size=(1000, 60))
    expected = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5))
    assert together["mean_interval"] == pytest.approx(expected, abs=1e-6)
    apart = with_intervals(averaged("mean", values[owners]), 600)
    widths = [high - low for low, high in (together["mean_interval"], apart["mean_interval"])]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(10), rel=0.15)


def perfect(records: list[Record]) -> dict[str, np.ndarray]:
    """Predictions that repeat the labels of scenarios."""
    widest = max(len(record.actions) for record in records)
    views = np.full((len(records), widest, 3), np.nan)
    for index, record in enumerate(records):
        views[index, : len(record.actions)] = [action.utility for action in record.actions]
    return {
        "basic_emotions": np.array([record.basic_emotions for record in records]),
        "vad_mean": np.array([record.vad for record in records]),
        "utility_views": views,
        "best": np.nanargmax(views[:, :, 1], axis=1),
        "regret": np.array([record.regret for record in records]),
        "acceptability": np.array([record.acceptability for record in records]),
        "circumstances": np.array([record.circumstances for record in records]),
    }


def test_a_model_that_knew_every_label_would_get_full_marks_on_scenarios(scenarios):
    figures = measure("scenarios", scenarios, perfect(scenarios), {})
    names = ("emotion_accuracy", "pearson_v", "pearson_a", "pearson_d", "pearson_utility", "choice_accuracy")
    for name in (*names, "pearson_regret"):
        assert figures[name] == pytest.approx(1), name
        assert figures[f"{name}_interval"] == pytest.approx([1, 1]), name
    assert figures["acceptability_mae"] == figures["circumstances_mae"] == 0
    assert figures["rows"] == len(scenarios)
    assert figures["pearson_utility_rows"] == sum(len(record.actions) for record in scenarios)


def test_the_wrong_answers_are_counted_as_such(scenarios):
    records = scenarios[:40]
    predictions = perfect(records)
    # The worst action for the best in ten scenarios, acceptability off by a quarter in all, valence turned round.
    predictions["best"][:10] = np.nanargmin(predictions["utility_views"][:10, :, 1], axis=1)
    predictions["acceptability"] = predictions["acceptability"] - 0.25
    predictions["vad_mean"] = -predictions["vad_mean"]
    figures = measure("scenarios", records, predictions, {})
    assert figures["choice_accuracy"] == 0.75
    assert figures["acceptability_mae"] == pytest.approx(0.25)
    assert figures["pearson_v"] == pytest.approx(-1)


def test_thresholds_decide_which_emotions_count():
    records = [plain_record(basic_emotions=[float(label == row % 7) for label in range(7)]) for row in range(14)]
    predictions = {"basic_emotions": np.array([record.basic_emotions for record in records]) * 0.4}
    assert measure("goemotions", records, predictions, {})["macro_f1"] == 0
    assert measure("goemotions", records, predictions, {"basic_emotions": [0.3] * 7})["macro_f1"] == 1


def test_an_expert_is_judged_by_its_own_column_alone():
    records = [plain_record(acceptability=[None, None, float(row < 3), None]) for row in range(4)]
    accepted = np.full((4, 4), 0.9)
    assert measure("ethics_justice", records, {"acceptability": accepted}, {})["accuracy"] == 0.75
    # Of the two answers one is never given: F1 6/7 and 0.
    assert measure("ethics_justice", records, {"acceptability": accepted}, {})["macro_f1"] == pytest.approx(
        3 / 7, abs=1e-6
    )
    assert "accuracy" not in measure("ethics_virtue", records, {"acceptability": accepted}, {})


def test_what_cannot_be_measured_is_none_and_an_unknown_reader_is_refused():
    records = [plain_record(vad=[0.1, 0.2, 0.3])]
    figures = measure("emobank", records, {"vad_mean": np.zeros((1, 3))}, {})
    assert figures["pearson_v"] is None
    assert figures["pearson_v_interval"] == [None, None]
    assert measure("emobank", [], {}, {}) == {"rows": 0}
    with pytest.raises(UserError, match="'mine'.*goemotions"):
        measure("mine", records, {}, {})


def test_dominance_that_a_record_does_not_know_has_no_part_in_its_figure():
    known = [[0.1, 0.5, None], [0.4, 0.2, 0.3], [-0.5, None, 0.9], [0.3, 0.1, -0.2]]
    records = [plain_record(vad=vad) for vad in known]
    predicted = np.array([[0.2, 0.4, 0.9], [0.1, 0.3, 0.2], [-0.4, 0.1, 0.5], [0.5, 0.2, 0.1]])
    figures = measure("emobank", records, {"vad_mean": predicted}, {})
    assert [figures.get(f"pearson_{letter}_rows", figures["rows"]) for letter in "vad"] == [4, 3, 3]
    by_hand = np.corrcoef([0.3, 0.9, -0.2], predicted[1:, 2])[0, 1]
    assert figures["pearson_d"] == pytest.approx(by_hand)


def test_records_without_actions_have_no_part_in_choices():
    utilities = ([0.5, 0.1, -0.2], [0.4, 0.3, 0.0], [0.0, -0.4, -0.9])
    acting = plain_record(actions=[Action(text="Go", utility=u) for u in utilities], chosen=0)
    predictions = {
        "utility_views": np.array([[[np.nan] * 3] * 3, list(utilities)]),
        "best": np.array([-1, 1]),
        "regret": np.full((2, 3), np.nan),
    }
    figures = measure("records", [plain_record(), acting], predictions, {})
    assert (figures["choice_accuracy"], figures["choice_accuracy_rows"]) == (1, 1)
    assert (figures["pearson_utility"], figures["pearson_utility_rows"]) == (pytest.approx(1), 3)


def plain_record(**labels: object) -> Record:
    return Record(id="t:1", reader="test", language="en", text="It rained.", source="t", row=1, **labels)
