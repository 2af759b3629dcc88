"""Memory measured by phase: beside what is allocated, what the kernel says and what was planned; over kills.

In    processes of their own that take known amounts; runs of redheart-tiny on the shipped scenarios.
Out   memory_report.json, timings.jsonl, memory.png and the bar as a user meets them.
Run   `pytest tests/test_train_memory_monitor.py`
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import NEEDS_COMPILER

from preprocessing.errors import UserError
from training.memory_monitor import MemoryMonitor
from training.memory_report import MemoryReport

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ROOT / "data" / "scenarios"
MIB = 2**20
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
START = """
import ctypes, json, os, sys, torch
from pathlib import Path
from training.held_memory import hold_memory
from preprocessing.memory_room import most_resident, resident
from training.memory_monitor import MemoryMonitor
from training.memory_report import MemoryReport

def touched(): return bytearray(b"x") * (200 << 20)
"""


def run(code: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", START + code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def train(output_dir: Path, tokenizer_dir: Path, *more: object) -> subprocess.Popen:
    command = ["training/train.py", "--output_dir", output_dir, "--tokenizer", tokenizer_dir, "--max_steps", 4]
    command += ["--train", json.dumps([f"scenarios={SCENARIOS / 'train.jsonl'}"]), "--batch_size", 8]
    command += ["--log_steps", 1, "--save_steps", 2, "--model.max_length", 48, *more]
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_200_mib_show_in_the_phase_that_took_them_and_in_no_other():
    """`forward` comes again without them, `evaluate` inside `update`, and once they are taken between two phases."""
    found = run("""
monitor, at_most = MemoryMonitor(), []
def take():
    block = touched()
    at_most.append(resident())
with monitor.phase("load"): pass
begun = resident()
with monitor.phase("forward"): take()
with monitor.phase("forward"): pass
lines = [monitor.take_recent()["cpu"]]
with monitor.phase("backward"): pass
with monitor.phase("update"):
    with monitor.phase("evaluate"): take()
lines.append(monitor.take_recent()["cpu"])
with monitor.phase("save"): pass
without = dict(monitor.most["cpu"].phases)
take()
lines.append(monitor.take_recent()["cpu"])
print(json.dumps([begun, at_most, without, lines, monitor.most["cpu"].peak]))
""")
    begun, at_most, phases, lines, peak = found
    for phase, size in phases.items():
        expected = 200 if phase in ("forward", "evaluate") else 0
        assert size - begun == pytest.approx(expected * MIB, abs=4 * MIB), phase
    assert set(phases) == {"read", "load", "forward", "backward", "update", "evaluate", "save", "between"}
    assert peak == pytest.approx(max(at_most), abs=MIB)
    highest = [max(line["phases"], key=line["phases"].get) for line in lines]
    assert highest == ["forward", "evaluate", "between"]  # each line tells of what came since the line before


@NEEDS_COMPILER
def test_what_is_freed_and_rests_is_resident_and_not_used():
    """Tensors are held: those of `forward` rest in `update`."""
    phases, used = run("""
hold_memory()
monitor = MemoryMonitor()
with monitor.phase("load"): pass
for name, mib in (("forward", 200), ("update", 20)):
    with monitor.phase(name): torch.ones(mib << 18)
most = monitor.most["cpu"]
print(json.dumps([most.phases, most.used]))
""")
    taken = {name: size - phases["load"] for name, size in phases.items()}
    assert taken["forward"] == pytest.approx(200 * MIB, abs=4 * MIB)
    assert taken["update"] == pytest.approx(200 * MIB, abs=4 * MIB)
    assert used["forward"] - used["load"] == pytest.approx(200 * MIB, abs=4 * MIB)
    assert used["update"] - used["load"] == pytest.approx(20 * MIB, abs=4 * MIB)


def test_the_peak_is_that_of_the_kernels_mark_which_nobody_began_anew(tokenizer_dir, tmp_path):
    """The same steps in a process that is not measured, whose VmHWM holds from its start to its end."""
    code = """
from functools import partial
from preprocessing.readers import parse_source, read
from tiny_run import build_loop, tiny_config
from training.loop import TrainLoop
from training.monitored_loop import MonitoredLoop
from transformers import AutoTokenizer
torch.set_num_threads(1)
report = MemoryReport(Path({out!r}), MemoryMonitor()) if {measured} else None
records = read(parse_source("scenarios={scenarios}/train.jsonl")).records[:48]
config = tiny_config({out!r}, max_steps=2, batch_size=16)
kind = partial(MonitoredLoop, memory=report) if report else TrainLoop
loop = build_loop(AutoTokenizer.from_pretrained({tokenizer!r}), config, records, kind, intermediate_size=8192)
before = resident()
loop.train()
print(json.dumps([before, report.to_dict()["measured"]["peak"] if report else most_resident()]))
"""
    given = {"scenarios": SCENARIOS, "tokenizer": str(tokenizer_dir)}
    free = code.format(out=str(tmp_path / "free"), measured=False, **given)
    measured = code.format(out=str(tmp_path / "measured"), measured=True, **given)
    (before, expected), (_, peak) = run(free), run(measured)
    assert expected > before + 100 * MIB
    assert peak == pytest.approx(expected, rel=0.03)
    assert (tmp_path / "free" / "metrics.jsonl").read_bytes() == (tmp_path / "measured" / "metrics.jsonl").read_bytes()


def test_where_the_mark_cannot_be_begun_anew_there_is_one_peak_and_the_reason():
    """The file is closed to a process without rights that may not be looked into."""
    report, most = run("""
if os.getuid() == 0: os.setuid(65534)
assert ctypes.CDLL(None).prctl(4, 0) == 0  # PR_SET_DUMPABLE
report = MemoryReport(Path("unused"), MemoryMonitor())
with report.monitor.phase("forward"): touched()
with report.monitor.phase("update"): pass
print(json.dumps([report.to_dict() | {"line": report.monitor.take_recent()}, most_resident()]))
""")
    reason = {"cpu": "/proc/self/clear_refs cannot be written: Permission denied"}
    cpu = {"peak": most, "phases": {}, "used": {}}
    measured = cpu | {"peak_phase": None}
    assert report["measured"] == measured | {"devices": {"cpu": measured}, "phases_not_measured": reason}
    assert report["line"] == {"cpu": cpu}
    assert (report["planned"], report["error"]) == (None, {"cpu": {}})


@NEEDS_COMPILER
def test_a_run_reports_its_plan_beside_what_every_phase_took(tokenizer_dir, tmp_path):
    """Looked at from outside all the while, up to the end, the plot included, it is never larger than it says."""
    dev = json.dumps([f"scenarios={SCENARIOS / 'dev.jsonl'}"])
    process, sizes = train(tmp_path / "run", tokenizer_dir, "--dev", dev, "--eval_steps", 2), []
    pages, told = Path("/proc") / str(process.pid) / "statm", []
    os.set_blocking(process.stderr.fileno(), False)
    while process.poll() is None:
        fields = pages.read_text().split()
        sizes += [int(fields[1]) * os.sysconf("SC_PAGE_SIZE")] if fields else []
        told.append(process.stderr.read() or b"")
        time.sleep(0.002)
    said = b"".join([*told, process.stderr.read() or b""]).decode()
    assert process.returncode == 0, said
    report = read_json(tmp_path / "run" / "memory_report.json")
    measured, planned = report["measured"], report["planned"]
    assert set(measured["phases"]) == {*planned["phases"], "between", "draw"}
    assert measured["devices"]["cpu"].items() <= measured.items()
    for phase, size in measured["phases"].items():
        assert measured["used"][phase] <= size <= measured["peak"], phase
    assert max(sizes) <= measured["peak"] + MIB
    assert max(sizes) == pytest.approx(measured["peak"], rel=0.02)
    for phase, size in planned["phases"].items():
        assert report["error"]["cpu"][phase] == pytest.approx(size / measured["used"][phase] - 1, abs=1e-4)
        assert -0.02 < report["error"]["cpu"][phase] < 0.13, phase  # 72 MiB for kernels, before there were any
    assert report["error"]["cpu"]["peak"] == pytest.approx(planned["peak"] / measured["peak"] - 1, abs=1e-4)
    timings = lines_of(tmp_path / "run" / "timings.jsonl")
    assert [line["step"] for line in timings] == [1, 2, 3, 4]
    assert all({"forward", "backward", "update"} <= set(line["memory"]["cpu"]["phases"]) for line in timings)
    assert '"memory"' not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert (tmp_path / "run" / "memory.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(rf"ram=\d\.\d\d/{planned['peak'] / 2**30:.2f}GiB", said)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_run_keeps_what_its_earlier_stretch_took(tokenizer_dir, tmp_path):
    """As if it had taken a GiB more in `forward` by its checkpoint, and two in `evaluate` after that."""
    options, report = (tokenizer_dir, "--plan_memory", "false"), tmp_path / "run" / "memory_report.json"
    first = train(tmp_path / "run", *options)
    while not report.exists():
        assert first.poll() is None, first.stderr.read().decode()
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    earlier = read_json(report)
    of_cpu = earlier["measured"]["devices"]["cpu"]
    of_cpu["phases"]["forward"] = of_cpu["peak"] = of_cpu["peak"] + 2**30
    report.write_text(json.dumps(earlier))
    line = {"peak": of_cpu["peak"] + 2**30, "phases": {"evaluate": of_cpu["peak"] + 2**30}, "used": {}}
    with (tmp_path / "run" / "timings.jsonl").open("a") as timings:
        timings.write(json.dumps({"step": 3, "seconds": 1.0, "memory": {"cpu": line}}) + "\n")
    second, whole = train(tmp_path / "run", *options), train(tmp_path / "whole", *options)
    for process in (second, whole):
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    measured = read_json(report)["measured"]
    assert measured["phases"]["forward"] == of_cpu["phases"]["forward"]
    assert measured["phases"]["evaluate"] == line["peak"] == measured["peak"]
    assert read_json(report)["planned"] is None
    assert "resume" in measured["phases"]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"measured": {"devices": {"cpu": {"peak": "a lot"}}}}'])
def test_a_damaged_report_is_named(text: str, tmp_path: Path):
    (tmp_path / "memory_report.json").write_text(text)
    with pytest.raises(UserError, match=rf"{tmp_path / 'memory_report.json'} is damaged: .*; remove it"):
        MemoryReport(tmp_path, MemoryMonitor()).recall(tmp_path)


def test_of_the_log_only_what_the_report_has_not_counted_is_read(tmp_path: Path):
    """A run of a hundred thousand steps goes on as quickly as one of ten."""
    counted = "not even JSON\n" * 1000
    late = {"peak": 2**51, "phases": {"evaluate": 2**51}, "used": {}}
    (tmp_path / "timings.jsonl").write_text(counted)
    MemoryReport(tmp_path, MemoryMonitor()).write()
    with (tmp_path / "timings.jsonl").open("a") as timings:
        timings.write(json.dumps({"step": 3, "seconds": 1.0, "memory": {"cpu": late}}) + "\n" + '{"step": 4, "sec')
    report = MemoryReport(tmp_path, MemoryMonitor())
    report.recall(tmp_path)
    assert report.to_dict()["measured"]["peak"] == 2**51


def test_a_report_of_one_peak_alone_is_taken_up(tmp_path: Path):
    """As reports were before phases were measured."""
    (tmp_path / "memory_report.json").write_text(json.dumps({"planned": {}, "measured": {"peak": 2**50}}))
    report = MemoryReport(tmp_path, MemoryMonitor())
    report.recall(tmp_path)
    measured = report.to_dict()["measured"]
    assert (measured["peak"], measured["peak_phase"]) == (2**50, None)
