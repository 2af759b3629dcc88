"""The pool that prepares batches: the same bits whoever prepares them, whatever becomes of who does.

In    jobs of plain numbers; runs of the tiny model on the shipped scenarios with 0, 1, 2 and 4 workers; signals.
Out   results, their order, figures, what is left when a worker or the trainer is killed.
Run   `pytest tests/test_train_regret_pool.py -m "slow or not slow"`
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
from pool_runs import regret_loop
from tiny_run import ROOT

from preprocessing.errors import UserError
from training.regret_pool import OrderedPool, PoolError

FOUR = 4


def squared(job: int) -> tuple[torch.Tensor, dict[str, str]]:
    """Longer for every third job, so that workers overtake each other."""
    time.sleep(0.02 if job % 3 == 0 else 0.0)
    return torch.full((300, 300), float(job)) ** 2, {"job": str(job)}


def children(pid: int | str = "self") -> list[int]:
    if pid == "self":
        pid = os.getpid()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.fixture
def left():
    """The workers that are there and were not before: others' children may outlive their tests."""
    before = set(children())
    return lambda: [pid for pid in children() if pid not in before]


@pytest.mark.parametrize("workers", [0, 1, 2, FOUR])
def test_results_come_whole_and_in_the_order_of_the_jobs(left, workers: int):
    pool = OrderedPool(squared, workers, ahead=5)
    results = list(pool.results(range(20)))
    assert [facts["job"] for _, facts in results] == [str(job) for job in range(20)]
    assert all(torch.equal(tensor, torch.full((300, 300), float(job**2))) for job, (tensor, _) in enumerate(results))
    figures = pool.take_figures()
    assert (figures["prepared"], figures["redone"]) == (20, 0)
    assert not left()


def test_no_more_lies_ready_than_was_asked_for(left):
    taken = []

    def jobs():
        for job in range(50):
            taken.append(job)
            yield job

    results = OrderedPool(squared, 2, ahead=3).results(jobs())
    for number, _ in enumerate(islice(results, 10)):
        assert len(taken) <= number + 1 + 3
    results.close()
    assert not left()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_the_work_of_a_killed_worker_is_done_again_and_reported(left, ending: signal.Signals, capfd):
    pool, found = OrderedPool(squared, 2, ahead=4), []
    for number, (tensor, _) in enumerate(pool.results(range(30))):
        found.append(float(tensor[0, 0]))
        if number in (3, 9, 17):
            os.kill(pool.workers[number % 2].process.pid, ending)
    assert found == [float(job**2) for job in range(30)]
    assert capfd.readouterr().err.count(f"has ended (signal {ending.value})") == 3
    assert pool.take_figures()["redone"] <= 3
    assert not left()


def test_a_job_that_ends_every_worker_ends_the_run_with_its_name(left):
    def deadly(job: str) -> str:
        if job == "five":
            os.kill(os.getpid(), signal.SIGKILL)
        return job

    with pytest.raises(UserError, match=r"3 workers ended \(signal 9\) at the same job, five"):
        list(OrderedPool(deadly, 2, ahead=4).results(["one", "five", "two"]))
    assert not left()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_prepared_is_raised_in_its_turn(left, workers: int):
    def picky(job: int) -> int:
        return 12 // (job - 4)

    results, seen = OrderedPool(picky, workers, ahead=6).results(range(8)), []
    with pytest.raises(PoolError if workers else ZeroDivisionError, match="division"):
        seen.extend(results)
    seen = seen or list(islice(OrderedPool(picky, workers, ahead=6).results(range(8)), 4))
    assert seen == [-3, -4, -6, -12]
    assert not left()


def bits_of(output_dir: Path) -> dict[str, bytes]:
    last = max(output_dir.glob("**/optimizer.safetensors"), key=lambda path: path.stat().st_mtime_ns).parent
    names = ("model.safetensors", "optimizer.safetensors")
    return {name: (last / name).read_bytes() for name in names} | {
        "metrics": (output_dir / "metrics.jsonl").read_bytes()
    }


@pytest.mark.parametrize("kind", ["data", "retrieved"])
def test_a_run_ends_with_the_same_bits_with_any_number_of_workers(kind: str, tokenizer, scenarios, tmp_path):
    bits = {}
    for workers in (0, 1, 2, FOUR):
        output_dir = tmp_path / str(workers) / "run"
        options = {"num_workers": workers, "queue_batches": 1 + workers, "regret_alternatives": kind}
        loop = regret_loop(tokenizer, scenarios[:40], output_dir, **options)
        loop.train()
        bits[workers] = bits_of(output_dir)
        lines = list(map(json.loads, (output_dir / "timings.jsonl").read_text().splitlines()))
        assert sum(line["queue"]["prepared"] for line in lines) == 2 * loop.total_steps  # two micro-batches a step
        assert sum(line["regret"]["calculations"] for line in lines) > 0
    assert bits[0] == bits[1] == bits[2] == bits[FOUR]
    without = regret_loop(tokenizer, scenarios[:40], tmp_path / "plain" / "run", num_regrets=0)
    without.train()
    assert bits_of(tmp_path / "plain" / "run")["metrics"] != bits[0]["metrics"]  # alternatives do change a run


def test_a_run_whose_workers_are_killed_ends_with_the_same_bits(tokenizer, scenarios, tmp_path, capfd):
    bits = []
    for kills in (False, True):
        loop = regret_loop(tokenizer, scenarios[:40], tmp_path / str(kills) / "run", num_workers=2, queue_batches=3)
        take_step, step = loop.take_step, 0

        def killing(group, loop=loop, take_step=take_step):
            nonlocal step
            step += 1
            if step in (2, 4):
                os.kill(loop.loaded.pool.workers[step % 2].process.pid, signal.SIGKILL)
            return take_step(group)

        loop.take_step = killing if kills else take_step
        loop.train()
        bits.append(bits_of(tmp_path / str(kills) / "run"))
    assert capfd.readouterr().err.count("has ended (signal 9)") == 2
    assert bits[0] == bits[1]


def test_workers_do_not_outlive_a_trainer_that_is_killed():
    """A real run in a process of its own, which is killed with SIGKILL between two results."""
    code = (
        "import sys, time; sys.path.insert(0, 'tests')\n"
        "from training.regret_pool import OrderedPool\n"
        "results = OrderedPool(lambda job: (time.sleep(0.01), job)[1], 4, 8).results(iter(range(10**6)))\n"
        "for job in results:\n"
        "    if job == 5: print('going', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout.readline() == "going\n"
        workers = children(trainer.pid)
        assert len(workers) == FOUR
        trainer.kill()
        trainer.wait()
        ends = time.monotonic() + 10
        while (living := [pid for pid in workers if is_alive(pid)]) and time.monotonic() < ends:
            time.sleep(0.01)
    assert living == []


def test_workers_hold_no_second_state_of_the_model():
    """128 MiB that the trainer writes to all over again, as a step does: forks alone would keep what was there."""
    weights = torch.ones(32 * 2**20)
    held = {}
    for apart in ((), (weights,)):
        pool = OrderedPool(squared, 1, ahead=2, apart=lambda apart=apart: apart)
        results = pool.results(range(4))
        next(results)
        weights += 1
        status = (Path("/proc") / str(pool.workers[0].process.pid) / "smaps_rollup").read_text()
        held[len(apart)] = int(re.search(r"Private_Dirty: *([0-9]+)", status)[1]) * 1024
        assert len(list(results)) == 3
    assert held[0] > 100 * 2**20
    assert held[1] < held[0] - 100 * 2**20


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
