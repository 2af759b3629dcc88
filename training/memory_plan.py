"""What a training run will take of memory, known before any of it is taken.

In    a TrainConfig, the model's config, the batches of a step (real ones, or `widest_batch`), the GPU if one is used.
Out   MemoryPlan: bytes by device, by kind, by phase, and the peak with its phase.
Run   python -m training.memory --preset redheart-330m

The plan is no formula beside the program: the program itself is gone through, TrainLoop's own step on a model of fake
tensors (memory_ledger.py), and what it would take is written down. So a change of the program changes the plan, and a
split or a swap is planned as it is done. To that comes what is no tensor: the interpreter with its libraries
(measured, in this very process) and what kernels take for themselves (KERNELS, GPU_CONTEXT).
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

from preprocessing.memory_room import resident
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from redheart_hf.outputs import RedHeartOutput
from training.adamw_8bit import AdamW8bit
from training.batch_plan import BatchPlan
from training.collator import MODEL_INPUTS, Batch, Collator
from training.config import TrainConfig
from training.creation import SHARD_BYTES, create_model
from training.devices import PRETENDED
from training.ema import averaged
from training.inference import autocast, evaluation_mode
from training.loop import TrainLoop
from training.memory_book import Book, bytes_by_device
from training.memory_kinds import GPU_CONTEXT, KERNELS, DevicePlan, MemoryPlan
from training.memory_ledger import Ledger, held
from training.placement import BLOCK, Placed
from training.regret_alternatives import Alternatives
from training.surd_targets import SurdTargets

CPU = torch.device("cpu")


class PretendedLoop(TrainLoop):
    """TrainLoop, its way of a step unchanged, which writes down what each phase takes on each device."""

    def __init__(self, device: torch.device, ledger: Ledger, *given: Any):
        self.device, self.ledger = device, ledger
        super().__init__(*given)

    def place(self, model: RedHeartForMultiTask) -> Placed:
        return Placed(model, self.config, self.device, pretended=True)

    def pretend(self, groups: Sequence[list[Batch]], terms: Sequence[str]) -> None:
        """A step of each group, with labels of all `terms`: heads that any step teaches keep an optimizer's state."""
        self.counts = {term: float(term in terms) for term in self.terms}
        self.books = {kind: Book(self.ledger.accounts[kind]) for kind in sorted({"cpu", self.device.type})}
        self.surd_targets = SurdTargets(active=False)  # its buffer is NumPy's: a part of the process
        own = self.optimizer.optimizer
        states = bytes_by_device(value for state in own.state.values() for value in state.values())
        for kind, book in self.books.items():
            book.optimizer = states.get(kind, 0)
        if isinstance(own, AdamW8bit):  # its kernel takes nothing for itself
            own.step_in_bytes = lambda *_: None  # type: ignore[method-assign]
            own.measure_in_bytes = self.pretend_to_measure  # type: ignore[method-assign]
        self.model.train()
        for group in groups:
            before = {kind: book.account.arrived for kind, book in self.books.items()}
            self.take_step(group)
            for kind, book in self.books.items():
                book.arrived = max(book.arrived, book.account.arrived - before[kind])

    def pretend_to_measure(
        self, group: dict[str, Any], parameter: torch.nn.Parameter, moves: bool
    ) -> tuple[float, float]:
        assert parameter.grad is not None
        book = self.books[parameter.device.type]
        book.gradients = max(book.gradients, held(parameter.grad.nbytes))
        return 0.0, 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        for book in self.books.values():
            book.open()
        yield
        for book in self.books.values():
            book.close(name, gradients_wait=self.in_backward is None)

    def count_labels(self, group: list[Batch]) -> dict[str, float]:
        return self.counts

    def forward(self, batch: Batch) -> RedHeartOutput:
        self.ledger.answer, before = False, {kind: book.account.live for kind, book in self.books.items()}
        with self.phase("forward"), autocast(self.device, self.config.mixed_precision):
            outputs = super().forward(self.placed.to_places(batch))
        for kind, book in self.books.items() if torch.is_grad_enabled() else ():
            book.kept += book.account.live - before[kind]
        return outputs

    def compute(self, outputs, batch, counts) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with self.phase("forward"):
            return super().compute(outputs, self.placed.to_places(batch), counts)

    def backward(self, loss: torch.Tensor) -> None:
        for book in self.books.values():
            book.activations, book.kept = max(book.activations, book.kept), 0
        with self.phase("backward"), torch.autograd.set_multithreading_enabled(False):  # the ledger is for one thread
            super().backward(loss)

    def update(self, step_sums, counts, group) -> tuple[dict[str, float], dict[str, Any]]:
        """A step whose numbers are finite and whose gradients are cut."""
        self.ledger.answer = True
        gradients = [parameter.grad for parameter in self.bare_model.parameters() if parameter.grad is not None]
        waiting = bytes_by_device(gradients)
        for kind, book in self.books.items():
            book.gradients = max(book.gradients, waiting.get(kind, 0))
        del gradients
        with self.phase("update"):
            return super().update(step_sums, counts, group)


def plan_memory(
    config: TrainConfig,
    model_config: RedHeartConfig,
    groups: Sequence[list[Batch]],
    terms: Sequence[str],
    judged: Batch | None = None,
    device: torch.device = CPU,
) -> MemoryPlan:
    """The plan of a run whose heaviest steps have the micro-batches of `groups`, which teaches `terms`, evaluates on
    batches no larger than `judged`, and is on `device` but for what its config puts elsewhere."""
    interpreter = resident()
    rows = config.batch_size * config.gradient_accumulation_steps
    dataset = Dataset.from_dict({"length": [1] * rows, "reader": ["planned"] * rows})
    known = "no" if config.mixed_precision == "fp16" else config.mixed_precision  # fp16: of a GPU, which is cast here
    with accelerator_for(known) as accelerator, Ledger() as ledger:
        model = create_model(model_config, config.weight_precision)
        made = ledger.live
        encoder = model.model.embeddings if model_config.text_encoder_config is not None else None
        copy = sum(held(parameter.nbytes) for parameter in encoder.parameters()) if encoder is not None else 0
        ledger.computes = True
        collator: Any = None  # nothing is read
        loop = PretendedLoop(device, ledger, accelerator, model, dataset, collator, one_step(config))
        weights = bytes_by_device([*model.parameters(), *model.buffers()])
        averages = bytes_by_device(loop.ema.averages.values() if loop.ema is not None else ())
        loop.pretend(groups, terms)
        for book in loop.books.values():
            book.account.take_most()
        if judged is not None:
            inputs = loop.placed.to_places(judged)
            with averaged(loop), evaluation_mode(model), autocast(device, config.mixed_precision):
                model(**{name: inputs[name] for name in MODEL_INPUTS if name in inputs})
        evaluated = {kind: book.account.take_most() for kind, book in loop.books.items()}
    first = {"cpu": made + copy}
    beside = dict.fromkeys(loop.books, GPU_CONTEXT) | {"cpu": KERNELS[config.mixed_precision]}
    process = {"cpu": interpreter}
    plans = {}
    for kind, book in loop.books.items():
        own, kept, taken = weights.get(kind, 0), averages.get(kind, 0), process.get(kind, 0) + beside[kind]
        phases = {"load": max(own + kept, first.get(kind, 0))} | {
            name: most + book.optimizer for name, most in book.most.items()
        }
        phases |= {"save": own + kept + book.optimizer, "evaluate": evaluated[kind]}
        plans["cpu" if kind == "cpu" else "gpu"] = DevicePlan(
            weights=own,
            gradients=book.gradients,
            optimizer=book.optimizer,
            activations=book.activations,
            buffers=book.buffers + beside[kind],
            process=process.get(kind, 0),
            phases={name: most + taken for name, most in phases.items()},
            arrived=book.arrived,
            averages=kept,
        )
    if "gpu" in plans:  # what is saved from there is copied first: moments, averages, and a shard of the weights
        copied = plans["gpu"].optimizer + plans["gpu"].averages + min(plans["gpu"].weights, SHARD_BYTES)
        plans["cpu"].phases["save"] += copied
    states = loop.optimizer.optimizer.state
    taught = tuple(name for name, parameter in model.named_parameters() if states.get(parameter))
    return MemoryPlan(plans, notes_on(loop), taught)


def notes_on(loop: PretendedLoop) -> tuple[str, ...]:
    """What a reader of the plan should know of its devices."""
    notes = []
    if loop.device.type == PRETENDED:
        notes.append("planned for a GPU that is not in this machine; what its context and kernels take is assumed")
    if loop.config.gpu_layers_ratio is not None:
        on_gpu = sum(device != CPU for name, device in loop.placed.places.items() if name.startswith(BLOCK))
        notes.append(
            f"{on_gpu} of {len(loop.bare_model.model.blocks)} blocks are on the GPU, the first ones on the CPU"
        )
    if loop.placed.swap is not None:
        notes.append("swap is on: weights live in main memory, and visit the GPU while they are in use")
    return tuple(notes)


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
    loop_plan: BatchPlan,
    total_steps: int,
    data: Dataset,
    collator: Collator,
    together: bool = False,
    alternatives: Alternatives | None = None,
) -> list[list[Batch]]:
    """The steps with the most tokens, in one micro-batch where they come one after another, in all where they wait for
    each other (`together`); and with the most once every action's rivals are read too. Of alternatives that others
    lend the longest there is stands for each."""
    sequences, lengths = sequences_of(data), np.asarray(data["length"])
    if alternatives is not None:
        sequences, lengths = alternatives.sizes(sequences, lengths)
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
    widest = alternatives.widest if alternatives is not None else list
    return [[collator(widest([data[row] for row in rows])) for rows in group] for group in chosen]


def sequences_of(data: Dataset) -> np.ndarray:
    """How many sequences each record gives: its text, the worse of a pair, its actions, the turns before it."""
    actions = [len(utilities or ()) for utilities in data["utilities"]]
    return 1 + np.asarray(data["is_pair"]) + np.asarray(actions) + np.asarray(data["num_turns"])
