"""The scenario memory in training: it holds what was read, forgets what nobody looks at, and resumes bit for bit.

In    a run of a few steps on shipped scenarios, Korean and English.
Out   the slots before and after.
Run   `pytest tests/test_train_memory.py`
"""

from pathlib import Path

import pytest
import torch
from commands import NEEDS_COMPILER
from tiny_run import build_loop, tiny_config

from training.checkpoint import checkpoint_at
from training.run_state import load_run


def loop_of(tokenizer, scenarios, folder: Path, slots: int = 64, **fields):
    config = tiny_config(folder, **({"max_steps": 6, "memory_refresh_steps": 3} | fields))
    return build_loop(tokenizer, config, scenarios[:24], modules=["scenario_memory"], memory_slots=slots)


@pytest.mark.parametrize(
    ("fields", "slots", "kept_as"),
    [
        ({"optimizer": "adamw"}, 64, "exp_avg_sq"),
        pytest.param({"optimizer": "adamw_8bit"}, 128, "exp_avg_sq", marks=NEEDS_COMPILER),
        ({"optimizer": "sgd", "momentum": 0.9}, 64, "momentum_buffer"),
    ],
    ids=["adamw", "adamw_8bit", "sgd"],
)
def test_texts_of_the_step_take_the_place_of_what_is_looked_at_least(
    tokenizer, scenarios, tmp_path, fields: dict, slots: int, kept_as: str
):
    loop = loop_of(tokenizer, scenarios, tmp_path / "run", slots, **fields)
    memory = loop.bare_model.model.scenario_memory
    kept: dict[str, torch.Tensor] = {}
    fill = memory.fill

    def watched(states, slots):
        kept.update(states=states.clone(), slots=slots, before=memory.keys.detach().clone())
        kept["share"] = memory.attention(states).mean(dim=0)
        fill(states, slots)

    memory.fill = watched
    for group in loop.groups():
        loop.take_step(group)
        loop.step += 1
        if loop.step < 3:
            assert not kept
        if loop.step == 3:
            break
    # At most a quarter of the slots; four texts of four tasks each.
    assert kept["states"].shape == (16, 32)
    assert set(kept["slots"].tolist()) == set(kept["share"].argsort()[:16].tolist())
    others = [slot for slot in range(slots) if slot not in kept["slots"].tolist()]
    assert torch.equal(memory.keys[others], kept["before"][others])
    assert torch.equal(memory.values[kept["slots"]], kept["states"])
    # Whoever asks with the text again finds it, or what another task took from the same text.
    found = memory.attention(kept["states"]).argmax(dim=1)
    assert set(found.tolist()) <= set(kept["slots"].tolist())
    alike = torch.cosine_similarity(memory.values[found], kept["states"])
    assert alike.min() > 0.99
    moments = loop.optimizer.state[memory.keys][kept_as]
    assert float(moments[kept["slots"]].float().abs().max()) == 0.0
    assert float(moments[others].float().abs().max()) > 0.0


def test_a_run_taken_up_again_has_the_same_memory(tokenizer, scenarios, tmp_path):
    whole = loop_of(tokenizer, scenarios, tmp_path / "whole", save_steps=4)
    whole.train()
    again = loop_of(tokenizer, scenarios, tmp_path / "whole", save_steps=4)
    load_run(again, checkpoint_at(tmp_path / "whole", 4))
    again.train()
    for name, value in whole.bare_model.state_dict().items():
        assert torch.equal(again.bare_model.state_dict()[name], value), name


def test_without_refreshes_the_slots_only_learn(tokenizer, scenarios, tmp_path):
    loop = loop_of(tokenizer, scenarios, tmp_path / "run", memory_refresh_steps=0, learning_rate=1e-5)
    before = loop.bare_model.model.scenario_memory.values.detach().clone()
    loop.train()
    assert float((loop.bare_model.model.scenario_memory.values.detach() - before).abs().max()) < 1e-3
