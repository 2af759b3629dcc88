"""What a RedHeartConfig checks besides types: sizes that fit, ranges of numbers, a number for each label.

In    fields of a config.
Out   nothing, or a ValueError that names the field and its value.
Run   through `RedHeartConfig(...)`.
"""

import math
from collections.abc import Callable
from typing import Any

from .labels import CIRCUMSTANCES, EMOTION_FIELDS, MODULES, MODULES_OF_MODE, VAD

PLACES = {"encoder": "model.embeddings.encoder.", "blocks": "model.blocks."}
"""What adapters may adapt, and how names begin there."""
METHODS = ("lora", "ia3")
ADAPTERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (lambda value: value in METHODS, "lora or ia3"),
    "on": (
        lambda value: isinstance(value, list) and value != [] and {*value} <= {*PLACES},
        "a list of encoder, blocks",
    ),
    "rank": (lambda value: type(value) is int and value >= 1, "a whole number from 1"),
    "alpha": (lambda value: type(value) is int and value >= 1, "a whole number from 1"),
    "dropout": (lambda value: type(value) in (int, float) and 0 <= value < 1, "a number in [0, 1)"),
}
"""Setting -> whether a value will do, and what will."""
LABELS_OF_FIELD = {field: len(names) for field, names in EMOTION_FIELDS.items()}
POSITIVE_NUMBERS = ("rope_theta", "layer_norm_eps", "memory_sharpness", "huber_delta", "quantile_huber_delta")
NUMBERS_FROM_ZERO = (
    "num_hidden_layers",
    "feedback_steps",
    "initializer_range",
    "output_initializer_range",
    "router_bias_rate",
    "regret_aversion",
    "focal_gamma",
    "extreme_margin",
    "extreme_penalty",
    "router_z_loss_weight",
    "num_emotion_analyzer_layers",
    "num_ethics_analyzer_layers",
    "num_regret_analyzer_layers",
    "num_surd_analyzer_layers",
)


def check_config(config: Any) -> None:
    """Raises ValueError, with the values, for a config of which no network can be built."""
    check_sizes(config)
    check_heads(config)
    check_numbers(config)
    check_modules(config.modules)
    check_residuals(config)
    check_adapters(config)
    check_calibration(config.calibration or {})
    check_of_labels("label_weights", config.label_weights or {}, highest=float("inf"))
    check_of_labels("thresholds", config.thresholds or {}, highest=1.0)


def check_sizes(config: Any) -> None:
    """Widths, ranks, lengths and numbers of things are positive; tokens and segments have their rows."""
    for name in type(config).__dataclass_fields__:
        if name.endswith(("_size", "_sizes", "_rank", "_length", "_slots", "num_filters")):
            value = getattr(config, name)
            if min(value if isinstance(value, list) else [value], default=1) < 1:
                raise ValueError(f"{name} must be positive, got {value}")
    if config.lora_alpha <= 0:
        raise ValueError(f"lora_alpha must be positive, got {config.lora_alpha}")
    if config.type_vocab_size < 2:
        raise ValueError(f"type_vocab_size must be 2 or more, text and second part, got {config.type_vocab_size}")
    if config.text_encoder_config is None and not 0 <= config.pad_token_id < config.vocab_size:
        raise ValueError(f"pad_token_id must lie in 0..{config.vocab_size - 1}, the tokens, got {config.pad_token_id}")
    positions = getattr(config.text_encoder_config, "max_position_embeddings", None) or config.max_length
    if config.max_length > positions > 0:
        raise ValueError(f"max_length is {config.max_length}, but the text encoder reads {positions} tokens at most")


def check_heads(config: Any) -> None:
    """Widths that heads share among them, and experts among whom some are chosen."""
    check_multiple(config, "hidden_size", "num_attention_heads")
    check_multiple(config, "task_attention_size", "num_task_attention_heads")
    check_multiple(config, "analyzer_size", "num_analyzer_heads")
    if config.hidden_size // config.num_attention_heads % 2:
        raise ValueError(
            f"hidden_size {config.hidden_size} over num_attention_heads {config.num_attention_heads} must be even: "
            "rotary positions turn pairs of values"
        )
    chosen, experts = config.num_experts_per_tok, config.num_experts
    if not 1 <= chosen <= experts:
        raise ValueError(f"num_experts_per_tok must lie in 1..num_experts ({experts}), got {chosen}")


def check_multiple(config: Any, name: str, of_name: str) -> None:
    value, of = getattr(config, name), getattr(config, of_name)
    if of <= 0 or value % of:
        raise ValueError(f"{name} must be a positive multiple of {of_name}, got {value} and {of}")


def check_modules(modules: list[str] | str) -> None:
    if isinstance(modules, str):
        raise ValueError(f"modules is {modules!r}: give a list, or a mode of {', '.join(MODULES_OF_MODE)}")
    for name in modules:
        if name not in MODULES:
            raise ValueError(f"modules has no {name!r}; known: {', '.join(MODULES)}")
        if modules.count(name) > 1:
            raise ValueError(f"modules names {name!r} {modules.count(name)} times: {modules}")
    if "surd_analyzer" in modules and "surd_head" not in modules:
        raise ValueError(f"surd_analyzer corrects the surd_head, which is not among the modules {modules}")


def check_numbers(config: Any) -> None:
    for name in POSITIVE_NUMBERS + NUMBERS_FROM_ZERO:
        value = getattr(config, name)
        if value is None:  # left to another field
            continue
        if not 0 <= value < float("inf") or (value == 0 and name in POSITIVE_NUMBERS):
            least = "positive" if name in POSITIVE_NUMBERS else "at least 0"
            raise ValueError(f"{name} must be {least} and finite, got {value}")
    for name in ("hidden_dropout", "attention_dropout"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {getattr(config, name)}")
    weights = config.circumstance_weights
    if len(weights) != len(CIRCUMSTANCES) or not min(weights) >= 0 or not abs(sum(weights) - 1) <= 1e-6:
        raise ValueError(f"circumstance_weights must be {len(CIRCUMSTANCES)} numbers >= 0 of sum 1, got {weights}")
    if 0 < config.focal_gamma < 1:
        raise ValueError(f"focal_gamma must be 0 or at least 1, got {config.focal_gamma}: below, slopes are endless")


def check_adapters(config: Any) -> None:
    """What adapts a trained model: known settings, of values that make adapters, in a place that exists and learns."""
    if config.adapters is None:
        return
    for name, value in config.adapters.items():
        if name not in ADAPTERS:
            raise ValueError(f"adapters has no {name!r}; known: {', '.join(ADAPTERS)}")
        fits, wanted = ADAPTERS[name]
        if not fits(value):
            raise ValueError(f"adapters.{name} is {value!r}; {wanted}")
    of_lora = [name for name in ("rank", "alpha", "dropout") if name in config.adapters]
    if config.adapters.get("method") == "ia3" and of_lora:
        raise ValueError(f"adapters.{of_lora[0]} is LoRA's, and the method is ia3; leave it out")
    if config.text_encoder_mode == "lora" and config.text_encoder_config is not None:
        raise ValueError("adapters are asked for, but the text encoder has some of its own (text_encoder_mode lora)")
    named, on = "on" in config.adapters, config.adapters.get("on", [*PLACES])
    if "encoder" in on and config.text_encoder_config is not None and config.text_encoder_mode == "frozen":
        raise ValueError(
            "adapters are asked for on the encoder, but text_encoder_mode is frozen; set it to trained (the adapters "
            "alone learn), or adapt on: [blocks]"
        )
    there = {"encoder": config.text_encoder_config is not None, "blocks": config.num_hidden_layers > 0}
    absent = [place for place in on if not there[place]]
    if absent and (named or len(absent) == len(on)):
        raise ValueError(f"adapters are asked for on {on}, but this model has no {' and no '.join(absent)}")


def check_residuals(config: Any) -> None:
    """What goes past a layer must be as wide as what comes out of it; what is standardised must be there."""
    if config.text_encoder_standardize and config.text_encoder_config is None:
        raise ValueError("text_encoder_standardize is true, but there is no text_encoder_config to standardise")
    encoder_size = getattr(config.text_encoder_config, "hidden_size", config.hidden_size)
    if config.input_residual and config.hidden_size % encoder_size:
        raise ValueError(
            f"input_residual adds what was read, {encoder_size} wide, to states {config.hidden_size} wide; "
            f"set hidden_size to {encoder_size} or a multiple of it, or input_residual to false"
        )
    if config.task_residual and config.task_size != config.hidden_size:
        raise ValueError(
            f"task_residual adds pooled states, {config.hidden_size} wide, to task vectors {config.task_size} wide; "
            f"set task_size to {config.hidden_size}, or task_residual to false"
        )


def check_of_labels(what: str, of_fields: dict[str, list[float]], highest: float) -> None:
    """A number from 0 to `highest` for each label of a field of emotions."""
    for name, values in of_fields.items():
        if name not in LABELS_OF_FIELD:
            raise ValueError(f"{what} has no field {name!r}; known: {', '.join(LABELS_OF_FIELD)}")
        numbers = all(0 <= value <= highest and math.isfinite(value) for value in values)
        if len(values) != LABELS_OF_FIELD[name] or not numbers:
            raise ValueError(
                f"{what}[{name!r}] must be {LABELS_OF_FIELD[name]} numbers in [0, {highest}], got {values}"
            )


def check_calibration(calibration: dict[str, list[list[float]]]) -> None:
    shapes = {name: (size, 2) for name, size in LABELS_OF_FIELD.items()} | {"vad": (len(VAD), 1)}
    for name, values in calibration.items():
        if name not in shapes:
            raise ValueError(f"calibration has no field {name!r}; known: {', '.join(shapes)}")
        rows, columns = shapes[name]
        numbers = all(row and row[0] > 0 and all(map(math.isfinite, row)) for row in values)
        if len(values) != rows or not numbers or any(len(row) != columns for row in values):
            raise ValueError(
                f"calibration[{name!r}] must be {rows} lists of {columns}, the first number positive, got {values}"
            )
