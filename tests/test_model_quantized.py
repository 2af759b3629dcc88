"""Loaded in 4 and 8 bits by bitsandbytes, on the CPU: small, near the full answers, the answering layers untouched.

In    the tiny model; Korean and English texts, alone and with actions.
Out   nothing.
Run   `pytest tests/test_model_quantized.py`
"""

from pathlib import Path

import pytest
import torch
from tiny_encoder import tiny_bert
from torch import nn
from transformers import BitsAndBytesConfig

from redheart_hf import RedHeartForMultiTask, preset_config
from redheart_hf.modeling_projections import AnswerLinear
from redheart_hf.quantization import BLOCK, SMALL, kept_in_full
from training.loading import load_model

TEXTS = ["할머니 김치를 마지막으로 꺼내 먹었다.", "They cancelled my leave again.", "He found a wallet."]
GIVEN = {
    4: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    8: BitsAndBytesConfig(load_in_8bit=True),
}
ALLOWED = {4: 0.15, 8: 0.02}


@pytest.mark.parametrize("bits", [4, 8])
def test_it_answers_nearly_as_in_full_and_keeps_the_layers_that_answer(bits: int, tiny_model_dir: Path):
    full, tokenizer = load_model(tiny_model_dir)
    small = RedHeartForMultiTask.from_pretrained(tiny_model_dir, quantization_config=GIVEN[bits]).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    batch |= {"alternatives": torch.tensor([[1, 2]]), "chosen": torch.tensor([0])}
    with torch.no_grad():
        expected, found = full.eval()(**batch), small(**batch)
    for one, other in (
        (found.emotion.basic_logits.sigmoid(), expected.emotion.basic_logits.sigmoid()),
        (found.ethics.circumstances, expected.ethics.circumstances),
        (found.regret.utility_views, expected.regret.utility_views),
    ):
        assert torch.isfinite(one).all()
        assert (one.float() - other).abs().max() < ALLOWED[bits]
    converted = {
        name
        for name, module in small.named_modules()
        if type(module).__name__.startswith("Linear") and type(module) is not nn.Linear
    }
    plain = {name for name, module in full.named_modules() if type(module) is nn.Linear}
    assert converted == plain - set(kept_in_full(full, bits))
    assert converted
    for name, module in full.named_modules():
        if isinstance(module, AnswerLinear):
            assert torch.equal(small.get_submodule(name).weight.float(), module.weight)


@pytest.mark.parametrize("mode", ["trained", "layers", "frozen"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_text_encoder_is_read_in_few_bits_too(bits: int, mode: str, tokenizer, tmp_path: Path):
    torch.manual_seed(0)
    sizes = {"text_encoder_config": tiny_bert(tokenizer, initializer_range=0.2), "text_encoder_mode": mode}
    RedHeartForMultiTask(preset_config("redheart-tiny", max_length=64, **sizes)).save_pretrained(tmp_path)
    small = RedHeartForMultiTask.from_pretrained(tmp_path, quantization_config=GIVEN[bits]).eval()
    full = RedHeartForMultiTask.from_pretrained(tmp_path).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found, expected = (model(**batch).emotion.basic_logits.sigmoid().float() for model in (small, full))
    assert (found - expected).abs().max() < ALLOWED[bits]
    assert small.get_memory_footprint() < 0.9 * full.get_memory_footprint()
    assert not any(parameter.requires_grad for parameter in small.parameters() if not parameter.is_floating_point())


@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_kept_is_small_or_cannot_be_laid_into_blocks(bits: int, tiny_model_dir: Path):
    model, _ = load_model(tiny_model_dir)
    for name in kept_in_full(model, bits):
        layer = model.get_submodule(name)
        small = layer.weight.numel() < SMALL
        assert small or (bits == 4 and layer.in_features % BLOCK) or "regret_analyzer" in name


def test_what_the_user_keeps_is_kept_too(tiny_model_dir: Path):
    mine = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["model.blocks"])
    model = RedHeartForMultiTask.from_pretrained(tiny_model_dir, quantization_config=mine)
    assert not any(type(module).__name__ == "Linear8bitLt" for module in model.model.blocks.modules())
    assert any(type(module).__name__ == "Linear8bitLt" for module in model.modules())
    assert mine.llm_int8_skip_modules == ["model.blocks"]
