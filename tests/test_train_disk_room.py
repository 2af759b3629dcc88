"""What a run takes of its disk: said before its first step, found afterwards, refused where there is no room.

In    runs of the command on the shipped scenarios; a disk of a few MiB, mounted for the test, where that may be done.
Out   predicted bytes beside those of the folders; exit code 3 and settings that do fit.
Run   `pytest tests/test_train_disk_room.py -m "slow or not slow"`
"""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from commands import NEEDS_COMPILER, run_command
from tiny_run import SIZES, build_loop, tiny_config

from preprocessing.errors import DoesNotFit
from training import train
from training.checkpoint import FOLDER, checkpoints
from training.checkpoint_metadata import entries
from training.disk_room import Sizes, bytes_in, check_disk, saves_of, sizes_of_run
from training.run_state import saving_is_due

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ROOT / "data" / "scenarios"


def command(output_dir: Path, tokenizer_dir: Path, *more: object) -> list[str]:
    fields = {"output_dir": output_dir, "tokenizer": tokenizer_dir, "max_steps": 4, "batch_size": 8, "save_steps": 1}
    fields |= {"train": json.dumps([f"scenarios={SCENARIOS / 'train.jsonl'}"]), "preset": "redheart-tiny"}
    fields |= {"dev": json.dumps([f"scenarios={SCENARIOS / 'dev.jsonl'}"]), "model.modules": "[]"}
    return [str(part) for name, value in fields.items() for part in (f"--{name}", value)] + [*map(str, more)]


@pytest.mark.parametrize(
    "more",
    [
        (),
        pytest.param(("--optimizer", "adamw_8bit"), marks=NEEDS_COMPILER),
        pytest.param(
            ("--optimizer", "adamw_8bit", "--weight_precision", "bf16", "--mixed_precision", "bf16"),
            marks=NEEDS_COMPILER,
        ),
        ("--optimizer", "sgd", "--momentum", 0.9),
        ("--optimizer", "adafactor", "--learning_rate", 0.01),
    ],
    ids=["adamw", "bytes", "halves", "sgd", "adafactor"],
)
def test_what_is_predicted_is_what_lies_there(more, tokenizer_dir, tmp_path, monkeypatch, own_precision):
    """Within a hundredth: of each folder, and of all together at the end; the tiny preset has 4.6M parameters."""
    found: list[Sizes] = []

    def seen(config, model, words, plan, judged, taught=None) -> str:
        found.append(sizes_of_run(config, model, words, taught))
        return check_disk(config, model, words, plan, judged, taught)

    monkeypatch.setattr(train, "check_disk", seen)
    code, out, err = run_command(train, *command(tmp_path / "run", tokenizer_dir, *more))
    assert code == 0, err
    (sizes,) = found
    for one in entries(tmp_path / "run"):
        expected = sizes.complete if one["kept"] == "complete" else sizes.thin
        assert bytes_in(tmp_path / "run" / FOLDER / one["name"]) == pytest.approx(expected, rel=0.01), one
    assert {one["kept"] for one in entries(tmp_path / "run")} == {"complete", "weights"}
    assert bytes_in(tmp_path / "run" / "final") == pytest.approx(sizes.final, rel=0.01)
    assert re.search(r"^disk: \d\.\d\d GiB at the most \(4 checkpoints: complete", out, re.MULTILINE)
    there = bytes_in(tmp_path / "run" / FOLDER) + bytes_in(tmp_path / "run" / "final")
    assert there <= sizes.most(saves=4, limit=30, complete=2, judged=True)


def test_where_nothing_is_planned_all_that_may_learn_counts(tokenizer, scenarios, tmp_path):
    """Moments that a head without labels never gets are counted: what is predicted is the most."""
    loop = build_loop(tokenizer, tiny_config(tmp_path / "run", max_steps=1), scenarios[:8])
    sizes = sizes_of_run(loop.config, loop.bare_model, tokenizer)
    loop.train()
    (folder,) = checkpoints(tmp_path / "run")
    assert bytes_in(folder) <= sizes.complete < 1.1 * bytes_in(folder)


def test_how_often_a_run_saves(tokenizer, scenarios, tmp_path):
    """Beside every step asked: eight records in batches of four, two steps an epoch."""
    ways = [{"save_steps": 2}, {"save_steps": 4}, {"save_epochs": 1}, {"save_epochs": 2}, {"save_epochs": 9}]
    for way in ways:
        for steps in (7, 8):
            loop = build_loop(tokenizer, tiny_config(tmp_path / "run", max_steps=steps, **way), scenarios[:8])
            due = 0
            for loop.step in range(1, steps + 1):
                due += saving_is_due(loop)
            assert due == saves_of(loop.config, loop.plan, steps), (way, steps)


def test_a_file_larger_than_may_be_written_is_refused(tokenizer, scenarios, tmp_path):
    loop = build_loop(tokenizer, tiny_config(tmp_path / "run"), scenarios[:8])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DoesNotFit, match=r"files of 0.000 GiB at most \(ulimit -f\)"):
            check_disk(loop.config, loop.bare_model, tokenizer, loop.plan, judged=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


ON_A_DISK = """
import ctypes, json, os, subprocess, sys
size, folder, *command = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x00020000 | (0x10000000 if os.getuid() else 0)):
    sys.exit(77)
# What is mounted here is seen by this process alone and goes with it.
if libc.mount(b"none", b"/", None, 0x44000, None) or libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, size.encode()):
    sys.exit(77)
sys.exit(subprocess.run(command).returncode)
"""


def on_a_disk(mib: int, folder: Path, arguments: list[str]) -> subprocess.CompletedProcess:
    given = [sys.executable, "-c", ON_A_DISK, f"size={mib}m", str(folder), sys.executable, "training/train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*given, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("a disk of a few MiB cannot be mounted here: neither root nor user namespaces")
    return done


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_disk_without_room_is_refused_before_the_first_step_and_what_is_advised_fits(tokenizer_dir, tmp_path):
    """A complete checkpoint takes about 5 MiB, and ten steps are saved."""
    folder = tmp_path / "disk"
    folder.mkdir()
    small = [
        part for name, value in SIZES.items() if name != "modules" for part in (f"--model.{name}", json.dumps(value))
    ]
    given = command(folder / "run", tokenizer_dir, "--max_steps", 10, "--save_async", "off", *small)
    sweep = ["--lr_sweep", json.dumps({"points": 2, "steps": 2}), "--preflight", "true"]
    done = on_a_disk(7, folder, [*given, *sweep])
    assert done.returncode == 3, done.stderr[-3000:]
    assert "there is no room for this run" in done.stderr
    assert "preflight" not in done.stdout + done.stderr
    assert "sweep" not in done.stdout + done.stderr
    assert "steps/s" not in done.stderr
    advised = [line.split("  (")[0].split() for line in done.stderr.splitlines() if "--save_total_limit" in line]
    assert advised
    for settings in advised:
        done = on_a_disk(7, folder, [*given, *settings])
        assert done.returncode == 0, done.stderr[-3000:]
