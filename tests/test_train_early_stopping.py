"""A run that ends early: when, with what, and only once.

In    histories of scores; small runs; the command on shipped scenarios.
Out   the evaluation a run ends with; its checkpoint, its log, its final/; what the same command does then.
Run   `pytest tests/test_train_early_stopping.py`
"""

import json
from pathlib import Path

import numpy as np
import pytest
from test_train_memory_plan import ROOT, train
from tiny_run import build_loop, tiny_config

from preprocessing.errors import UserError
from preprocessing.folders import verify
from redheart_hf import preset_config
from training.checkpoint import checkpoints
from training.early_stopping import EarlyStopping
from training.evaluate import Evaluation
from training.run_state import load_run


def found(score: float) -> Evaluation:
    return Evaluation({}, {}, {"choosing": {"score": score}, "reporting": {"score": 0.0}})


def ends_at(scores: list[float], patience: int, min_delta: float) -> int | None:
    """The number of the evaluation, by counting."""
    best, waited = -np.inf, 0
    for number, score in enumerate(scores):
        waited = 0 if score > best + min_delta else waited + 1
        best = score if waited == 0 else best
        if waited == patience:
            return number
    return None


@pytest.mark.parametrize("patience", [1, 2, 4])
@pytest.mark.parametrize("min_delta", [0.0, 0.05])
def test_it_ends_after_so_many_evaluations_that_are_no_better(patience, min_delta):
    ended = []
    for seed in range(50):
        scores = np.random.default_rng(seed).normal(size=12).cumsum().round(1).tolist()  # equal ones occur
        stopping, stopped = EarlyStopping(patience, min_delta), None
        for number, score in enumerate(scores):
            stopping.see(100 * (number + 1), found(score))
            if stopping.stopped:
                stopped = number
                break
        assert stopped == ends_at(scores, patience, min_delta)
        ended.append(stopped)
    assert len(set(ended)) > 3


def test_what_is_not_scored_is_refused_and_without_patience_nothing_is_asked():
    nothing = Evaluation({}, {}, {"choosing": {}, "reporting": {}})
    with pytest.raises(UserError, match="early_stopping_patience 2: dev has no rows in its choosing half"):
        EarlyStopping(2).see(1, nothing)
    off = EarlyStopping(None)
    off.see(1, nothing)
    assert not off.stopped


def test_a_run_ends_in_order_and_goes_on_to_nothing(tokenizer, scenarios, tmp_path: Path):
    """Nothing is 10 better than the first: the third evaluation ends the run, at a step no checkpoint was due at."""
    fields = {"eval_steps": 3, "save_steps": 5, "log_steps": 4, "max_steps": 30}
    config = tiny_config(tmp_path / "run", early_stopping_patience=2, early_stopping_min_delta=10.0, **fields)
    loop = build_loop(tokenizer, config, scenarios[:24])
    loop.train()
    assert loop.step == 9
    newest = checkpoints(tmp_path / "run")[-1]
    state = json.loads((newest / "state.json").read_text())
    assert state["step"] == 9
    assert [step for step, _ in state["early_stopping"]] == [3, 6, 9]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [4, 8, 9]  # the losses of step 9 are not lost
    assert lines[-1]["stopped_early"] == {
        "best_step": 3,
        "best_score": state["early_stopping"][0][1],
        "evaluations_since": 2,
    }
    again = build_loop(tokenizer, config, scenarios[:24])
    load_run(again, newest)
    assert again.is_over
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again.train()
    assert again.step == 9
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_the_command_says_so_writes_final_and_has_nothing_left_to_do(tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    dev = json.dumps([f"scenarios={ROOT / 'data' / 'scenarios' / 'dev.jsonl'}"])
    options = [
        "--preset",
        "redheart-tiny",
        "--model.modules",
        "[]",
        "--dev",
        dev,
        "--max_steps",
        20,
        "--batch_size",
        4,
    ]
    options += ["--eval_steps", 2, "--early_stopping_patience", 1, "--early_stopping_min_delta", 2]
    done = train(tmp_path / "run", tmp_path / "tokenizer", *options)
    assert done.returncode == 0, done.stderr
    assert "ended early, after step 4 of 20: dev was best at step 2" in done.stdout
    final = tmp_path / "run" / "final"
    assert verify(final)["step"] == 4
    newest = checkpoints(tmp_path / "run")[-1]
    assert (final / "model.safetensors").read_bytes() == (newest / "model.safetensors").read_bytes()
    changed = (final / "manifest.json").stat().st_mtime_ns
    again = train(tmp_path / "run", tmp_path / "tokenizer", *options)
    assert again.returncode == 0, again.stderr
    assert "nothing is left to do" in again.stdout
    assert (final / "manifest.json").stat().st_mtime_ns == changed


def test_settings_that_would_do_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"early_stopping_min_delta is 0\.1, but without early_stopping_patience"):
        tiny_config(tmp_path, early_stopping_min_delta=0.1)
    with pytest.raises(UserError, match="early_stopping_patience is 3, but neither dev nor holdout"):
        tiny_config(tmp_path, early_stopping_patience=3).refuse_idle_settings(preset_config("redheart-tiny"))
