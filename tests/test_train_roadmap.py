"""The ten tests of a recipe: what each criterion is decided by, and the command on a tiny model.

In    short runs written out; redheart-tiny on the shipped scenarios.
Out   failures where a test would pass that must not, or a run would be called ready that is not.
Run   pytest tests/test_train_roadmap.py -m "slow or not slow"
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from tiny_run import ROOT, SIZES, tiny_config

from training import roadmap
from training.preflight import ShortRun
from training.roadmap import GIB, TESTS, judged, rows_of

FALLING = [3.0, 2.9, 2.5, 2.0, 1.5, 1.2]


def short(losses: list[float] = FALLING, **changes: Any) -> ShortRun:
    fields: dict[str, Any] = {"seconds_micro_batch": 0.1, "seconds_update": 0.02, "peak": {"cpu": GIB}}
    return ShortRun(losses, **(fields | changes))


def criteria(run: ShortRun, first: ShortRun | None = None, budget: float | None = None) -> list[bool]:
    before = None if first is None else judged("first", first, None, None)
    found = judged("test", run, before, budget)
    return [found.stable, found.converging, found.faster, found.under_budget]


def test_each_criterion_fails_alone():
    assert criteria(short()) == [True, True, True, True]
    assert criteria(short(faults=["loss is nan at step 3"])) == [False, True, True, True]
    assert criteria(short(losses=FALLING[::-1])) == [True, False, True, True]
    assert criteria(short(seconds_micro_batch=0.2), first=short()) == [True, True, False, True]
    assert criteria(short(), budget=0.9) == [True, True, True, False]
    assert criteria(short(faults=["cpu took 2.0 GiB, planned were 1.0"])) == [True, True, True, False]


def test_a_run_that_was_killed_is_neither_stable_nor_converging():
    assert criteria(ShortRun([], 0.0, 0.0, faults=["killed by signal 9"]), first=short())[:3] == [False, False, False]


def test_slower_does_not_decide_and_the_rest_does():
    slower = judged("test", short(seconds_update=1.0), judged("first", short(), None, None), None)
    assert (slower.faster, slower.passed) == (False, True)
    for faulty in (short(faults=["loss is nan at step 1"]), short(losses=FALLING[::-1])):
        assert not judged("test", faulty, None, None).passed


@pytest.mark.parametrize(("broken", "code"), [(range(0), 0), (range(1, 8), 0), ([9], 2), ([8], 2), ([10], 2)])
def test_ready_is_three_in_a_row_at_the_end(broken, code: int, monkeypatch, tmp_path: Path):
    def taken(number: int, arguments: list[str]) -> ShortRun:
        return short(faults=["loss is nan at step 1"] if number in broken else [])

    monkeypatch.setattr(roadmap, "in_a_process", taken)
    given = ["training/recipes/main.yaml", "--output", tmp_path / "found.json"]
    found, out, err = run_command(roadmap, *given)
    assert found == code
    tests = json.loads((tmp_path / "found.json").read_text())["tests"]
    assert [test["name"] for test in tests] == [name for name, _, _ in TESTS]
    assert "ready: the last 3 tests passed in a row" in out if code == 0 else "did not all pass" in err


def test_all_tests_but_the_last_take_the_same_ten_records():
    taken = [sorted(rows_of(number, 100, seed=3)) for number in range(1, 11)]
    assert taken[:9] == [taken[0]] * 9
    assert len({*taken[0]}) == len({*taken[9]}) == 10
    assert not {*taken[0]} & {*taken[9]}


def test_the_second_of_two_is_the_first_with_another_seed(
    tokenizer_dir: Path, tmp_path: Path, monkeypatch, own_precision
):
    """What reaches the short run: its records, and the config it takes them with."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    seen = []

    def noted(config, data, rows, *others):
        seen.append((config, [data.train[int(row)]["sequences"] for row in rows]))

    monkeypatch.setattr(roadmap, "short_run", noted)
    config = tiny_config(tmp_path / "run", tokenizer=str(tokenizer_dir), model=SIZES, train_rows=40, seed=5)
    config.train = [f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}"]
    for number in (2, 3):
        roadmap.take(number, config)
    (one, records), (other, same) = seen
    assert records == same
    assert one.seed != other.seed
    assert replace(other, seed=one.seed) == one


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_takes_ten_real_runs(tokenizer_dir: Path, tmp_path: Path):
    train = f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}"
    fields = {"preset": "redheart-tiny", "tokenizer": tokenizer_dir, "train": json.dumps([train]), "batch_size": 5}
    fields |= {"output_dir": tmp_path / "run", "model.max_length": 64, "warmup_steps": 2}
    fields |= {"model.modules": "[]", "model.intermediate_size": 128}
    given = [str(part) for name, value in fields.items() for part in (f"--{name}", value)]
    command = [
        sys.executable,
        "-m",
        "training.roadmap",
        "--budget-gib",
        "16",
        "--output",
        str(tmp_path / "found.json"),
    ]
    done = subprocess.run([*command, *given], cwd=ROOT, capture_output=True, text=True)
    tests = json.loads((tmp_path / "found.json").read_text())["tests"]
    ready = all(test["stable"] and test["converging"] and test["under_budget"] for test in tests[-3:])
    assert done.returncode == (0 if ready else 2), done.stderr[-2000:]
    assert len(tests) == len(TESTS)
    assert all(test["stable"] and 0 < test["peak_gib"] < 16 and test["seconds"] > 0 for test in tests)
