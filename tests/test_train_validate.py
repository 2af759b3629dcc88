"""`validate`, and the guide's second step: what is sound passes, what is broken is named, nothing is left behind.

In    this checkout, whole and with one part of it broken.
Out   exit codes and lines.
Run   pytest tests/test_train_validate.py -m "slow or not slow"
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run_command
from tiny_run import ROOT

from preprocessing.errors import UserError
from training import validate


def test_a_sound_checkout_is_fit_to_train():
    code, out, err = run_command(validate)
    assert code == 0, err
    assert [line.split()[1] for line in out.splitlines()[:-1]] == ["environment:", "data:", "model:", "checkpoint:"]
    assert all(line.startswith("ok ") for line in out.splitlines()[:-1])
    assert out.splitlines()[-1] == "fit to train"


def test_a_broken_part_is_named_and_what_rests_on_it_is_not_tried(tmp_path: Path, monkeypatch):
    lines = (ROOT / "data" / "scenarios" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:7]) + "\n", encoding="utf-8")
    (tmp_path / "dev.jsonl").write_text(lines[7] + '\n{"id": 3\n', encoding="utf-8")
    monkeypatch.setattr(validate, "SCENARIOS", tmp_path)
    code, out, err = run_command(validate)
    assert code == 1
    assert f"FAILED  data: {tmp_path / 'dev.jsonl'}: 1 rows cannot be read" in out
    assert "model:" not in out
    assert "not fit to train" in err


def test_a_text_in_both_splits_is_found(tmp_path: Path, monkeypatch):
    lines = (ROOT / "data" / "scenarios" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    for name, part in (("train", lines), ("dev", [json.dumps(json.loads(lines[3]) | {"id": "another"})])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    monkeypatch.setattr(validate, "SCENARIOS", tmp_path)
    with pytest.raises(UserError, match="share texts"):
        list(validate.data())


def test_a_checkpoint_that_does_not_give_back_the_bits_is_found(tmp_path: Path, monkeypatch):
    load_run = validate.load_run

    def loaded_badly(loop, folder):
        load_run(loop, folder)
        next(loop.bare_model.parameters()).data.mul_(1.001)

    monkeypatch.setattr(validate, "load_run", loaded_badly)
    with pytest.raises(UserError, match=r"taken up at step 2 a run ends with weights \w+, uninterrupted with \w+"):
        list(validate.checkpoint(validate.Trial(tmp_path)))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("options", [["--quick"], []], ids=["quick", "whole"])
def test_the_guides_second_step(options: list[str]):
    command = [sys.executable, "training/test_unified_training.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fit to train" in done.stdout
    assert ("final written after" in done.stdout) is not bool(options)
