"""What of a run on a GPU to change so that it fits: less of the model there, or none that stays.

In    a TrainConfig, its plan, the limits of both devices in bytes.
Out   changes with their costs, the least costly first; whether one is worth a plan; `swap: auto` made on or off.
Run   python -m training.memory --preset redheart-730m --vram-gib 8 --ram-gib 16 --fit

Costs are predicted, not measured: a block on the CPU takes SLOWER times as long as on the GPU, weights that visit make
a step SWAPPED times as long.
"""

import dataclasses
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch

from redheart_hf.presets import parameters_by_module
from training.build import model_config_of
from training.config import TrainConfig
from training.memory_choices import AGAIN, Choice, bytes_a_number, choices, combined, pieces_of, with_changes
from training.memory_kinds import MemoryPlan
from training.run_facts import native_precision

SLOWER, SWAPPED = 20.0, 3.0
RATIOS = (0.75, 0.5, 0.25, 0.0)


def choices_on_gpu(config: TrainConfig) -> list[Choice]:
    """The same for a run on a GPU: where weights live, and with `swap` all that is possible in main memory."""
    again: list[Choice] = [(1.0, {})]
    if not config.gradient_checkpointing:
        again.append((AGAIN, {"gradient_checkpointing": True}))
    lower: list[Choice] = [(1.0, {})]
    if config.mixed_precision == "no":
        lower.append((1.0, {"mixed_precision": native_precision() if torch.cuda.is_available() else "bf16"}))
    found: list[Choice] = []
    for place in placements(config):
        moved = with_changes(config, place[1])
        inner = choices(moved) if moved.swap == "on" else combined(again, lower, pieces_of(config))
        found += combined([place], inner)
    return sorted(found, key=itemgetter(0))


def placements(config: TrainConfig) -> list[Choice]:
    """As it is; and with less of it on the GPU."""
    found: list[Choice] = [(1.0, {})]
    if config.swap == "off":
        ratio = 1.0 if config.gpu_layers_ratio is None else config.gpu_layers_ratio
        found += [(SLOWER * (ratio - less) + 1, {"gpu_layers_ratio": less}) for less in RATIOS if less < ratio]
        if config.gpu_layers_ratio is None:
            found.append((SWAPPED, {"swap": "on"}))
    return found


def may_fit_on_gpu(config: TrainConfig, asked: MemoryPlan, limits: dict[str, int]) -> Callable[[dict[str, Any]], bool]:
    """Whether changes are worth a plan, by what is taught alone, and where it is."""
    taught = asked.of_kind("optimizer") / (2 if config.optimizer == "adamw_8bit" else 8)
    of_modules = parameters_by_module(model_config_of(config))
    blocks = of_modules["model.blocks"] / sum(of_modules.values())

    def may(changes: dict[str, Any]) -> bool:
        changed = with_changes(config, changes)
        ratio = 1.0 if changed.gpu_layers_ratio is None else changed.gpu_layers_ratio
        after = (
            0.0
            if changed.heads_device == "cpu"
            else 1 - blocks - of_modules["model.embeddings"] / sum(of_modules.values())
        )
        there = 0.0 if changed.swap == "on" else 1.0 if ratio == 1 else blocks * ratio + after
        sizes = {"gpu": there, "cpu": 1 - there}
        return all(share * taught * bytes_a_number(changed) <= limits[device] for device, share in sizes.items())

    return may


def settle_swap(
    config: TrainConfig, planned: Callable[[TrainConfig], MemoryPlan], limits: dict[str, int]
) -> tuple[TrainConfig, MemoryPlan]:
    """The config with `swap: auto` made off, or on where the GPU has too little room without; and its plan."""
    if config.swap != "auto":
        return config, planned(config)
    without = dataclasses.replace(config, swap="off")
    plan = planned(without)
    if "gpu" not in limits or plan.devices["gpu"].peak <= limits["gpu"]:
        return without, plan
    config = dataclasses.replace(config, swap="on")
    return config, planned(config)
