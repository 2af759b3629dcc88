"""Settings that fit: what of a run to change, so that it needs no more memory than there is, and costs least time.

In    a TrainConfig, its plan, a limit in bytes, a function that plans another config.
Out   Suggestions, the least costly first: the fields to change, the plan with them, the time a step then takes.
Run   python -m training.memory --preset redheart-1.3b --ram-gib 8 --fit

A step has as many records as were asked for (fewer at a time, accumulated), and the same learning rate. What changes
what a run computes is said with it. A shorter max_length cuts texts, and is tried only when nothing else fits.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from training.config import TrainConfig
from training.memory_choices import Choice, bytes_a_number, choices, taught_numbers, with_changes
from training.memory_kinds import KERNELS, MemoryPlan
from training.memory_search_gpu import HopeOnGpu, choices_on_gpu

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


def search(
    config: TrainConfig,
    asked: MemoryPlan,
    limits: dict[str, int],
    plan: Callable[[TrainConfig], MemoryPlan],
    max_length: int,
    wanted: int = 3,
    shortest: int = SHORTEST,
) -> list[Suggestion]:
    """Up to `wanted` changes with which the run fits, texts cut to no less than `shortest`. Empty when `PLANS` plans
    found none."""
    found: list[Suggestion] = []
    tried = 0
    hopeful: Hope | HopeOnGpu
    if "gpu" in asked.devices:
        hopeful, ordered = HopeOnGpu(config, asked, limits), choices_on_gpu(config)
    else:
        hopeful, ordered = Hope(config, asked, limits, plan, max_length), choices(config)
    for cost, changes in candidates(ordered, max_length, shortest):
        if not hopeful(changes) or not is_new(found, changes):
            continue
        if tried >= PLANS or len(found) >= wanted:
            break
        tried += 1
        planned = plan(with_changes(config, changes))
        hopeful.learn(changes, planned)
        if planned.fits(limits):
            found.append(Suggestion(changes, planned, cost))
    return found


class Hope:
    """Whether changes are worth a plan."""

    def __init__(
        self,
        config: TrainConfig,
        asked: MemoryPlan,
        limits: dict[str, int],
        plan: Callable[[TrainConfig], MemoryPlan],
        max_length: int,
    ):
        self.expected, self.limit = expectation(config, asked, plan, max_length), limits["cpu"]

    def __call__(self, changes: dict[str, Any]) -> bool:
        return self.expected(changes) <= self.limit * DOUBT

    def learn(self, changes: dict[str, Any], planned: MemoryPlan) -> None:
        """Nothing: on a CPU the arithmetic is near enough."""


def expectation(
    config: TrainConfig, asked: MemoryPlan, plan: Callable[[TrainConfig], MemoryPlan], max_length: int
) -> Callable[[dict[str, Any]], float]:
    """Bytes that changes should lead to, by arithmetic from the plan that was asked for and one with blocks computed
    twice: no plan is made for what cannot fit."""
    taught = taught_numbers(config, asked.of_kind("optimizer"), asked.of_kind("gradients"))
    weight = 2 if config.weight_precision == "bf16" else 4
    rest = asked.of_kind("process") + asked.of_kind("weights") - taught * weight

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


def candidates(ordered: list[Choice], max_length: int, shortest: int) -> Iterator[Choice]:
    """All choices by cost; then the same with texts cut to a half, a quarter, ..."""
    lengths = [max_length]
    while lengths[-1] // 2 >= shortest:
        lengths.append(lengths[-1] // 2)
    for length in lengths:
        shorter = {"model": {"max_length": length}} if length != max_length else {}
        yield from ((cost, changes | shorter) for cost, changes in ordered if changes | shorter)


def is_new(found: list[Suggestion], changes: dict[str, Any]) -> bool:
    """Whether no suggestion found before asks for a part of these changes only: that one is better."""
    return not any(earlier.changes.items() <= changes.items() for earlier in found)


def suggestions(found: list[Suggestion]) -> list[str]:
    """A line for each: the changes, what they cost, what they take."""
    lines = []
    for suggestion in found:
        said = f"; {', '.join(suggestion.remarks)}" if suggestion.remarks else ""
        sizes = ", ".join(
            f"{plan.peak / 2**30:.2f} GiB{'' if device == 'cpu' else ' of the GPU'}"
            for device, plan in suggestion.plan.devices.items()
        )
        taken = f"{sizes}, about {suggestion.cost:.2f} times the time of a step"
        lines.append(f"{fields_of(suggestion.changes)}  ({taken}{said})")
    return lines


def fields_of(changes: dict[str, Any]) -> str:
    """As the command line takes them."""
    named = {name: value for name, value in changes.items() if name != "model"}
    named |= {f"model.{name}": value for name, value in changes.get("model", {}).items()}
    return " ".join(f"--{name} {str(value).lower()}" for name, value in named.items())
