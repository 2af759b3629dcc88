"""What a training run will take of memory, known before any of it is taken.

In    a TrainConfig, the model's config, the batches of a step (real ones, or `widest_batch`).
Out   MemoryPlan: bytes by kind, by phase, and the peak with its phase.
Run   python -m training.memory --preset redheart-330m

The plan is no formula beside the program: the program itself is gone through, TrainLoop's own step on a model of fake
tensors (memory_ledger.py), and what it would take is written down. So a change of the program changes the plan.
To that comes what is no tensor: the interpreter with its libraries (measured, in this very process) and what kernels
take for themselves (KERNELS). On the CPU all phases share one memory.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset

from redheart_hf import RedHeartConfig
from redheart_hf.outputs import RedHeartOutput
from training.adamw_8bit import AdamW8bit
from training.batch_plan import BatchPlan
from training.collator import MODEL_INPUTS, Batch, Collator
from training.config import TrainConfig
from training.creation import create_model
from training.inference import autocast, evaluation_mode
from training.loop import TrainLoop
from training.memory_kinds import KERNELS, MemoryPlan
from training.memory_ledger import Ledger, held
from training.memory_limits import resident
from training.surd_targets import SurdTargets


class PretendedLoop(TrainLoop):
    """TrainLoop, its way of a step unchanged, which writes down what each phase takes."""

    def pretend(self, ledger: Ledger, groups: Sequence[list[Batch]], terms: Sequence[str]) -> None:
        """A step of each group, with labels of all `terms`: heads that any step teaches keep an optimizer's state."""
        self.ledger, self.counts = ledger, {term: float(term in terms) for term in self.terms}
        self.most = dict.fromkeys(("forward", "backward", "update"), 0)  # less the optimizer's states
        self.kept = self.activations = self.gradients = self.buffers = 0
        self.surd_targets = SurdTargets(active=False)  # its buffer is NumPy's: a part of the process
        own = self.optimizer.optimizer
        self.optimizer_states = sum(held(value.nbytes) for state in own.state.values() for value in state.values())
        if isinstance(own, AdamW8bit):  # its kernel takes nothing for itself
            own.step_in_bytes = lambda *_: None  # type: ignore[method-assign]
            own.measure_in_bytes = self.pretend_to_measure  # type: ignore[method-assign]
        self.model.train()
        for group in groups:
            self.take_step(group)

    def pretend_to_measure(
        self, group: dict[str, Any], parameter: torch.nn.Parameter, moves: bool
    ) -> tuple[float, float]:
        assert parameter.grad is not None
        self.gradients = max(self.gradients, held(parameter.grad.nbytes))
        return 0.0, 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The first step may make the optimizer's states in its update; what is written down is without them."""
        before, there = self.ledger.live, self.optimizer_states
        self.ledger.take_most()
        yield
        most, after = self.ledger.take_most(), self.ledger.live
        if name == "update":
            there = self.optimizer_states = max(there, after - before + self.waiting())
        self.most[name] = max(self.most[name], most - there)
        self.buffers = max(self.buffers, most - max(before, after))

    def waiting(self) -> int:
        """Bytes of gradients that wait for the update; none of those that are used as they come."""
        return self.gradients if self.in_backward is None else 0

    def count_labels(self, group: list[Batch]) -> dict[str, float]:
        return self.counts

    def forward(self, batch: Batch) -> RedHeartOutput:
        self.ledger.answer, before = False, self.ledger.live
        with self.phase("forward"):
            outputs = super().forward(batch)
        self.kept += self.ledger.live - before
        return outputs

    def compute(self, outputs, batch, counts) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with self.phase("forward"):
            return super().compute(outputs, batch, counts)

    def backward(self, loss: torch.Tensor) -> None:
        self.activations, self.kept = max(self.activations, self.kept), 0
        with self.phase("backward"):
            super().backward(loss)

    def update(self, step_sums, counts, group) -> tuple[dict[str, float], dict[str, Any]]:
        """A step whose numbers are finite and whose gradients are cut."""
        self.ledger.answer = True
        gradients = [parameter.grad for parameter in self.bare_model.parameters() if parameter.grad is not None]
        self.gradients = max(self.gradients, sum(held(gradient.nbytes) for gradient in gradients))
        del gradients
        with self.phase("update"):
            return super().update(step_sums, counts, group)


def plan_memory(
    config: TrainConfig,
    model_config: RedHeartConfig,
    groups: Sequence[list[Batch]],
    terms: Sequence[str],
    judged: Batch | None = None,
) -> MemoryPlan:
    """The plan of a run on the CPU whose heaviest steps have the micro-batches of `groups`, which teaches `terms` and
    evaluates on batches no larger than `judged`."""
    interpreter, kernels = resident(), KERNELS[config.mixed_precision]
    rows = config.batch_size * config.gradient_accumulation_steps
    dataset = Dataset.from_dict({"length": [1] * rows, "reader": ["planned"] * rows})
    with accelerator_for(config.mixed_precision) as accelerator, Ledger() as ledger:
        model = create_model(model_config, config.weight_precision)
        weights = ledger.live
        encoder = model.model.embeddings if model_config.text_encoder_config is not None else None
        copy = sum(held(parameter.nbytes) for parameter in encoder.parameters()) if encoder is not None else 0
        ledger.computes = True
        collator: Any = None  # nothing is read
        loop = PretendedLoop(accelerator, model, dataset, collator, one_step(config))
        loop.pretend(ledger, groups, terms)
        ledger.take_most()
        if judged is not None:
            with evaluation_mode(model), autocast(torch.device("cpu"), config.mixed_precision):
                model(**{name: judged[name] for name in MODEL_INPUTS if name in judged})
        evaluated = ledger.take_most()
    states = loop.optimizer_states
    phases = {"load": weights + copy} | {name: most + states for name, most in loop.most.items()}
    phases |= {"save": weights + states, "evaluate": evaluated}
    return MemoryPlan(
        weights=weights,
        gradients=loop.gradients,
        optimizer=states,
        activations=loop.activations,
        buffers=loop.buffers + kernels,
        process=interpreter,
        phases={name: most + interpreter + kernels for name, most in phases.items()},
    )


@contextmanager
def accelerator_for(precision: str) -> Iterator[Accelerator]:
    """Accelerate keeps the first precision of a process; a plan may be of another run than this process's."""
    shared = AcceleratorState._shared_state
    before = dict(shared)
    if before:
        shared["_mixed_precision"] = precision
    try:
        yield Accelerator(cpu=True, mixed_precision=precision, device_placement=False)
    finally:
        shared.clear()
        shared.update(before)


def one_step(config: TrainConfig) -> TrainConfig:
    """The same run, of one step and without what only its data could tell."""
    return dataclasses.replace(config, max_steps=1, passes={}, text_encoder_start=0, resume="never")


def heaviest_groups(
    loop_plan: BatchPlan, total_steps: int, data: Dataset, collator: Collator, together: bool = False
) -> list[list[Batch]]:
    """The steps with the most tokens, in one micro-batch where they come one after another, in all where they wait for
    each other (`together`); and with the most once every action's rivals are read too."""
    sequences, lengths = sequences_of(data), np.asarray(data["length"])
    heaviest: list[tuple[int, list[list[int]]]] = [(-1, []), (-1, [])]
    most = sum if together else max
    for step in range(total_steps):
        group = loop_plan.step(step)
        tokens = [int(sequences[rows].sum() * lengths[rows].max()) for rows in group]
        rivals = [count * int(sequences[rows].max()) for count, rows in zip(tokens, group, strict=True)]
        for index, weight in enumerate((most(tokens), most(rivals))):
            if weight > heaviest[index][0]:
                heaviest[index] = (weight, group)
    chosen = [heaviest[0][1]] + ([heaviest[1][1]] if heaviest[1][1] != heaviest[0][1] else [])
    return [[collator([data[row] for row in rows]) for rows in group] for group in chosen]


def sequences_of(data: Dataset) -> np.ndarray:
    """How many sequences each record gives: its text, the worse of a pair, its actions, the turns before it."""
    actions = [len(utilities or ()) for utilities in data["utilities"]]
    return 1 + np.asarray(data["is_pair"]) + np.asarray(actions) + np.asarray(data["num_turns"])
