"""Adapters by peft: saved alone, read back to the same answers, merged, switched; over a base in 4 bits too.

In    the tiny model, with its own embeddings and on a tiny encoder; two labelled texts.
Out   nothing.
Run   `pytest tests/test_model_peft.py`
"""

from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig

from redheart_hf import RedHeartForMultiTask
from redheart_hf.adapters import adapter_config
from redheart_hf.modeling_projections import AnswerLinear
from training.loading import load_model

TEXTS = ["할머니 김치를 마지막으로 꺼내 먹었다.", "They cancelled my leave again."]
LABELS = {
    "basic_emotions": torch.tensor([[0.0, 0, 0, 1, 0, 1, 0], [1.0, 0, 0, 0, 0, 0, 0]]),
    "vad": torch.tensor([[0.2, -0.3, 0.1], [-0.6, 0.5, -0.2]]),
}


@pytest.fixture(scope="module")
def batch(tiny_model_dir: Path):
    return load_model(tiny_model_dir)[1](TEXTS, padding=True, return_tensors="pt")


def base(folder: Path, bits: int | None = None) -> RedHeartForMultiTask:
    if bits is None:
        return RedHeartForMultiTask.from_pretrained(folder)
    return RedHeartForMultiTask.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True))


def trained(model: nn.Module, batch, seed: int = 0, **given):
    """A few steps, which make the loss fall; gives back the adapted model."""
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(model, adapter_config(model, on=["blocks"], **given))
    optimizer = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=5e-3)
    losses = []
    for _ in range(6):
        loss = adapted(**batch, labels=LABELS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    return adapted.eval()


def answers(model: nn.Module, batch) -> torch.Tensor:
    with torch.inference_mode():
        output = model.eval()(**batch)
    return torch.cat(
        (output.emotion.basic_logits, output.emotion.vad_mean, output.ethics.circumstances), dim=1
    ).float()


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_an_adapter_is_saved_alone_and_read_back_to_the_same_answers(method, bits, batch, tiny_model_dir, tmp_path):
    adapted = trained(base(tiny_model_dir, bits), batch, method=method)
    expected = answers(adapted, batch)
    assert not torch.allclose(expected, answers(base(tiny_model_dir, bits), batch), atol=1e-3)
    adapted.save_pretrained(tmp_path)
    whole = (tiny_model_dir / "model.safetensors").stat().st_size
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 0.1 * whole
    again = peft.PeftModel.from_pretrained(base(tiny_model_dir, bits), tmp_path)
    assert torch.allclose(answers(again, batch), expected, atol=1e-6)
    if bits is None:
        merged = again.merge_and_unload()
        assert isinstance(merged, RedHeartForMultiTask)
        assert torch.allclose(answers(merged, batch), expected, atol=1e-5)
        merged.save_pretrained(tmp_path / "merged")
        assert torch.allclose(answers(base(tmp_path / "merged"), batch), expected, atol=1e-5)


def test_what_does_not_learn_keeps_the_numbers_of_the_base(batch, tiny_model_dir):
    model = base(tiny_model_dir)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = trained(model, batch)
    learns = {name for name, one in adapted.named_parameters() if one.requires_grad}
    assert learns
    assert all("lora_" in name or "modules_to_save" in name for name in learns)
    plain = adapted.unload()
    whole = {name for name, module in base(tiny_model_dir).named_modules() if isinstance(module, AnswerLinear)}
    moved = {name for name, value in plain.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[0] for name in moved} <= whole


def test_two_adapters_are_switched_while_it_runs(batch, tiny_model_dir, tmp_path):
    found = []
    for seed in (1, 2):
        adapted = trained(base(tiny_model_dir), batch, seed)
        adapted.save_pretrained(tmp_path / str(seed))
        found.append(answers(adapted, batch))
    both = peft.PeftModel.from_pretrained(base(tiny_model_dir), tmp_path / "1", adapter_name="one")
    both.load_adapter(tmp_path / "2", adapter_name="two")
    for name, expected in (("one", found[0]), ("two", found[1]), ("one", found[0])):
        both.set_adapter(name)
        assert torch.allclose(answers(both, batch), expected, atol=1e-6)
    with both.disable_adapter():
        assert torch.allclose(answers(both, batch), answers(base(tiny_model_dir), batch), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"on": ["block"]}, r"\['block'\] is no place of encoder, blocks"),
        ({"on": []}, "nothing is no place"),
        ({"on": ["encoder"]}, "no linear layer in encoder"),
        ({"on": ["blocks"], "method": "prefix"}, "method is 'prefix'; there are lora and ia3"),
    ],
)
def test_what_cannot_be_adapted_is_refused(given, said, tiny_model_dir):
    with pytest.raises(ValueError, match=said):
        adapter_config(base(tiny_model_dir), **given)
