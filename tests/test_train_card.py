"""The model card: it names figures, data and licences, and claims no more than was taught.

In    configs that say what was taught, and on what.
Out   README.md as a user finds it.
Run   pytest tests/test_train_card.py
"""

import json
import re

import pytest
import yaml

from redheart_hf import RedHeartForMultiTask, preset_config
from training.config import TrainConfig
from training.loading import load_model
from training.model_card import write_model_card


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load_model(tiny_model_dir)


def test_the_card_tells_figures_data_and_licences(loaded, tmp_path):
    figures = {"emobank": {"rows": 500, "pearson_v": 0.741, "pearson_v_interval": [0.70, 0.78], "rejected": 0}}
    config = TrainConfig(output_dir="run", train=["emobank=e.csv@train"], dev=["emobank=e.csv@dev"], epochs=2)
    write_model_card(tmp_path, config, figures, {"emobank": 8000, "kote": 4000}, 1200.0, loaded[0])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    header = yaml.safe_load(front)
    assert (header["license"], header["language"]) == ("cc-by-sa-4.0", ["en", "ko"])
    assert header["library_name"] == "transformers"
    assert "| emobank | pearson_v | 0.741 | 0.700 to 0.780 | 500 |" in body
    assert "--data 'emobank=e.csv@dev'" in body
    assert "share-alike" in body
    assert "20.0 minutes" in body
    write_model_card(tmp_path, config, {}, {"scenarios": 266}, 1200.0, loaded[0])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n", 2)[1])["license"] == "apache-2.0"
    assert "EmoBank is share-alike" not in card
    assert "no rows to measure on" in card


def test_the_card_tells_of_memory_and_of_texts_that_training_and_dev_shared(loaded, tmp_path):
    config = TrainConfig(output_dir=str(tmp_path / "run"), train=["emobank=e.csv@train"])
    write_model_card(tmp_path, config, {}, {"emobank": 8}, 60.0, loaded[0])
    assert "memory:" not in (tmp_path / "README.md").read_text(encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "data.json").write_text(json.dumps({"taken_out_of_dev": {"goemotions": 1113, "kote": 0}}))
    report = {"planned": {"peak": 3 * 2**30}, "measured": {"peak": int(2.5 * 2**30)}}
    (tmp_path / "run" / "memory_report.json").write_text(json.dumps(report))
    write_model_card(tmp_path, config, {}, {"emobank": 8}, 60.0, loaded[0])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "- memory: planned 3.00 GiB, measured 2.50 GiB at most" in card
    assert "measured: 1,113 of goemotions." in card


@pytest.mark.parametrize(
    ("fields", "readers", "said", "unsaid"),
    [
        (
            {"trained_labels": ["vad", "acceptability/justice"]},
            {"emobank": 80},
            "Reads a text in English and.*- valence, arousal.*- acceptability to the justice expert.*"
            "Not taught.*- KOTE's 44.*- acceptability to the virtue expert.*modules beside backbone and heads: none",
            "SURD: shares",
        ),
        (
            {"trained_labels": ["korean_emotions"]},
            {"kote": 9},
            "Reads a text in Korean and.*Not taught.*- valence",
            "text in English",
        ),
        (
            {"trained_labels": ["vad"], "modules": ["surd_head", "affect_filter"]},
            {"emobank": 80, "kote": 9},
            "in English or Korean and.*Not taught.*- SURD: shares.*heads: surd_head, affect_filter.*"
            "head was never taught.*simulated dialogues only",
            "prove no cause",
        ),
        (
            {"trained_labels": ["vad"], "modules": ["surd_head"], "surd_found": {"information": 0.1}},
            {"emobank": 80},
            "- SURD: shares.*Not taught.*prove no cause.*nothing in this model follows a dialogue",
            "never taught|not known to help",
        ),
        (
            {"trained_labels": ["vad"], "modules": ["surd_head", "triangle", "scenario_memory"]},
            {"emobank": 80},
            r"heads \(triangle, scenario_memory\) are not known to help: .*experiments.md",
            r"heads \(surd_head",
        ),
    ],
)
def test_the_card_claims_what_was_taught_and_no_more(fields, readers, said, unsaid, tmp_path):
    model = RedHeartForMultiTask(preset_config("redheart-tiny", **({"modules": []} | fields)))
    config = TrainConfig(output_dir="run", train=["x=y"])
    write_model_card(tmp_path, config, {}, readers, 60.0, model)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert re.search(said, card, re.DOTALL)
    assert not re.search(unsaid, card)
