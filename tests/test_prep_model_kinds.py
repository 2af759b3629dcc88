"""Language models of other kinds than Llama: answers as in plain passes, or a word on why not.

In    tiny models with random weights.
Out   nothing.
Run   `pytest tests/test_prep_model_kinds.py`
"""

from pathlib import Path

import pytest
import torch
from tiny_llm import plain_shares, record_of, save_tiny_llm
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from preprocessing.errors import UserError
from preprocessing.llm import load_llm
from preprocessing.schema import SCALES, load_prompt, value_of

pytest.importorskip("llguidance", reason="llguidance comes with the extra enrich")

from preprocessing.decoding import Decoding
from preprocessing.enrichment import Enricher

TEXT = record_of("My dog ran off, and I have looked for him all night along the river without finding a trace.")
PLAIN = Decoding(threshold=0.0, calibrate=False)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (MistralConfig, {"sliding_window": None}),
        (Qwen2Config, {}),
        (Qwen3Config, {"head_dim": 24}),
        (
            Gemma3TextConfig,
            {"head_dim": 16, "sliding_window": 4096, "layer_types": ["sliding_attention", "full_attention"]},
        ),
        (Phi3Config, {"pad_token_id": 0}),
        (GraniteConfig, {"attention_multiplier": 0.2}),
    ],
    ids=lambda value: value.model_type if isinstance(value, type) else "",
)
def test_models_of_other_kinds_answer_as_in_plain_passes(tokenizer, tmp_path: Path, kind, settings: dict) -> None:
    llm = load_llm(str(save_tiny_llm(tmp_path / "tiny", tokenizer, kind, **settings)), "fp32")
    (answer,) = Enricher(llm, ["culture@1"], PLAIN).answer([TEXT])
    for item in load_prompt("culture@1").items("en"):
        shares = sum(plain_shares(llm, "culture@1", TEXT, key, item.scale) for key in item.wordings)
        first, last, _, _ = SCALES[item.scale]
        values = torch.tensor([value_of(digit, item.scale) for digit in range(first, last + 1)]).double()
        expected = float(shares[:-1] @ values / shares[:-1].sum())
        assert answer["culture"].value[item.position] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (MistralConfig, {"sliding_window": 64}, "window of 64"),
        (Gemma2Config, {"head_dim": 16}, "does not support an attention implementation through torch"),
        (MambaConfig, {}, "does not support an attention implementation through torch"),
    ],
    ids=lambda value: value.model_type if isinstance(value, type) else "",
)
def test_a_model_whose_attention_cannot_be_parted_is_refused(
    tokenizer, tmp_path: Path, kind, settings: dict, said: str
) -> None:
    folder = save_tiny_llm(tmp_path / "tiny", tokenizer, kind, **settings)
    with pytest.raises(UserError, match=said):
        Enricher(load_llm(str(folder), "fp32"), ["culture@1"], PLAIN).answer([TEXT])
