"""The micro-batches of a step: how they come, and what they sum up to.

In    an encoded dataset, a BatchPlan, the steps wanted; the outputs and losses of each micro-batch.
Out   groups of batches in their places, one group a step; StepSums.
Run   through TrainLoop.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader

from redheart_hf.outputs import RedHeartOutput
from training.batch_plan import BatchPlan
from training.collator import Batch, Collator
from training.config import TrainConfig
from training.placement import Placed


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


def load_groups(
    dataset: Dataset, plan: BatchPlan, steps: range, collator: Collator, config: TrainConfig, placed: Placed
) -> Iterator[list[Batch]]:
    sampler = (indices for step in steps for indices in plan.step(step))
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collator,
        num_workers=config.num_workers,
        pin_memory=placed.pinned,
    )
    group: list[Batch] = []
    for batch in loader:
        group.append(placed.to_places(batch))
        if len(group) == config.gradient_accumulation_steps:
            yield group
            group = []
