"""No filler: in a model that was trained, every part has learned, and taking away any of it changes some answer.

In    one epoch over shipped scenarios, Korean and English, with every module there is.
Out   the gradients each weight has had; answers with a part left out, and with half of the width of any of its layers
      gone; the same of parts whose last weights are zero, which these comparisons must find to be filler.
Run   `pytest tests/test_model_filler.py`
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tiny_run import SMALL_MODULES, build_loop, tiny_config

from redheart_hf import RedHeartForMultiTask
from redheart_hf.labels import MODULES
from training import surd_targets
from training.collator import MODEL_INPUTS

SMALL = SMALL_MODULES | {
    "num_hidden_layers": 2,
    "initializer_range": 0.2,  # ten times the usual: with the usual a model this small answers every text alike
    "router_bias_rate": 0.05,  # an epoch here has 20 steps, in which the usual 0.001 would not move a choice
}
# Scenarios have none of these labels: 28 and 44 emotions. (Pairs and dialogues have tests of their own.)
UNTAUGHT = ("emotion_head.fine_", "emotion_head.korean_", "ethics_head.log_preference_scale")
EXPERTS = "emotion_head.mixture.experts"
# Part -> how the names of those of its weights go through which all that it says has to pass.
PARTS = {
    "model.embeddings": (".embed_",),
    "model.input_projection": (".out_proj.",),
    "model.blocks.0": (".o_proj.", ".down_proj."),
    "model.blocks.1": (".o_proj.", ".down_proj."),
    "model.pooling": (".queries",),
    "model.task_projections.projections": (".projections.1.",),
    "model.task_projections.specializations": (".projections.1.",),
    "model.task_attention": (".o_proj.",),
    "emotion_head": ("_proj.", ".router."),
    EXPERTS: (".projections.1.",),
    "ethics_head": (".projections.1.",),
    "regret_head": (".projections.1.",),
    "surd_head": (".projections.1.",),
    "emotion_analyzer": (".answer.",),
    "ethics_analyzer": (".answer.",),
    "regret_analyzer": (".answer.",),
    "surd_analyzer": (".answer.",),
    "model.signal_simulator": (".out_proj.",),
    "affect_filter": (".projections.1.",),
    "model.scenario_memory": (".gate",),
    "triangle": ("triangle.",),
}
# Without these two all else is answered as with them, so that what they say themselves is looked at.
WITHOUT_A_LISTENER = ("surd_head", "affect_filter")
# Least differences that count, in numbers of about 1 that double precision rounds at 1e-16, and the most that is none:
# a matrix product sums in the order that suits where its tensors lie, so the same numbers elsewhere end 1e-16 apart.
OF_A_PART, OF_A_LAYER, NONE = 1e-6, 1e-10, 1e-13


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


@pytest.fixture(scope="module")
def asked(trained):
    """Part -> the trained model in double precision, what it is asked, and its answers.

    A text is sent to few experts, so that the experts are asked of the model as it is with all of them answering.
    """
    loop, _ = trained
    batch = loop.collator([loop.dataset[row] for row in range(4)])
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch} | {"turns": torch.tensor([[0, 1, 2]])}
    sparse = rebuilt(loop.bare_model)
    dense = rebuilt(loop.bare_model, num_experts_per_tok=loop.bare_model.config.num_experts)
    said = [(model, inputs, answers_of(model, inputs)) for model in (sparse, dense)]
    return {part: said[part == EXPERTS] for part in PARTS}


def rebuilt(model: RedHeartForMultiTask, **changes) -> RedHeartForMultiTask:
    """The same weights under a changed config, in double precision; what the config leaves out is gone."""
    new = RedHeartForMultiTask(type(model.config)(**model.config.to_dict() | changes)).double().eval()
    missing, _ = new.load_state_dict(model.state_dict(), strict=False)
    assert missing == []
    return new


def answers_of(model: RedHeartForMultiTask, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every number said of a few texts; of one of them as the last turn of a dialogue. None is rounded to float32."""
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        output = model(**inputs)
    heads = {name: getattr(output, name) for name in ("emotion", "ethics", "regret", "surd", "dynamics")}
    said = {f"{name}.{part}": value.double() for name, head in heads.items() for part, value in head.items()}
    return {name: value for name, value in said.items() if ".router_" not in name}  # of the texts, not of the experts


def difference(left: dict[str, torch.Tensor], whole: dict[str, torch.Tensor]) -> float:
    """The largest between two answers to the same question."""
    assert left.keys() == whole.keys()
    return max(float((left[key] - whole[key]).abs().max()) for key in whole)


def weights_of(model: RedHeartForMultiTask, part: str) -> dict[str, torch.nn.Parameter]:
    return {
        name: weight
        for name, weight in model.named_parameters()
        if name.startswith(f"{part}.") and (part == EXPERTS or not name.startswith(EXPERTS))
    }


def matrices_of(model: RedHeartForMultiTask, part: str) -> dict[str, torch.nn.Parameter]:
    found = {name: weight for name, weight in weights_of(model, part).items() if weight.ndim == 2}
    assert found
    return found


@contextmanager
def put_out(weights: list[torch.nn.Parameter], share: float = 1.0) -> Iterator[None]:
    """Within, the last `share` of the rows of each is zero."""
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            weight[int(len(weight) * (1 - share)) :] = 0.0
        yield
        for weight, values in zip(weights, before, strict=True):
            weight.copy_(values)


def answers_without(part: str, model: RedHeartForMultiTask, inputs) -> dict[str, torch.Tensor]:
    """As a config says them that leaves the module out; of what none can leave out, all matrices are zero."""
    name = part.removeprefix("model.")
    if name in MODULES and name not in WITHOUT_A_LISTENER:
        left = [module for module in model.config.modules if module != name]
        return answers_of(rebuilt(model, modules=left), inputs)
    with put_out(list(matrices_of(model, part).values())):
        return answers_of(model, inputs)


def test_no_module_is_left_out_of_these_comparisons():
    assert set(MODULES) <= {part.removeprefix("model.") for part in PARTS}


def test_every_weight_has_learned_after_an_epoch_experts_too(trained):
    loop, learned = trained
    never = {name for name, _ in loop.bare_model.named_parameters()} - learned
    assert {name for name in never if not name.startswith(UNTAUGHT)} == set()
    assert any("mixture.experts.7." in name for name in learned)


@pytest.mark.parametrize("part", PARTS)
def test_dropping_a_trained_part_changes_some_answer(part, asked):
    model, inputs, whole = asked[part]
    assert difference(answers_without(part, model, inputs), whole) > OF_A_PART


@pytest.mark.parametrize("part", PARTS)
def test_shrinking_a_trained_part_changes_some_answer(part, asked):
    """Of each matrix in it the second half of the rows is put out: no half of its width is idle."""
    model, inputs, whole = asked[part]
    for name, matrix in matrices_of(model, part).items():
        with put_out([matrix], share=0.5):
            assert difference(answers_of(model, inputs), whole) > OF_A_LAYER, name


@pytest.mark.parametrize("part", PARTS)
def test_a_part_whose_last_weights_are_zero_is_found_to_change_nothing(part, asked):
    model, inputs, _ = asked[part]
    last = [weight for name, weight in weights_of(model, part).items() if any(end in name for end in PARTS[part])]
    with put_out(last):
        silent = answers_of(model, inputs)
        assert difference(answers_without(part, model, inputs), silent) < NONE
        with put_out(list(matrices_of(model, part).values()), share=0.5):
            assert difference(answers_of(model, inputs), silent) < NONE
