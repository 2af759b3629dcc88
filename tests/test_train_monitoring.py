"""What a run says of itself every few steps: stages, gradients by module, queue; and who else is told.

In    tiny runs on the shipped scenarios; made-up gradients; the trackers' own files.
Out   metrics.jsonl and timings.jsonl; norms beside torch's; what TensorBoard and trackio have stored.
Run   `pytest tests/test_train_monitoring.py`
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import NEEDS_COMPILER
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import ROOT, build_loop, tiny_config

from preprocessing.errors import UserError
from training.memory_monitor import MemoryMonitor
from training.memory_report import MemoryReport
from training.monitor import StageClock, module_of, norm_of_all, norms_by_module, norms_of
from training.monitored_loop import MonitoredLoop
from training.run_log import RunLog, flatten

EVERY = 3


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def measured_loop(tokenizer, records, folder: Path, **fields) -> MonitoredLoop:
    config = tiny_config(folder, **({"log_steps": EVERY, "max_steps": 8, "trackers": []} | fields))
    memory = MemoryReport(folder, MemoryMonitor())
    return build_loop(tokenizer, config, records, lambda *given: MonitoredLoop(*given, memory=memory))


def test_every_few_steps_there_is_a_line_of_times_by_stage(tokenizer, scenarios, tmp_path: Path):
    loop = measured_loop(tokenizer, scenarios[:24], tmp_path / "run", eval_steps=4, save_steps=4)
    evaluate = loop.evaluate

    def slow():
        with loop.memory.monitor.phase("evaluate"):  # as training/train.py does
            time.sleep(0.2)
            return evaluate()

    loop.evaluate = slow
    loop.train()
    lines = lines_of(tmp_path / "run" / "timings.jsonl")
    assert [line["step"] for line in lines] == [3, 6, 8]
    for line in lines:
        assert {"read", "forward", "compute", "backward", "update"} <= set(line["stages"])
        assert min(line["stages"].values()) >= 0
        # The stages are all of the time; the clock and the line's own seconds are taken one after the other.
        assert sum(line["stages"].values()) == pytest.approx(line["seconds"], rel=0.2, abs=0.05)
        assert line["memory"]["cpu"]["peak"] > 2**20
        assert line["queue"]["redone"] == 0
    # Steps 4 and 8: what evaluates and saves is in the line of its own steps.
    assert [line["stages"].get("evaluate", 0) >= 0.2 for line in lines] == [False, True, True]
    assert ["save" in line["stages"] for line in lines] == [False, True, True]
    assert sum(line["queue"]["prepared"] for line in lines) == 8


def test_a_stage_inside_another_has_its_own_time():
    clock = StageClock()
    clock.turn("forward")
    with clock.stage("compute"):
        time.sleep(0.05)
    time.sleep(0.02)
    seconds = clock.take()
    assert seconds["compute"] >= 0.05
    assert seconds["forward"] >= 0.02
    assert clock.take().keys() == {"forward"}


def test_metrics_hold_nothing_that_a_resumed_run_could_not_repeat(tokenizer, scenarios, tmp_path: Path):
    """Two runs, one with workers and times of its own: the same bytes."""
    for name, workers in (("a", 0), ("b", 2)):
        measured_loop(tokenizer, scenarios[:24], tmp_path / name / "run", num_workers=workers).train()
    metrics = [(tmp_path / name / "run" / "metrics.jsonl").read_bytes() for name in ("a", "b")]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("options", [{}, pytest.param("in_backward", marks=NEEDS_COMPILER)], ids=["plain", "bytes"])
def test_norms_by_module_make_up_the_norm_of_all(options, tokenizer, scenarios, tmp_path: Path):
    if options == "in_backward":
        options = {"optimizer": "adamw_8bit", "update_in_backward": True}
    loop = measured_loop(tokenizer, scenarios[:24], tmp_path / "run", **options)
    loop.train()
    lines = [line for line in lines_of(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert len(lines) == 3
    modules = {module_of(name) for name, _ in loop.bare_model.named_parameters()}
    assert {"model.blocks", "emotion_head", "ethics_head", "regret_head"} <= modules
    for line in lines:
        assert set(line["gradient_norms"]) <= modules
        total = sum(norm**2 for norm in line["gradient_norms"].values()) ** 0.5
        assert total == pytest.approx(line["gradient_norm"], rel=1e-4)


def test_the_norm_of_all_has_the_bits_of_torchs_own():
    torch.manual_seed(0)
    gradients = [torch.randn(size) for size in ((64, 33), (7,), (129, 5, 3))]
    norms = norms_of(gradients)
    assert torch.equal(norm_of_all(norms), torch.nn.utils.get_total_norm(gradients))
    mixed = [*gradients, torch.randn(40, 8).bfloat16()]
    by_hand = torch.cat([gradient.float().flatten() for gradient in mixed]).norm()
    assert float(norm_of_all(norms_of(mixed))) == pytest.approx(float(by_hand), rel=1e-2)
    assert norms_by_module(["model.a.x", "head.b", "head.c"], norms) == {
        "model.a": pytest.approx(float(gradients[0].norm())),
        "head": pytest.approx(float(torch.cat([gradients[1], gradients[2].flatten()]).norm())),
    }
    assert norms_by_module(["head.a"], norms_of([torch.tensor([float("nan")])])) == {"head": None}


def test_tensorboard_has_every_number_of_both_files(tokenizer, scenarios, tmp_path: Path):
    measured_loop(tokenizer, scenarios[:24], tmp_path / "run", trackers=["tensorboard"], eval_steps=4).train()
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    for file in ("metrics.jsonl", "timings.jsonl"):
        for line in lines_of(tmp_path / "run" / file):
            step = line.pop("step")
            for name, value in flatten(line):
                told = {event.step: event.value for event in board.Scalars(name)}
                assert told[step] == pytest.approx(value, rel=1e-6), name


TRACKED = """
import os, sys, socket
from pathlib import Path
def refuse(*_, **__): raise AssertionError("it asks the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from accelerate import PartialState
from training.config import TrainConfig
from training.run_log import RunLog
from training.trackers import import_trackers
PartialState(cpu=True)
config = TrainConfig(output_dir=sys.argv[1], train=["kote=a"], trackers=["trackio"])
import_trackers(config)
for first in (0, 2):
    log = RunLog(Path(config.output_dir), first, 4, 10**6, True, config.trackers)
    for step in (first + 1, first + 2):
        log.write(step, {"loss": {"total": 1.0 / step}})
    log.close()
"""


def test_trackio_stores_them_in_the_runs_folder_and_asks_no_network(tmp_path: Path):
    pytest.importorskip("trackio", reason="trackio comes with the extra track")
    command = [sys.executable, "-c", TRACKED, str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if name != "TRACKIO_DIR"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (stored,) = (tmp_path / "run" / "trackio").glob("*.db")
    with sqlite3.connect(stored) as base:
        rows = base.execute("select step, metrics from metrics order by step").fetchall()
    assert [(step, json.loads(said)["loss/total"]) for step, said in rows] == [
        (step, pytest.approx(1 / step)) for step in (1, 2, 3, 4)
    ]


def test_a_tracker_that_is_not_there_is_refused(monkeypatch, tmp_path: Path):
    with pytest.raises(UserError, match="trackers names 'wandb'; there are: tensorboard, trackio"):
        tiny_config(tmp_path, trackers=["wandb"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"trackio, which is not installed: pip install .*\[track\]"):
        tiny_config(tmp_path, trackers=["trackio"])


def test_a_run_without_trackers_writes_its_own_files_alone(tmp_path: Path):
    log = RunLog(tmp_path / "run", 0, 2, 0, active=True)
    log.write(1, {"loss": {"total": 1.0}})
    log.write_timings(1, {"seconds": 0.5})
    log.close()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["metrics.jsonl", "timings.jsonl"]
