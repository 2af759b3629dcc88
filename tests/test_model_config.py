"""The configuration: what it refuses and why, that JSON keeps it whole, and what the presets weigh.

In    keyword arguments as a user writes them.
Out   errors that name field and value; figures of the 330M preset within 3 % of those it was designed for.
Run   pytest tests/test_model_config.py
"""

import json
import subprocess
import sys

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import BertConfig

from redheart_hf import PRESETS, RedHeartConfig, preset_config
from redheart_hf.labels import BASIC_EMOTIONS
from redheart_hf.presets import describe, parameters_by_module

# Millions of parameters in the design of the 330M model.
DESIGN_330M = {
    "model.input_projection": 1.2,
    "model.blocks": 42.5,
    "model.task_projections.projections": 4 * 0.82,
    "model.task_projections.specializations": 4 * 0.49,
    "model.task_attention": 0.98,
}


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("hidden_dropuot", "hidden_dropout"), ("num_expert", "num_experts"), ("blocktype", "block_type")],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(wrong, near):
    with pytest.raises(ValueError, match=f"no field '{wrong}'.*did you mean '{near}'"):
        RedHeartConfig(**{wrong: 1})


def test_an_unknown_key_in_a_saved_config_is_refused(tmp_path):
    RedHeartConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"hidden_sise": 768}))
    with pytest.raises(ValueError, match="no field 'hidden_sise'.*did you mean 'hidden_size'"):
        RedHeartConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", "768"), ("hidden_dropout", "none"), ("block_type", "pre_ln"), ("emotion_trunk_sizes", 2048)],
)
def test_a_wrong_type_is_refused_by_name(name, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=name):
        RedHeartConfig(**{name: value})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 770}, "hidden_size.*770.*12"),
        ({"hidden_size": 0}, "hidden_size.*0"),
        ({"task_attention_size": 482}, "task_attention_size.*482.*8"),
        ({"hidden_size": 36}, "36.*12.*even"),
        ({"vocab_size": 0}, "vocab_size.*0"),
        ({"lora_rank": -1}, "lora_rank.*-1"),
        ({"ethics_trunk_sizes": [64, 0]}, r"ethics_trunk_sizes.*\[64, 0\]"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok.*8.*9"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok.*0"),
        ({"hidden_dropout": 1.0}, "hidden_dropout.*1.0"),
        ({"attention_dropout": -0.1}, "attention_dropout.*-0.1"),
        ({"circumstance_weights": [1.0]}, r"circumstance_weights.*\[1.0\]"),
        ({"circumstance_weights": [0.5] * 7}, "circumstance_weights.*0.5"),
        ({"circumstance_weights": [-0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]}, "circumstance_weights.*-0.2"),
        ({"circumstance_weights": [float("nan")] * 7}, "circumstance_weights.*nan"),
        ({"calibration": {"vad": [[float("inf")]] * 3}}, "calibration.*inf"),
        ({"calibration": {"basic_emotions": [[1.0, float("nan")]] * 7}}, "calibration.*nan"),
        ({"label_weights": {"basic_emotions": [float("inf")] * 7}}, "label_weights.*inf"),
        ({"lora_alpha": -5}, "lora_alpha.*-5"),
        ({"type_vocab_size": 1}, "type_vocab_size.*2.*got 1"),
        ({"vocab_size": 10, "pad_token_id": 20}, r"pad_token_id must lie in 0\.\.9.*20"),
        ({"text_encoder_config": {"model_type": "bert"}, "max_length": 1024}, "max_length is 1024.*512 tokens"),
        ({"modules": ["triangle", "square"]}, "modules has no 'square'; known: .*triangle"),
        ({"modules": "nope"}, "modules is 'nope'.*training.*inference"),
        ({"modules": ["triangle", "triangle"]}, "modules names 'triangle' 2 times"),
        ({"modules": ["surd_analyzer"]}, "surd_analyzer corrects the surd_head, which is not among"),
        ({"analyzer_size": 100, "num_analyzer_heads": 7}, "analyzer_size.*100 and 7"),
        ({"regret_aversion": -0.5}, "regret_aversion.*-0.5"),
        ({"thresholds": {"basic": [0.5] * 7}}, "thresholds.*'basic'.*basic_emotions"),
        ({"thresholds": {"basic_emotions": [0.5] * 6}}, "thresholds.*7 numbers"),
        ({"thresholds": {"korean_emotions": [0.5] * 43 + [1.5]}}, "thresholds.*44 numbers.*1.5"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_themselves(changes, named):
    with pytest.raises(ValueError, match=f"(?s){named}"):
        RedHeartConfig(**changes)


def test_values_that_came_not_to_fit_are_not_saved(tmp_path):
    config = RedHeartConfig()
    config.num_attention_heads = 7
    with pytest.raises(
        Exception, match=r"hidden_size must be a positive multiple of num_attention_heads, got 768 and 7"
    ):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_json_keeps_every_field_and_the_nested_encoder(tmp_path):
    encoder = BertConfig(vocab_size=99, hidden_size=24, num_hidden_layers=1, num_attention_heads=3)
    config = preset_config(
        "redheart-tiny-stable",
        text_encoder_config=encoder,
        text_encoder_mode="lora",
        lora_target_modules=["query", "value"],
        text_prefix="query: ",
        thresholds={"basic_emotions": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]},
        regret_aversion=0.25,
    )
    config.save_pretrained(tmp_path)
    read = RedHeartConfig.from_pretrained(tmp_path)
    assert isinstance(read.text_encoder_config, BertConfig)
    assert read.text_encoder_config.hidden_size == 24
    assert read.text_encoder_config.vocab_size == 99
    left, right = config.to_dict(), read.to_dict()
    assert {key: right[key] for key in left if key != "text_encoder_config"} == {
        key: left[key] for key in left if key != "text_encoder_config"
    }
    assert read.lora_target_modules == ["query", "value"]
    assert len(read.thresholds["basic_emotions"]) == len(BASIC_EMOTIONS)


def test_a_nested_encoder_given_as_json_becomes_its_own_config():
    config = RedHeartConfig(text_encoder_config={"model_type": "bert", "hidden_size": 24, "num_attention_heads": 3})
    assert isinstance(config.text_encoder_config, BertConfig)
    assert config.text_encoder_config.hidden_size == 24


def test_unknown_preset_and_field_are_refused():
    with pytest.raises(ValueError, match="unknown preset 'redheart-huge'; known: redheart-tiny"):
        preset_config("redheart-huge")
    with pytest.raises(ValueError, match="did you mean 'hidden_size'"):
        preset_config("redheart-tiny", hiden_size=64)


def test_changes_to_a_presets_config_do_not_reach_the_preset():
    preset_config("redheart-tiny").emotion_trunk_sizes.append(7)
    assert preset_config("redheart-tiny").emotion_trunk_sizes == [192]


@pytest.mark.parametrize(("module", "millions"), DESIGN_330M.items())
def test_backbone_of_the_330m_preset_weighs_what_was_designed(module, millions):
    count = parameters_by_module(preset_config("redheart-330m"))[module]
    assert count / 1e6 == pytest.approx(millions, rel=0.03)


MILLIONS_IN_NAME = {"200m": 200, "320m": 320, "330m": 330, "730m": 730, "800m": 800, "1.3b": 1300, "4.3b": 4300}
# Layers, and millions of parameters in all of them, of the systems that state a backbone.
BLOCKS = {
    "redheart-730m": (18, 354.2),
    "redheart-800m": (24, 302.3),
    "redheart-4.3b": (32, 3356.8),
    "redheart-6.8b": (60, 6797.2),
}


@pytest.mark.parametrize("name", [name for name in PRESETS if "tiny" not in name])
def test_presets_weigh_what_their_names_say(name):
    row = describe(name)
    if name == "redheart-6.8b":
        assert row["total"] == pytest.approx(6_828_991_488, rel=0.005)
        assert sum(count for module, count in row["modules"].items() if module.endswith("_head")) <= 32e6
    else:
        assert row["total"] / 1e6 == pytest.approx(MILLIONS_IN_NAME[name.split("-")[-1]], rel=0.02)
    if name in BLOCKS:
        layers, millions = BLOCKS[name]
        assert row["dimensions"]["num_hidden_layers"] == layers
        assert row["modules"]["model.blocks"] / 1e6 == pytest.approx(millions, abs=0.05)


def test_forty_percent_of_the_200ms_layers_are_a_whole_number():
    assert preset_config("redheart-200m").num_hidden_layers % 5 == 0


def test_the_330m_tree_weighs_what_was_designed():
    modules = describe("redheart-330m")["modules"]
    designed = {"surd_head": 16, "emotion_head": 22, "ethics_head": 20, "regret_head": 22}
    designed |= {"emotion_analyzer": 50, "ethics_analyzer": 45, "regret_analyzer": 50, "surd_analyzer": 25}
    designed |= {"model.signal_simulator": 10, "affect_filter": 5, "model.scenario_memory": 15}
    for module, millions in designed.items():
        assert modules[module] / 1e6 == pytest.approx(millions, rel=0.03), module


def test_the_1_3b_is_the_330m_with_every_width_doubled():
    small, grown = preset_config("redheart-330m").to_dict(), preset_config("redheart-1.3b").to_dict()
    kept = {"vocab_size", "type_vocab_size", "max_length", "lora_rank"}
    for name, value in small.items():
        if name.endswith(("_size", "_sizes", "_heads", "num_filters")) and name not in kept:
            assert grown[name] == ([2 * one for one in value] if isinstance(value, list) else 2 * value), name
        else:
            assert grown[name] == value, name


def test_rows_add_up_to_the_model():
    row = describe("redheart-330m")
    assert row["total"] == sum(row["modules"].values())
    assert row["embeddings"] == (32000 + 2) * 768


def test_both_kinds_differ_by_the_gate_alone():
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    plain = parameters_by_module(preset_config("redheart-tiny", **size))
    stable = parameters_by_module(preset_config("redheart-tiny-stable", **size))
    assert stable["model.blocks"] - plain["model.blocks"] == 3 * (32 * 48 + 48)
    assert plain["model.final_norm"] == 2 * 32
    assert "model.final_norm" not in stable


PEAK = """
import resource, runpy, sys
from redheart_hf import modeling_redheart
from redheart_hf.presets import describe
describe("redheart-tiny")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before, sys.argv = peak(), ["presets", "--json"]
runpy.run_module("redheart_hf.presets", run_name="__main__")
print(peak() - before, file=sys.stderr)
"""


def test_the_table_of_presets_is_json_and_allocates_no_weight():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PEAK], capture_output=True, text=True, check=True)
    table = json.loads(done.stdout)
    assert set(table) == set(PRESETS)
    for row in table.values():
        assert set(row) == {"total", "embeddings", "modules", "dimensions"}
    grown_mib = int(done.stderr.split()[-1])
    assert grown_mib < 64, f"the table took {grown_mib} MiB; the weights of redheart-330m alone would take 367"
