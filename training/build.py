"""What a run is built of: the accelerator, the tokenizer and the model, or one clear error.

In    a TrainConfig.
Out   an Accelerator; a tokenizer and a model, fresh, on a text encoder, or from a trained folder.
Run   through training/train.py.
"""

import copy
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, set_seed
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from preprocessing.errors import UserError
from preprocessing.model_files import place_of, what_loading_raises
from preprocessing.sources import expand
from redheart_hf import RedHeartConfig, RedHeartForMultiTask, preset_config
from redheart_hf.adapters import put_adapters
from training.config import TrainConfig
from training.creation import create_model
from training.loading import check_vocabulary, load_model, load_tokenizer, read_config
from training.native import load_kernel
from training.placement import refuse_8bit_on_gpu
from training.sharding import refuse_deepspeed, settle_sharding

PATIENCE = timedelta(days=7)


def build_accelerator(config: TrainConfig) -> Accelerator:
    """The accelerator, and torch set so that the same run gives the same bits."""
    refuse_deepspeed()
    # A task whose labels no process has in a step leaves its head without gradients, which must not stop the run.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # What the main process does alone, from the encoding to the crossover, may take the others hours of waiting.
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    try:
        # Without cpu=True, processes started by torchrun on a machine without a GPU do not find each other.
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=config.mixed_precision,
            kwargs_handlers=[unused, patience],
        )
    except ValueError as error:
        raise UserError(f"mixed_precision {config.mixed_precision}: {error}") from error
    if accelerator.device.type == "cpu" and config.mixed_precision == "fp16":
        raise UserError("mixed_precision fp16 needs a GPU, and none is found here; use bf16 or no")
    if config.optimizer == "adamw_8bit":
        if config.swap == "off":  # auto may become on
            refuse_8bit_on_gpu(config, accelerator.device)
        load_kernel("adamw_8bit")
    if config.update_in_backward and accelerator.num_processes > 1:
        raise UserError(
            f"update_in_backward moves weights before {accelerator.num_processes} processes could add their gradients "
            "up; use one process, or leave it out"
        )
    settle_sharding(config, accelerator)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or matrix products on a GPU differ from run to run
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    transformers_logging.disable_progress_bar()
    return accelerator


def resolve_folder(name: str, what: str) -> str:
    """A folder given as a path or as package:NAME/SUBFOLDER; raises UserError when it is not there."""
    name = str(place_of(name, what))
    if not (Path(name) / ("config.json" if what == "text_encoder" else "tokenizer_config.json")).is_file():
        make = "" if what == "text_encoder" else ", or make one: python -m training.train_tokenizer --help"
        raise UserError(
            f"{what} {name!r} is not a folder that Transformers has saved (looked from {Path.cwd()}); see docs/data.md"
            f"{make}"
        )
    return name


def read_architecture(config: TrainConfig) -> tuple[PreTrainedTokenizerBase, RedHeartConfig]:
    """Tokenizer and the config of the model that the run trains, before there is a weight of it."""
    if config.start_from is not None:
        model_config = read_config(expand(config.start_from), config.model)
        return load_tokenizer(expand(config.start_from)), model_config
    if config.tokenizer is None and config.text_encoder is None:
        raise UserError("none of tokenizer, text_encoder and start_from is given: say what reads the text")
    changes = dict(config.model)
    if config.text_encoder is None:
        tokenizer = load_tokenizer(resolve_folder(config.tokenizer or "", "tokenizer"))
        changes |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        return tokenizer, checked_config(config.preset, changes)
    folder = resolve_folder(config.text_encoder, "text_encoder")
    tokenizer_folder = resolve_folder(config.tokenizer or folder, "tokenizer")
    tokenizer = load_tokenizer(tokenizer_folder)
    with what_loading_raises(folder, "a text encoder"):
        changes["text_encoder_config"] = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model_config = checked_config(config.preset, changes)
    check_vocabulary(tokenizer_folder, tokenizer, model_config)
    return tokenizer, model_config


def model_config_of(config: TrainConfig) -> RedHeartConfig:
    """As `read_architecture`; of a preset without anything to read its texts, with the preset's own vocabulary."""
    if config.start_from or config.tokenizer or config.text_encoder:
        return read_architecture(config)[1]
    return checked_config(config.preset, dict(config.model))


Architecture = tuple[PreTrainedTokenizerBase, RedHeartConfig]


def build_model(
    config: TrainConfig, architecture: Architecture | None = None
) -> tuple[PreTrainedTokenizerBase, RedHeartForMultiTask]:
    """Tokenizer and a freshly initialised model (its text encoder pretrained), the same for the same seed.

    Who has read the `architecture` gives it: a second tokenizer of 250,000 entries would take 0.3 GiB more.
    """
    tokenizer, model_config = architecture or read_architecture(config)
    model_config = copy.deepcopy(model_config)  # the model writes into its own
    set_seed(config.seed)
    if config.start_from is not None:
        return go_on_from(config.start_from, config.model)
    if config.text_encoder is None:
        return tokenizer, create_model(model_config, config.weight_precision)
    folder = resolve_folder(config.text_encoder, "text_encoder")
    with what_loading_raises(folder, "a text encoder"):
        model = create_model(model_config, config.weight_precision)
        model.read_text_encoder(folder)
        return tokenizer, model


def go_on_from(folder: str, changes: dict[str, Any]) -> tuple[PreTrainedTokenizerBase, RedHeartForMultiTask]:
    """Tokenizer and model of a folder that training wrote, its config changed as far as its weights allow."""
    adapters = changes.get("adapters")
    plain = {name: value for name, value in changes.items() if name != "adapters"}
    model, tokenizer = load_model(expand(folder), plain, new_modules=True)
    if adapters is not None and model.config.adapters is None:
        with what_loading_raises(folder, "a model to adapt"):
            put_adapters(model, adapters)
        model.config.adapters = adapters
    # They were fitted to answers that will change, and to counts of other data.
    model.config.calibration, model.config.thresholds = None, None
    model.config.label_weights = changes.get("label_weights")
    return tokenizer, model


def left_behind(config: TrainConfig, model_config: RedHeartConfig) -> list[str]:
    """Lines to print: what `start_from` takes the place of, and which of its trained modules the recipe leaves out."""
    if config.start_from is None:
        return []
    replaced = {"text_encoder": None, "tokenizer": None, "preset": TrainConfig.preset}
    given = {name: getattr(config, name) for name in replaced}
    unused = [f"{name} {given[name]}" for name, default in replaced.items() if given[name] != default]
    saved = RedHeartConfig.from_pretrained(expand(config.start_from)).modules
    dropped = [name for name in saved if name not in model_config.modules]
    lines = [f"{what} is not used: the model of start_from brings its own" for what in unused]
    return lines + [f"{name}, which the model of start_from has, is left out by model.modules" for name in dropped]


def checked_config(preset: str, changes: dict[str, Any]) -> RedHeartConfig:
    """The preset's config with `changes`; raises UserError for what cannot be built."""
    try:
        return preset_config(preset, **changes)
    except (ValueError, TypeError) as error:
        raise UserError(f"model configuration: {error}") from error
    except StrictDataclassError as error:  # a wrong type, said in two lines of which the second is the cause
        raise UserError(f"model configuration: {error.__cause__ or error}") from error
