"""What Transformers asks of every model and config of its own, asked of ours, where it applies to an outside model.

In    the tiny model of both kinds of block, and on a tiny encoder; two texts, Korean and English.
Out   pass or fail; docs/use.md lists which checks these stand for, and which do not apply.
Run   `pytest tests/test_model_common.py`
"""

import copy
import json
from pathlib import Path

import pytest
import torch
from tiny_encoder import tiny_bert
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.utils import ModelOutput

from redheart_hf import RedHeartConfig, RedHeartForMultiTask, preset_config

TEXTS = ["할머니 김치를 마지막으로 꺼내 먹었다.", "They cancelled my leave again, and nobody told me.", "응."]
LABELS = {"basic_emotions": torch.rand(3, 7, generator=torch.Generator().manual_seed(0)), "vad": torch.zeros(3, 3)}
KINDS = ("pre_ln_gelu", "post_ln_swiglu", "encoder")


@pytest.fixture(scope="module", params=KINDS)
def model(request, tokenizer) -> RedHeartForMultiTask:
    """With weights far enough from their start that texts differ."""
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_length": 64}
    if request.param == "encoder":
        sizes |= {"text_encoder_config": tiny_bert(tokenizer, initializer_range=0.2)}
    else:
        sizes |= {"block_type": request.param}
    torch.manual_seed(0)
    made = RedHeartForMultiTask(preset_config("redheart-tiny", **sizes)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def batch(tokenizer):
    return tokenizer(TEXTS, padding=True, return_tensors="pt")


def flat(output: ModelOutput) -> dict[str, torch.Tensor]:
    found = {}
    for name, value in output.items():
        if isinstance(value, ModelOutput):
            found |= {f"{name}.{key}": part for key, part in flat(value).items()}
        elif isinstance(value, torch.Tensor):
            found[name] = value
    return found


def check_close(one: ModelOutput, other: ModelOutput, atol: float = 1e-5) -> None:
    expected, found = flat(one), flat(other)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=1e-4)


@torch.no_grad()
def test_saved_in_shards_and_loaded_it_answers_the_same(model, batch, tmp_path: Path):
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    expected = model(**batch)
    for load in (RedHeartForMultiTask, AutoModelForSequenceClassification):
        loaded, report = load.from_pretrained(tmp_path, output_loading_info=True)
        assert [report[name] for name in report if report[name]] == []
        check_close(expected, loaded.eval()(**batch))
    backbone = AutoModel.from_pretrained(tmp_path).eval()(**batch)
    torch.testing.assert_close(backbone.task_states, expected.task_states, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_devices_and_types_are_chosen_as_of_any_model(model, batch, tmp_path: Path):
    model.save_pretrained(tmp_path)
    expected = model(**batch)
    placed = RedHeartForMultiTask.from_pretrained(tmp_path, device_map="auto", dtype="auto").eval()
    assert {parameter.dtype for parameter in placed.parameters()} == {torch.float32}
    check_close(expected, placed(**batch))
    halved = RedHeartForMultiTask.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert {parameter.dtype for parameter in halved.parameters()} == {torch.bfloat16}
    found = halved(**batch).emotion.basic_logits.float()
    assert 0 < (found - expected.emotion.basic_logits).abs().max() < 0.1
    halved.save_pretrained(tmp_path / "halved")
    auto = RedHeartForMultiTask.from_pretrained(tmp_path / "halved", dtype="auto")
    assert {parameter.dtype for parameter in auto.parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_a_text_is_answered_alone_as_in_a_batch(model, tokenizer, batch):
    together = flat(model(**batch))
    for row, text in enumerate(TEXTS):
        alone = flat(model(**tokenizer(text, return_tensors="pt")))
        for name, value in alone.items():
            if len(value.shape) and len(value) == 1 and name not in ("last_hidden_state", "emotion.router_load"):
                torch.testing.assert_close(value[0], together[name][row], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_attention_implementations_agree_and_are_switched_as_of_any_model(model, batch):
    other = copy.deepcopy(model)
    assert other.config._attn_implementation == "sdpa"
    other.set_attn_implementation("eager")
    assert other.model.blocks[0].attention.config._attn_implementation == "eager"
    check_close(model(**batch), other(**batch))


@torch.no_grad()
def test_a_compiled_model_answers_the_same(model, batch):
    """The graph is captured and run as it is: what a compiler makes of it is torch's."""
    compiled = torch.compile(model, backend="aot_eager")
    check_close(model(**batch), compiled(**batch))


def test_hidden_states_and_attentions_are_given_where_they_are_asked_for(model, batch):
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        output = eager(**batch, output_hidden_states=True, output_attentions=True)
        plain = eager(**batch)
    layers, (rows, tokens) = model.config.num_hidden_layers, batch["input_ids"].shape
    size, heads = model.config.hidden_size, model.config.num_attention_heads
    assert [states.shape for states in output.hidden_states] == [(rows, tokens, size)] * (layers + 1)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert [weights.shape for weights in output.attentions] == [(rows, heads, tokens, tokens)] * layers
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(rows, heads, tokens))
        assert (weights * (batch["attention_mask"] == 0)[:, None, None]).abs().max() < 1e-6
    with torch.no_grad():
        assert model(**batch, output_attentions=True).attentions is None  # SDPA does not give them away
    assert plain.hidden_states is None
    assert plain.attentions is None
    check_close(plain, type(plain)(**{name: output[name] for name in plain}))


def test_a_tuple_is_given_where_it_is_asked_for(model, batch):
    with torch.no_grad():
        output, told = model(**batch), model(**batch, return_dict=False)
    assert isinstance(told, tuple)
    assert len(told) == len(output.to_tuple())
    torch.testing.assert_close(told[0].basic_logits, output.emotion.basic_logits)
    other = copy.deepcopy(model)
    other.config.return_dict = False
    with torch.no_grad():
        assert isinstance(other(**batch), tuple)


@pytest.mark.parametrize("more", [7, -3])
def test_embeddings_are_resized_and_the_rest_answers_as_before(more, model, batch, tmp_path: Path):
    other = copy.deepcopy(model)
    rows = other.get_input_embeddings().num_embeddings
    other.resize_token_embeddings(rows + more)
    assert other.get_input_embeddings().num_embeddings == rows + more
    assert int(batch["input_ids"].max()) < rows + min(more, 0)
    with torch.no_grad():
        check_close(model(**batch), other(**batch))
        if more > 0:
            new = batch["input_ids"].clone()
            new[0, 1] = rows + more - 1
            assert torch.isfinite(other(input_ids=new).emotion.basic_logits).all()
    other.save_pretrained(tmp_path)
    again = RedHeartForMultiTask.from_pretrained(tmp_path)
    assert again.get_input_embeddings().num_embeddings == rows + more


def test_training_gives_finite_gradients_and_checkpointing_the_same(model, batch):
    plain, saving = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    saving.gradient_checkpointing_enable()
    assert saving.is_gradient_checkpointing
    losses = []
    for one in (plain, saving):
        torch.manual_seed(3)
        losses.append(one(**batch, labels=LABELS).loss)
        losses[-1].backward()
    torch.testing.assert_close(losses[1], losses[0])
    gradients = [{n: p.grad for n, p in one.named_parameters() if p.grad is not None} for one in (plain, saving)]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.isfinite(gradient).all(), name
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)
    saving.gradient_checkpointing_disable()
    assert not saving.is_gradient_checkpointing


def test_answers_are_the_same_each_time_and_dropout_is_for_training_alone(model, batch):
    with torch.no_grad():
        check_close(model(**batch), model(**batch), atol=0.0)
        trained = copy.deepcopy(model).train()
        one, other = (trained(**batch).emotion.basic_logits for _ in range(2))
    assert not torch.equal(one, other)


def test_it_starts_the_same_from_the_same_seed_and_with_finite_numbers(model):
    made = []
    for _ in range(2):
        torch.manual_seed(11)
        made.append(RedHeartForMultiTask(copy.deepcopy(model.config)).state_dict())
    for name, value in made[0].items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value, made[1][name]), name


def test_weights_that_are_tied_or_large_are_saved_once(model, tmp_path: Path):
    model.save_pretrained(tmp_path)
    stored = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    own = sum(value.nbytes for value in model.state_dict().values())
    assert own <= stored < 1.05 * own + 200_000


def test_the_config_is_one_of_transformers(tmp_path: Path):
    config = preset_config("redheart-tiny", num_hidden_layers=3)
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        assert isinstance(getattr(config, name), int)
        setattr(config, name, getattr(config, name))
    assert json.loads(config.to_json_string())["num_hidden_layers"] == 3
    config.to_json_file(tmp_path / "config.json")
    assert RedHeartConfig.from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()
    config.save_pretrained(tmp_path / "inner" / "folder")
    for load in (RedHeartConfig, AutoConfig):
        read = load.from_pretrained(tmp_path / "inner", subfolder="folder")
        assert read.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}
    assert RedHeartConfig().to_dict()["model_type"] == "redheart"
    assert RedHeartConfig(num_labels=3).num_labels == 3
    assert copy.deepcopy(config).to_dict() == config.to_dict()
