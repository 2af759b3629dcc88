"""Averages of the weights: what they are, who sees them, and that training does not.

In    a small model on shipped scenarios; the command on redheart-tiny.
Out   averages beside a sum by hand, weights beside those of a run without, files and plans.
Run   `pytest tests/test_train_ema.py`
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import NEEDS_COMPILER
from safetensors.torch import load_file
from test_train_memory_plan import planned, train
from tiny_run import SMALL_MODULES, build_loop, tiny_config

from redheart_hf import preset_config
from redheart_hf.presets import parameters_by_module
from training.checkpoint import checkpoints
from training.ema import Ema, averaged

DECAY = 0.8
IN_BYTES = {"optimizer": "adamw_8bit", "mixed_precision": "bf16", "weight_precision": "bf16"}


def loop_of(tokenizer, scenarios, output_dir: Path, model=None, **fields):
    config = tiny_config(output_dir, **({"ema_decay": DECAY, "max_steps": 6, "save_steps": 3} | fields))
    return build_loop(tokenizer, config, scenarios[:24], **(model or {}))


def watched(loop) -> list[dict[str, torch.Tensor]]:
    """The weights as they began, and after each step."""
    found = [weights_of(loop)]
    take = loop.take_step

    def taken(group):
        result = take(group)
        found.append(weights_of(loop))
        return result

    loop.take_step = taken
    loop.train()
    return found


def weights_of(loop) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in loop.bare_model.named_parameters()}


def by_hand(weights: list[np.ndarray]) -> np.ndarray:
    average = weights[0].astype(np.float64)
    for update, weight in enumerate(weights[1:]):
        decay = min(DECAY, (1 + update) / (10 + update))
        average = decay * average + (1 - decay) * weight
    return average


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gradient_accumulation_steps": 2},
        pytest.param({**IN_BYTES, "update_in_backward": True, "clipping": "previous_norm"}, marks=NEEDS_COMPILER),
    ],
    ids=["plain", "accumulated", "two bytes, moved in the backward pass"],
)
def test_averages_are_those_by_hand(fields, tokenizer, scenarios, tmp_path, own_precision):
    """In float32 whatever the weights are in."""
    sizes = {"intermediate_size": 2048} if fields.get("weight_precision") else {}
    loop = loop_of(tokenizer, scenarios, tmp_path / "run", model=sizes, **fields)
    steps = watched(loop)
    if sizes:
        assert any(weight.dtype == torch.bfloat16 for weight in steps[0].values())
    assert loop.ema.updates == 6
    for name, average in loop.ema.averages.items():
        assert average.dtype == torch.float32
        expected = by_hand([weights[name].float().numpy() for weights in steps])
        np.testing.assert_allclose(average.numpy(), expected, rtol=1e-5, atol=1e-7, err_msg=name)
    assert max((loop.ema.averages[name] - steps[-1][name].float()).abs().max() for name in steps[0]) > 1e-4


def test_training_goes_as_it_does_without(tokenizer, scenarios, tmp_path):
    """Evaluated after every second step: the weights come back, the same tensors with the same bits."""
    plain = loop_of(tokenizer, scenarios, tmp_path / "plain", ema_decay=None, eval_steps=2)
    averaging = loop_of(tokenizer, scenarios, tmp_path / "averaged", eval_steps=2)
    for loop in (plain, averaging):
        loop.train()
    for name, weight in weights_of(plain).items():
        assert torch.equal(weight, averaging.bare_model.get_parameter(name)), name
    held = {name: (weight, weight.data_ptr()) for name, weight in averaging.bare_model.named_parameters()}
    before = weights_of(averaging)
    with averaged(averaging):
        for name, average in averaging.ema.averages.items():
            assert averaging.bare_model.get_parameter(name).data_ptr() == average.data_ptr()
    with pytest.raises(KeyboardInterrupt):
        interrupted(averaging)
    for name, weight in averaging.bare_model.named_parameters():
        assert weight is held[name][0]
        assert weight.data_ptr() == held[name][1]
        assert torch.equal(weight, before[name]), name
    # What was judged is another model: the evaluation of tiny_run is a mean over the model's answers.
    judged = [
        [line["eval"]["given"]["mean_utility"] for line in lines(tmp_path / name) if "eval" in line]
        for name in ("plain", "averaged")
    ]
    assert len(judged[0]) == 3
    assert all(one != other for one, other in zip(*judged, strict=True))
    with averaged(averaging):
        assert averaging.evaluate().figures["given"]["mean_utility"] == judged[1][-1]


def test_weights_that_visit_are_judged_as_those_at_home(tokenizer, scenarios, tmp_path):
    """With room for all of them copies stay for the next step: those of averages must not, nor the averages' way."""
    fields = {"eval_steps": 2, "gradient_checkpointing": True}
    home = loop_of(tokenizer, scenarios, tmp_path / "home", **fields)
    visiting = loop_of(tokenizer, scenarios, tmp_path / "visiting", swap="on", swap_room_gib=1.0, **fields)
    for loop in (home, visiting):
        loop.train()
    assert visiting.placed.swap.figures.hits > 0
    found = [[line["eval"] for line in lines(tmp_path / name) if "eval" in line] for name in ("home", "visiting")]
    assert found[0] == found[1]
    for name, average in home.ema.averages.items():
        assert torch.equal(average, visiting.ema.averages[name]), name


def interrupted(loop) -> None:
    with averaged(loop):
        raise KeyboardInterrupt


def lines(output_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def test_what_does_not_learn_is_not_averaged_and_buffers_are_as_they_are(tokenizer, scenarios, tmp_path):
    loop = loop_of(tokenizer, scenarios, tmp_path / "run", max_steps=2)
    frozen = loop_of(tokenizer, scenarios, tmp_path / "other", max_steps=2)
    assert set(loop.ema.averages) == set(dict(loop.bare_model.named_parameters()))
    frozen.bare_model.model.blocks.requires_grad_(False)
    assert not any(".blocks." in name for name in Ema(frozen.bare_model, DECAY).averages)
    loop.train()
    saved = load_file(checkpoints(tmp_path / "run")[-1] / "ema.safetensors")
    assert set(saved) == set(loop.bare_model.state_dict())
    bias = "emotion_head.mixture.router_bias"
    assert torch.equal(saved[bias], loop.bare_model.get_buffer(bias))
    assert saved[bias].any()
    for name, average in loop.ema.averages.items():
        assert torch.equal(saved[name], average)


def test_filled_slots_are_taken_over(tokenizer, scenarios, tmp_path):
    """The mean of what a slot held and what it holds now would be neither."""
    model = SMALL_MODULES | {"modules": ["scenario_memory"]}
    loop = loop_of(tokenizer, scenarios, tmp_path / "run", model=model, memory_refresh_steps=3, max_steps=3)
    steps = watched(loop)
    for inner in ("keys", "values"):
        name = f"model.scenario_memory.{inner}"
        average, expected = loop.ema.averages[name], by_hand([weights[name].numpy() for weights in steps])
        same = (average == steps[-1][name]).all(dim=1)
        assert same.sum() == len(same) // 4  # as many as a refresh may fill
        np.testing.assert_allclose(average[~same], expected[~same.numpy()], rtol=1e-5, atol=1e-7)


@NEEDS_COMPILER
def test_final_holds_the_averages_and_memory_is_what_was_planned(tokenizer, tmp_path):
    """The command, on a model whose averages are a part of its memory that shows."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    wide = ["--preset", "redheart-tiny", "--batch_size", 1, "--model.intermediate_size", 49152]
    done = train(tmp_path / "run", tmp_path / "tokenizer", *wide, "--ema_decay", 0.5, "--learning_rate", 0.001)
    assert done.returncode == 0, done.stderr
    last = checkpoints(tmp_path / "run")[-1]
    final, averages, weights = (
        load_file(file)
        for file in (
            tmp_path / "run" / "final" / "model.safetensors",
            last / "ema.safetensors",
            last / "model.safetensors",
        )
    )
    assert final.keys() == averages.keys() == weights.keys()
    assert all(torch.equal(final[name], averages[name]) for name in final)
    assert not all(torch.equal(final[name], weights[name]) for name in final)
    report = json.loads((tmp_path / "run" / "memory_report.json").read_text())
    ratio = report["planned"]["peak"] / report["measured"]["peak"]
    assert 0.98 < ratio < 1.05, report
    assert report["planned"]["averages"] > 0.06 * report["planned"]["peak"]  # without them it would not pass


def test_the_plan_knows_four_bytes_for_each_trained_number():
    plain, averaging = (planned("--batch-size", 2, "--max-length", 16, *more) for more in ([], ["--ema_decay", 0.9]))
    numbers = sum(parameters_by_module(preset_config("redheart-tiny")).values())
    assert averaging["averages"] == pytest.approx(4 * numbers, rel=0.01)
    assert plain["averages"] == 0
    for phase, most in averaging["phases"].items():
        more = most - averaging["process"] - (plain["phases"][phase] - plain["process"])
        assert more == pytest.approx(averaging["averages"], rel=0.02), phase
