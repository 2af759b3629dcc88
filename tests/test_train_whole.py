"""training/train.py from the recipe to final/, and what a second start of it finds.

In    a recipe of three steps on the shipped scenarios, thresholds stored after its end.
Out   final/ as a user meets it.
Run   `pytest tests/test_train_whole.py`
"""

import json
from pathlib import Path

import pytest
from tiny_run import ROOT, SIZES, tiny_config

from preprocessing.errors import UserError
from preprocessing.files import check_output
from preprocessing.folders import verify
from training.checkpoint import checkpoints
from training.report import store_thresholds
from training.run_facts import native_precision
from training.run_log import seconds_logged
from training.train import train

SCENARIOS = ROOT / "data" / "scenarios"


@pytest.fixture
def run_config(tokenizer_dir: Path, tmp_path: Path, monkeypatch, own_precision):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    config = tiny_config(
        tmp_path / "run",
        tokenizer=str(tokenizer_dir),
        model=SIZES,
        dev=[f"scenarios={SCENARIOS / 'dev.jsonl'}"],
        max_steps=3,
        mixed_precision="auto",
    )
    config.train = [f"scenarios={SCENARIOS / 'train.jsonl'}"]
    return config


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_finished_run_started_again_leaves_final_as_it_is(run_config, tmp_path: Path):
    train(run_config)
    final = tmp_path / "run" / "final"
    (last,) = checkpoints(tmp_path / "run")[-1:]
    assert verify(final) == {name: verify(last)[name] for name in ("step", "identity")}
    assert {"model.safetensors", "tokenizer.json", "README.md", "metrics.json"} <= set(contents(final))
    saved = json.loads((final / "train_config.json").read_text(encoding="utf-8"))
    assert saved["mixed_precision"] == native_precision()  # what `auto` was found to be
    store_thresholds(final, {"basic_emotions": [0.4] * 7})
    before = contents(final)
    train(run_config)
    assert contents(final) == before
    (final / "model.safetensors").write_bytes(b"lost")
    with pytest.raises(UserError, match=r"final/model.safetensors is damaged"):
        train(run_config)


def test_a_run_that_ended_before_final_was_written_writes_it(run_config, tmp_path: Path):
    train(run_config)
    final = tmp_path / "run" / "final"
    metrics = (final / "metrics.json").read_bytes()
    for path in final.iterdir():
        path.unlink()
    final.rmdir()
    # As if the three steps had taken an hour in an earlier stretch: the card says how long the whole run took.
    with (tmp_path / "run" / "timings.jsonl").open("a", encoding="utf-8") as timings:
        timings.write(json.dumps({"step": 3, "seconds": 3600.0}) + "\n")
    assert seconds_logged(tmp_path / "run") > 3600
    train(run_config)
    assert (final / "metrics.json").read_bytes() == metrics
    assert " 60." in (final / "README.md").read_text(encoding="utf-8")


def test_a_file_both_trained_on_and_dev_is_refused(run_config):
    run_config.dev = run_config.train
    with pytest.raises(UserError, match=r"train\.jsonl.*name the same rows.*holdout"):
        train(run_config)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "metrics.json"):
        with pytest.raises(UserError, match="cannot be written"):
            check_output("--output", place, [])
    check_output("--output", tmp_path / "new" / "metrics.json", [])
    assert not (tmp_path / "new").exists()
