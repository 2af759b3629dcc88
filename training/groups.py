"""The micro-batches of a step: how they come, and what they sum up to.

In    an encoded dataset, a BatchPlan, the steps wanted; the outputs and losses of each micro-batch.
Out   groups of batches in their places, one group a step; figures of the queue; StepSums.
Run   through TrainLoop.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from datasets import Dataset
from torch import Tensor

from redheart_hf.outputs import RedHeartOutput
from training.batch_plan import BatchPlan
from training.collator import Batch, Collator
from training.config import TrainConfig
from training.placement import Placed
from training.regret_alternatives import Alternatives, Counted
from training.regret_pool import OrderedPool

Job = tuple[int, list[int]]
"""An optimizer step, and the rows of one of its micro-batches."""


@dataclass
class StepSums:
    """What the micro-batches of one step sum up to in this process."""

    router_load: Tensor
    """(E,): how often each expert was chosen."""
    of_terms: dict[str, Tensor] = field(default_factory=dict)
    """Term of the loss -> its sum over labels."""

    def add(self, terms: Mapping[str, Tensor], outputs: RedHeartOutput) -> None:
        self.of_terms = {term: self.of_terms.get(term, 0.0) + value.detach() for term, value in terms.items()}
        self.router_load = self.router_load + outputs.emotion.router_load


class Groups:
    """What `load_groups` gives is to be closed: workers end then."""

    def __init__(
        self,
        dataset: Dataset,
        plan: BatchPlan,
        collator: Collator,
        config: TrainConfig,
        placed: Placed,
        alternatives: Alternatives | None = None,
        apart: Callable[[], Iterable[Tensor]] = tuple,
    ):
        self.dataset, self.plan, self.collator, self.config, self.placed = dataset, plan, collator, config, placed
        self.alternatives, self.counted = alternatives, Counted()
        self.pool: OrderedPool[Job] = OrderedPool(self.prepare, config.num_workers, config.queue_batches, apart)

    def prepare(self, job: Job) -> tuple[Batch, dict[str, int]]:
        """One micro-batch, and what was done for it; the same wherever and however often."""
        step, rows = job
        records, counted = self.dataset.__getitems__(rows), Counted()
        if self.alternatives is not None:
            records, counted = self.alternatives.added(records, rows, self.plan.epoch_of(step))
        return self.collator(records), asdict(counted)

    def load_groups(self, steps: range) -> Iterator[list[Batch]]:
        """By this name a run that finds no memory knows what it was doing (training/out_of_memory.py)."""
        jobs = ((step, rows) for step in steps for rows in self.plan.step(step))
        group: list[Batch] = []
        with closing(self.pool.results(jobs)) as results:  # type: ignore[type-var]
            for batch, counted in results:
                for name, count in counted.items():
                    setattr(self.counted, name, getattr(self.counted, name) + count)
                group.append(self.placed.to_places(pinned(batch) if self.placed.pinned else batch))
                if len(group) == self.config.gradient_accumulation_steps:
                    yield group
                    group = []

    def take_figures(self) -> dict[str, Any]:
        """Of the queue, and of alternatives where there are any, since last asked."""
        counted, self.counted = self.counted, Counted()
        return {"queue": self.pool.take_figures()} | ({"regret": asdict(counted)} if self.alternatives else {})


def pinned(value: Any) -> Any:
    """Tensors of a nested batch where a GPU can fetch them without waiting."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, dict):
        return {name: pinned(item) for name, item in value.items()}
    return value
