"""What a fresh stack passes on of a pretrained encoder: nearly all of it, all of it, or nothing one could recognise.

In    a small BERT of random weights under redheart-tiny.
Out   hidden states and task vectors, compared with the encoder's own states.
Run   `pytest tests/test_model_residual.py`
"""

import pytest
import torch
from torch.nn import functional as F

from redheart_hf import RedHeartConfig, RedHeartForMultiTask, preset_config
from redheart_hf.labels import BASIC_EMOTIONS, ETHICS_EXPERTS, KOREAN_EMOTIONS, TASKS, VIEWS
from redheart_hf.modeling_projections import AnswerLinear

HIDDEN = 32
INPUT_IDS = torch.arange(35).reshape(5, 7)
ENCODER = {"model_type": "bert", "vocab_size": 64, "hidden_size": HIDDEN, "num_hidden_layers": 2}
ENCODER |= {"num_attention_heads": 4, "intermediate_size": 48}
SIZES = {"hidden_size": HIDDEN, "num_attention_heads": 4, "intermediate_size": 48, "task_size": HIDDEN, "modules": []}


def config_of(**changes) -> RedHeartConfig:
    fields = SIZES | {"text_encoder_config": ENCODER, "initialization": "he", "hidden_dropout": 0.0}
    return preset_config("redheart-tiny", **(fields | changes))


def fresh(**changes) -> RedHeartForMultiTask:
    torch.manual_seed(0)
    return RedHeartForMultiTask(config_of(**changes)).eval()


@pytest.mark.parametrize(("residual", "lowest", "highest"), [(True, 0.95, 1.0), (False, -0.5, 0.5)])
def test_what_an_encoder_read_is_there_from_the_start(residual, lowest, highest):
    """A fresh stack with He's start answers nearly as a norm of the encoder's states would; or hides them."""
    model = fresh(input_residual=residual).model
    with torch.no_grad():
        read = F.layer_norm(model.embeddings(INPUT_IDS), (HIDDEN,))
        found = F.layer_norm(model(INPUT_IDS).last_hidden_state, (HIDDEN,))
    likeness = F.cosine_similarity(read, found, dim=-1).mean()
    assert lowest < float(likeness) <= highest


@pytest.mark.parametrize(("residual", "lowest", "highest"), [(True, 0.8, 1.0), (False, -0.5, 0.5)])
def test_each_task_hears_the_text_as_it_was_pooled(residual, lowest, highest):
    with torch.no_grad():
        found = fresh(task_residual=residual).model(INPUT_IDS)
    likeness = F.cosine_similarity(found.pooled_states, found.task_states, dim=-1)
    assert lowest < float(likeness.mean()) <= highest


def test_a_silent_start_is_the_encoder_itself_under_linear_answers_of_nothing():
    """Written out: two norms of the encoder's states, their mean, and every conditional probability one half."""
    model = fresh(input_residual=True, task_residual=True, output_initializer_range=0.0)
    with torch.no_grad():
        normed = F.layer_norm(F.layer_norm(model.model.embeddings(INPUT_IDS), (HIDDEN,)), (HIDDEN,))
        found = model(INPUT_IDS)
    torch.testing.assert_close(found.last_hidden_state, normed, atol=1e-4, rtol=1e-4)
    for task in range(4):
        torch.testing.assert_close(found.task_states[:, task], normed.mean(dim=1), atol=1e-4, rtol=1e-4)
    for logits, probability in ((found.emotion.basic_logits, 0.25), (found.emotion.korean_logits, 0.125)):
        torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, probability))
    assert found.emotion.basic_logits.shape[1] == len(BASIC_EMOTIONS)
    assert found.emotion.korean_logits.shape[1] == len(KOREAN_EMOTIONS)
    # Culture is read from a branch that nothing goes past: of two zeros neither would ever learn.
    model(INPUT_IDS, labels={"culture": torch.full((5, 3), 0.9)}).loss.backward()
    assert float(model.emotion_head.culture.projections[-1].weight.grad.abs().sum()) > 0
    router = found.emotion.router_logits
    assert len(router.round(decimals=6).unique()) == router.numel()  # no ties, which would leave the choice to chance


def test_ethics_and_regret_answer_linearly_until_their_hidden_layers_have_learned():
    """Written out: each answer is W norm(task vector) + b, though every expert has a hidden layer."""
    silent = {"task_residual": True, "output_initializer_range": 0.0}
    model = fresh(answer_residual=True, **silent)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, AnswerLinear):
                torch.nn.init.normal_(layer.weight)
                torch.nn.init.normal_(layer.bias)
        found = model(INPUT_IDS)
        normed = {name: F.layer_norm(found.task_states[:, TASKS.index(name)], (HIDDEN,)) for name in TASKS}
        weights = dict(model.named_parameters())
        for name in ("deontology", "justice", "virtue"):
            answer = f"ethics_head.experts.{name}.linear"
            written = normed["ethics"] @ weights[f"{answer}.weight"].T + weights[f"{answer}.bias"]
            of_expert = found.ethics.acceptability_logits[:, ETHICS_EXPERTS.index(name)]
            torch.testing.assert_close(of_expert, written[:, 0], atol=1e-4, rtol=1e-4)
        answer = "regret_head.views.neutral.linear"
        written = normed["regret"] @ weights[f"{answer}.weight"].T + weights[f"{answer}.bias"]
        neutral = found.regret.text_regret[:, VIEWS.index("neutral")]
        torch.testing.assert_close(neutral, F.softplus(written[:, 0]), atol=1e-4, rtol=1e-4)
    without = {name for name in fresh(**silent).state_dict() if ".linear." in name}
    assert not without, "folders trained before have no such layers"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task_residual": True, "task_size": 24}, "set task_size to 32, or task_residual to false"),
        (
            {"input_residual": True, "text_encoder_config": ENCODER | {"hidden_size": 24}},
            "24 wide, to states 32 wide; set hidden_size to 24 or a multiple of it, or input_residual to false",
        ),
        ({"text_encoder_standardize": True, "text_encoder_config": None}, "no text_encoder_config to standardise"),
        ({"output_initializer_range": -0.1}, "output_initializer_range must .* got -0.1"),
    ],
)
def test_what_cannot_go_past_a_layer_or_start_so_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        config_of(**changes)
