"""A model cut into pieces over two processes trains as one that is whole: the same figures, files and way back.

In    runs of the whole command on the shipped scenarios, two processes on CPUs each, with and without FSDP2.
Out   losses, weights and checkpoints, side by side; what is refused.
Run   `pytest tests/test_train_sharding.py -m "slow or not slow"`
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import ROOT, tiny_config
from transformers import AutoModel

from preprocessing.errors import UserError
from training.build import build_accelerator

STEPS = 6
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}
SOURCES = [f"scenarios={ROOT / 'data' / 'scenarios' / name}.jsonl" for name in ("train", "dev")]


def start(output_dir: Path, tokenizer_dir: Path, sharded: bool) -> subprocess.Popen:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fields = ["--output_dir", output_dir, "--tokenizer", tokenizer_dir, "--train", json.dumps(SOURCES[:1])]
    fields += ["--dev", json.dumps(SOURCES[1:]), "--max_steps", STEPS, "--batch_size", 8, "--save_steps", 3]
    fields += ["--log_steps", 1, "--model.max_length", 48, "--memory_refresh_steps", 2]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (FSDP2 if sharded else {})
    return subprocess.Popen(
        [*command, "training/train.py", *map(str, fields)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(output_dir: Path, tokenizer_dir: Path, sharded: bool) -> None:
    process = start(output_dir, tokenizer_dir, sharded)
    said, _ = process.communicate()
    assert process.returncode == 0, said[-3000:]


def figures_of(output_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same_figures(found: list[dict], expected: list[dict]) -> None:
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, other in zip(found, expected, strict=True):
        if "loss" in line:
            assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)
            assert line["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_in_pieces_trains_as_a_whole_one(tokenizer_dir, tmp_path):
    whole, pieces, mixed = tmp_path / "whole", tmp_path / "pieces", tmp_path / "mixed"
    finish(whole, tokenizer_dir, sharded=False)
    finish(pieces, tokenizer_dir, sharded=True)
    assert_same_figures(figures_of(pieces), figures_of(whole))
    first, last = whole / "checkpoint-3", whole / f"checkpoint-{STEPS}"
    for name in ("model.safetensors", "optimizer.safetensors"):
        began, expected = load_file(first / name), load_file(last / name)
        found = load_file(pieces / last.name / name)
        assert {key: value.shape for key, value in found.items()} == {key: v.shape for key, v in expected.items()}
        way = sum(float((expected[key].float() - began[key].float()).square().sum()) for key in expected)
        off = sum(float((expected[key].float() - found[key].float()).square().sum()) for key in expected)
        assert off < 1e-4 * way, (name, off, way)
    # Its folder is a model like any other, without any word of pieces in it.
    model = AutoModel.from_pretrained(pieces / "final", trust_remote_code=False)
    assert all(type(parameter) is torch.nn.Parameter for parameter in model.parameters())
    # A run that began in pieces may go on whole: a checkpoint has all of every tensor.
    shutil.copytree(pieces, mixed)
    shutil.rmtree(mixed / last.name)
    shutil.rmtree(mixed / "final")
    finish(mixed, tokenizer_dir, sharded=False)
    assert_same_figures(figures_of(mixed), figures_of(whole))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_pieces_it_goes_on_to_the_same_bytes(tokenizer_dir, tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    finish(alone, tokenizer_dir, sharded=True)
    process = start(killed, tokenizer_dir, sharded=True)
    while not (killed / "checkpoint-3" / "manifest.json").is_file():
        assert process.poll() is None, process.stdout and process.stdout.read()[-3000:]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(
        ["pkill", "-KILL", "-f", str(killed)], check=False
    )  # torchrun's children have sessions of their own
    process.wait()
    assert not (killed / "final").exists()
    finish(killed, tokenizer_dir, sharded=True)
    last = f"checkpoint-{STEPS}"
    assert bytes_of(killed / last) == bytes_of(alone / last)
    assert (killed / "metrics.jsonl").read_bytes() == (alone / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("launched", "recipe", "said"),
    [
        ({}, {}, "this process is alone, or on no GPU"),
        ({"FSDP_VERSION": "1"}, {}, "fsdp_version must be 2"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {}, "fsdp_cpu_ram_efficient_loading must be false"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, "gradient_checkpointing of the recipe takes the place"),
        ({}, {"optimizer": "adafactor"}, "optimizer adafactor would see a piece"),
        ({}, {"optimizer": "sgd", "update_in_backward": True, "clipping": "previous_norm"}, "update_in_backward"),
    ],
)
def test_what_is_not_done_on_pieces_is_refused(launched, recipe, said, tmp_path, monkeypatch):
    for name, value in (FSDP2 | launched).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        build_accelerator(tiny_config(tmp_path, **recipe))


def test_deepspeed_is_refused_with_what_takes_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match=r"--config_file training/launch/fsdp2_offload\.yaml"):
        build_accelerator(tiny_config(tmp_path))
