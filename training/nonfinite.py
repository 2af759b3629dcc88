"""Why a run stops: a loss or a gradient that is NaN or infinite, with the step, the task and the records.

In    a model whose gradients are there, and the batches of the step.
Out   NonFiniteError, and what it says.
Run   through TrainLoop.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from training.collator import Batch, ids_of
from training.sharding import local

ANOMALY = "returned nan values in its"
"""What torch.autograd.set_detect_anomaly says of an operation (torch/csrc/autograd/engine.cpp)."""


class NonFiniteError(RuntimeError):
    """A loss or a gradient became NaN or infinite; raised before the optimizer moved (with `update_in_backward`:
    before that parameter did)."""


def broken_loss(step: int, losses: dict[str, float], group: list[Batch]) -> NonFiniteError:
    return NonFiniteError(f"step {step}: loss of {losses} is not finite; {ids_of(group)}")


@contextmanager
def anomalies_named(step: int, group: list[Batch]) -> Iterator[None]:
    """With `debug`, torch itself ends a backward pass at its first NaN: a gradient that is not finite, too."""
    try:
        yield
    except RuntimeError as error:
        if ANOMALY not in str(error):
            raise
        raise NonFiniteError(f"step {step}: {str(error).rstrip('.')}; {ids_of(group)}") from error


def broken_gradients(step: int, broken: list[str], group: list[Batch]) -> NonFiniteError:
    """`broken`: names of the parameters whose gradients are not finite."""
    tasks = sorted({name.split(".")[0] for name in broken})
    return NonFiniteError(
        f"step {step}: {len(broken)} gradients of {tasks} are not finite, the first is {broken[:1]}; {ids_of(group)}"
    )


@torch.no_grad()
def without_finite_gradients(model: nn.Module) -> list[str]:
    """Of a model in pieces every process has to ask; all of them then name the same."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    broken = torch.tensor([float(not torch.isfinite(local(gradient)).all()) for gradient in gradients.values()])
    first = next(iter(gradients.values()), None)
    if isinstance(first, DTensor):
        broken = broken.to(first.device_mesh.device_type)
        torch.distributed.all_reduce(broken, op=torch.distributed.ReduceOp.MAX)
    return [name for name, found in zip(gradients, broken.tolist(), strict=True) if found]


def broken_scale(step: int, skipped: int, scale: float, group: list[Batch]) -> NonFiniteError:
    return NonFiniteError(
        f"step {step}: the loss scaler has skipped {skipped} steps in a row, at scale {scale}; "
        f"use --mixed_precision bf16 or no; {ids_of(group)}"
    )
