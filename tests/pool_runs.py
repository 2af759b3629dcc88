"""A tiny run with alternatives that other cases lend; the encoder that finds like cases counts letters.

In    a tokenizer, records, an output folder, fields of TrainConfig.
Out   a TrainLoop, ready to train.
Run   through tests/test_train_regret_pool.py and tests/test_train_alternatives.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tiny_run import tiny_config, tiny_model
from transformers import PreTrainedTokenizerBase

from preprocessing.encode import encode
from preprocessing.records import Record
from training.build import build_accelerator
from training.collator import Collator
from training.loop import TrainLoop
from training.regret_cases import with_cases


def letters(texts: Sequence[str]) -> np.ndarray:
    """(texts, 64), of length one: how often letters come, by their number modulo 64."""
    counts = np.asarray([np.bincount([ord(letter) % 64 for letter in text], minlength=64) for text in texts], float)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def regret_loop(
    tokenizer: PreTrainedTokenizerBase, records: Sequence[Record], output_dir: Path, **fields: Any
) -> TrainLoop:
    given: dict[str, Any] = {"num_regrets": 7, "max_steps": 6, "gradient_accumulation_steps": 2, "batch_size": 3}
    given |= fields
    if not given["num_regrets"]:
        given.pop("regret_alternatives", None)
    if given.get("regret_alternatives") == "retrieved":
        given["text_encoder"] = "letters"  # of which nothing is read: cases are found by `letters`
    config = tiny_config(output_dir, **given)
    model = tiny_model(tokenizer)
    dataset = encode(records, tokenizer, model.config.max_length, cache_dir=output_dir.parent / "encoded")
    dataset = with_cases(dataset, records, config, lambda: letters)
    return TrainLoop(build_accelerator(config), model, dataset, Collator(tokenizer), config)
