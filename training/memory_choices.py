"""What of a run can be changed so that it takes less memory, and what each change costs in time.

In    a TrainConfig.
Out   Choices: a predicted factor of a step's time, and the fields to change; the least costly first.
Run   through training/memory_search.py

What a change costs is predicted, not measured: blocks computed twice add a third of the arithmetic, a step gone
through twice doubles it, each halving of a micro-batch costs a twentieth. A step keeps its records and its rate.
"""

import dataclasses
import itertools
import math
from operator import itemgetter
from typing import Any

from training.config import TrainConfig
from training.run_facts import native_precision

Choice = tuple[float, dict[str, Any]]
"""What it costs, in times of a step, and the fields it changes."""
AGAIN, TWICE, HALVING, EMULATED = 4 / 3, 2.0, 1.05, 3.0


def choices(config: TrainConfig) -> list[Choice]:
    """Changes to a run on the CPU, with what they cost, the least costly first; nothing is ever made larger."""
    emulated = 1.0 if native_precision() == "bf16" else EMULATED
    again = [(1.0, {})] if config.gradient_checkpointing else [(1.0, {}), (AGAIN, {"gradient_checkpointing": True})]
    in_bytes = {"optimizer": "adamw_8bit"} if config.optimizer != "adamw_8bit" else {}
    moving: dict[str, Any] = in_bytes | {"update_in_backward": True}
    updates: list[Choice] = [(1.0, {}), (1.02, in_bytes)]
    if config.update_weights and not config.update_in_backward:
        updates += [(1.03, moving | {"clipping": "previous_norm"}), (TWICE, moving | {"clipping": "global"})]
    halved: dict[str, Any] = in_bytes | {"weight_precision": "bf16"}
    if config.mixed_precision != "bf16":
        halved["mixed_precision"] = "bf16"
    kept = config.weight_precision == "bf16" or config.start_from is not None  # a trained model brings float32
    weights = [(1.0, {})] if kept else [(1.0, {}), (1.01 * emulated, halved)]
    if config.optimizer in ("sgd", "adafactor"):  # at their rates AdamW would not learn
        updates, weights = [(1.0, {})], [(1.0, {})]
    return combined(again, updates, weights, pieces_of(config))


def combined(*kinds: list[Choice]) -> list[Choice]:
    """One of each kind, in all ways; costs multiply. Of equal changes the least costly way, and that first."""
    found: dict[str, Choice] = {}
    for chosen in itertools.product(*kinds):
        changes = {name: value for _, some in chosen for name, value in some.items()}
        choice = (math.prod(cost for cost, _ in chosen), changes)
        name = str(sorted(changes.items()))
        found[name] = min(found.get(name, choice), choice, key=itemgetter(0))
    return sorted(found.values(), key=itemgetter(0))


def pieces_of(config: TrainConfig) -> list[Choice]:
    """The same records a step in so many more micro-batches: 1, 2, 4, ..., and one record at a time."""
    found: list[Choice] = [(1.0, {})]
    for number in range(2, config.batch_size + 1):
        if config.batch_size % number == 0 and (number & (number - 1) == 0 or number == config.batch_size):
            accumulated = number * config.gradient_accumulation_steps
            fields = {"batch_size": config.batch_size // number, "gradient_accumulation_steps": accumulated}
            found.append((HALVING ** (number.bit_length() - 1), fields))
    return found


def state_a_number(config: TrainConfig) -> int:
    """What the optimizer keeps of each number of a large matrix; Adafactor's row and column are next to nothing."""
    return {"adamw": 8, "adamw_8bit": 2, "adafactor": 0, "sgd": 4 if config.momentum else 0}[config.optimizer]


def bytes_a_number(config: TrainConfig) -> int:
    """What a taught matrix takes for each of its numbers: weight, gradient, moments, average."""
    weight = 2 if config.weight_precision == "bf16" else 4
    averages = 4 if config.ema_decay else 0
    return weight + (0 if config.update_in_backward else weight) + state_a_number(config) + averages


def taught_numbers(config: TrainConfig, states: int, gradients: int) -> float:
    """From the bytes of the optimizer's states, or of the float32 gradients where it keeps none to speak of."""
    each = state_a_number(config)
    return states / each if each else gradients / 4


def with_changes(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    model = config.model | changes.get("model", {})
    return dataclasses.replace(config, **(changes | {"model": model}))
