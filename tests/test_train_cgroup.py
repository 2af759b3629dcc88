"""A run in a control group of any size is refused or done, and never killed; without its guards it is killed.

In    redheart-tiny, widened, on the shipped scenarios; control groups with a limit of memory (version 1 or 2), which
      only root may make: elsewhere this is skipped.
Out   exit codes, and how often the kernel killed something in the group.
Run   `sudo -E pytest -m slow tests/test_train_cgroup.py`; with REDHEART_GROUP_SIZES=20 before it twenty sizes
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import NEEDS_COMPILER

ROOT = Path(__file__).resolve().parents[1]
SIZES = np.linspace(0.72, 1.5, int(os.environ.get("REDHEART_GROUP_SIZES", 7)))
"""Of what the run is planned to take."""


def command_in(folder: Path, tokenizer_folder: Path, *more: object) -> list[str]:
    scenarios = [f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}"]
    command = [sys.executable, "training/train.py", "--output_dir", folder, "--tokenizer", tokenizer_folder]
    command += ["--train", json.dumps(scenarios), "--max_steps", 2, "--batch_size", 32, "--model.max_length", 64]
    return [*map(str, command), "--model.intermediate_size", "12288", *map(str, more)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@NEEDS_COMPILER
def test_in_a_group_of_any_size_a_run_is_refused_or_done(group, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    free = group.run(4 * 2**30, command_in(tmp_path / "free", tmp_path / "tokenizer"))
    assert free.returncode == 0, free.stderr
    need = json.loads((tmp_path / "free" / "memory_report.json").read_text())["planned"]["peak"]
    codes = []
    for number, size in enumerate(SIZES):
        command = command_in(tmp_path / f"run-{number}", tmp_path / "tokenizer")
        done = group.run(int(size * need), command)
        assert done.returncode in (0, 3), (size, done.returncode, done.stderr[-2000:])
        codes.append(done.returncode)
    assert group.kills() == 0
    assert codes == sorted(codes, reverse=True)  # too small, then large enough
    assert {0, 3} == set(codes)
    off = ("--plan_memory", "false", "--watch_memory", "false")
    killed = group.run(int(SIZES[0] * need), command_in(tmp_path / "control", tmp_path / "tokenizer", *off))
    assert group.kills() > 0
    assert killed.returncode in (-9, 137)
