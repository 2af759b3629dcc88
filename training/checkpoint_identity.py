"""Which run, model, data and tokenizer a checkpoint is of, in a few letters each.

In    a TrainConfig, the model's config, a tokenizer, the digest of the encoded data.
Out   {"run": ..., "model": ..., "data": ..., "tokenizer": ..., "dev": ...}; what of it differs from a checkpoint's.
Run   through training/run_state.py

Equal letters are equal things, in any version: a setting at its default, and what only says who wrote a file, are left
out, so that a field that is new does not make another run of an old one.
"""

import dataclasses
import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from transformers import PreTrainedTokenizerBase

from redheart_hf import RedHeartConfig
from training.config import FREE_ON_RESUME, TrainConfig
from training.config_checks import WRITTEN_BY_TRAINING

WRITTEN_BY_OTHERS = ("transformers_version", "dtype", "architectures", "_name_or_path", "label_weights")


def digest(value: Any) -> str:
    return blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=6).hexdigest()


def model_digest(config: RedHeartConfig) -> str:
    left_out = {*WRITTEN_BY_TRAINING, *WRITTEN_BY_OTHERS}
    return digest({name: value for name, value in config.to_dict().items() if name not in left_out})


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of what it makes of a text; how long texts are cut is the model's."""
    if not tokenizer.is_fast:
        return digest(sorted(tokenizer.get_vocab().items()))
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest(written | {"truncation": None, "padding": None})


def run_digest(config: TrainConfig, parts: Mapping[str, str]) -> str:
    defaults = {item.name: item.default for item in dataclasses.fields(config)}
    fields = {name: value for name, value in config.to_dict().items() if name not in FREE_ON_RESUME}
    return digest([{name: value for name, value in fields.items() if value != defaults[name]}, dict(parts)])


def architecture_of(config: RedHeartConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What is known before any data is read."""
    return {"model": model_digest(config), "tokenizer": tokenizer_digest(tokenizer)}


def identity(
    config: TrainConfig, model: RedHeartConfig, tokenizer: PreTrainedTokenizerBase, data: str, dev: str | None = None
) -> dict[str, str]:
    """`data`: of what is trained on; `dev`: of what is judged by, without which the run would learn the same."""
    parts = architecture_of(model, tokenizer) | {"data": data}
    return {"run": run_digest(config, parts), **parts} | ({"dev": dev} if dev is not None else {})


def strangers(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Of `now`, what a checkpoint says otherwise, both said."""
    return [
        f"another {name}: {saved.get(name)} in the checkpoint, {now[name]} now"
        for name in now
        if saved.get(name) != now[name]
    ]
