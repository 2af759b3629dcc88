"""A sweep over learning rates: what is compared, what is chosen, and what a kill leaves of it.

In    short runs of a tiny model on some of the shipped scenarios; scores written by the test.
Out   failures where rates are not compared alike, a run that diverged is hidden, or a killed sweep ends elsewhere.
Run   pytest tests/test_train_lr_sweep.py
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import ROOT, SIZES, tiny_config, tiny_model

from preprocessing.encode import encode
from preprocessing.errors import UserError
from training.build import build_accelerator
from training.collator import Collator
from training.command_line import parse_config
from training.dev_scores import DevScores
from training.evaluate import evaluate_dev
from training.lr_sweep import began_with, parse_arguments
from training.lr_sweep_choice import choose, finer
from training.lr_sweep_point import IN_A_ROW
from training.lr_sweep_runs import FOLDER, PLOT, RESULT, Sweep
from training.lr_sweep_settings import SweepSettings, short, sweep_settings, with_rate
from training.optim import learning_rate_at
from training.train import train

SCENARIOS = ROOT / "data" / "scenarios"


@pytest.fixture
def sweep_of(tokenizer, scenarios, dev, tmp_path, monkeypatch, own_precision):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    dataset = encode(scenarios[:24], tokenizer, SIZES["max_length"])

    def build(settings: SweepSettings, folder: str = "run", **changes) -> Sweep:
        config = tiny_config(tmp_path / folder, dev=["scenarios=given"], **changes)
        rows = DevScores(tiny_model(tokenizer).config, tokenizer, {"scenarios": dev}, "choosing")
        accelerator = build_accelerator(config)
        collator = Collator(tokenizer)
        return Sweep(config, settings, accelerator, dataset, collator, rows, lambda _: tiny_model(tokenizer), 60)

    return build


def saved(folder: Path) -> dict:
    return json.loads((folder / FOLDER / RESULT).read_text(encoding="utf-8"))


def test_a_sweep_scores_each_rate_and_says_why_it_chose(sweep_of, tmp_path, tokenizer, dev):
    sweep = sweep_of(SweepSettings(points=3, low=1e-4, steps=4, seeds=2))
    chosen = sweep.run()
    found = saved(tmp_path / "run")
    assert [(point["learning_rate"], point["seed"]) for point in found["points"]] == [
        (rate, seed) for rate in (1e-4, 1e-3, 1e-2) for seed in (0, 1)
    ]
    assert all(point["steps"] == 4 and math.isfinite(point["loss"] + point["dev_loss"]) for point in found["points"])
    means = {
        rate: np.mean([point["scores"]["score"] for point in found["points"] if point["learning_rate"] == rate])
        for rate in (1e-4, 1e-3, 1e-2)
    }
    assert chosen.rate == found["chosen"] == max(means, key=means.get)
    assert found["why"] == chosen.why
    assert (tmp_path / "run" / FOLDER / PLOT).read_bytes()[:4] == b"\x89PNG"


def test_dev_is_scored_as_an_evaluation_of_the_run_scores_it(sweep_of, tokenizer, dev):
    model = tiny_model(tokenizer)
    found, _ = sweep_of(SweepSettings()).dev.score(model)
    assert found.values == evaluate_dev(model, tokenizer, {"scenarios": dev}).scores["choosing"]


def test_all_rates_begin_with_the_same_weights_and_see_the_same_batches(sweep_of, tmp_path):
    """Rates so small that no weight moves: whatever differed then would differ in the start or the data."""
    sweep_of(SweepSettings(points=3, low=1e-30, high=1e-28, steps=3), min_learning_rate=0.0, weight_decay=0.0).run()
    points = saved(tmp_path / "run")["points"]
    assert len({point["learning_rate"] for point in points}) == 3
    assert len({(point["loss"], point["dev_loss"]) for point in points}) == 1


def test_a_rate_at_which_the_loss_diverges_is_out_and_said_to_be(sweep_of, tmp_path):
    chosen = sweep_of(SweepSettings(points=2, low=1e-3, high=1e6, steps=24), optimizer="sgd", max_grad_norm=1e9).run()
    low, high = saved(tmp_path / "run")["points"]
    assert low["diverged"] is None
    assert "not finite" in high["diverged"] or f"for {IN_A_ROW} steps" in high["diverged"]
    assert high["steps"] < 24
    assert not high["scores"]
    assert chosen.rate == 1e-3


def test_a_rate_that_diverges_while_torch_looks_for_a_nan_is_out_all_the_same(sweep_of, tmp_path):
    """As with --debug: the NaN ends the backward pass, before a loss or a gradient shows it."""
    settings = SweepSettings(points=2, low=1e-3, high=1e25, steps=8)
    with torch.autograd.set_detect_anomaly(True):
        chosen = sweep_of(settings, optimizer="sgd", max_grad_norm=1e9, debug=True).run()
    assert "Backward0' returned nan values" in saved(tmp_path / "run")["points"][1]["diverged"]
    assert chosen.rate == 1e-3


def test_a_sweep_in_which_every_rate_diverges_is_refused(sweep_of):
    with pytest.raises(UserError, match=r"diverged at every rate from 10000 to 1e\+06: .* lower `low`"):
        sweep_of(SweepSettings(points=2, low=1e4, high=1e6, steps=20), optimizer="sgd", max_grad_norm=1e9).run()


def test_a_sweep_takes_up_what_is_there_and_does_another_anew(sweep_of, tmp_path, capsys):
    settings = SweepSettings(points=3, low=1e-4, steps=3, refine=True)
    sweep_of(settings).run()
    path = tmp_path / "run" / FOLDER / RESULT
    whole = json.loads(path.read_text())
    # As after a kill: some runs are written down, of which one could not come out of a run here.
    begun = whole | {"points": whole["points"][:2], "chosen": None, "why": None}
    marked = begun["points"][0] | {"dev_loss": -7.0}
    path.write_text(json.dumps(begun | {"points": [marked, begun["points"][1]]}))
    sweep_of(settings).run()
    again = saved(tmp_path / "run")
    assert again["points"][0]["dev_loss"] == -7.0, "a run that was there is not done again"
    assert again["points"][1:] == whole["points"][1:]
    assert (again["chosen"], again["why"]) == (whole["chosen"], whole["why"])
    capsys.readouterr()
    elsewhere = {"num_workers": 1, "ram_gib": 2.0, "save_epochs": 3, "verbose": True, "preflight": True}
    assert sweep_of(settings, **elsewhere).points == sweep_of(settings).points != []
    assert "done anew" not in capsys.readouterr().out, "nothing of this decides what a rate gives"
    sweep_of(replace(settings, steps=4)).run()
    assert "other settings or data: it is done anew" in capsys.readouterr().out
    assert {point["steps"] for point in saved(tmp_path / "run")["points"]} == {4}


def test_all_rates_of_a_recipe_move_together_and_the_schedule_ends_with_the_short_run():
    config = tiny_config("out", answer_learning_rate=0.05, text_encoder_start=100, warmup_steps=120)
    slower = with_rate(config, config.learning_rate / 8)
    assert slower.answer_learning_rate == pytest.approx(0.05 / 8)
    assert slower.min_learning_rate == pytest.approx(config.min_learning_rate / 8)
    assert slower.text_encoder_learning_rate is None
    of = short(slower, 60, 600, seed=3)
    assert (of.max_steps, of.warmup_steps, of.text_encoder_start, of.seed) == (60, 12, 10, 3)
    last = learning_rate_at(59, of.learning_rate, of.min_learning_rate, of.warmup_steps, of.max_steps)
    assert last == pytest.approx(of.min_learning_rate)


@pytest.mark.parametrize("peak", np.linspace(-5, -2, 13))
@pytest.mark.parametrize("seed", range(4))
def test_five_refined_rates_find_the_best_of_a_fine_grid_within_a_factor_of_two(peak: float, seed: int):
    """Scores that fall to both sides of a peak anywhere in the range, more steeply above it, with noise."""
    random = np.random.default_rng((seed, round(-peak * 100)))

    def score(rate: float) -> float:
        away = math.log10(rate) - peak
        return 0.6 - (0.06 if away < 0 else 0.12) * away**2 + random.normal(0, 0.002)

    coarse = {rate: score(rate) for rate in SweepSettings().rates()}
    tried = coarse | {rate: score(rate) for rate in finer(coarse)}
    assert len(tried) <= 9
    assert abs(math.log10(choose(tried, coarse).rate) - peak) <= math.log10(2)


def test_a_choice_at_the_edge_says_so():
    tried = {1e-3: 0.1, 1e-2: 0.2}
    assert "at the edge of the sweep" in choose(tried, tried).why


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"point": 5}, "unknown field 'point'; did you mean points?"),
        ({"points": 1}, "lr_sweep.points must be at least 2, got 1"),
        ({"low": 1e-2, "high": 1e-3}, "positive and finite, got 0.01 and 0.001"),
        ({"steps": "many"}, "lr_sweep.steps must be of type int, got 'many'"),
        ({"refine": 1}, "lr_sweep.refine must be of type bool, got 1"),
    ],
)
def test_settings_that_cannot_be_are_named(values: dict, said: str):
    with pytest.raises(UserError) as refusal:
        sweep_settings(values)
    assert said in str(refusal.value)
    with pytest.raises(UserError):
        replace(tiny_config("out", dev=["scenarios=given"]), lr_sweep=values)


def test_a_sweep_without_dev_is_refused():
    with pytest.raises(UserError, match="lr_sweep chooses by dev"):
        tiny_config("out", lr_sweep={})


def test_the_command_puts_its_flags_over_the_recipe(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "output_dir: a\ntrain: [scenarios=a.jsonl]\nholdout: {scenarios: 9}\nlr_sweep: {points: 7, seeds: 2}\n"
    )
    config = parse_arguments([str(recipe), "--points", "3", "--refine", "--seed", "4"])
    assert config.lr_sweep == {"points": 3, "seeds": 2, "refine": True}
    assert config.seed == 4
    assert parse_config([str(recipe), "--lr_sweep.points", "4"]).lr_sweep == {"points": 4, "seeds": 2}


def test_a_run_that_goes_on_keeps_the_rate_it_began_with(tmp_path: Path):
    config = tiny_config("out", dev=["scenarios=given"], lr_sweep={}, answer_learning_rate=0.1)
    began = with_rate(config, 3e-4)
    (tmp_path / "state.json").write_text(json.dumps({"train_config": began.to_dict()}))
    assert began_with(config, tmp_path) == began
    # Another proportion of the rates is another run: it stays different, and going on is refused.
    other = replace(config, answer_learning_rate=0.2)
    assert began_with(other, tmp_path) == other
    assert other.differences(began.to_dict())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_sweep_ends_as_one_that_was_not(tokenizer_dir: Path, tmp_path: Path):
    """Real processes: one is killed once it has written a run down, and started again."""
    recipe = tmp_path / "recipe.json"
    fields = {"tokenizer": str(tokenizer_dir), "model": SIZES, "holdout": {"scenarios": 60}, "max_steps": 40}
    fields |= {"train": [f"scenarios={SCENARIOS / 'train.jsonl'}"], "batch_size": 4, "lr_sweep": {"points": 3}}
    recipe.write_text(json.dumps(fields))
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "HF_DATASETS_CACHE": str(tmp_path / "cache")}

    def start(folder: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "training.lr_sweep", str(recipe), "--steps", "8", "--refine"]
        arguments = [*command, "--output_dir", str(tmp_path / folder)]
        return subprocess.Popen(arguments, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    killed = start("killed")
    path = tmp_path / "killed" / FOLDER / RESULT
    while not path.exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert len(saved(tmp_path / "killed")["points"]) < len(saved(tmp_path / "whole")["points"])
    assert start("killed").wait() == 0
    one, other = saved(tmp_path / "whole"), saved(tmp_path / "killed")
    assert [other[name] for name in ("points", "chosen", "why")] == [one[name] for name in ("points", "chosen", "why")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_sweeps_once_and_goes_on_with_its_choice(tokenizer_dir, tmp_path, monkeypatch, own_precision, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    fields = {"tokenizer": str(tokenizer_dir), "model": SIZES, "holdout": {"scenarios": 60}, "max_steps": 6}
    config = tiny_config(tmp_path / "run", lr_sweep={"points": 3, "low": 1e-4, "steps": 4}, **fields)
    config.train = [f"scenarios={SCENARIOS / 'train.jsonl'}"]
    train(config)
    chosen = saved(tmp_path / "run")["chosen"]
    trained = json.loads((tmp_path / "run" / "final" / "train_config.json").read_text())
    assert trained["learning_rate"] == chosen
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1])["learning_rate"] == chosen
    (tmp_path / "run" / FOLDER / RESULT).unlink()
    capsys.readouterr()
    train(config)
    assert "nothing is left to do" in capsys.readouterr().out
    assert not (tmp_path / "run" / FOLDER / RESULT).exists()
