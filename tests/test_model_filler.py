"""No filler: in a model that was trained, every part has learned, and taking away any of it changes some answer.

In    one epoch over shipped scenarios, Korean and English, with every module there is.
Out   the gradients each weight has had; answers with modules left out, and with half of a module's width gone.
Run   `pytest tests/test_model_filler.py`
"""

import copy

import pytest
import torch
from tiny_run import build_loop, tiny_config

from redheart_hf import RedHeartForMultiTask
from redheart_hf.labels import MODULES
from training import surd_targets
from training.collator import MODEL_INPUTS

SMALL = {
    "surd_trunk_sizes": [16],
    "surd_term_sizes": [16],
    "analyzer_size": 16,
    "num_analyzer_heads": 2,
    **{f"{task}_analyzer_intermediate_size": 16 for task in ("emotion", "ethics", "regret", "surd")},
    "num_filters": 8,
    "filter_mixer_size": 16,
    "affect_observer_sizes": [16],
    "memory_slots": 16,
    "initializer_range": 0.2,  # ten times the usual: with the usual a model this small answers every text alike
    "router_bias_rate": 0.05,  # an epoch here has 20 steps, in which the usual 0.001 would not move a choice
}
# Scenarios have none of these labels: 28 and 44 emotions. (Pairs and dialogues have tests of their own.)
UNTAUGHT = ("emotion_head.fine_", "emotion_head.korean_", "ethics_head.log_preference_scale")


@pytest.fixture(scope="module")
def trained(tokenizer, scenarios, tmp_path_factory):
    """The loop at its end, and the names of all weights that ever had a gradient."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surd_targets, "LEAST", 12)
        patch.setattr(surd_targets, "REFRESH_STEPS", 2)
        config = tiny_config(folder / "run", epochs=1, batch_size=6, save_steps=1000, memory_refresh_steps=0)
        loop = build_loop(tokenizer, config, scenarios[:120], modules=list(MODULES), hidden_dropout=0.0, **SMALL)
        learned: set[str] = set()
        for name, parameter in loop.bare_model.named_parameters():
            parameter.register_hook(lambda gradient, name=name: learned.add(name) if gradient.any() else None)
        loop.train()
    return loop, learned


def answers_of(model: RedHeartForMultiTask, loop) -> dict[str, torch.Tensor]:
    """Every number said of the first texts; of one of them as the last turn of a dialogue."""
    batch = loop.collator([loop.dataset[row] for row in range(4)])
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    with torch.no_grad():
        output = model.eval()(**inputs, turns=torch.tensor([[0, 1, 2]]))
    heads = {name: getattr(output, name) for name in ("emotion", "ethics", "regret", "surd", "dynamics")}
    return {
        f"{name}.{part}": value for name, head in heads.items() if head is not None for part, value in head.items()
    }


def test_every_weight_has_learned_after_an_epoch_experts_too(trained):
    loop, learned = trained
    never = {name for name, _ in loop.bare_model.named_parameters()} - learned
    assert {name for name in never if not name.startswith(UNTAUGHT)} == set()
    assert any("mixture.experts.7." in name for name in learned)


@pytest.mark.parametrize("name", MODULES)
def test_dropping_a_trained_module_changes_some_answer(name, trained):
    loop, _ = trained
    whole = answers_of(loop.bare_model, loop)
    gone = {name, "surd_analyzer"} if name == "surd_head" else {name}
    without = RedHeartForMultiTask(
        type(loop.bare_model.config)(
            **loop.bare_model.config.to_dict() | {"modules": [part for part in MODULES if part not in gone]}
        )
    )
    without.load_state_dict(loop.bare_model.state_dict(), strict=False)
    left = answers_of(without, loop)
    assert set(left) < set(whole) or any(not torch.equal(left[key], whole[key]) for key in left)


@pytest.mark.parametrize("name", MODULES)
def test_shrinking_a_trained_module_changes_some_answer(name, trained):
    """Of each matrix in it the second half of the rows is put out: no half of its width is idle."""
    loop, _ = trained
    whole = answers_of(loop.bare_model, loop)
    matrices = [key for key, value in loop.bare_model.named_parameters() if name in key and value.ndim == 2]
    assert matrices
    for matrix in matrices:
        shrunk = copy.deepcopy(loop.bare_model)
        weight = dict(shrunk.named_parameters())[matrix]
        with torch.no_grad():
            weight[len(weight) // 2 :] = 0.0
        left = answers_of(shrunk, loop)
        assert any(not torch.equal(left[key], whole[key]) for key in whole), matrix
