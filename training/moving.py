"""The end of a step: gradients checked and cut, weights moved.

In    a TrainLoop, once the gradients of all its micro-batches are added up.
Out   moved weights, gradients cleared; the loop's `norms` by module, where this step is logged, and in fp16 how many
      steps its scaler left out.
Run   through training/loop.py; with `update_in_backward` training/in_backward.py does this, tensor by tensor
"""

from typing import TYPE_CHECKING

import torch

from training.collator import Batch
from training.monitor import norm_of_all, norms_by_module, norms_of
from training.nonfinite import broken_gradients, broken_scale, without_finite_gradients

if TYPE_CHECKING:
    from training.loop import TrainLoop

MAX_SKIPPED_IN_A_ROW = 10


def move_weights(loop: "TrainLoop", group: list[Batch]) -> float:
    """The optimizer's step, unless fp16's scaler finds gradients that overflow and leaves it out; gives back the
    gradient's norm before clipping."""
    norm, scaler = clip_gradients(loop, group), loop.accelerator.scaler
    loop.saver.wait_for_copy()
    scale = scaler.get_scale() if scaler is not None else 1.0
    if loop.config.update_weights:
        loop.optimizer.step()
    elif scaler is not None:
        scaler.update()  # as the optimizer's step would: gradients of the next one are unscaled anew
    loop.optimizer.zero_grad(set_to_none=True)
    # Accelerate's own flag stays false with a fused optimizer, which does the skipping itself.
    count_skipped_step(loop, group, scaler is not None and scaler.get_scale() < scale)
    return float(norm)


def clip_gradients(loop: "TrainLoop", group: list[Batch]) -> torch.Tensor:
    """The gradient's norm before cutting to `max_grad_norm`; not finite raises, but in fp16 the scaler decides."""
    loop.accelerator.unscale_gradients()
    gradients = {name: part.grad for name, part in loop.bare_model.named_parameters() if part.grad is not None}
    norms = norms_of(list(gradients.values()))
    norm = norm_of_all(norms)
    loop.norms = norms_by_module(gradients, norms) if loop.is_logged(loop.step + 1) else {}
    # Looked at before cutting: to cut by NaN makes every gradient NaN and hides where it came from.
    if not torch.isfinite(norm) and loop.accelerator.scaler is None:
        raise broken_gradients(loop.step, without_finite_gradients(loop.bare_model), group)
    if norm > loop.config.max_grad_norm:  # else the factor is 1 to 1e-6: a pass for nothing
        torch.nn.utils.clip_grads_with_norm_(loop.model.parameters(), loop.config.max_grad_norm, norm)
    return norm


def count_skipped_step(loop: "TrainLoop", group: list[Batch], skipped: bool) -> None:
    """fp16 only: the scaler leaves out a step whose scaled gradients overflow, and halves its scale."""
    if not skipped:
        loop.skipped_in_a_row = 0
        return
    loop.skipped_steps += 1
    loop.skipped_in_a_row += 1
    if loop.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise broken_scale(loop.step, loop.skipped_in_a_row, loop.accelerator.scaler.get_scale(), group)
