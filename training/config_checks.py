"""What the fields of a TrainConfig may be, each alone and beside the others.

In    a TrainConfig.
Out   nothing, or a UserError that names the field, its value and what it should be.
Run   through TrainConfig
"""

import math
from typing import TYPE_CHECKING

from transformers.utils import is_peft_available

from preprocessing.errors import UserError
from preprocessing.origin_weights import complete
from redheart_hf import RedHeartConfig
from redheart_hf.losses import TERMS
from training.batch_plan import as_list
from training.lr_sweep_settings import sweep_settings
from training.sampling import check_sampling
from training.trackers import check_trackers

if TYPE_CHECKING:
    from training.config import TrainConfig


LEAST = {
    "epochs": 1,
    "max_steps": 1,
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "bucket_batches": 1,
    "train_rows": 1,
    "warmup_steps": 0,
    "text_encoder_start": 0,
    "memory_refresh_steps": 0,
    "min_learning_rate": 0,
    "weight_decay": 0,
    "log_steps": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "save_epochs": 1,
    "save_total_limit": 1,
    "keep_complete": 1,
    "num_proc": 1,
    "num_workers": 0,
    "queue_batches": 1,
    "chunk_rows": 1,
    "num_regrets": 0,
    "seed": 0,
    "swap_room_gib": 0,
    "rdrop_alpha": 0,
    "early_stopping_patience": 1,
    "early_stopping_min_delta": 0,
}
MOST_GIB = 2**20
WRITTEN_BY_TRAINING = ("trained_on", "trained_labels", "surd_found", "thresholds", "calibration", "auto_map")
POSITIVE = (
    "learning_rate",
    "text_encoder_learning_rate",
    "answer_learning_rate",
    "max_grad_norm",
    "ram_gib",
    "vram_gib",
)


def check(config: "TrainConfig") -> None:
    check_model(config)
    check_numbers(config)
    check_low_memory(config)
    check_placement(config)
    check_optimizer(config)
    check_balance(config)
    check_adapters(config)
    check_techniques(config)
    check_rows(config)
    check_sampling(config)
    check_regrets(config)
    check_trackers(config.trackers)
    check_loss_weights(config)
    check_choices(config)
    complete(config.origin_weights)


def check_low_memory(config: "TrainConfig") -> None:
    """Settings that only hold together."""
    if config.weight_precision == "bf16":
        if config.optimizer != "adamw_8bit":
            raise UserError(
                f"weight_precision bf16 needs an optimizer that rounds by chance, and {config.optimizer} rounds to "
                "the nearest: most of its steps would be lost; use optimizer adamw_8bit"
            )
        if config.mixed_precision != "bf16":
            raise UserError(
                f"weight_precision bf16 needs mixed_precision bf16, got {config.mixed_precision}: weights of two "
                "bytes are multiplied as they are"
            )
        if config.start_from is not None:
            raise UserError(
                f"weight_precision bf16 is for a model that starts fresh; start_from {config.start_from!r} brings "
                "weights of float32: leave weight_precision out"
            )
    if config.update_in_backward and config.optimizer != "adamw_8bit":
        raise UserError(
            f"update_in_backward moves one parameter at a time, which {config.optimizer} cannot; use optimizer "
            "adamw_8bit"
        )
    if config.update_in_backward and config.mixed_precision == "fp16":
        raise UserError("update_in_backward moves weights before fp16's scaler has seen all gradients; use bf16 or no")
    if config.update_in_backward and not config.update_weights:
        raise UserError("update_in_backward moves weights while update_weights is off: leave one of them out")
    if config.clipping != "global" and not config.update_in_backward:
        raise UserError(
            f"clipping {config.clipping} is an approximation for update_in_backward; without it gradients are clipped "
            "by their norm, exactly and at no cost: leave clipping out"
        )


def check_placement(config: "TrainConfig") -> None:
    """Settings of where a model is."""
    ratio = config.gpu_layers_ratio
    if ratio is not None and not 0 <= ratio <= 1:
        raise UserError(f"gpu_layers_ratio must lie in 0.0 to 1.0, got {ratio}")
    if config.heads_device == "cpu" and ratio is None:
        raise UserError("heads_device cpu is a part of gpu_layers_ratio; set that too, or leave heads_device out")
    if config.swap != "off" and ratio is not None:
        raise UserError(
            f"swap {config.swap} lets all weights visit the GPU, gpu_layers_ratio {ratio} lets the last blocks live "
            "there; leave one of them out"
        )
    if config.mixed_precision == "fp16" and (config.swap == "on" or ratio not in (None, 1.0)):
        raise UserError(
            f"fp16's scaler is for gradients on the GPU, and with swap {config.swap}, gpu_layers_ratio {ratio} some "
            "are in main memory; use bf16 or no"
        )
    if config.swap_room_gib and config.swap == "off":
        raise UserError(
            f"swap_room_gib {config.swap_room_gib} does nothing without swap; set swap on, or leave it out"
        )


def check_optimizer(config: "TrainConfig") -> None:
    """Settings that the chosen optimizer would not look at."""
    if config.momentum and config.optimizer != "sgd":
        raise UserError(f"momentum is {config.momentum}, but only optimizer sgd has one, not {config.optimizer}")
    if config.optimizer in ("sgd", "adafactor") and tuple(config.betas) != type(config).betas:
        raise UserError(f"betas are {list(config.betas)}, but optimizer {config.optimizer} has none; leave them out")


def check_model(config: "TrainConfig") -> None:
    for name in WRITTEN_BY_TRAINING:
        if name in config.model:
            raise UserError(f"model.{name} is {config.model[name]!r:.80}, but training writes it itself; leave it out")


def check_numbers(config: "TrainConfig") -> None:
    for name, least in LEAST.items():
        value = getattr(config, name)
        if value is not None and not least <= value < math.inf:
            raise UserError(f"{name} must be a number of at least {least}, got {value}")
    for name in POSITIVE:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} must be positive and finite, got {value}")
    for name in ("ram_gib", "vram_gib", "swap_room_gib"):
        if (getattr(config, name) or 0) > MOST_GIB:
            raise UserError(f"{name} is in GiB, and {getattr(config, name):g} are more than any machine has")
    if config.seed >= 2**32:
        raise UserError(f"seed must lie below 2^32 = {2**32}, as NumPy wants it, got {config.seed}")
    if not 0 < config.memory_fraction <= 1:
        raise UserError(f"memory_fraction must lie in (0, 1], got {config.memory_fraction}")
    if not 0 <= config.momentum < 1:
        raise UserError(f"momentum must lie in [0, 1), got {config.momentum}")
    if not all(0 <= beta < 1 for beta in config.betas):
        raise UserError(f"betas must lie in [0, 1), got {config.betas}")


def check_balance(config: "TrainConfig") -> None:
    if config.class_balance is not None and not 0 <= config.class_balance < 1:
        raise UserError(f"class_balance must lie in [0, 1), got {config.class_balance}")
    if config.class_balance is not None and config.model.get("label_weights"):
        raise UserError("class_balance and model.label_weights both weigh the labels; give one of them")


def check_adapters(config: "TrainConfig") -> None:
    if config.model.get("adapters") is not None and config.start_from is None:
        raise UserError(
            "model.adapters adapt a model that was trained, and start_from names none: give its folder; a fresh model "
            "on a pretrained encoder learns with model.text_encoder_mode lora"
        )


def refuse_idle_with_adapters(config: "TrainConfig", model: RedHeartConfig) -> None:
    """Raises UserError for what would do nothing where the model itself stays as it is."""
    if model.adapters is None:
        return
    if not is_peft_available():
        raise UserError("model.adapters need the package peft: pip install peft")
    of_encoder = "encoder" in model.adapters.get("on", ["encoder"]) and model.text_encoder_config is not None
    for name in ("text_encoder_start", "text_encoder_learning_rate"):
        if (value := getattr(config, name)) and not of_encoder:
            raise UserError(f"{name} is {value}, but adapters on blocks leave the text encoder as it is; leave it out")


def check_techniques(config: "TrainConfig") -> None:
    if not 0 <= config.label_smoothing < 1:
        raise UserError(f"label_smoothing must lie in [0, 1), got {config.label_smoothing}")
    if config.ema_decay is not None and not 0 < config.ema_decay < 1:
        raise UserError(f"ema_decay must lie between 0 and 1, got {config.ema_decay}; leave it out for no average")
    if config.early_stopping_min_delta and config.early_stopping_patience is None:
        raise UserError(
            f"early_stopping_min_delta is {config.early_stopping_min_delta}, but without early_stopping_patience no "
            "run ends early; set that too, or leave it out"
        )


def refuse_without_dropout(config: "TrainConfig", model: RedHeartConfig) -> None:
    """Raises UserError where both readings would be the same to the last bit."""
    if not config.rdrop_alpha or model.hidden_dropout or (model.attention_dropout and model.num_hidden_layers):
        return
    read_with = model.text_encoder_config.to_dict() if model.text_encoder_config is not None else {}
    of_encoder = {name: value for name, value in read_with.items() if "dropout" in name and value}
    if of_encoder and model.text_encoder_mode != "frozen":
        return
    frozen = f"; the text encoder's {sorted(of_encoder)} are off, since it is frozen" if of_encoder else ""
    raise UserError(
        f"rdrop_alpha is {config.rdrop_alpha}, but model.hidden_dropout and model.attention_dropout are 0{frozen}: "
        "both readings of a text would be the same, at twice the cost; set a dropout, or leave rdrop_alpha out"
    )


def check_rows(config: "TrainConfig") -> None:
    if not config.train:
        raise UserError("train names no source; give at least one READER=PATH")
    for reader, passes in config.passes.items():
        listed = as_list(passes)
        if not (listed and min(listed) >= 0 and 0 < max(listed) < math.inf):
            raise UserError(
                f"passes of {reader} must be positive and finite (0 only in a list, beside others), got {passes}"
            )
    for reader, rows in config.holdout.items():
        if rows < 1:
            raise UserError(f"holdout of {reader} must be at least 1 row, got {rows}")


def check_regrets(config: "TrainConfig") -> None:
    """Settings of alternatives that nobody would look at, or that ask for what the run has not."""
    if not config.num_regrets:
        for name in ("num_bentham", "regret_alternatives"):
            if (value := getattr(config, name)) != getattr(type(config), name):
                raise UserError(f"{name} {value} does nothing with num_regrets 0; set that too, or leave it out")
    elif config.regret_alternatives == "retrieved" and not (config.text_encoder or config.start_from):
        raise UserError(
            "regret_alternatives retrieved finds like cases by the run's text encoder, and this run has none; give "
            "text_encoder, or use data"
        )


def check_loss_weights(config: "TrainConfig") -> None:
    if unknown := sorted(set(config.loss_weights) - set(TERMS)):
        raise UserError(f"loss_weights names unknown terms {unknown}; known: {', '.join(TERMS)}")
    for term, factor in config.loss_weights.items():
        if not 0 <= factor < math.inf:
            raise UserError(f"loss_weights of {term} must be finite and not negative, got {factor}")


def check_choices(config: "TrainConfig") -> None:
    """Settings of what is chosen by dev."""
    asked = [name for name in ("lr_sweep", "sweet_spot", "crossover") if getattr(config, name) not in (None, False)]
    if asked and not (config.dev or config.holdout):
        raise UserError(f"{asked[0]} chooses by dev, and neither dev nor holdout gives any rows: give one of them")
    if config.lr_sweep is not None:
        sweep_settings(config.lr_sweep)
