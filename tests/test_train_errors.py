"""What stops a run, and that nothing is lost by it: numbers that are not finite, a full disk, missing arithmetic.

In    the tiny run with one thing broken.
Out   messages that name the step, the task and the records; weights and states as they were.
Run   `pytest tests/test_train_errors.py`
"""

import errno
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from tiny_run import ROOT, build_loop, tiny_config

from preprocessing.errors import UserError, run
from preprocessing.folders import verify
from training.build import build_accelerator
from training.checkpoint import checkpoints
from training.loop import TrainLoop
from training.moving import MAX_SKIPPED_IN_A_ROW
from training.nonfinite import NonFiniteError


@pytest.fixture
def loop(tokenizer, scenarios, tmp_path: Path) -> TrainLoop:
    """After one good step, so that the optimizer has moments to lose."""
    loop = build_loop(tokenizer, tiny_config(tmp_path / "run", gradient_accumulation_steps=2), scenarios[:8])
    loop.take_step(batches_of(loop))
    loop.step += 1
    return loop


def batches_of(loop: TrainLoop) -> list:
    return [loop.collator([loop.dataset[row] for row in rows]) for rows in ((0, 1, 2, 3), (4, 5, 6, 7))]


def state_of(loop: TrainLoop) -> dict[str, torch.Tensor]:
    moments = loop.optimizer.state_dict()["state"]
    flat = {f"{index}.{name}": value for index, entry in moments.items() for name, value in entry.items()}
    terms = torch.tensor(list(loop.term_weights.state_dict().values()))
    return {name: value.clone() for name, value in (loop.bare_model.state_dict() | flat | {"terms": terms}).items()}


def assert_stops_before_it_moves(loop: TrainLoop, group: list, *named: str) -> None:
    before = state_of(loop)
    with pytest.raises(NonFiniteError) as stopped:
        loop.take_step(group)
    after = state_of(loop)
    assert len(before) > len(loop.bare_model.state_dict()) + 1, "the optimizer has a state to lose"
    assert [name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()] == []
    message = str(stopped.value)
    for part in ("step 1", *named, *(record_id for batch in group for record_id in batch["ids"])):
        assert part in message


def test_a_label_that_is_infinite_stops_the_run(loop: TrainLoop):
    group = batches_of(loop)
    group[1]["labels"]["vad"][0, 1] = math.inf
    assert_stops_before_it_moves(loop, group, "'vad'")


def test_a_weight_that_is_infinite_stops_the_run(loop: TrainLoop):
    with torch.no_grad():
        loop.bare_model.emotion_head.culture_proj.weight[0, 0] = math.inf
    assert_stops_before_it_moves(loop, batches_of(loop), "emotion_head")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_the_run_and_names_its_task_only(loop: TrainLoop, value: float):
    weight = loop.bare_model.regret_head.trunk.norm.weight
    weight.register_hook(lambda gradient: torch.full_like(gradient, value))
    assert_stops_before_it_moves(loop, batches_of(loop), "['regret_head']", "regret_head.trunk.norm.weight")


def test_an_absent_label_stops_nothing(loop: TrainLoop):
    group = batches_of(loop)
    group[0]["labels"]["vad"][:] = math.nan
    losses, _ = loop.take_step(group)
    assert math.isfinite(losses["vad"])


def test_the_total_is_the_loss_that_was_descended(loop: TrainLoop, monkeypatch):
    descended = []
    backward = loop.accelerator.backward
    monkeypatch.setattr(loop.accelerator, "backward", lambda loss: descended.append(loss.item()) or backward(loss))
    log_variances = loop.term_weights.state_dict()
    losses, _ = loop.take_step(batches_of(loop))
    # Kendall et al. 2018: the weighted losses, and s_t for each term that had a label.
    cost = sum(log_variances[term] for term in losses if term != "total")
    assert losses["total"] == pytest.approx(sum(descended) + cost, rel=1e-5)


@pytest.fixture
def overflowing(tokenizer, scenarios, tmp_path: Path, monkeypatch) -> TrainLoop:
    """fp16's way of a step, on a CPU: torch's own scaler decides on skipping, from gradients made infinite here."""
    loop = build_loop(tokenizer, tiny_config(tmp_path / "run", batch_size=8), scenarios[:8])
    accelerator, scaler = loop.accelerator, torch.amp.GradScaler("cpu", init_scale=2.0**16)
    loop.optimizer = AcceleratedOptimizer(loop.optimizer.optimizer, scaler=scaler)
    accelerator.scaler, accelerator.native_amp, accelerator._optimizers = scaler, True, [loop.optimizer]
    monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
    return loop


def one_batch(loop: TrainLoop) -> list:
    return [loop.collator([loop.dataset[row] for row in range(4)])]


def test_a_step_that_the_scaler_skips_is_counted_and_moves_no_weight(overflowing: TrainLoop):
    weight = overflowing.bare_model.regret_head.trunk.norm.weight
    hook = weight.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    before = {name: tensor.clone() for name, tensor in overflowing.bare_model.named_parameters()}
    _, numbers = overflowing.take_step(one_batch(overflowing))
    assert (numbers["skipped_steps"], overflowing.skipped_in_a_row) == (1, 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in overflowing.bare_model.named_parameters())
    assert overflowing.accelerator.scaler.get_scale() == 2.0**15
    hook.remove()
    _, numbers = overflowing.take_step(one_batch(overflowing))
    assert (numbers["skipped_steps"], overflowing.skipped_in_a_row) == (1, 0)
    assert not torch.equal(before["regret_head.trunk.norm.weight"], weight)
    json.loads(json.dumps(numbers, allow_nan=False))


def test_steps_that_may_not_move_a_weight_follow_one_another_in_half_precision(overflowing: TrainLoop):
    overflowing.config.update_weights = False
    before = {name: tensor.clone() for name, tensor in overflowing.bare_model.named_parameters()}
    norms = [overflowing.take_step(one_batch(overflowing))[1]["gradient_norm"] for _ in range(2)]
    assert norms[0] > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in overflowing.bare_model.named_parameters())


def test_ten_skipped_steps_in_a_row_stop_the_run(overflowing: TrainLoop):
    weight = overflowing.bare_model.regret_head.trunk.norm.weight
    weight.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    group = one_batch(overflowing)
    for _ in range(9):
        overflowing.take_step(group)
    with pytest.raises(NonFiniteError, match=r"10 steps in a row.*bf16") as stopped:
        overflowing.take_step(group)
    assert MAX_SKIPPED_IN_A_ROW == 10
    assert group[0]["ids"][0] in str(stopped.value)


def test_half_precision_on_a_cpu_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(UserError, match="mixed_precision fp16"):
        build_accelerator(SimpleNamespace(mixed_precision="fp16"))  # type: ignore[arg-type]


# ---------------------------------------------------------------- a full disk

FILL_THE_DISK = """
import ctypes, json, os, sys
spec = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if os.getuid() else 0)):
    sys.exit(77)
# What is mounted here is seen by this process alone and goes with it: its files are copied out at the end.
folder = os.path.dirname(spec["config"]["output_dir"])
if libc.mount(b"none", b"/", None, 0x44000, None) or libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=4m"):
    sys.exit(77)
sys.path.insert(0, spec["tests"])
import shutil, tiny_run
from preprocessing.errors import run
code = 0
try:
    run(lambda: tiny_run.one_life(spec))
except SystemExit as stopped:
    code = stopped.code
os.chdir("/")
shutil.copytree(spec["config"]["output_dir"], spec["result"])
sys.exit(code)
"""


@pytest.mark.slow
def test_a_full_disk_ends_with_a_message_and_the_earlier_checkpoints(tokenizer_dir: Path, tmp_path: Path):
    disk, result = tmp_path / "disk", tmp_path / "result"
    disk.mkdir()
    config = {"output_dir": str(disk / "run"), "max_steps": 30, "save_steps": 1}
    spec = {"tokenizer": str(tokenizer_dir), "config": config, "result": str(result), "tests": str(ROOT / "tests")}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FILL_THE_DISK, json.dumps(spec)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ended.returncode == 77:
        pytest.skip("a disk of 4 MiB cannot be mounted here: neither root nor user namespaces")
    assert ended.returncode == 2, ended.stderr[-3000:]
    assert re.search(r"error: could not save .*checkpoint_epoch_\d+.*make room", ended.stderr)
    assert "Traceback" not in ended.stderr
    saved = checkpoints(result)
    assert saved
    assert all(verify(folder)["step"] for folder in saved)


def test_a_command_whose_reader_has_gone_ends_without_a_word():
    """As `... | head` leaves it, or a pager that is closed."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "training.memory", "--preset", "redheart-tiny"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_pipe_of_its_own_that_breaks_is_told():
    def main():
        raise BrokenPipeError(errno.EPIPE, "the worker's")

    with pytest.raises(BrokenPipeError, match="the worker's"):
        run(main)
