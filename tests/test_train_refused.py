"""Settings that cannot be meant are refused before any work, with their value and what to do.

In    recipes and flags of training/train.py, training.evaluate, training.grow.
Out   UserErrors, exit code 2, and files that are as they were.
Run   pytest tests/test_train_refused.py
"""

import json
from pathlib import Path

import pytest
from commands import run_command
from prep_rows import read_text
from tiny_run import SIZES, tiny_config, tiny_model

from preprocessing.errors import UserError
from training import evaluate, grow
from training.build import build_accelerator, checked_config
from training.command_line import parse_config
from training.config import TrainConfig
from training.data import labels_of, prepare_data
from training.memory_run import refuse_at_once

SCENARIOS = Path(__file__).resolve().parents[1] / "data" / "scenarios"


def test_an_empty_value_is_a_value_where_none_is_one(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output_dir: out\ntrain: [scenarios=a.jsonl]\nmax_steps:\n")
    assert parse_config([str(recipe)]).max_steps is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"loss_weights": {"surd": 2.0}}, r"loss_weights weighs \['surd'\], which this model does not learn"),
        ({"text_encoder_start": 2}, "text_encoder_start is 2, but the model reads without a text encoder"),
        ({"text_encoder_learning_rate": 1e-4}, "text_encoder_learning_rate is 0.0001, but the model reads without"),
        ({"model": {"text_encoder_mode": "lora"}}, "model.text_encoder_mode is set, but the model reads without"),
        ({"model": {"vocab_size": 5}}, "model.vocab_size follows from the tokenizer"),
        ({"eval_steps": 5}, "neither dev nor holdout gives anything to judge by"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(fields, said: str, tokenizer, tmp_path: Path):
    with pytest.raises(UserError, match=said):
        tiny_config(tmp_path / "run", **fields).refuse_idle_settings(tiny_model(tokenizer).config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_theta", 0),
        ("layer_norm_eps", -1.0),
        ("initializer_range", -1.0),
        ("num_filters", -3),
        ("memory_slots", 0),
        ("huber_delta", float("nan")),
        ("focal_gamma", float("inf")),
        ("focal_gamma", 0.5),
        ("feedback_steps", -1),
    ],
)
def test_a_number_of_the_network_out_of_range_is_named(field: str, value: float):
    with pytest.raises(UserError, match=f"model configuration: .*{field}.*{value}"):
        checked_config("redheart-tiny", {field: value})


def test_a_model_larger_than_memory_is_refused_before_it_is_made_where_nothing_is_planned(tmp_path: Path):
    config = TrainConfig(output_dir=str(tmp_path), train=["scenarios=given"], plan_memory=False)
    sizes = checked_config("redheart-tiny", {"intermediate_size": 10**10})
    with pytest.raises(UserError, match=r"parameters takes .* GiB in float32, and this machine has"):
        refuse_at_once(config, sizes, build_accelerator(config))


def test_growing_past_memory_is_refused_before_it_begins(tiny_model_dir: Path, tmp_path: Path):
    arguments = ("--model", tiny_model_dir, "--output", tmp_path / "grown", "--width")
    code, _, err = run_command(grow, *arguments, 100_000)
    assert (code, "GiB in float32, and this machine has" in err) == (2, True)
    code, _, err = run_command(grow, *arguments, 2, "--seed", 10**20)
    assert (code, "--seed must lie in" in err) == (2, True)
    assert not (tmp_path / "grown").exists()


def test_a_model_as_the_real_text_recipes_make_it_grows_wider(tokenizer, tmp_path: Path):
    """What its encoder read goes past the input projection, of which a wider model has two copies."""
    encoder = {"model_type": "bert", "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1}
    encoder |= {"num_attention_heads": 2, "intermediate_size": 32}
    tiny_model(tokenizer, text_encoder_config=encoder, input_residual=True).save_pretrained(tmp_path / "final")
    tokenizer.save_pretrained(tmp_path / "final")
    arguments = ("--model", tmp_path / "final", "--output", tmp_path / "grown", "--width", 2)
    code, out, err = run_command(grow, *arguments)
    assert (code, "answers moved by" in out) == (0, True), err


def test_figures_are_not_written_over_what_they_are_of(tiny_model_dir: Path, tmp_path: Path):
    data = tmp_path / "dev.jsonl"
    data.write_bytes((SCENARIOS / "dev.jsonl").read_bytes())
    (tmp_path / "link.jsonl").symlink_to(data)
    before = {path: path.read_bytes() for path in (data, tiny_model_dir / "config.json")}
    for output in (data, tmp_path / "link.jsonl", tiny_model_dir / "config.json"):
        code, _, err = run_command(
            evaluate, "--model", tiny_model_dir, "--data", f"scenarios={data}", "--output", output
        )
        assert (code, "to be read; name another" in err or "which is read here" in err) == (2, True)
    assert {path: path.read_bytes() for path in before} == before


def test_dev_rows_that_are_all_trained_on_leave_nothing_to_judge_by(tokenizer, tmp_path: Path):
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((SCENARIOS / "train.jsonl").read_bytes())
    config = tiny_config(tmp_path / "run", dev=[f"scenarios={copy}"])
    config.train = [f"scenarios={SCENARIOS / 'train.jsonl'}"]
    model_config = checked_config("redheart-tiny", SIZES | {"vocab_size": len(tokenizer)})
    with pytest.raises(UserError, match="dev rows also occur in training, so that none is left"):
        prepare_data(config, model_config, tokenizer, write=False)


def test_a_label_that_no_term_learns_from_was_not_taught(scenarios, tmp_path: Path):
    pairs = read_text(tmp_path, "ethics_util", "I won.,I lost.\n" * 2).records
    verdicts = [f"acceptability/{expert}" for expert in ("deontology", "justice", "utilitarian", "virtue")]
    labels = [*verdicts, "basic_emotions", "circumstances", "culture", "regret", "utility", "utility_views", "vad"]
    assert labels_of(scenarios) == labels
    assert labels_of(scenarios, {"vad": 0.0, "text_regret": 0.0, "preference": 0.0}) == [
        name for name in labels if name not in ("vad", "regret")
    ]
    assert labels_of(scenarios, {"acceptability": 0.0, "utility_views": 0.0}) == [
        name for name in labels if name not in (*verdicts, "utility", "utility_views")
    ]
    assert labels_of(pairs) == ["utility"]
    assert labels_of(pairs, {"preference": 0.0}) == []
    assert labels_of([*pairs, *scenarios], {"utility_views": 0.0, "acceptability": 0.0}).count("utility") == 1


def test_a_recipe_named_by_its_flag_is_checked_as_one_named_first(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output_dir: out\ntrain: [scenarios=a.jsonl]\nseed: 1\nseed: 2\n")
    for arguments in ([str(recipe)], ["--recipe", str(recipe)], [f"--recipe={recipe}"]):
        with pytest.raises(UserError, match="'seed' is given twice"):
            parse_config(arguments)


def test_what_training_writes_is_not_to_be_given():
    with pytest.raises(UserError, match=r"model.trained_on is \{\}, but training writes it itself"):
        TrainConfig(output_dir="run", train=["x=y"], model={"trained_on": {}})


def test_rows_without_the_label_take_no_part_in_choosing_thresholds(tiny_model_dir: Path, tmp_path: Path):
    """Records that first came from goemotions may have lost their emotions, or never had any."""
    rows = [
        {
            "id": f"r:{number}",
            "reader": "goemotions",
            "source": "r.tsv",
            "row": number,
            "language": "en",
            "text": f"Row {number}, of which nothing is known but this.",
            "vad": [0.0, 0.0, 0.0],
        }
        for number in range(12)
    ]
    data = tmp_path / "records.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)) + "\n")
    code, _, err = run_command(evaluate, "--model", tiny_model_dir, "--data", f"records={data}", "--choose-thresholds")
    assert (code, "nothing to choose thresholds on" in err) == (2, True), err
