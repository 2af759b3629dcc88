"""Parity of two languages and differences between groups: figures beside scikit-learn's and sums by hand.

In    GoEmotions and its translation, KoSBi (REDHEART_DATA_DIR); the tiny model, which knows nothing.
Out   nothing.
Run   `REDHEART_DATA_DIR=/path/to/data pytest tests/test_train_fairness.py`
"""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from sklearn.metrics import f1_score, roc_auc_score

from preprocessing.readers import parse_source, read
from training import fairness
from training.fairness import auc, group_figures, paired, parity_figures, spread
from training.inference import predict_records
from training.loading import load_model

ROWS = 120


@pytest.fixture(scope="module")
def files(data_dir: Path, tmp_path_factory) -> dict[str, Path]:
    """The first rows of each file, laid out as the files are; of KoSBi enough for two categories."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("goemotions/original_dev.tsv", "goemotions_ko_mt/dev.tsv"):
        (folder / name).parent.mkdir()
        lines = (data_dir / name).read_text(encoding="utf-8").splitlines(keepends=True)[:ROWS]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    with gzip.open(data_dir / "korean_safety" / "kosbi_valid.json.gz", "rt", encoding="utf-8") as file:
        rows = json.load(file)
    (folder / "kosbi.json").write_text(json.dumps(rows[:900], ensure_ascii=False), encoding="utf-8")
    return {
        "english": folder / "goemotions/original_dev.tsv",
        "korean": folder / "goemotions_ko_mt/dev.tsv",
        "groups": folder / "kosbi.json",
    }


@pytest.fixture
def model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("# A card\n", encoding="utf-8")
    return tmp_path / "model"


def pairs_of(files: dict[str, Path]) -> list[str]:
    return [f"goemotions_fine={files['english']}", f"goemotions_ko_mt={files['korean']}"]


def test_pairs_are_of_one_comment(files):
    english, korean = (read(parse_source(given)).records for given in pairs_of(files))
    ones, others = paired(english, korean[::-1])
    assert len(ones) == ROWS
    assert all(set(one.same_as) & set(other.same_as) for one, other in zip(ones, others, strict=True))
    assert {one.language for one in ones} == {"en"}
    assert {other.language for other in others} == {"ko"}


def test_figures_of_parity_are_those_of_scikit_learn_and_numpy(files, tiny_model_dir):
    model, tokenizer = load_model(tiny_model_dir)
    records = paired(*(read(parse_source(given)).records for given in pairs_of(files)))
    one, other = (predict_records(model, tokenizer, of, progress=False) for of in records)
    thresholds = {"basic_emotions": np.median(one["basic_emotions"], axis=0).tolist()}
    figures = parity_figures(records, (one, other), thresholds, ["basic_emotions", "vad"])
    assert "fine_emotions_f1" not in figures["english"]  # which it never learned
    truth = np.asarray([record.basic_emotions for record in records[0]]) >= 0.5
    for name, answers in (("english", one), ("korean", other)):
        found = answers["basic_emotions"] >= thresholds["basic_emotions"]
        expected = f1_score(truth, found, average="macro", zero_division=0)
        assert figures[name]["basic_emotions_f1"] == pytest.approx(expected, abs=1e-6)
    agreement = figures["parity"]
    first, second = (answers["vad_mean"][:, 0] for answers in (one, other))
    assert agreement["valence_r"] == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-5)
    assert agreement["valence_difference"] == pytest.approx((second - first).mean(), abs=1e-6)
    strongest = [answers["basic_emotions"].argmax(axis=1) for answers in (one, other)]
    assert agreement["same_strongest"] == pytest.approx((strongest[0] == strongest[1]).mean(), abs=1e-6)


def test_auc_is_scikit_learns_with_ties_and_weights():
    random = np.random.default_rng(0)
    values, positive = random.integers(0, 12, 200) / 4, random.random(200) < 0.3
    weights = random.integers(0, 4, (3, 200)).astype(float)
    assert auc(values, positive)[0] == pytest.approx(roc_auc_score(positive, values))
    for row, found in zip(weights, auc(values, positive, weights), strict=True):
        assert found == pytest.approx(roc_auc_score(positive, values, sample_weight=row))


def test_a_category_that_is_heard_more_darkly_shows_beyond_chance():
    random = np.random.default_rng(1)
    categories = np.repeat(["a", "b", "small"], [200, 200, 20])
    valence, safe = random.normal(0, 0.2, 420), np.ones(420, dtype=bool)
    safe[:30] = False
    even = group_figures(valence, categories, safe)
    assert "valence small" not in even
    assert even["spread"] < even["spread_by_chance"]
    valence[categories == "b"] -= 0.3
    darker = group_figures(valence, categories, safe)
    expected = valence[safe & (categories == "a")].mean() - valence[categories == "b"].mean()
    assert darker["spread"] == pytest.approx(expected)
    assert darker["spread"] > darker["spread_by_chance"]
    assert spread(np.asarray([1.0, 3.0, 0.0]), np.asarray([0, 0, 1])) == 2.0


def test_the_command_prints_and_writes_figures_and_the_card(files, model_dir, tmp_path):
    given = ["--model", model_dir, "--pairs", *pairs_of(files), "--groups", f"kosbi={files['groups']}"]
    code, out, err = run_command(fairness, *given, "--output", tmp_path / "found.json", "--card")
    assert code == 0, err
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert {"english", "korean", "parity", "kosbi"} == set(found)
    card = (model_dir / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# A card")
    assert card.count("## One text in two languages, and groups of people\n") == 1
    (model_dir / "README.md").write_text(f"{card}\n## Limits\n\nSome.\n", encoding="utf-8")
    assert run_command(fairness, *given, "--output", tmp_path / "found.json", "--card")[0] == 0
    again = (model_dir / "README.md").read_text(encoding="utf-8")
    assert again.count("## One text in two languages, and groups of people\n") == 1  # the newer takes its place
    assert again.startswith("# A card\n\n## Limits\n\nSome.\n")
    for text in (out, card):
        assert f"{found['parity']['same_strongest']:.3f}" in text
        assert "valence 나이/세대" in text
    rows = json.loads(files["groups"].read_text(encoding="utf-8"))
    assert found["kosbi"]["rows"] == len(rows)
    safe = sum(row["sentence_label"] == "safe" and row["demographic_category"] == "나이/세대" for row in rows)
    assert found["kosbi"]["valence 나이/세대_rows"] == safe


def test_what_was_never_learned_is_not_measured(files, model_dir):
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    (model_dir / "config.json").write_text(json.dumps(config | {"trained_labels": ["basic_emotions"]}))
    code, out, err = run_command(fairness, "--model", model_dir, "--pairs", *pairs_of(files))
    assert code == 0, err
    assert "same_strongest" in out
    assert "valence" not in out
    code, _, err = run_command(fairness, "--model", model_dir, "--groups", f"kosbi={files['groups']}")
    assert code == 2
    assert "this model learned ['basic_emotions'] alone" in err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "give --pairs, --groups or both"),
        (["--groups", "kote=x.tsv"], "write kosbi=PATH, got 'kote=x.tsv'"),
        (["--groups", "kosbi=x.json", "--batch-size", "0"], "--batch-size must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, told, model_dir):
    code, _, err = run_command(fairness, "--model", model_dir, *given)
    assert code == 2
    assert told in err
