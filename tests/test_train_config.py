"""The settings of a run: the command line is TrainConfig and nothing else, and what is wrong in it is named.

In    the recipes of this checkout, small ones written here, arguments as a user types them.
Out   configs, or the messages and exit codes a user meets.
Run   `pytest tests/test_train_config.py`
"""

import dataclasses
import inspect
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from config_fields import FIELDS
from transformers import BertConfig

from preprocessing.errors import UserError
from preprocessing.sources import Takes, expand, parse
from redheart_hf import preset_config
from training.build import checked_config
from training.command_line import build_parser, parse_config
from training.config import FREE_ON_RESUME, TrainConfig
from training.optim import TermWeights
from training.run_facts import native_precision

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))
LEAST = ["--output_dir", "out", "--train", "[scenarios=a.jsonl]"]


def refused(capsys, *arguments: str) -> str:
    """What a user reads when the arguments end with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        parse_config([*LEAST, *arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_no_flag_exists_but_the_fields():
    assert [field.name for field in dataclasses.fields(TrainConfig)] == FIELDS
    flags = {option for action in build_parser()._actions for option in action.option_strings}
    expected = {f"--{name}" for name in FIELDS}
    # The rest is the parser's own: help, the recipe, and `--train+` and `--dev+`, which add to a list.
    assert flags - expected <= {"-h", "--help", "--recipe", "--print_config", *(f"--{name}+" for name in FIELDS)}
    assert expected <= flags


def test_the_docstring_of_a_field_is_its_help():
    source = inspect.getsource(TrainConfig)
    help_of = {action.dest: action.help for action in build_parser()._actions}
    for name in FIELDS:
        documented = re.search(rf'^    {name}: .*\n    """((?:.|\n)*?)"""', source, flags=re.MULTILINE)
        assert documented, f"{name} has no docstring"
        words = documented[1].split()
        assert str(help_of[name]).split()[: len(words)] == words


def test_what_may_change_on_resume_are_fields():
    assert set(FIELDS) > FREE_ON_RESUME


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_read(recipe: Path):
    config = parse_config([str(recipe)])
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    if written.get("mixed_precision") == "auto":
        written["mixed_precision"] = native_precision()
    assert {name: getattr(config, name) for name in written} == written
    reads_with = {} if config.text_encoder is None else {"text_encoder_config": BertConfig(hidden_size=384)}
    changes = preset_config(config.preset, **config.model, **reads_with).to_dict()
    assert {name: changes[name] for name in config.model} == config.model


def test_later_ones_win(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output_dir: a\ntrain: [scenarios=a.jsonl]\nseed: 1\nmodel: {hidden_size: 128}\n")
    assert parse_config([str(recipe)]).seed == 1
    config = parse_config([str(recipe), "--seed", "2", "--seed", "3", "--output_dir", "b"])
    assert (config.seed, config.output_dir, config.train) == (3, "b", ["scenarios=a.jsonl"])


def test_a_field_of_the_network_reaches_the_network():
    config = parse_config([*LEAST, "--model.hidden_size", "64", "--model.block_type", "post_ln_swiglu"])
    network = preset_config(config.preset, **config.model)
    assert (network.hidden_size, network.block_type) == (64, "post_ln_swiglu")


def test_lists_and_tables_are_written_as_in_yaml():
    config = parse_config([*LEAST, "--betas", "[0.8, 0.95]", "--passes.kote", "0.5", "--holdout", "{kote: 7}"])
    assert (config.betas, config.passes, config.holdout) == ((0.8, 0.95), {"kote": 0.5}, {"kote": 7})
    assert parse_config([*LEAST, "--passes", "{kote: [0, 1.5]}"]).passes == {"kote": [0, 1.5]}


def test_an_unknown_flag_is_named(capsys):
    assert "--lerning_rate" in refused(capsys, "--lerning_rate", "1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("output_dir: out\nlerning_rate: 1\n", "unknown field 'lerning_rate'; did you mean learning_rate?"),
        ("output_dir: out\nzzz: 1\n", "unknown field 'zzz'; training/train.py --help"),
        ("- output_dir\n", "holds no fields"),
        ("output_dir: [out\n", "is not YAML"),
        ("model:", "gives model no value"),
        ("batch_size: 4\nbatch_size: 8", "'batch_size' is given twice"),
        ("model: {hidden_size: 64, hidden_size: 32}", "'hidden_size' is given twice"),
        ("model: &self {x: *self}", "not YAML that can be used: Circular"),
        ("seed: 2026-02-30", "not YAML that can be used"),
        ("model: " + "[" * 3000 + "]" * 3000, "not YAML that can be used"),
    ],
)
def test_a_recipe_that_cannot_be_understood_is_refused(text: str, said: str, tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(UserError, match=re.escape(said)) as refusal:
        parse_config([str(recipe)])
    assert str(recipe) in str(refusal.value)


def test_a_wrong_recipe_ends_the_command_with_exit_code_2(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output_dir: out\ntrain: [scenarios=a.jsonl]\nlerning_rate: 1\n")
    command = [sys.executable, str(ROOT / "training" / "train.py"), str(recipe)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "lerning_rate" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": False, "amx_bf16": True}, "bf16"), ({"avx512_bf16": False, "avx2": True}, "no")],
)
def test_the_precision_auto_stands_for_is_what_the_processor_multiplies_in(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert native_precision() == expected


@pytest.mark.parametrize(
    ("flag", "value"),
    [("epochs", "many"), ("epochs", "1.5"), ("mixed_precision", "fp8"), ("train", "scenarios=a.jsonl"), ("seed", "x")],
)
def test_a_wrong_type_is_named_with_its_value(capsys, flag: str, value: str):
    message = refused(capsys, f"--{flag}", value)
    assert flag in message.splitlines()[-2]
    assert value in message.splitlines()[-1]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *((name, 0) for name in ("epochs", "max_steps", "batch_size", "gradient_accumulation_steps", "log_steps")),
        *((name, 0) for name in ("eval_steps", "save_steps", "save_total_limit", "bucket_batches", "num_proc")),
        *((name, -1) for name in ("max_steps", "num_workers", "warmup_steps", "seed", "epochs")),
        *((name, -0.5) for name in ("learning_rate", "answer_learning_rate", "text_encoder_learning_rate")),
        *((name, -0.5) for name in ("min_learning_rate", "weight_decay", "passes.kote", "loss_weights.vad")),
        *((name, 0) for name in ("learning_rate", "max_grad_norm", "passes.kote", "holdout.kote")),
        *((name, math.nan) for name in ("learning_rate", "weight_decay", "max_grad_norm")),
        *((name, math.inf) for name in ("learning_rate", "weight_decay", "passes.kote", "loss_weights.vad")),
        ("seed", 2**32),
    ],
)
def test_a_number_out_of_range_is_named_with_its_value(flag: str, value: float):
    with pytest.raises(UserError, match=rf"{flag.split('.')[0]}.* got {value}"):
        parse_config([*LEAST, f"--{flag}", str(value) if math.isfinite(value) else f".{value}"])


@pytest.mark.parametrize("passes", ["[]", "[0]", "[2, -1]"])
def test_passes_by_epoch_must_hold_something(passes: str):
    with pytest.raises(UserError, match=r"passes of kote must be positive"):
        parse_config([*LEAST, "--passes", f"{{kote: {passes}}}"])


def test_betas_of_one_are_refused():
    with pytest.raises(UserError, match=r"betas .*1\.0"):
        parse_config([*LEAST, "--betas", "[0.9, 1.0]"])


def test_a_run_without_a_source_is_refused():
    with pytest.raises(UserError, match="READER=PATH"):
        TrainConfig(output_dir="out", train=[])


def test_a_recipe_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        parse_config(["nowhere.yaml"])


def test_an_unknown_term_of_the_loss_is_named():
    with pytest.raises(UserError, match=r"valence.*known: .*vad"):
        TermWeights(parse_config([*LEAST, "--loss_weights.valence", "2"]))


def test_variables_of_the_environment_are_filled_in(monkeypatch, tmp_path: Path):
    (tmp_path / "a.csv").write_text("x")
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    assert expand("${MY_DATA}/encoder") == f"{tmp_path}/encoder"
    source = parse_config(["--output_dir", "out", "--train", '["emobank=${MY_DATA}/a.csv@dev"]']).train[0]
    assert parse(source, {"emobank": Takes(("dev",))}).path == tmp_path / "a.csv"
    monkeypatch.delenv("MY_DATA")
    with pytest.raises(UserError, match="MY_DATA"):
        expand("${MY_DATA}/encoder")


def test_differences_name_each_field_that_would_change_the_weights():
    saved = parse_config(LEAST).to_dict()
    now = parse_config([*LEAST, "--seed", "5", "--epochs", "2", "--save_steps", "7", "--output_dir", "elsewhere"])
    assert now.differences(saved) == ["epochs: 1 in the checkpoint, 2 now", "seed: 0 in the checkpoint, 5 now"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_size", "abc"), ("hidden_size", 130), ("num_hidden_layers", -1), ("text_encoder_mode", "thawed")],
)
def test_a_field_of_the_network_that_cannot_be_is_the_users_mistake(field: str, value: object):
    with pytest.raises(UserError, match=f"model configuration: .*{field}.*{value}"):
        checked_config("redheart-tiny", {field: value})


def test_a_recipe_that_is_not_utf8_is_named(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_bytes(b"preset: \xff\n")
    with pytest.raises(UserError, match=r"recipe\.yaml is not UTF-8"):
        parse_config([str(tmp_path / "recipe.yaml")])


def test_a_run_from_before_a_field_goes_on_as_its_default_does():
    config = TrainConfig(output_dir="out", train=["scenarios=a.jsonl"])
    before = {name: value for name, value in config.to_dict().items() if name != "optimizer"}
    assert config.differences(before) == []
    other = dataclasses.replace(config, optimizer="adamw_8bit")
    assert other.differences(before) == ["optimizer: 'adamw' in the checkpoint, 'adamw_8bit' now"]
