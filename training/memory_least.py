"""What a run takes at the very least, by arithmetic: enough to refuse in a moment what could never fit.

In    a TrainConfig, the model's config; nothing is allocated and no step is gone through.
Out   bytes of weights, and of the gradients and moments of the blocks, which every text teaches; DoesNotFit above the
      limit, with what the blocks would take under other settings.
Run   through training/memory.py and training/train.py, before the plan itself
"""

from collections.abc import Mapping

import torch
from torch import nn

from preprocessing.errors import DoesNotFit
from preprocessing.memory_room import resident
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from training.adamw_8bit import BLOCK, in_bytes
from training.config import TrainConfig
from training.creation import halved_weights
from training.memory_choices import bytes_a_number, choices, taught_numbers, with_changes
from training.memory_limits import Limit
from training.memory_search import fields_of

GIB = 2**30


def least_of(config: TrainConfig, model_config: RedHeartConfig) -> dict[str, int]:
    """Bytes by kind. Heads may go without labels, and then without gradients: they count with their weights alone."""
    with torch.device("meta"):
        model = RedHeartForMultiTask(model_config)
    halved = set(halved_weights(model)) if config.weight_precision == "bf16" else set()
    least = dict.fromkeys(("weights", "gradients", "optimizer", "averages"), 0)
    for name, parameter in model.named_parameters():
        numbers, size = parameter.numel(), 2 if name in halved else 4
        least["weights"] += numbers * size
        least["averages"] += 4 * numbers if config.ema_decay and parameter.requires_grad else 0
        if name.startswith("model.blocks.") and parameter.requires_grad:
            least["gradients"] += 0 if config.update_in_backward else numbers * size
            least["optimizer"] += states_of(config, parameter)
    return least


def states_of(config: TrainConfig, parameter: nn.Parameter) -> int:
    """Bytes of what the optimizer remembers of a parameter."""
    numbers = parameter.numel()
    if config.optimizer == "adamw_8bit" and in_bytes(parameter):
        return 2 * (numbers + numbers // BLOCK)
    if config.optimizer == "adafactor":
        return 4 * (sum(numbers // side for side in parameter.shape[-2:]) if parameter.ndim > 1 else numbers)
    if config.optimizer == "sgd":
        return 4 * numbers if config.momentum else 0
    return 8 * numbers


def refuse_what_never_fits(config: TrainConfig, model_config: RedHeartConfig, limits: Mapping[str, Limit]) -> None:
    """Raises DoesNotFit when weights, gradients and moments alone are more than the limit. Of a run whose weights live
    on a GPU nothing is said here: its plan, and what else could be done, are to be looked at."""
    if "gpu" in limits and config.swap != "on":
        return
    kinds = least_of(config, model_config)
    least = sum(kinds.values()) + resident()
    limit = limits["cpu"]
    if least <= limit.size:
        return
    numbers = taught_numbers(config, kinds["optimizer"], kinds["gradients"])
    rest = least - numbers * bytes_a_number(config)
    smaller = {
        size: f"  {fields_of(changes)}  (at least {(rest + numbers * size) / GIB:.1f} GiB)"
        for _, changes in reversed(choices(config))
        if (size := bytes_a_number(with_changes(config, changes))) and rest + numbers * size <= limit.size
    }
    advice = [
        "By the same arithmetic there would be room with one of these, before what a batch takes; --fit on python -m "
        "training.memory plans them and prints a recipe:",
        *(smaller[size] for size in sorted(smaller, reverse=True)),
    ]
    said = ", ".join(f"{kind} {size / GIB:.2f}" for kind, size in kinds.items() if size)
    raise DoesNotFit(
        f"this run would take at least {least / GIB:.2f} GiB, and may take {limit.size / GIB:.2f} ({limit.said}): "
        f"{said}, before any batch. Nothing was begun.\n"
        + "\n".join(advice if smaller else ["No settings leave room for this model; take a smaller preset"])
    )
