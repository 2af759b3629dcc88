"""Where a step's time goes, and how long each module's gradient is.

In    the turns from one stage of a step to the next; gradients.
Out   seconds by stage since last asked; norms by module, and of all.
Run   through training/train.py; `python benchmarks/monitoring.py` prints what it costs.

Stages are those in which memory is measured (training/memory_monitor.py), and inside them `read`, the wait for the
next batch, and `compute`, the losses. On a GPU, which works later than it is told to, times are the GPU's own.

Each gradient is read once: the norms of the parameters, from which clipping has the norm of all, give those of the
modules too.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from training.sharding import whole

BETWEEN = "between"


class StageClock:
    """`turn` at each change of stage. What lies between two stages is `between`."""

    def __init__(self, device: torch.device | None = None):
        self.on_gpu = device is not None and device.type == "cuda"
        self.current = BETWEEN
        self.marks: list[tuple[str, float | torch.cuda.Event]] = [(self.current, self.mark())]

    def mark(self) -> "float | torch.cuda.Event":
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def turn(self, name: str) -> None:
        self.marks.append((name, self.mark()))
        self.current = name

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage inside another, which goes on after it."""
        around = self.current
        self.turn(name)
        try:
            yield
        finally:
            self.turn(around)

    def take(self) -> dict[str, float]:
        """Seconds by stage since this was last asked."""
        self.turn(self.current)
        if self.on_gpu:
            self.marks[-1][1].synchronize()  # type: ignore[union-attr]
        seconds: dict[str, float] = {}
        for (name, begin), (_, end) in zip(self.marks, self.marks[1:], strict=False):
            seconds[name] = seconds.get(name, 0.0) + between(begin, end)
        self.marks = self.marks[-1:]
        return seconds


def between(begin: "float | torch.cuda.Event", end: "float | torch.cuda.Event") -> float:
    if isinstance(begin, float) or isinstance(end, float):
        return end - begin  # type: ignore[operator]
    return begin.elapsed_time(end) / 1000


def module_of(name: str) -> str:
    """Of a parameter: a head or an analyzer by its name, of the backbone model.PART."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first == "model" and rest else first


def norms_of(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Of each gradient, in their order; those of one device and kind at once."""
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, gradient in enumerate(gradients):
        kinds.setdefault((gradient.device, gradient.dtype), []).append(index)
    norms: dict[int, Tensor] = {}
    for indices in kinds.values():
        norms |= zip(indices, torch._foreach_norm([gradients[index] for index in indices]), strict=True)
    return [norms[index] for index in range(len(gradients))]


def norm_of_all(norms: Sequence[Tensor]) -> Tensor:
    """Of what has these norms, as one vector; torch.nn.utils.get_total_norm does the same."""
    if not norms:
        return torch.tensor(0.0)
    return whole(torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms])))


def norms_by_module(names: Iterable[str], norms: Iterable[Tensor]) -> dict[str, float | None]:
    """Of a model in pieces every process has to ask. None for one that is not finite."""
    of_module: dict[str, list[Tensor]] = {}
    for name, norm in zip(names, norms, strict=True):
        of_module.setdefault(module_of(name), []).append(norm)
    if not of_module:
        return {}
    totals = [norm_of_all(found).float() for found in of_module.values()]
    values = torch.stack([total.to(totals[0].device) for total in totals]).tolist()
    return finite(dict(zip(of_module, values, strict=True)))


def finite(norms: dict[str, float]) -> dict[str, float | None]:
    return {name: norm if math.isfinite(norm) else None for name, norm in norms.items()}
