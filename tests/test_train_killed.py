"""Whole runs, killed in every part of a run, end with the bits of one that was left alone.

In    the shipped scenarios; the training command with a sweep, all techniques, sweet spots, crossover and workers.
Out   final/, averages, metrics, what sweep and crossover found, the last checkpoint, byte by byte.
Run   `REDHEART_SLOW=1 bash run_learning.sh test tests/test_train_killed.py -s` does five,
      with REDHEART_KILLED_RUNS=50 before it fifty
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import NEEDS_COMPILER
from tiny_run import ROOT, SIZES, SMALL_MODULES

from preprocessing.folders import verify
from redheart_hf.labels import MODULES
from training.checkpoint import checkpoints

RUNS = int(os.environ.get("REDHEART_KILLED_RUNS", 5))
DEV_ROWS = 24
Kill = tuple[str, int, float]  # a mark of tests/run_lives.py, which time it is passed, seconds after that
FOUND = (
    "metrics.jsonl",
    "crossover.json",
    "lr_sweep_results/lr_sweep.json",
    "sweet_spot_analysis/sweet_spot_analysis.json",
    "final/model.safetensors",
    "final/metrics.json",
    "final/config.json",
    "final/tokenizer.json",
)


def recipe_of(folder: Path, tokenizer_dir: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "train": [f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}"],
        "dev": [f"scenarios={folder.parent / 'dev.jsonl'}"],
        "train_rows": 24,
        "tokenizer": str(tokenizer_dir),
        "model": SIZES | SMALL_MODULES | {"modules": list(MODULES), "max_length": 48, "hidden_dropout": 0.1},
        **{"max_steps": 8, "batch_size": 3, "gradient_accumulation_steps": 2, "warmup_steps": 2},
        **{"log_steps": 1, "eval_steps": 3, "save_steps": 2, "keep_complete": 1, "save_async": "on"},
        **{"optimizer": "adamw_8bit", "weight_precision": "bf16", "mixed_precision": "bf16"},
        **{"label_smoothing": 0.1, "rdrop_alpha": 1.0, "ema_decay": 0.9, "loss_weighting": "uncertainty"},
        **{"early_stopping_patience": 50, "num_regrets": 2, "num_workers": 1, "queue_batches": 2},
        **{"lr_sweep": {"points": 3, "steps": 2}, "sweet_spot": True, "crossover": True, "plan_memory": False},
        **{"trackers": []},
    }


def live(tokenizer_dir: Path, folder: Path, kills: dict[str, list[Kill]]) -> list[dict[str, Any]]:
    """Runs from their recipe to their end, in `folder`, and then under these names beside it; of each how often its
    last life passed each mark, and the kills."""
    recipe = recipe_of(folder, tokenizer_dir)
    dev = (ROOT / "data" / "scenarios" / "dev.jsonl").read_text(encoding="utf-8").splitlines()[:DEV_ROWS]
    (folder.parent / "dev.jsonl").write_text("\n".join(dev) + "\n", encoding="utf-8")
    specs = [
        {"recipe": recipe, "kills": given, "moved_to": str(folder.parent / name)} for name, given in kills.items()
    ]
    command = [sys.executable, str(ROOT / "tests" / "run_lives.py"), *map(json.dumps, specs)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_USE_CPU": "true", "HF_DATASETS_CACHE": str(folder.parent / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    log = folder.parent / f"{folder.name}.log"
    assert done.returncode == 0, done.stderr[-1000:] + (log.read_text()[-3000:] if log.exists() else "")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"passed')]


def result_of(folder: Path) -> dict[str, bytes]:
    """Everything that a run leaves behind and that does not tell the time."""
    verify(folder / "final")
    assert not [path for path in folder.rglob(".*") if path.is_dir()], "half-written folders are cleared away"
    written = [folder / name for name in FOUND]
    for checkpoint in checkpoints(folder):
        verify(checkpoint)
        written += [path for path in checkpoint.iterdir() if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in written}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


@NEEDS_COMPILER
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_runs_killed_anywhere_end_with_the_same_bits(tokenizer_dir: Path, tmp_path: Path):
    """Each is to be killed twice, at marks that are drawn, and some milliseconds after."""
    seed = random.randrange(2**32)
    print(f"kills follow from seed {seed}")  # shown when the test fails
    (left_alone,) = live(tokenizer_dir, tmp_path / "run", {"alone": []})
    passed = {mark: count for mark, count in left_alone["passed"].items() if count}
    assert {"rate", "read", "forward", "update", "evaluate", "flush", "measure", "cross", "final"} <= passed.keys()
    chance, marks = random.Random(seed), sorted(passed)
    kills = {
        str(number): [
            (mark, chance.randint(1, passed[mark]), round(chance.expovariate(200), 4))
            for mark in (marks[number % len(marks)], chance.choice(marks))
        ]
        for number in range(RUNS)
    }
    kills["0"] = [("thin", passed["thin"], 0.0)]  # the last save is done, and what follows it is not
    ended = live(tokenizer_dir, tmp_path / "run", kills)
    expected = result_of(tmp_path / "alone")
    assert any(name.endswith("ema.safetensors") for name in expected)
    for (number, given), life in zip(kills.items(), ended, strict=True):
        print(f"run {number}: {given}, {life['killed']} kills")
        assert life["killed"], given
        assert differing(result_of(tmp_path / number), expected) == [], given
    print(f"{sum(life['killed'] for life in ended)} kills")
