"""No long run begins that ten records show to be broken.

In    a tiny run of the shipped scenarios, and settings that cannot work.
Out   failures where a broken run would begin, or a sound one would not.
Run   pytest tests/test_train_preflight.py
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tiny_run import ROOT, SIZES, tiny_config

from preprocessing.errors import UserError
from training.preflight import FILE, shorter, table
from training.preflight import ShortRun as Run
from training.regret_alternatives import Alternatives
from training.train import train

SCENARIOS = ROOT / "data" / "scenarios"


@pytest.fixture
def config(tokenizer_dir: Path, tmp_path: Path, monkeypatch, own_precision):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    config = tiny_config(tmp_path / "run", tokenizer=str(tokenizer_dir), model=SIZES, max_steps=2, preflight=True)
    return replace(config, train=[f"scenarios={SCENARIOS / 'train.jsonl'}"], gradient_accumulation_steps=2)


def test_a_sound_run_passes_and_is_not_asked_again(config, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**config.to_dict(), "resume": "auto"}), encoding="utf-8")
    # A process of its own: its memory is the run's, and not that of the tests before this one.
    command = [sys.executable, str(ROOT / "training" / "train.py"), str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout
    found = json.loads((tmp_path / "run" / FILE).read_text())
    assert found["passed"] is True
    assert len(found["runs"]) == 3
    for run in found["runs"]:
        assert len(run["losses"]) >= 12
        assert sum(run["losses"][-4:]) < sum(run["losses"][:4])
        assert 0 < run["peak"]["cpu"] <= 1.02 * run["planned"]["cpu"]
    assert "projected to take" in said
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    before = (tmp_path / "run" / FILE).read_bytes()
    train(replace(config, output_dir=str(tmp_path / "run"), log_steps=1))  # resumed: final stands
    assert (tmp_path / "run" / FILE).read_bytes() == before


def test_a_run_that_may_not_move_its_weights_passes_by_models_that_may(config, tmp_path, capsys):
    train(replace(config, update_weights=False))
    assert json.loads((tmp_path / "run" / FILE).read_text())["passed"] is True
    assert "weights unchanged: " in capsys.readouterr().out


@pytest.mark.parametrize("kind", [pytest.param("data", marks=pytest.mark.slow), "retrieved"])
def test_ten_records_are_lent_alternatives_by_all_the_data(config, tmp_path, encoder, kind, monkeypatch):
    """A passed preflight: which cases lend, and what the record that asks is called, is of the whole data set."""
    asked = []
    lent = Alternatives.lent

    def noted(self, row, *arguments):
        asked.append((row, {case for case, _ in lent(self, row, *arguments)}))
        return lent(self, row, *arguments)

    monkeypatch.setattr(Alternatives, "lent", noted)
    with_encoder = {"text_encoder": str(encoder), "tokenizer": None} if kind == "retrieved" else {}
    model = {"modules": [], "max_length": 96} if kind == "retrieved" else config.model
    train(replace(config, num_regrets=5, regret_alternatives=kind, max_steps=1, model=model, **with_encoder))
    assert json.loads((tmp_path / "run" / FILE).read_text())["passed"] is True
    rows = {row for row, _ in asked}
    assert max(rows) > 30
    assert any(max(lenders, default=0) > 30 for _, lenders in asked)


@pytest.mark.parametrize(("rate", "reason"), [(1e4, "did not fall|not finite"), (1e38, "did not fall|not finite")])
def test_a_run_that_does_not_learn_does_not_begin(config, tmp_path, rate, reason):
    broken = replace(config, learning_rate=rate)
    with pytest.raises(UserError, match=rf"does not begin.*({reason}).*--preflight false"):
        train(broken)
    assert not (tmp_path / "run" / "final").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert json.loads((tmp_path / "run" / FILE).read_text())["passed"] is False


def test_a_run_of_days_is_told_what_would_bring_it_under(config):
    long = replace(config, epochs=60, max_steps=None)
    said = table([Run([2.0, 1.0, 0.5], 3.0, 1.0, {"cpu": 2**30})] * 3, 48.0, long)
    assert "48.0 hours" in said
    assert "warning: that is over 24 hours" in said
    assert "epochs 30" in shorter(48.0, long)
    assert "max_steps 1000" in shorter(48.0, replace(config, max_steps=2000))
