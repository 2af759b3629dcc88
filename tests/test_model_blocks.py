"""The backbone's blocks against written-out references, and what padding and checkpointing may not change.

In    blocks and models of random weights at odd sizes; shipped texts where text matters.
Out   agreement within 1e-5 in float32.
Run   pytest tests/test_model_blocks.py
"""

import copy
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.masking_utils import create_bidirectional_mask

from redheart_hf import RedHeartConfig, RedHeartForMultiTask, preset_config
from redheart_hf.modeling_blocks import BLOCKS, RedHeartAttention, rotary_angles

BATCH, TOKENS, HIDDEN, HEADS = 5, 7, 32, 4
LENGTHS = (7, 1, 4, 6, 2)
KINDS = tuple(BLOCKS)
Module = TypeVar("Module", bound=nn.Module)


def small_config(**changes) -> RedHeartConfig:
    sizes = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": 48, "vocab_size": 64}
    return preset_config("redheart-tiny", **(sizes | changes))


def randomised(module: Module) -> Module:
    """Norms too, whose ones and zeros would hide a norm left out or applied twice."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


@pytest.fixture
def hidden_BTD() -> torch.Tensor:
    return torch.randn(BATCH, TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def padding_BT() -> torch.Tensor:
    return (torch.arange(TOKENS) < torch.tensor(LENGTHS)[:, None]).long()


def no_rotation() -> tuple[torch.Tensor, torch.Tensor]:
    shape = (1, 1, TOKENS, HIDDEN // HEADS)
    return torch.ones(shape), torch.zeros(shape)


def attention_by_hand(attention: RedHeartAttention, hidden_BTD: torch.Tensor, theta: float) -> np.ndarray:
    """Rotary attention in float64: a pair of values is a complex number, turned by position times frequency."""
    weights = {name: value.double().numpy() for name, value in attention.state_dict().items()}
    head_dim = HIDDEN // HEADS
    output = np.zeros((BATCH, TOKENS, HIDDEN))
    for b, length in enumerate(LENGTHS):
        states = hidden_BTD[b].double().numpy()
        projected = {n: states @ weights[f"{n}_proj.weight"].T + weights[f"{n}_proj.bias"] for n in "qkv"}
        for head in range(HEADS):
            q, k, v = (projected[n][:, head * head_dim : (head + 1) * head_dim] for n in "qkv")
            q, k = (part[:, : head_dim // 2] + 1j * part[:, head_dim // 2 :] for part in (q, k))
            for i in range(TOKENS):
                scores = []
                for j in range(length):
                    score = 0.0
                    for pair in range(head_dim // 2):
                        frequency = theta ** (-2 * pair / head_dim)
                        turned_q = q[i, pair] * np.exp(1j * i * frequency)
                        turned_k = k[j, pair] * np.exp(1j * j * frequency)
                        score += (turned_q * turned_k.conjugate()).real
                    scores.append(score / np.sqrt(head_dim))
                shares = np.exp(scores) / np.exp(scores).sum()
                output[b, i, head * head_dim : (head + 1) * head_dim] = shares @ v[:length]
    return output @ weights["o_proj.weight"].T + weights["o_proj.bias"]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_is_the_formula(implementation, hidden_BTD, padding_BT):
    torch.manual_seed(0)
    config = small_config(attn_implementation=implementation, rope_theta=100.0)
    assert config._attn_implementation == implementation
    attention = randomised(RedHeartAttention(config))
    mask = create_bidirectional_mask(config=config, inputs_embeds=hidden_BTD, attention_mask=padding_BT)
    with torch.no_grad():
        output, weights = attention(hidden_BTD, mask, rotary_angles(hidden_BTD, config))
    assert (weights is None) == (implementation == "sdpa")
    reference = attention_by_hand(attention, hidden_BTD, theta=100.0)
    np.testing.assert_allclose(output.numpy(), reference, atol=1e-5, rtol=1e-5)


def test_pre_norm_block_is_torch_encoder_layer(hidden_BTD, padding_BT):
    torch.manual_seed(0)
    config = small_config(attn_implementation="sdpa", layer_norm_eps=1e-3)
    block = randomised(BLOCKS["pre_ln_gelu"](config))
    reference = nn.TransformerEncoderLayer(
        HIDDEN, HEADS, 48, activation="gelu", layer_norm_eps=1e-3, batch_first=True, norm_first=True
    ).eval()
    ours = block.state_dict()
    copied = {
        f"self_attn.in_proj_{kind}": torch.cat([ours[f"attention.{name}_proj.{kind}"] for name in "qkv"])
        for kind in ("weight", "bias")
    }
    renamed = {
        "self_attn.out_proj": "attention.o_proj",
        "linear1": "mlp.up_proj",
        "linear2": "mlp.down_proj",
        "norm1": "attention_norm",
        "norm2": "mlp_norm",
    }
    copied |= {f"{new}.{kind}": ours[f"{old}.{kind}"] for new, old in renamed.items() for kind in ("weight", "bias")}
    reference.load_state_dict(copied)
    mask = create_bidirectional_mask(config=config, inputs_embeds=hidden_BTD, attention_mask=padding_BT)
    output = block(hidden_BTD, mask, no_rotation())
    expected = reference(hidden_BTD, src_key_padding_mask=padding_BT == 0)
    present = padding_BT.bool()
    torch.testing.assert_close(output[present], expected[present], atol=1e-5, rtol=1e-5)


def test_post_norm_swiglu_block_is_the_formula(hidden_BTD):
    torch.manual_seed(0)
    config = small_config(block_type="post_ln_swiglu", attn_implementation="sdpa", layer_norm_eps=1e-3)
    block = randomised(BLOCKS["post_ln_swiglu"](config))
    w = block.state_dict()

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.pow(2).mean(-1, keepdim=True) + 1e-3).sqrt()
        return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]

    q, k, v = (
        linear(f"attention.{n}_proj", hidden_BTD).unflatten(-1, (HEADS, -1)).transpose(1, 2) for n in ("q", "k", "v")
    )
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    x = norm("attention_norm", hidden_BTD + linear("attention.o_proj", mixed))
    gate, up = linear("mlp.gate_proj", x), linear("mlp.up_proj", x)
    expected = norm("mlp_norm", x + linear("mlp.down_proj", gate / (1 + torch.exp(-gate)) * up))
    torch.testing.assert_close(block(hidden_BTD, None, no_rotation()), expected, atol=1e-5, rtol=1e-5)


def answers(output) -> torch.Tensor:
    """Everything the heads say about each sequence, side by side."""
    emotion, ethics, regret = output.emotion, output.ethics, output.regret
    levels = (emotion.polarity_logits, emotion.basic_logits, emotion.fine_logits, emotion.korean_logits)
    others = (emotion.vad_mean, emotion.vad_log_variance, emotion.culture_logits, emotion.router_logits)
    return torch.cat((*levels, *others, ethics.acceptability_logits, ethics.contributions, regret.text_regret), dim=-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_does_not_change_what_a_text_gets(kind, implementation, tokenizer, scenarios):
    torch.manual_seed(0)
    config = small_config(block_type=kind, attn_implementation=implementation, vocab_size=len(tokenizer))
    model = RedHeartForMultiTask(config).eval()
    for parameter in model.model.parameters():  # first weights are so small that every text gets nearly the same
        parameter.data.mul_(4)
    texts = [record.text for record in scenarios[:: len(scenarios) // 5][:5]]
    padded = tokenizer(texts, padding=True, return_tensors="pt")
    assert len(set(padded["attention_mask"].sum(1).tolist())) > 1
    with torch.no_grad():
        alone = torch.cat([answers(model(**tokenizer(text, return_tensors="pt"))) for text in texts])
        torch.testing.assert_close(answers(model(**padded)), alone, atol=1e-5, rtol=1e-5)
        unmasked = answers(model(input_ids=padded["input_ids"], token_type_ids=padded["token_type_ids"]))
    assert (unmasked - alone).abs().max() > 1e-3, "the texts are too alike for this test to see padding"


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_repeats_the_forward_and_keeps_loss_and_gradients(kind):
    torch.manual_seed(0)
    plain = RedHeartForMultiTask(small_config(block_type=kind, hidden_dropout=0.3)).train()
    saving = copy.deepcopy(plain)
    saving.activation_checkpointing_enable()
    inputs = torch.randint(1, 64, (BATCH, TOKENS))
    labels = {"basic_emotions": torch.rand(BATCH, 7), "vad": torch.rand(BATCH, 3)}
    losses, passes = [], []
    for model in (plain, saving):
        calls: list[int] = []
        model.model.blocks[0].mlp.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(3)
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        losses.append(loss.detach())
        passes.append(len(calls))
    assert passes == [1, 2]
    assert torch.equal(*losses)
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_a_model_of_one_kind_is_deaf_to_the_config_of_another():
    inputs = torch.arange(1, 1 + BATCH * TOKENS).view(BATCH, TOKENS) % 64
    torch.manual_seed(0)
    model = RedHeartForMultiTask(small_config()).eval()
    before = answers(model(input_ids=inputs))
    other = small_config(block_type="post_ln_swiglu", layer_norm_eps=0.1, regret_aversion=2.0, initialization="he")
    other.circumstance_weights[0], other.circumstance_weights[1] = 0.0, 2 / 7
    RedHeartForMultiTask(other)
    assert torch.equal(answers(model(input_ids=inputs)), before)
    torch.manual_seed(0)
    assert torch.equal(answers(RedHeartForMultiTask(small_config()).eval()(input_ids=inputs)), before)
