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
from training.memory_choices import (
    AGAIN,
    Choice,
    bytes_a_number,
    choices,
    combined,
    pieces_of,
    taught_numbers,
    with_changes,
)
from training.memory_kinds import GPU_CONTEXT, MemoryPlan
from training.run_facts import native_precision

SLOWER, SWAPPED = 20.0, 3.0
RATIOS = (0.75, 0.5, 0.25, 0.0)
DOUBT, LEFT_AGAIN = 1.1, 0.2
"""What is expected to take so many times the limit is not planned; what blocks computed twice leave of activations."""


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


class HopeOnGpu:
    """Whether changes are worth a plan, by arithmetic from the plan that was asked for: rather too hopeful, until a
    plan that was made says by how much for all that are alike."""

    def __init__(self, config: TrainConfig, asked: MemoryPlan, limits: dict[str, int]):
        self.config, self.limits = config, limits
        self.taught = taught_numbers(config, asked.of_kind("optimizer"), asked.of_kind("gradients"))
        of_modules = parameters_by_module(model_config_of(config))
        every = sum(of_modules.values())
        self.blocks, self.reads = of_modules["model.blocks"] / every, of_modules["model.embeddings"] / every
        weights = self.share_on_gpu(config) * self.taught * bytes_a_number(config)
        self.work = max(0.0, asked.devices["gpu"].peak - GPU_CONTEXT - weights)
        self.learned: dict[tuple, dict[str, float]] = {}

    def __call__(self, changes: dict[str, Any]) -> bool:
        changed = with_changes(self.config, changes)
        known = self.learned.get(alike(changed), {"gpu": 1 / DOUBT, "cpu": 1.0})
        return all(size * known[device] <= self.limits[device] for device, size in self.expected(changes).items())

    def learn(self, changes: dict[str, Any], planned: MemoryPlan) -> None:
        self.learned[alike(with_changes(self.config, changes))] = {
            device: planned.devices[device].peak / size for device, size in self.expected(changes).items()
        }

    def share_on_gpu(self, changed: TrainConfig) -> float:
        """Of the weights, those that live there."""
        if changed.swap == "on" or changed.gpu_layers_ratio is None:
            return 0.0 if changed.swap == "on" else 1.0
        after = 0.0 if changed.heads_device == "cpu" else 1 - self.blocks - self.reads
        return self.blocks * changed.gpu_layers_ratio + after

    def expected(self, changes: dict[str, Any]) -> dict[str, float]:
        """Bytes on each device."""
        changed = with_changes(self.config, changes)
        share = self.share_on_gpu(changed)
        of_batch = self.work * (1.0 if changed.update_in_backward else changed.batch_size / self.config.batch_size)
        of_batch *= LEFT_AGAIN if "gradient_checkpointing" in changes else 1.0
        of_batch *= 0.5 if "mixed_precision" in changes else 1.0
        of_batch *= 1.0 if changed.gpu_layers_ratio is None else changed.gpu_layers_ratio
        numbers = self.taught * bytes_a_number(changed)
        return {"gpu": GPU_CONTEXT + of_batch + share * numbers, "cpu": (1 - share) * numbers + 1}


def alike(changed: TrainConfig) -> tuple:
    """What makes two runs' memory differ by more than their batches and the bytes of a number."""
    return (
        changed.swap,
        changed.gpu_layers_ratio,
        changed.gradient_checkpointing,
        changed.mixed_precision,
        changed.update_in_backward,
    )


def settle_swap(
    config: TrainConfig, planned: Callable[[TrainConfig], MemoryPlan], limits: dict[str, int]
) -> tuple[TrainConfig, MemoryPlan]:
    """The config with `swap: auto` made off, or on where the GPU has too little room without; and its plan."""
    if config.swap != "auto":
        return config, planned(config)
    if "gpu" not in limits or config.optimizer != "adamw_8bit":  # which is for weights in main memory
        without = dataclasses.replace(config, swap="off", swap_room_gib=0.0)
        plan = planned(without)
        if "gpu" not in limits or plan.devices["gpu"].peak <= limits["gpu"]:
            return without, plan
    config = dataclasses.replace(config, swap="on")
    return config, planned(config)
