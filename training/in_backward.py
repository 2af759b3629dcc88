"""Weights that move during the backward pass: each as soon as its gradient is whole, which is then freed.

In    an AdamW8bit, how gradients are clipped, the losses of a step's micro-batches.
Out   moved weights; the gradient's norm. At no time are there gradients of more than the layer at hand.
Run   `update_in_backward: true` in a recipe, through TrainLoop.

A norm over all gradients is known only when the last of them is there, and by then the first has gone. So there are
three ways of clipping. `global` goes through the step twice: once to measure, once to move; it does what clipping does
elsewhere, for twice the arithmetic. `per_parameter` lets no parameter's update have a root mean square above 1 (at a
rate of one; Shazeer and Stern 2018, arXiv 1804.04235, section 6). `previous_norm` divides by the norm of the step
before, where that exceeds max_grad_norm; the first step, which has none before it, is measured as in `global`. The
last two are approximations, and take one pass.

A gradient that is not finite moves nothing: not its own parameter, nor any that comes after it in that pass.

All micro-batches of a step share one backward pass. Autograd takes its nodes by their numbers, the latest first, and
numbers are given as the forward pass goes: so each micro-batch's numbers are made to begin where the first one's did,
and the engine goes through layer after layer, in each through all micro-batches.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from training.adamw_8bit import AdamW8bit
from training.collator import Batch
from training.monitor import finite, module_of
from training.nonfinite import broken_gradients
from training.optim import set_learning_rates

if TYPE_CHECKING:
    from training.loop import StepSums, TrainLoop


class InBackward:
    """Moves what one optimizer has, as `clipping` says: global, per_parameter or previous_norm."""

    def __init__(self, model: nn.Module, optimizer: AdamW8bit, clipping: str, max_norm: float):
        self.optimizer, self.clipping, self.max_norm = optimizer, clipping, max_norm
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        self.group_of = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
        self.previous_norm: float | None = None
        """Of the step before; in the checkpoint."""
        self.moves, self.scale, self.squares = False, 1.0, 0.0
        self.of_module: dict[str, float] = {}
        self.broken: list[str] = []
        for parameter in self.group_of:
            optimizer.begin(parameter)  # all that a run will take, it takes before its first step
            parameter.register_post_accumulate_grad_hook(self.arrive)

    @property
    def is_measured_first(self) -> bool:
        return self.clipping == "global" or (self.clipping == "previous_norm" and self.previous_norm is None)

    def go_through(self, loop: "TrainLoop", group: list[Batch], counts: dict[str, float]) -> "StepSums":
        """The losses of all micro-batches, and a backward pass that moves the weights; before it, where gradients are
        measured first, the same with one that does not."""
        set_learning_rates(loop.optimizer, loop.config, loop.step, loop.total_steps)
        if self.is_measured_first:
            self.measure()
            loss, _ = self.losses(loop, group, counts, keep=False)
            loop.backward(loss)
            self.refuse_broken(loop, group)
            set_seed(loop.seed_of_step())
        self.move()
        loop.saver.wait_for_copy()
        loss, sums = self.losses(loop, group, counts, keep=True)
        loop.losses_of(sums, counts, group)  # raises for one that is not finite, while nothing has moved
        loop.backward(loss)
        self.refuse_broken(loop, group)
        return sums

    def losses(self, loop: "TrainLoop", group: list[Batch], counts, keep: bool) -> tuple[Tensor, "StepSums"]:
        """The sum of all micro-batches' losses, its graph laid out for one pass."""
        losses, graphs, sums = [], [], loop.no_sums()
        for batch in group:
            before = next_number()
            outputs = loop.forward(batch)
            loss, terms = loop.compute(outputs, batch, counts)
            losses.append(loss)
            graphs.append((loss, before))
            sums.add(terms, outputs)
            if keep:
                loop.see(outputs, batch)
        align(graphs)
        return torch.stack(losses).sum(), sums

    def refuse_broken(self, loop: "TrainLoop", group: list[Batch]) -> None:
        if self.broken:
            raise broken_gradients(loop.step, self.broken, group)

    def measure(self) -> None:
        """The next backward pass adds up squares, and moves nothing."""
        self.moves, self.scale, self.squares, self.of_module, self.broken = False, 1.0, 0.0, {}, []

    def move(self) -> None:
        """The next backward pass moves weights."""
        norm = math.sqrt(self.squares) if self.is_measured_first else self.previous_norm
        if self.clipping != "per_parameter" and norm is not None:
            self.scale = min(1.0, self.max_norm / (norm + 1e-6))  # as torch.nn.utils.clip_grads_with_norm_
        self.moves, self.squares, self.of_module, self.broken = True, 0.0, {}, []

    def end(self) -> float:
        """After the pass that moved: the norm of its gradients, before clipping."""
        norm = math.sqrt(self.squares)
        self.previous_norm = norm if self.clipping == "previous_norm" else None
        return norm

    def norms_by_module(self) -> dict[str, float | None]:
        """Of the pass that moved."""
        return finite({module: math.sqrt(squares) for module, squares in self.of_module.items()})

    def arrive(self, parameter: nn.Parameter) -> None:
        """Called by autograd with a parameter whose gradient is whole."""
        group = self.group_of[parameter]
        of_gradient, of_update = self.optimizer.measure(group, parameter, self.clipping == "per_parameter")
        self.squares += of_gradient
        module = module_of(self.names[parameter])
        self.of_module[module] = self.of_module.get(module, 0.0) + of_gradient
        if not math.isfinite(of_gradient + of_update):
            self.broken.append(self.names[parameter])
        if self.moves and not self.broken:
            share = 1.0
            if self.clipping == "per_parameter":
                share = 1.0 / max(1.0, math.sqrt(of_update / parameter.numel()))
            self.optimizer.step_alone(group, parameter, self.scale, share)
        parameter.grad = None


def align(graphs: Iterable[tuple[Tensor, int]]) -> None:
    """Let the numbers of each graph's nodes begin at zero: given are its last tensor, and the number before its first
    node (`next_number`)."""
    for last, before in graphs:
        seen, waiting = set(), [last.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node.name() != "torch::autograd::AccumulateGrad":  # these come first, whatever the others' numbers
                node._set_sequence_nr(max(0, node._sequence_nr() - before))  # type: ignore[attr-defined]
            waiting += [following for following, _ in node.next_functions]


def next_number() -> int:
    """The number that autograd would give to a node made now."""
    return torch._C._autograd._get_sequence_nr()
