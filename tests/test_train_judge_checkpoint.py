"""train-validate: a checkpoint judged on its run's dev rows gives the figures that the run itself wrote.

In    a run of four steps on the shipped scenarios, its checkpoints complete and thinned.
Out   failures where another model, or other rows, would be judged.
Run   pytest tests/test_train_judge_checkpoint.py
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import run_command
from tiny_run import ROOT, SIZES, tiny_config

from training import judge_checkpoint
from training.checkpoint import checkpoints
from training.train import train

SCENARIOS = ROOT / "data" / "scenarios"


@pytest.fixture
def folder(tokenizer_dir: Path, tmp_path: Path, monkeypatch, own_precision) -> Path:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    config = tiny_config(tmp_path / "runs" / "one", tokenizer=str(tokenizer_dir), model=SIZES, max_steps=4)
    config = replace(config, train=[f"scenarios={SCENARIOS / 'train.jsonl'}"], eval_steps=2, keep_complete=1)
    train(replace(config, dev=[f"scenarios={SCENARIOS / 'dev.jsonl'}"]))
    return tmp_path / "runs" / "one"


def written(folder: Path, step: int) -> dict:
    """What the run wrote of dev after `step`."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return next(line for line in lines if line["step"] == step and "eval" in line)


def test_the_newest_checkpoint_and_an_older_one_have_the_figures_of_the_run(folder, tmp_path):
    output = tmp_path / "figures.json"
    code, out, err = run_command(judge_checkpoint, "--output", output)
    assert code == 0, err
    found = json.loads(output.read_text())
    assert found["figures"] == written(folder, 4)["eval"]
    assert found["scores"]["choosing"] == written(folder, 4)["score"]["choosing"]
    assert "emotion_accuracy" in out
    older = checkpoints(folder)[0]
    code, _, err = run_command(judge_checkpoint, older.name, "--run", folder, "--output", output)
    assert code == 0, err
    found = json.loads(output.read_text())
    assert found["figures"] != written(folder, 4)["eval"]
    for name, value in written(folder, 2)["eval"]["scenarios"].items():
        if isinstance(value, float):  # the older one was thinned to two bytes a number, or is the best and whole
            assert found["figures"]["scenarios"][name] == pytest.approx(value, abs=0.08)


def test_what_is_not_there_is_said_with_what_is(folder, tmp_path):
    code, _, err = run_command(judge_checkpoint, "checkpoint_epoch_0020.pt")
    assert code == 2
    assert checkpoints(folder)[0].name in err
    code, _, err = run_command(judge_checkpoint, "--run", tmp_path)
    assert code == 2
    assert "no checkpoint yet" in err
