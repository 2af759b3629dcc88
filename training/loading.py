"""From a folder to a model and its tokenizer, or to one clear error.

In    a model folder that training wrote; fields of its config to set differently.
Out   (model, tokenizer), the model on the GPU if there is one.
Run   through every command that takes --model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from preprocessing.errors import UserError
from preprocessing.folders import MANIFEST, verify
from preprocessing.model_files import weights_in, what_loading_raises
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from training.rewrite import finish_rewrite

MODEL_FILES = ("config.json", "tokenizer_config.json")
# Fields that change what the weights compute, but neither their names nor their shapes.
FIXED_BY_WEIGHTS = (
    "input_residual",
    "task_residual",
    "router_scores",
    "rope_theta",
    "num_attention_heads",
    "num_task_attention_heads",
    "num_analyzer_heads",
)
STARTS = ("initialization", "initializer_range", "output_initializer_range")


def load_model(
    folder: Path | str,
    changes: Mapping[str, Any] | None = None,
    new_modules: bool = False,
    mode: str | None = None,
) -> tuple[RedHeartForMultiTask, PreTrainedTokenizerBase]:
    """Model (on the GPU if there is one) and tokenizer of a folder that training wrote; raises UserError.

    `changes` are put over the saved config. With `new_modules` it may name modules that were not saved: they start
    fresh. Of the modules only those that `mode` needs (`labels.MODULES_OF_MODE`) are read; all without one.
    """
    config = read_config(folder, changes)
    transformers_logging.disable_progress_bar()
    weights_in(Path(folder))  # says it of a folder that has a pickle in their place
    if (Path(folder) / MANIFEST).is_file():  # damaged numbers would answer like others
        verify(Path(folder), ".safetensors")
    with what_loading_raises(folder, "a Red Heart model"):
        config = config if mode is None else config.with_modules(mode)
        model, report = RedHeartForMultiTask.from_pretrained(
            folder, config=config, new_modules=new_modules, dtype=torch.float32, output_loading_info=True
        )
    tokenizer = load_tokenizer(folder)
    check_vocabulary(folder, tokenizer, config)
    surplus = sorted(report["unexpected_keys"])
    if surplus:
        raise UserError(
            f"the weights in {folder} have {len(surplus)} tensors that its config, or what was changed in it, leaves "
            f"no room for, the first is {surplus[0]}; leave sizes and layers as they were saved"
        )
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def read_config(folder: Path | str, changes: Mapping[str, Any] | None = None) -> RedHeartConfig:
    """The config of a folder that training wrote, `changes` put over it; raises UserError where it is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no model folder at {folder}; give the folder final/ of a training run")
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is not a model folder: it has no {name}; give the folder final/ of a training run"
            )
    finish_rewrite(folder)
    with what_loading_raises(folder, "a Red Heart model"):
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        if kind != "redheart":
            raise UserError(f"{folder} holds a model of type {kind!r}, not redheart")
        saved = RedHeartConfig.from_pretrained(folder).to_dict()
        refuse_other_computation(saved, changes or {})
        return RedHeartConfig(**saved | dict(changes or {}))


def refuse_other_computation(saved: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Raises ValueError for a change under which trained weights answer otherwise, or which would do nothing."""
    for name in FIXED_BY_WEIGHTS:
        if name in changes and changes[name] != saved[name]:
            raise ValueError(
                f"its weights were trained with {name} {saved[name]} and would compute something else with "
                f"{changes[name]}; leave {name} out"
            )
    modules = RedHeartConfig(modules=changes.get("modules", saved["modules"])).modules  # a mode becomes a list
    fresh = set(modules) - set(saved["modules"])
    asked = changes.get("adapters")
    if asked is not None and fresh:
        raise ValueError(f"adapters leave all but themselves as it is, and {sorted(fresh)} would stay at their start")
    if None not in (asked, saved["adapters"]) and asked != saved["adapters"]:
        raise ValueError(f"it holds adapters {saved['adapters']} already: leave them out, or start from final/")
    for name in STARTS:
        if name in changes and changes[name] != saved[name] and not fresh:
            raise ValueError(f"{name} says how fresh weights start, and here are none; leave it out")


def check_vocabulary(folder: Path | str, tokenizer: PreTrainedTokenizerBase, config: RedHeartConfig) -> None:
    """Raises UserError when the tokenizer of `folder` gives ids that the model has no embedding for."""
    rows = getattr(config.text_encoder_config or config, "vocab_size", len(tokenizer))
    if len(tokenizer) > rows:
        raise UserError(
            f"the tokenizer in {folder} has {len(tokenizer)} entries, the embeddings that read its ids {rows}: it is "
            "another model's, or tokens were added to it alone; give the one that was saved with them"
        )


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer saved in a folder; raises UserError when it is damaged, wants code of its own or cannot pad."""
    with what_loading_raises(folder, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if not (isinstance(tokenizer.pad_token_id, int) and isinstance(tokenizer.model_max_length, int)):
            raise ValueError(
                f"it has the padding token {tokenizer.pad_token!r} and cuts at {tokenizer.model_max_length!r} tokens"
            )
    return tokenizer
