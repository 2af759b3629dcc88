"""A model made in its final precision, and filled from files without a second copy.

In    small models with every module; folders that save_pretrained wrote; runs with `weight_precision: bf16`.
Out   which weights take two bytes; the same numbers as a model made the usual way; runs that go on bit for bit.
Run   `pytest tests/test_train_creation.py`
"""

import json

import pytest
import torch
from commands import NEEDS_COMPILER
from safetensors.torch import load_file, save_file
from tiny_run import SIZES, SMALL_MODULES, build_loop, tiny_config
from transformers import AutoConfig

from preprocessing.errors import UserError
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from redheart_hf.labels import MODULES
from training.checkpoint import checkpoint_at
from training.creation import create_model, fill_model, save_model
from training.run_state import load_run

WHOLE = SMALL_MODULES | {"modules": list(MODULES), "hidden_size": 128, "vocab_size": 512}
HALF = {"weight_precision": "bf16", "optimizer": "adamw_8bit", "mixed_precision": "bf16"}


def config_of(**changes) -> RedHeartConfig:
    return RedHeartConfig(**(SIZES | WHOLE | changes))


def test_matrices_take_two_bytes_and_what_must_be_exact_does_not():
    model = create_model(config_of(moe_intermediate_size=256), "bf16")
    halved = {name for name, value in model.state_dict().items() if value.dtype == torch.bfloat16}
    assert {"model.blocks.0.attention.q_proj.weight", "model.embeddings.embed_tokens.weight"} <= halved
    assert any(name.startswith("emotion_head.mixture.experts") for name in halved)
    exact = ("norm", "bias", "router", "affect_filter", "queries", "log_", "acceptance", ".answer.")
    assert not [name for name in halved if any(part in name for part in exact)]
    of_matrices = sum(value.numel() for value in model.state_dict().values() if value.ndim == 2)
    assert sum(model.state_dict()[name].numel() for name in halved) > 0.7 * of_matrices
    assert not [name for name, value in model.named_parameters() if value.is_meta or not torch.isfinite(value).all()]


@pytest.mark.parametrize("encoder", [False, True], ids=["own embeddings", "text encoder"])
def test_it_starts_as_a_model_made_the_usual_way_does(encoder, tiny_encoder_config):
    """The same spread of every matrix, the same constants, the same buffers, saved or not."""
    config = config_of(text_encoder_config=tiny_encoder_config if encoder else None)
    torch.manual_seed(0)
    usual = RedHeartForMultiTask(config)
    ours = create_model(config, "bf16")
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in usual.named_parameters()]
    for (name, mine), theirs in zip(ours.named_parameters(), usual.parameters(), strict=True):
        assert mine.requires_grad == theirs.requires_grad, name
        if theirs.numel() >= 1024:
            assert float(mine.detach().float().std()) == pytest.approx(
                float(theirs.detach().std()), rel=0.2, abs=1e-6
            ), name
            assert float(mine.detach().float().mean()) == pytest.approx(
                float(theirs.detach().mean()), abs=0.2 * float(theirs.detach().std()) + 1e-6
            )
        elif float(theirs.detach().std(unbiased=False)) == 0:
            assert torch.equal(mine, theirs), name
    for (name, mine), theirs in zip(ours.named_buffers(), usual.buffers(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.fixture(scope="module")
def tiny_encoder_config():
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return AutoConfig.for_model("bert", vocab_size=512, **sizes)


def test_it_answers_as_the_same_numbers_in_float32_do(tokenizer):
    config = config_of(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, initializer_range=0.1)
    half = create_model(config, "bf16").eval()
    whole = RedHeartForMultiTask(config).eval()
    whole.load_state_dict(
        {name: value.to(whole.state_dict()[name].dtype) for name, value in half.state_dict().items()}
    )
    inputs = tokenizer(["나는 오늘 정말 기뻤다.", "She told him the truth."], padding=True, return_tensors="pt")
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        of_half, of_whole = half(**inputs), whole(**inputs)
    torch.testing.assert_close(of_half.emotion.vad_mean, of_whole.emotion.vad_mean, rtol=0.05, atol=0.02)
    torch.testing.assert_close(of_half.ethics.utility, of_whole.ethics.utility, rtol=0.05, atol=0.02)
    assert float(of_half.emotion.vad_mean.std()) > 0


def test_a_folder_is_read_file_by_file(tmp_path):
    """Shards of 64 kB; into another precision too."""
    torch.manual_seed(0)
    saved = RedHeartForMultiTask(config_of())
    saved.save_pretrained(tmp_path, max_shard_size="64KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    for precision in ("fp32", "bf16"):
        torch.manual_seed(1)
        model = create_model(config_of(), precision)
        fill_model(model, tmp_path)
        for name, value in model.state_dict().items():
            assert torch.equal(value, saved.state_dict()[name].to(value.dtype)), name


@pytest.mark.parametrize("kind", ["bert", "nomic_bert"])
def test_a_text_encoder_is_read_back_under_whatever_names_it_was_saved(kind, tmp_path):
    """Transformers saves nomic_bert's weights under the names of its first code, not under those of its modules."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = config_of(text_encoder_config=AutoConfig.for_model(kind, vocab_size=512, **sizes))
    torch.manual_seed(0)
    saved = RedHeartForMultiTask(config)
    save_model(saved, tmp_path)
    torch.manual_seed(1)
    model = create_model(config, "fp32")
    fill_model(model, tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name]), name


def test_adapters_start_without_effect(tiny_encoder_config):
    """As peft has them: the second matrix of each is zero."""
    model = create_model(config_of(text_encoder_config=tiny_encoder_config, text_encoder_mode="lora"), "bf16")
    seconds = [value for name, value in model.named_parameters() if "lora_B" in name]
    assert seconds
    assert not any(value.any() for value in seconds)
    assert all(value.any() for name, value in model.named_parameters() if "lora_A" in name)


def test_who_loads_a_folder_gets_float32(tmp_path):
    save_model(create_model(config_of(), "bf16"), tmp_path)
    loaded = RedHeartForMultiTask.from_pretrained(tmp_path)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("harm", ["left out", "too large", "surplus", "outside"])
def test_a_folder_of_another_model_is_refused(harm, tmp_path):
    RedHeartForMultiTask(config_of()).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights, name = load_file(file), "model.blocks.0.attention.q_proj.weight"
    model = create_model(config_of(), "fp32")
    said = {
        "left out": f"lacks 1 tensors of this model, the first is {name}",
        "too large": "for which this model has a place of shape",
        "surplus": "for which this model has no place",
        "outside": "which is no file of its own folder",
    }[harm]
    if harm == "left out":
        del weights[name]
    elif harm == "too large":
        weights[name] = torch.zeros(129, 128)
    elif harm == "surplus":
        weights["somewhere.else"] = torch.zeros(2)
    save_file(weights, file, metadata={"format": "pt"})
    if harm == "outside":
        index = {"weight_map": dict.fromkeys(weights, "../model.safetensors")}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=said.replace("(", "\\(")):
        fill_model(model, tmp_path)


@NEEDS_COMPILER
def test_a_run_with_weights_of_two_bytes_goes_on_bit_for_bit_and_can_be_loaded(
    tokenizer, scenarios, tmp_path, own_precision
):
    """All modules, weights moved in the backward pass, blocks computed twice; stopped after two of four steps."""
    fields = HALF | {"update_in_backward": True, "clipping": "previous_norm", "gradient_checkpointing": True}

    def loop_in(folder, steps=4):
        config = tiny_config(folder, max_steps=4, save_steps=2, batch_size=8, **fields)
        loop = build_loop(tokenizer, config, scenarios[:48], **(WHOLE | {"vocab_size": len(tokenizer)}))
        loop.total_steps = steps
        return loop

    whole = loop_in(tmp_path / "whole")
    whole.train()
    loop_in(tmp_path / "parts", steps=2).train()
    second = loop_in(tmp_path / "parts")
    load_run(second, checkpoint_at(tmp_path / "parts", 2))
    second.train()
    for name, value in whole.bare_model.state_dict().items():
        assert torch.equal(value, second.bare_model.state_dict()[name]), name
    halved = [name for name, value in whole.bare_model.state_dict().items() if value.dtype == torch.bfloat16]
    assert halved
    loaded = RedHeartForMultiTask.from_pretrained(checkpoint_at(tmp_path / "whole", 4))
    for name in halved:
        assert torch.equal(loaded.state_dict()[name], whole.bare_model.state_dict()[name].float()), name
