"""A killed run ends like one that was left alone: the same bytes, dropout on, in whatever moment it was killed.

In    the shipped scenarios, a tokenizer trained on them, tests/tiny_run.py as the run that is killed.
Out   weights, optimizer, terms' weights and metrics.jsonl compared byte by byte.
Run   `pytest tests/test_train_resume.py -m "slow or not slow"`
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import NEEDS_COMPILER

from training.checkpoint import FOLDER, checkpoint_at, checkpoints, step_of
from training.checkpoint_metadata import METADATA

ROOT = Path(__file__).resolve().parents[1]
DRIVER = [sys.executable, str(ROOT / "tests" / "tiny_run.py")]
STEPS = 8
KEPT_OUT = ("train_config", "numerics")  # they name the folder, which differs


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}


def spec_of(
    tokenizer_dir: Path,
    output_dir: Path,
    loss_weighting: str,
    log_steps: int = 1,
    optimizer: str = "adamw",
    fields: dict[str, Any] | None = None,
    **more: Any,
) -> str:
    config = {"output_dir": str(output_dir), "max_steps": STEPS, "loss_weighting": loss_weighting}
    config |= {"optimizer": optimizer, "momentum": 0.9 if optimizer == "sgd" else 0.0}
    config |= {"gradient_accumulation_steps": 2, "batch_size": 3, "save_total_limit": 2, "log_steps": log_steps}
    return json.dumps({"tokenizer": str(tokenizer_dir), "config": config | (fields or {})} | more)


def finish(*specs: str) -> int:
    """How many lives were killed on the way."""
    ended = subprocess.run([*DRIVER, *specs], capture_output=True, text=True, env=environment())
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout.count("killed")


def result_of(output_dir: Path) -> dict[str, Any]:
    """Everything that a run leaves behind and that decides how it would go on."""
    last = checkpoint_at(output_dir, STEPS)
    state = json.loads((last / "state.json").read_text(encoding="utf-8"))
    tensors = {name: (last / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}
    files = {name: (output_dir / name).read_bytes() for name in ("metrics.jsonl", f"{FOLDER}/{METADATA}")}
    return tensors | files | {name: state[name] for name in state if name not in KEPT_OUT}


def assert_same_run(one: Path, other: Path, log_steps: int = 1) -> None:
    expected, found = result_of(one), result_of(other)
    assert [name for name in expected if expected[name] != found[name]] == []
    lines = [json.loads(line) for line in found["metrics.jsonl"].splitlines()]
    logged = [line["step"] for line in lines if "loss" in line]
    assert logged == sorted({*range(log_steps, STEPS + 1, log_steps), STEPS})
    assert step_of(checkpoints(other)[-1]) == STEPS
    assert not list(other.rglob(".*"))


def test_kills_while_checkpoints_are_written_beside_the_steps_change_nothing(tokenizer_dir: Path, tmp_path: Path):
    """Against a run that waited for each of its saves; one kill is inside a save, at its fifth flush."""
    for name, way, kills in (("whole", "off", []), ("killed", "on", [1, -5, 3])):
        fields = {"save_async": way, "keep_complete": 1}
        finish(spec_of(tokenizer_dir, tmp_path / name, "uncertainty", 3, fields=fields, kills=kills))
    assert_same_run(tmp_path / "whole", tmp_path / "killed", log_steps=3)


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("adamw_8bit", marks=NEEDS_COMPILER), "sgd", "adafactor"])
def test_two_kills_change_nothing(tokenizer_dir: Path, tmp_path: Path, optimizer: str):
    # A negative number: inside a save, at that flush; a checkpoint has about twenty files. Losses are logged every
    # third step and saved every second: their means reach over checkpoints.
    finish(
        spec_of(tokenizer_dir, tmp_path / "whole", "uncertainty", 3, optimizer, kills=[]),
        spec_of(tokenizer_dir, tmp_path / "killed", "uncertainty", 3, optimizer, kills=[3, -25]),
    )
    assert_same_run(tmp_path / "whole", tmp_path / "killed", log_steps=3)


def test_dropout_is_on_and_the_seed_decides(tokenizer_dir: Path, tmp_path: Path):
    """What the comparison rests on: another seed gives other bytes, so equal bytes are no accident."""
    from tiny_run import build_loop, tiny_config

    from preprocessing.readers import parse_source, read
    from training.train_tokenizer import texts_of, train_tokenizer

    records = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'dev.jsonl'}")).records[:8]
    tokenizer = train_tokenizer(texts_of(records), 300, 96)
    losses = []
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        config = tiny_config(tmp_path / name, max_steps=1, batch_size=8, seed=seed)
        loop = build_loop(tokenizer, config, records)
        loop.train()
        losses.append(json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])["loss"])
    assert loop.bare_model.config.hidden_dropout == 0.1
    # One batch holds all eight records and the weights are those of seed 0: only dropout tells the runs apart.
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_logged_losses_are_means_over_the_steps_since_the_last_line(tokenizer_dir: Path, tmp_path: Path):
    """Emotions and VAD are labelled in all records and batches equally large: means over labels are over steps."""
    lines = {}
    for log_steps in (1, 4):
        output_dir = tmp_path / str(log_steps)
        finish(spec_of(tokenizer_dir, output_dir, "equal", log_steps=log_steps, kills=[]))
        logged = map(json.loads, (output_dir / "metrics.jsonl").read_text().splitlines())
        lines[log_steps] = [line["loss"] for line in logged if "loss" in line]
    assert len(lines[4]) == 2
    for term in ("basic_emotions", "vad", "total"):
        mean = lines[4][1][term]
        assert mean == pytest.approx(sum(line[term] for line in lines[1][4:8]) / 4, rel=1e-6), term


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("loss_weighting", ["equal", "uncertainty"])
def test_five_random_kills_of_fresh_processes_change_nothing(loss_weighting: str, tokenizer_dir: Path, tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(spec_of(tokenizer_dir, whole, loss_weighting))
    seed = random.randrange(2**32)
    print(f"kills follow from seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    steps = sorted(chance.sample(range(1, STEPS), 3))
    moments = [*steps, -chance.randint(1, 20), -chance.randint(1, 40)]
    chance.shuffle(moments)
    for moment in moments:
        kill_at(moment, chance.uniform(0, 0.3), tokenizer_dir, killed, loss_weighting)
    finish(spec_of(tokenizer_dir, killed, loss_weighting))
    assert_same_run(whole, killed)


def kill_at(moment: int, delay: float, tokenizer_dir: Path, output_dir: Path, loss_weighting: str) -> None:
    """One process that dies after `moment` lines of metrics, or inside a save at flush -`moment`."""
    more = {"kill_in_flush": -moment} if moment < 0 else {}
    spec = spec_of(tokenizer_dir, output_dir, loss_weighting, **more)
    metrics = output_dir / "metrics.jsonl"
    with subprocess.Popen([*DRIVER, spec], env=environment(), stderr=subprocess.DEVNULL) as process:
        while moment > 0 and process.poll() is None:
            if metrics.exists() and len(metrics.read_bytes().splitlines()) >= moment:
                time.sleep(delay)
                process.kill()
                break
            time.sleep(0.002)
        # A save that was to be the last may already be done: then this life simply ended the run.
        assert process.wait() in (-signal.SIGKILL, 0)
