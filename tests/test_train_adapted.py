"""A trained model adapted by a recipe: what learns, what is written, and that a kill changes nothing.

In    a saved redheart-tiny, with its own embeddings and on a tiny encoder; shipped scenarios.
Out   final/ beside peft's own reading of adapter/; bytes of runs that were stopped; plans beside measured memory.
Run   `pytest tests/test_train_adapted.py`
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import peft
import pytest
import torch
from commands import NEEDS_COMPILER
from safetensors.torch import load_file
from tiny_encoder import tiny_bert
from tiny_run import tiny_config
from transformers import AutoTokenizer

from preprocessing.errors import UserError
from redheart_hf import RedHeartForMultiTask, preset_config
from redheart_hf.modeling_projections import AnswerLinear
from training.build import build_model
from training.checkpoint import checkpoints
from training.command_line import parse_config
from training.config import TrainConfig
from training.loading import load_model
from training.optim import build_optimizer

TEXTS = ["할머니 김치를 마지막으로 꺼내 먹었다.", "They cancelled my leave again."]
LORA = {"method": "lora", "on": ["blocks"], "rank": 4}
IA3 = {"method": "ia3", "on": ["blocks"]}
ROOT = Path(__file__).resolve().parents[1]


def saved(folder: Path, tokenizer, **more) -> Path:
    torch.manual_seed(5)
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_length": 64}
    RedHeartForMultiTask(preset_config("redheart-tiny", **sizes | more)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("base"), tokenizer)


@pytest.fixture(scope="module")
def on_encoder(tokenizer, tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("on_encoder"), tokenizer, text_encoder_config=tiny_bert(tokenizer))


def adapted(output_dir: Path, base: Path, adapters: dict, *more: object) -> subprocess.CompletedProcess:
    return subprocess.run(command_of(output_dir, base, adapters, *more), cwd=ROOT, capture_output=True, text=True)


def command_of(output_dir: Path, base: Path, adapters: dict, *more: object) -> list[str]:
    given = ["--output_dir", output_dir, "--start_from", base, "--model.adapters", json.dumps(adapters)]
    given += ["--train", json.dumps([f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}"])]
    return [sys.executable, "training/train.py", *map(str, [*given, "--learning_rate", 0.01, "--max_steps", 2, *more])]


def killed_after_a_checkpoint(output_dir: Path, *given: object) -> None:
    process = subprocess.Popen(command_of(output_dir, *given), cwd=ROOT, stderr=subprocess.PIPE)
    while not checkpoints(output_dir):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def answers(model: torch.nn.Module, folder: Path) -> torch.Tensor:
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = model.eval()(**batch)
    return torch.cat((output.emotion.basic_logits, output.emotion.vad_mean, output.ethics.circumstances), dim=1)


@pytest.mark.parametrize("adapters", [LORA, IA3], ids=["lora", "ia3"])
def test_final_is_plain_and_the_adapter_alone_makes_the_same_of_the_base(adapters, base, tmp_path):
    done = adapted(tmp_path / "run", base, adapters)
    assert done.returncode == 0, done.stderr
    final, adapter = tmp_path / "run" / "final", tmp_path / "run" / "adapter"
    model, _ = load_model(final)
    assert model.config.adapters is None
    expected = answers(model, base)
    before = answers(RedHeartForMultiTask.from_pretrained(base), base)
    assert not torch.allclose(expected, before, atol=1e-3)
    assert (adapter / "adapter_model.safetensors").stat().st_size < 0.1 * (base / "model.safetensors").stat().st_size
    wrapped = peft.PeftModel.from_pretrained(RedHeartForMultiTask.from_pretrained(base), adapter)
    torch.testing.assert_close(answers(wrapped, base), expected, atol=1e-5, rtol=1e-5)
    with wrapped.disable_adapter():
        torch.testing.assert_close(answers(wrapped, base), before)


def test_nothing_learns_but_adapters_and_what_answers(base, tmp_path):
    assert adapted(tmp_path / "run", base, LORA, "--memory_refresh_steps", 1).returncode == 0
    old, new = load_file(base / "model.safetensors"), load_file(tmp_path / "run" / "final" / "model.safetensors")
    assert old.keys() == new.keys()
    model = RedHeartForMultiTask.from_pretrained(base)
    whole = {name for name, module in model.named_modules() if isinstance(module, AnswerLinear)}
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    in_blocks = {name for name in moved if name.startswith("model.blocks.")}
    assert {name.rpartition(".")[0] for name in moved - in_blocks} <= whole
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.blocks.")
    }
    assert in_blocks == linear


def test_adapters_of_an_encoder_learn_there(on_encoder, tmp_path):
    config = tiny_config(tmp_path / "run", start_from=str(on_encoder), model={"adapters": {"on": ["encoder"]}})
    _, model = build_model(config)
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[2] for name in learns if "lora_" in name} == {"encoder"}
    done = adapted(tmp_path / "run", on_encoder, {"on": ["encoder", "blocks"]})
    assert done.returncode == 0, done.stderr
    old, new = load_file(on_encoder / "model.safetensors"), load_file(tmp_path / "run" / "final" / "model.safetensors")
    assert old.keys() == new.keys()
    name = next(name for name in old if name.endswith("attention.self.query.weight"))
    assert not torch.equal(old[name], new[name])


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(base, tmp_path):
    given = ("--max_steps", 6, "--save_steps", 2)
    assert adapted(tmp_path / "whole", base, LORA, *given).returncode == 0
    killed_after_a_checkpoint(tmp_path / "parts", base, LORA, *given)
    assert not (tmp_path / "parts" / "final").exists()
    assert adapted(tmp_path / "parts", base, LORA, *given).returncode == 0
    ended = [tmp_path / name / "final" / "model.safetensors" for name in ("whole", "parts")]
    assert ended[0].read_bytes() == ended[1].read_bytes()


@NEEDS_COMPILER
def test_memory_is_what_was_planned(base, tmp_path, tokenizer):
    wide = saved(tmp_path / "wide", tokenizer, intermediate_size=49152)
    assert adapted(tmp_path / "run", wide, LORA, "--batch_size", 1).returncode == 0
    report = json.loads((tmp_path / "run" / "memory_report.json").read_text())
    assert 0.98 < report["planned"]["peak"] / report["measured"]["peak"] < 1.05, report


def test_an_adapted_checkpoint_is_started_from_as_it_is_and_final_is_adapted_anew(base, tmp_path):
    assert adapted(tmp_path / "run", base, LORA).returncode == 0
    last = checkpoints(tmp_path / "run")[-1]
    for given in ({}, {"adapters": LORA}):
        _, model = build_model(tiny_config(tmp_path / "next", start_from=str(last), model=given))
        learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert any("lora_" in name for name in learns)
        assert all("lora_" in name or not name.startswith("model.blocks.") for name in learns)
        saved = load_file(last / "model.safetensors")
        assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match="it holds adapters .* already"):
        build_model(tiny_config(tmp_path / "next", start_from=str(last), model={"adapters": IA3}))
    final = str(tmp_path / "run" / "final")
    _, model = build_model(tiny_config(tmp_path / "next", start_from=final, model={"adapters": IA3}))
    assert any("ia3_" in name for name, _ in model.named_parameters())
    card = (tmp_path / "run" / "final" / "README.md").read_text(encoding="utf-8")
    numbers = sum(value.numel() for value in RedHeartForMultiTask.from_pretrained(final).parameters())
    assert f"parameters: {numbers:,}, of which" in card
    assert "adapted: method lora, on ['blocks'], rank 4" in card


def test_scales_are_not_drawn_to_zero(base, tmp_path):
    config = tiny_config(tmp_path / "run", start_from=str(base), model={"adapters": IA3}, weight_decay=0.1)
    _, model = build_model(config)
    scales = {id(parameter) for name, parameter in model.named_parameters() if "ia3_" in name}
    decayed = [group for group in build_optimizer(model, config).param_groups if group["weight_decay"]]
    assert decayed
    assert not scales & {id(parameter) for group in decayed for parameter in group["params"]}


@pytest.mark.parametrize(
    ("adapters", "told"),
    [
        ({"method": "prefix"}, "adapters.method is 'prefix'; lora or ia3"),
        ({"ranks": 4}, "adapters has no 'ranks'; known: method, on, rank, alpha, dropout"),
        ({"on": ["heads"]}, r"adapters.on is \['heads'\]; a list of encoder, blocks"),
        ({"on": []}, r"adapters.on is \[\]"),
        ({"rank": 0}, "adapters.rank is 0; a whole number from 1"),
        ({"dropout": 1.0}, r"adapters.dropout is 1.0; a number in \[0, 1\)"),
        ({"method": "ia3", "rank": 8}, "adapters.rank is LoRA's, and the method is ia3"),
        ({"on": ["encoder"]}, r"asked for on \['encoder'\], but this model has no encoder"),
    ],
)
def test_what_cannot_be_adapted_is_refused_with_its_value(adapters, told, base, tmp_path):
    config = tiny_config(tmp_path / "run", start_from=str(base), model={"adapters": adapters})
    with pytest.raises(UserError, match=told):
        build_model(config)


def test_an_encoder_that_is_frozen_cannot_be_adapted(on_encoder, tmp_path):
    model = {"adapters": LORA | {"on": ["encoder"]}, "text_encoder_mode": "frozen"}
    with pytest.raises(UserError, match="text_encoder_mode is frozen; set it to trained"):
        build_model(tiny_config(tmp_path / "run", start_from=str(on_encoder), model=model))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            {"modules": ["triangle"]},
            r"leave all but themselves .* \['triangle'\] would stay at their start",
        ),
        ({"num_hidden_layers": 0}, "this model has no blocks"),
    ],
)
def test_what_would_never_learn_is_refused(more, told, tokenizer, tmp_path):
    folder = saved(tmp_path / "plain", tokenizer, modules=[], num_hidden_layers=more.pop("num_hidden_layers", 2))
    with pytest.raises(UserError, match=told):
        build_model(tiny_config(tmp_path / "run", start_from=str(folder), model={"adapters": LORA} | more))


def test_an_encoder_that_stays_as_it_is_takes_no_rate_of_its_own(on_encoder, tmp_path):
    fields = {"model": {"adapters": LORA}, "text_encoder_learning_rate": 1e-4}
    config = tiny_config(tmp_path / "run", start_from=str(on_encoder), **fields)
    with pytest.raises(UserError, match="adapters on blocks leave the text encoder as it is"):
        config.refuse_idle_settings(build_model(config)[1].config)


def test_the_recipe_in_the_documentation_is_one(base, tmp_path):
    """Of YAML, where a bare `on` is true."""
    page = (ROOT / "docs" / "use.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("    model: {adapters: ")]
    (tmp_path / "recipe.yaml").write_text(f"start_from: {base}\n{line.strip().replace('encoder, ', '')}\n")
    sources = json.dumps([f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}"])
    config = parse_config([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "run"), "--train", sources])
    assert config.model["adapters"]["on"] == ["blocks"]
    assert build_model(config)[1].config.adapters["on"] == ["blocks"]


def test_adapters_want_a_trained_model():
    with pytest.raises(UserError, match="start_from names none"):
        TrainConfig(train=["scenarios=x"], tokenizer="x", output_dir="x", model={"adapters": LORA})
