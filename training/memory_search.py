"""Settings that fit: what of a run to change, so that it needs no more memory than there is, and costs least time.

In    a TrainConfig, its plan, a limit in bytes, a function that plans another config.
Out   Suggestions, the least costly first: the fields to change, the plan with them, the time a step then takes.
Run   python -m training.memory --preset redheart-1.3b --ram-gib 8 --fit

What a change costs in time is predicted, not measured: blocks computed twice add a third of the arithmetic, a step
gone through twice doubles it, each halving of a micro-batch costs a twentieth. A step has as many records as were
asked for (fewer at a time, accumulated), and the same learning rate. What changes what a run computes is said with it.
A shorter max_length cuts texts, and is tried only when nothing else fits.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from training.config import TrainConfig
from training.memory_kinds import KERNELS, MemoryPlan
from training.run_facts import native_precision

AGAIN, TWICE, HALVING, EMULATED = 4 / 3, 2.0, 1.05, 3.0
SHORTEST = 16
DOUBT = 1.1
"""What is expected to take so many times the limit is not planned."""
PLANS = 12
"""Plans made before the search gives up: each takes seconds."""
REMARKS = {
    "optimizer": "moments are rounded",
    "clipping": "clips by the norm of the step before",
    "weight_precision": "weights are rounded to two bytes",
    "mixed_precision": "multiplies in bfloat16",
    "max_length": "cuts longer texts",
    "batch_size": "other records meet in a step",
}


@dataclass(frozen=True)
class Suggestion:
    """`changes` to a config's fields, those of the model under `model`; `cost`: times the asked step's time."""

    changes: dict[str, Any]
    plan: MemoryPlan
    cost: float

    @property
    def remarks(self) -> list[str]:
        named = {**self.changes, **self.changes.get("model", {})}
        return [said for name, said in REMARKS.items() if name in named]


def choices(config: TrainConfig) -> list[tuple[float, dict[str, Any]]]:
    """Changes to a run on the CPU, with what they cost, the least costly first; nothing is ever made larger."""
    emulated = 1.0 if native_precision() == "bf16" else EMULATED
    again = [(1.0, {})] if config.gradient_checkpointing else [(1.0, {}), (AGAIN, {"gradient_checkpointing": True})]
    in_bytes = {"optimizer": "adamw_8bit"} if config.optimizer != "adamw_8bit" else {}
    moving: dict[str, Any] = in_bytes | {"update_in_backward": True}
    updates: list[tuple[float, dict[str, Any]]] = [(1.0, {}), (1.02, in_bytes)]
    if not config.update_in_backward:
        updates += [(1.03, moving | {"clipping": "previous_norm"}), (TWICE, moving | {"clipping": "global"})]
    halved: dict[str, Any] = in_bytes | {"weight_precision": "bf16"}
    if config.mixed_precision != "bf16":
        halved["mixed_precision"] = "bf16"
    kept = config.weight_precision == "bf16" or config.start_from is not None  # a trained model brings float32
    weights = [(1.0, {})] if kept else [(1.0, {}), (1.01 * emulated, halved)]
    pieces = [number for number in range(1, config.batch_size + 1) if config.batch_size % number == 0]
    pieces = [number for number in pieces if number & (number - 1) == 0 or number == config.batch_size]
    found: dict[str, tuple[float, dict[str, Any]]] = {}
    for (a, first), (b, second), (c, third), number in itertools.product(again, updates, weights, pieces):
        batches: dict[str, Any] = {}
        if number > 1:
            accumulated = number * config.gradient_accumulation_steps
            batches = {"batch_size": config.batch_size // number, "gradient_accumulation_steps": accumulated}
        changes = first | second | third | batches
        choice = (a * b * c * HALVING ** (number.bit_length() - 1), changes)
        name = str(sorted(changes.items()))
        found[name] = min(found.get(name, choice), choice, key=itemgetter(0))
    return sorted(found.values(), key=itemgetter(0))


def bytes_a_number(config: TrainConfig) -> int:
    """What a taught matrix takes for each of its numbers: weight, gradient, moments."""
    weight = 2 if config.weight_precision == "bf16" else 4
    return weight + (0 if config.update_in_backward else weight) + (2 if config.optimizer == "adamw_8bit" else 8)


def search(
    config: TrainConfig,
    asked: MemoryPlan,
    limit: int,
    plan: Callable[[TrainConfig], MemoryPlan],
    max_length: int,
    wanted: int = 3,
    shortest: int = SHORTEST,
) -> list[Suggestion]:
    """Up to `wanted` changes with which the run fits, texts cut to no less than `shortest`. Empty when `PLANS` plans
    found none."""
    found: list[Suggestion] = []
    expected, tried = expectation(config, asked, plan, max_length), 0
    for cost, changes in candidates(config, max_length, shortest):
        if expected(changes) > limit * DOUBT or not is_new(found, changes):
            continue
        if tried >= PLANS or len(found) >= wanted:
            break
        tried += 1
        planned = plan(with_changes(config, changes))
        if planned.peak <= limit:
            found.append(Suggestion(changes, planned, cost))
    return found


def expectation(
    config: TrainConfig, asked: MemoryPlan, plan: Callable[[TrainConfig], MemoryPlan], max_length: int
) -> Callable[[dict[str, Any]], float]:
    """Bytes that changes should lead to, by arithmetic from the plan that was asked for and one with blocks computed
    twice: no plan is made for what cannot fit."""
    taught = asked.optimizer / (2 if config.optimizer == "adamw_8bit" else 8)
    rest = asked.process + asked.weights - taught * (2 if config.weight_precision == "bf16" else 4)

    def work(found: MemoryPlan) -> float:
        """What a batch makes, activations and what comes and goes."""
        return found.peak - rest - taught * bytes_a_number(config) - KERNELS[config.mixed_precision]

    once = again = work(asked)
    if not config.gradient_checkpointing:
        again = work(plan(dataclasses.replace(config, gradient_checkpointing=True)))

    def expected(changes: dict[str, Any]) -> float:
        changed = with_changes(config, changes)
        share = changes.get("model", {}).get("max_length", max_length) / max_length
        if not changed.update_in_backward:  # else all micro-batches of a step are there at once
            share *= changed.batch_size / config.batch_size
        share *= 0.5 if "mixed_precision" in changes else 1.0
        of_batch = share * max(0.0, again if "gradient_checkpointing" in changes else once)
        return rest + taught * bytes_a_number(changed) + KERNELS[changed.mixed_precision] + of_batch

    return expected


def candidates(config: TrainConfig, max_length: int, shortest: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """All choices by cost; then the same with texts cut to a half, a quarter, ..."""
    lengths = [max_length]
    while lengths[-1] // 2 >= shortest:
        lengths.append(lengths[-1] // 2)
    ordered = choices(config)
    for length in lengths:
        shorter = {"model": {"max_length": length}} if length != max_length else {}
        yield from ((cost, changes | shorter) for cost, changes in ordered if changes | shorter)


def is_new(found: list[Suggestion], changes: dict[str, Any]) -> bool:
    """Whether no suggestion found before asks for a part of these changes only: that one is better."""
    return not any(earlier.changes.items() <= changes.items() for earlier in found)


def with_changes(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    model = config.model | changes.get("model", {})
    return dataclasses.replace(config, **(changes | {"model": model}))


def suggestions(found: list[Suggestion]) -> list[str]:
    """A line for each: the changes, what they cost, what they take."""
    lines = []
    for suggestion in found:
        said = f"; {', '.join(suggestion.remarks)}" if suggestion.remarks else ""
        taken = f"{suggestion.plan.peak / 2**30:.2f} GiB, about {suggestion.cost:.2f} times the time of a step"
        lines.append(f"{fields_of(suggestion.changes)}  ({taken}{said})")
    return lines


def fields_of(changes: dict[str, Any]) -> str:
    """As the command line takes them."""
    named = {name: value for name, value in changes.items() if name != "model"}
    named |= {f"model.{name}": value for name, value in changes.get("model", {}).items()}
    return " ".join(f"--{name} {str(value).lower()}" for name, value in named.items())
