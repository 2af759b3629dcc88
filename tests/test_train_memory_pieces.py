"""What a process takes of a model in pieces: the arithmetic, a real run of two beside it, and two machines as one.

In    presets, and runs of redheart-200m and redheart-tiny with two processes on CPUs.
Out   bytes planned and measured; exit codes; weights of a run started by two launchers.
Run   pytest tests/test_train_memory_pieces.py -m "slow or not slow"
"""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from commands import FSDP2, run_command, two_processes
from test_train_sharding import SOURCES, WEIGHTS
from tiny_encoder import tiny_bert
from tiny_run import ROOT

from redheart_hf import RedHeartForMultiTask, preset_config
from training import memory, memory_pieces

FIELDS = ["--preset", "redheart-200m", "--batch-size", 4, "--max-length", 48]


@cache
def planned(*options: object) -> dict:
    code, out, err = run_command(memory_pieces, *FIELDS, "--json", *options)
    assert code in (0, 3), err
    return json.loads(out)


def filled_up(model: torch.nn.Module, processes: int) -> int:
    """Numbers, each tensor's rows a multiple of the processes, as FSDP2 cuts them."""
    shapes = [tuple(parameter.shape) or (1,) for parameter in model.parameters()]
    return sum(math.ceil(shape[0] / processes) * processes * math.prod(shape[1:]) for shape in shapes)


def test_what_rests_is_shared_out_and_what_computes_is_not():
    two, thousand = planned("--processes", 2, "--vram-gib", 80), planned("--processes", 1000, "--vram-gib", 80)
    model = RedHeartForMultiTask(preset_config("redheart-200m"))
    numbers, filled = filled_up(model, 1), filled_up(model, 1000)
    assert numbers < filled < 1.5 * numbers
    assert thousand["resting"] * 1000 / filled == pytest.approx(two["resting"] * 2 / filled_up(model, 2), rel=1e-4)
    assert two["resting"] * 2 == pytest.approx(16 * numbers, rel=0.11)  # AdamW, but for heads that are not taught
    assert thousand["working"] == two["working"]
    assert (two["travels"], thousand["travels"]) == (12 * filled_up(model, 2) // 2, 12 * filled * 999 // 1000)
    assert thousand["main_memory"]["load"] >= 8 * 4 * numbers


def test_what_is_cut_out_of_an_encoder_is_cut_out_once(tokenizer):
    """Its embeddings hold the table that is cut out by itself: they are no cut."""
    sizes = {"vocab_size": len(tokenizer), "text_encoder_config": tiny_bert(tokenizer)}
    model = RedHeartForMultiTask(preset_config("redheart-tiny", **sizes))
    encoder = model.model.embeddings.encoder
    layers = [*encoder.encoder.layer, *model.model.blocks]
    parts = [filled_up(part, 3) for part in (*layers, encoder.embeddings.word_embeddings)]
    found = memory_pieces.cut_of(model, 3)
    assert (found.every, found.unit) == (4 * filled_up(model, 3), 4 * max(parts))
    assert found.uncut == 4 * (filled_up(model, 3) - sum(parts)) > 0


def test_recomputing_is_counted():
    """What comes back in the backward pass is there then, and is no part of what the forward pass keeps."""
    fields = ["--preset", "redheart-tiny", "--batch-size", 64, "--max-length", 256, "--gradient-checkpointing", "true"]
    code, out, _ = run_command(memory_pieces, *fields, "--processes", 1, "--json")
    whole = json.loads(run_command(memory, *fields, "--json")[1])
    assert code == 0
    assert json.loads(out)["phases"]["backward"] == pytest.approx(whole["phases"]["backward"], rel=0.05)


def test_with_offload_nothing_rests_on_the_gpu():
    beside = planned("--processes", 8, "--vram-gib", 80, "--offload")
    resting = planned("--processes", 8, "--vram-gib", 80)["resting"]
    assert beside["resting"] == 0
    assert beside["main_memory"]["step"] >= 8 * resting


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--processes", 4, "--optimizer", "adamw_8bit"], "use adamw or sgd"),
        (["--processes", 12, "--per-machine", 8], "--processes 12"),
        (["--processes", 8, "--per-machine", 0], "got 8 and 0"),
        (["--processes", 8, "--vram-gib", 80, "--swap", "on"], "swap on"),
        (["--processes", 8, "--vram-gib", 80, "--gpu-layers-ratio", 0.5], "gpu_layers_ratio"),
        (["--processes", 8, "--fit"], "training.memory"),
        (["--processes", 8, "--offload"], "--vram-gib"),
    ],
)
def test_what_a_run_in_pieces_refuses_is_not_planned(options, said):
    code, _, err = run_command(memory_pieces, *FIELDS, *options)
    assert code == 2
    assert said in err


def test_what_does_not_fit_ends_with_three():
    for limit in (["--vram-gib", 1], ["--vram-gib", 80, "--ram-gib", 2]):
        code, out, _ = run_command(memory_pieces, *FIELDS, "--processes", 4, *limit)
        assert code == 3
        assert "does NOT fit" in out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_take_no_more_than_planned_and_most_of_it(tokenizer_dir, tmp_path):
    fields = [*FIELDS[:2], "--tokenizer", tokenizer_dir, "--batch_size", 4, "--model.max_length", 48]
    run = ["--output_dir", tmp_path / "run", "--train", json.dumps(SOURCES[:1]), "--max_steps", 2, "--save_steps", 2]
    command, environment = two_processes("training/train.py", *fields, *run, sharded=True)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads((tmp_path / "run" / "memory_report.json").read_text())["measured"]["used"]
    # In a process of its own: a plan counts the interpreter it is made in, and pytest's has many tests behind it.
    plan = [sys.executable, "-m", "training.memory_pieces", *FIELDS, "--tokenizer", tokenizer_dir, "--json"]
    plan += ["--processes", 2, "--alternatives", 3]
    found = subprocess.run(list(map(str, plan)), cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    expected = json.loads(found.stdout)["phases"]
    for phase in ("forward", "backward", "update"):
        assert 0.6 < measured[phase] / expected[phase] <= 1.02, (phase, measured[phase], expected[phase])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_machines_train_as_one_with_two_processes(tokenizer_dir, tmp_path):
    """Each machine is a launcher of its own that knows the first one's address."""
    options = ["--train", json.dumps(SOURCES[:1]), "--max_steps", 4, "--batch_size", 4, "--save_steps", 2]
    options = ["training/train.py", "--tokenizer", tokenizer_dir, "--model.max_length", 48, *options, "--output_dir"]
    command, environment = two_processes(*options, tmp_path / "one", sharded=True)
    one = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert one.returncode == 0, one.stderr[-3000:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = ["--master_addr", "127.0.0.1", "--master_port", str(free.getsockname()[1])]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", *meeting]
    environment = os.environ | FSDP2 | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    machines = []
    for rank in ("0", "1"):
        arguments = [*launch, "--node_rank", rank, *map(str, options), str(tmp_path / "two")]
        pipes: dict = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        machines.append(subprocess.Popen(arguments, cwd=ROOT, env=environment, start_new_session=True, **pipes))
    try:
        for machine in machines:
            _, said = machine.communicate(timeout=600)
            assert machine.returncode == 0, said[-3000:]
    finally:
        for machine in machines:
            if machine.poll() is None:
                os.killpg(machine.pid, signal.SIGKILL)
    weights = [Path(tmp_path / run / "final" / WEIGHTS).read_bytes() for run in ("one", "two")]
    assert weights[0] == weights[1]
