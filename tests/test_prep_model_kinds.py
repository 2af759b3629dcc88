"""Language models of other kinds than Llama: answers as in plain passes, or a word on why not.

In    tiny models with random weights.
Out   nothing.
Run   `pytest tests/test_prep_model_kinds.py`
"""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from tiny_llm import CHAT, plain_shares, record_of, save_tiny_llm
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from preprocessing.errors import UserError
from preprocessing.llm import Llm, load_llm
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
        (MistralConfig, {"sliding_window": 64}, "sliding_window of 64"),
        (LlamaConfig, {"max_position_embeddings": 512}, "max_position_embeddings of 512"),
        (Lfm2Config, {"layer_types": ["conv", "full_attention"]}, "cannot read with a cache of keys"),
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


def test_a_model_of_which_a_layer_does_not_look_at_the_prompt_is_refused(tokenizer, tmp_path: Path) -> None:
    llm = load_llm(str(save_tiny_llm(tmp_path / "tiny", tokenizer)), "fp32")
    layer = llm.model.model.layers[1].self_attn
    whole = layer.forward
    layer.forward = lambda *args, shared_prefix=None, **kwargs: whole(*args, **kwargs)
    with pytest.raises(UserError, match=r"layers \[1\] do not look at the prompt"):
        Enricher(llm, ["culture@1"], PLAIN).answer([TEXT])


def test_answers_do_not_depend_on_the_day_and_another_template_is_another_question(tokenizer, tmp_path: Path) -> None:
    def asked(template: str) -> tuple[str, object]:
        folder = save_tiny_llm(tmp_path / "tiny", tokenizer)
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        enricher = Enricher(load_llm(str(folder), "fp32"), ["culture@1"], PLAIN)
        return enricher.key(TEXT, enricher.prompts[0]), enricher.answer([TEXT])

    dated = asked("{{ strftime_now('%H:%M:%S.%f') }}" + CHAT)
    assert asked("{{ strftime_now('%H:%M:%S.%f') }}" + CHAT) == dated
    assert asked(CHAT)[0] != dated[0]
    with patch.object(Llm, "chat_parts", lambda llm, turns, after: ("<|im_start|>" + turns[0], after)):
        assert asked(CHAT)[0] != dated[0]
