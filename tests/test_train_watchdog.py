"""Others take the memory: the run saves and ends, or ends at once, before the kernel kills it; without, it is killed.

In    files laid out as Linux lays out /proc and /sys/fs/cgroup; runs of redheart-tiny beside a process that takes
      memory, in a control group with a limit, which only root may make: elsewhere those are skipped.
Out   which looks call for a stop; exit codes, checkpoints, oom_stats; weights beside those of a run left alone.
Run   `sudo -E pytest tests/test_train_watchdog.py -m "slow or not slow"`
"""

import json
import sys
from pathlib import Path

import pytest
from commands import NEEDS_COMPILER
from test_train_memory_limits import group as write_group
from test_train_memory_limits import write
from test_train_out_of_memory import command, wait_for_steps
from tiny_run import build_loop, tiny_config

from preprocessing.errors import DoesNotFit
from preprocessing.folders import verify
from training.checkpoint import checkpoint_at, checkpoints, step_of
from training.watchdog import LEAST_SECONDS, PACE, SECONDS, Lines, Look, pause, watched

MIB, GIB = 1 << 20, 1 << 30
RIVAL = """
import sys, time
at_once, pace, size = map(int, sys.argv[1:])
piece, taken = 4 << 20, [b"1" * at_once]
while at_once + len(taken) * piece < size:
    taken.append(b"1" * piece)
    time.sleep(piece / pace)
time.sleep(1000)
"""


class Machine:
    """Files of a machine with `free` bytes free, on which this process has `own` of its own and 300 MiB of files."""

    def __init__(self, root: Path):
        self.proc, self.groups, self.most = root / "proc", root / "cgroup", 0
        write(self.proc, {"self/cgroup": "0::/job", "version": "Linux"})

    def has(self, free: int, own: int, files: int = 300 * MIB, limit: object = "max", used: int = 0) -> None:
        self.most = max(self.most, own + files)
        status = f"VmHWM: {self.most >> 10} kB\nVmRSS: {own + files >> 10} kB\nRssFile: {files >> 10} kB"
        write(self.proc, {"meminfo": f"MemAvailable: {free >> 10} kB", "self/status": status})
        write_group(self.groups, "job", limit, used, cache=0, version=2)

    def lines(self, planned: int) -> Lines:
        return Lines(planned, self.proc, self.groups)


def calls(lines: Lines) -> tuple[bool, bool]:
    look = lines.look()
    return lines.asks_to_stop(look), lines.ends_at_once(look, look)


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_a_runs_own_steps_call_for_nothing_however_near_the_limit_they_come(machine):
    """Planned: 3 GiB of which 300 MiB are files; 2.75 GiB to take, and as much is free."""
    machine.has(free=2 * GIB + 600 * MIB, own=300 * MIB)
    lines = machine.lines(planned=3 * GIB)
    for own in (300, 1000, 2600, 2770, 1200):
        machine.has(free=2 * GIB + 900 * MIB - own * MIB, own=own * MIB)
        assert calls(lines) == (False, False), own


def test_what_others_take_calls_for_a_stop_and_then_for_the_end(machine):
    machine.has(free=4 * GIB, own=GIB)
    lines = machine.lines(planned=3 * GIB + 300 * MIB)
    machine.has(free=2 * GIB + 300 * MIB, own=GIB)  # 300 MiB beside the 2 GiB still to come
    assert calls(lines) == (False, False)
    machine.has(free=2 * GIB + 200 * MIB, own=GIB)
    assert calls(lines) == (True, False)
    machine.has(free=GIB, own=GIB)  # the next peak would be one too many, but it is not there yet
    assert calls(lines) == (True, False)
    machine.has(free=60 * MIB, own=2 * GIB)
    assert calls(lines) == (True, True)
    machine.has(free=4 * GIB, own=GIB)  # and it was given back
    assert calls(lines) == (False, False)


def test_what_others_took_in_the_last_tenth_of_a_second_they_take_in_the_next(machine):
    machine.has(free=4 * GIB, own=GIB)
    lines = machine.lines(planned=GIB + 300 * MIB)
    earlier, now = Look(500 * MIB, "", 500 * MIB, at=7.0), Look(200 * MIB, "", 200 * MIB, at=7.1)
    assert lines.ends_at_once(now, earlier)
    assert not lines.ends_at_once(now, now)
    assert not lines.ends_at_once(now, Look(500 * MIB, "", 500 * MIB, at=6.7))  # 75 MiB in the last tenth
    assert not lines.ends_at_once(now, Look(500 * MIB, "", 200 * MIB, at=7.0))  # it was this run that took it


def test_the_limit_of_a_group_counts_as_the_machines_does(machine):
    machine.has(free=50 * GIB, own=GIB, limit=4 * GIB, used=GIB)
    lines = machine.lines(planned=2 * GIB)
    assert calls(lines) == (False, False)
    machine.has(free=50 * GIB, own=GIB, limit=4 * GIB, used=4 * GIB - 40 * MIB)
    assert calls(lines) == (True, True)
    assert "job/memory.max" in lines.look().limited_by


def test_pages_of_files_that_the_kernel_takes_back_are_no_sign_of_others(machine):
    machine.has(free=GIB, own=GIB, files=400 * MIB)
    lines = machine.lines(planned=2 * GIB)
    before = lines.look().spare
    machine.has(free=GIB, own=GIB, files=40 * MIB)
    assert lines.look().spare == before


def test_where_nothing_is_planned_the_most_so_far_is_what_is_needed(machine):
    machine.has(free=2 * GIB, own=GIB)
    lines = machine.lines(planned=0)
    machine.has(free=GIB, own=2 * GIB)
    assert calls(lines) == (False, False)
    machine.has(free=GIB + 100 * MIB, own=GIB)  # it has had a GiB more, and others have taken 900 MiB
    assert calls(lines) == (True, False)
    machine.has(free=40 * MIB, own=2 * GIB)
    assert calls(lines) == (True, True)


def test_a_run_given_no_more_than_it_needs_is_not_ended_by_a_few_mib(machine):
    machine.has(free=GIB, own=GIB)
    lines = machine.lines(planned=2 * GIB + 300 * MIB)
    assert lines.look().spare == 0
    machine.has(free=20 * MIB, own=2 * GIB - 40 * MIB)
    assert calls(lines) == (False, False)
    machine.has(free=20 * MIB, own=GIB + 900 * MIB)
    assert calls(lines) == (True, True)


def test_a_plan_that_is_more_than_there_is_ends_when_nothing_is_left(machine):
    machine.has(free=GIB, own=GIB)
    lines = machine.lines(planned=3 * GIB)
    assert calls(lines) == (False, False)
    machine.has(free=30 * MIB, own=2 * GIB - 30 * MIB)
    assert calls(lines) == (False, True)


def test_looks_come_sooner_the_less_is_free():
    assert pause(Look(5 * GIB, "", 0)) == SECONDS
    assert pause(Look(0, "", 0)) == LEAST_SECONDS
    for free in (GIB, 200 * MIB):
        assert pause(Look(free, "", 0)) * PACE == pytest.approx(free / 2)


def test_without_it_no_thread_looks(tokenizer, scenarios, tmp_path):
    for on in (True, False):
        loop = build_loop(tokenizer, tiny_config(tmp_path / str(on), watch_memory=on), scenarios[:8])
        with watched(loop, None):
            assert (loop.watchdog is not None and loop.watchdog.is_alive()) == on
        assert loop.watchdog is None


def test_when_asked_the_loop_saves_its_step_and_stops(tokenizer, scenarios, tmp_path):
    """Asked for by hand; that others' memory asks for it is shown below, where it takes a control group."""
    config = tiny_config(tmp_path / "run", max_steps=9, save_steps=4)
    loop = build_loop(tokenizer, config, scenarios[:24])
    own = loop.take_step

    def take_step(group):
        if loop.step == 4:
            loop.watchdog.ended.set()  # no look takes the word back
            loop.watchdog.join()
            loop.watchdog.asked = Look(200 * MIB, "a limit", 100 * MIB)
        return own(group)

    loop.take_step = take_step
    with watched(loop, None), pytest.raises(DoesNotFit, match="step 5 .between steps.: memory runs low: 0.20"):
        loop.train()
    assert [step_of(folder) for folder in checkpoints(tmp_path / "run")] == [4, 5]
    record = json.loads((tmp_path / "run" / "oom_stats" / "step-5.json").read_text())
    assert record["checkpoint"] == str(checkpoint_at(tmp_path / "run", 5))
    assert record["room"] == {"free": 200 * MIB, "limited_by": "a limit"}


# ---------------------------------------------------------------- in a control group

STEPS, SPARE = 90, 700 * MIB
FIELDS = ("--max_steps", STEPS, "--batch_size", 16, "--save_steps", 4)
SLOWLY, FAST = (400 * MIB, 50 * MIB), (0, GIB)
"""What another process takes at once, and a second from then on."""


@pytest.fixture
def alone(group, tokenizer_dir, tmp_path) -> Path:
    """The run in a group with room for it."""
    done = group.run(4 * GIB, command(tmp_path / "alone", tokenizer_dir, *FIELDS))
    assert done.returncode == 0, done.stderr
    return tmp_path / "alone"


def beside_a_rival(group, alone: Path, arguments: list[str], way: tuple[int, int]) -> tuple[int, str]:
    """The run's exit code and what it said, in a group of `SPARE` more than it needs, which another fills."""
    size = json.loads((alone / "memory_report.json").read_text())["planned"]["peak"] + SPARE
    group.limit.write_text(str(size))
    run = group.start(arguments)
    wait_for_steps(run, Path(arguments[arguments.index("--output_dir") + 1]), 5)
    Path(f"/proc/{run.pid}/oom_score_adj").write_text("1000")  # where the kernel must choose, it chooses the run
    rival = group.start([sys.executable, "-c", RIVAL, *map(str, (*way, size - 200 * MIB))])
    try:
        _, err = run.communicate(timeout=300)
    finally:
        for process in (run, rival):
            process.kill()
            process.wait()
    return run.returncode, err


def last_state(output_dir: Path) -> list[bytes]:
    folder = checkpoint_at(output_dir, STEPS)
    return [(folder / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@NEEDS_COMPILER
@pytest.mark.parametrize("way", [SLOWLY, FAST], ids=["slowly", "fast"])
def test_a_run_whose_memory_others_take_ends_and_goes_on_to_the_same_weights(
    way, group, alone, tokenizer_dir, tmp_path
):
    output_dir = tmp_path / "run"
    arguments = command(output_dir, tokenizer_dir, *FIELDS, "--memory_fraction", 1)
    code, err = beside_a_rival(group, alone, arguments, way)
    assert code == 3, err[-3000:]
    assert group.kills() == 0
    assert "Traceback" not in err
    (written,) = (output_dir / "oom_stats").iterdir()
    record, newest = json.loads(written.read_text()), checkpoints(output_dir)[-1]
    assert record["checkpoint"] == str(newest)
    assert verify(newest)["step"] == step_of(newest) >= 4
    assert str(newest) in err
    if way == SLOWLY:  # there was time for the step in hand
        assert (record["phase"], step_of(newest)) == ("between steps", record["step"])
    assert any(one["bytes"] > 300 * MIB for one in record["others"])
    again = group.run(4 * GIB, arguments)
    assert again.returncode == 0, again.stderr[-3000:]
    assert last_state(output_dir) == last_state(alone)


@pytest.mark.slow
@pytest.mark.timeout(900)
@NEEDS_COMPILER
def test_without_the_watchdog_the_kernel_kills_it(group, alone, tokenizer_dir, tmp_path):
    output_dir = tmp_path / "run"
    arguments = command(output_dir, tokenizer_dir, *FIELDS, "--memory_fraction", 1, "--watch_memory", "false")
    code, _ = beside_a_rival(group, alone, arguments, FAST)
    assert code == -9
    assert group.kills() > 0
    assert list((output_dir / "oom_stats").iterdir()) == []
