"""An average of the weights over the last steps (EMA), in whose place the weights are judged and published.

In    a model in its places, the decay; after each optimizer step, the model.
Out   averages in float32 of every weight that is trained, under the model's names; the model with these in place of
      its own weights for as long as somebody looks.
Run   `ema_decay: 0.999` in a recipe, through TrainLoop

After update n (counted from 0) an average moves towards its weight by 1 - min(decay, (1 + n) / (10 + n)): the first
ones follow closely, so that initial weights are soon forgotten (TensorFlow's rule). A step that fp16's scaler leaves
out is no update. What is not trained is the model's own, and so are buffers, such as the router's bias. Slots of the
scenario memory that were just filled with other texts are taken over as they are: the mean of two texts is neither.

Averages lie beside their weights, on the same device, four bytes a number whatever the weights take; that is planned
for. To be judged, they stand in the modules as parameters of their own, and the weights come back after: there is no
third copy, and no weight is written. In a checkpoint they are ema.safetensors, beside the weights that training goes
on with.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor, nn

from preprocessing.errors import UserError

if TYPE_CHECKING:
    from training.loop import TrainLoop

FILE = "ema.safetensors"
PIECE = 1 << 20  # numbers of a weight in two bytes that are made float32 at a time
MEMORY = ("model.scenario_memory.keys", "model.scenario_memory.values")


class Ema:
    """Averages of one model's trained weights; `updates` of them so far, and both are in the checkpoint."""

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay, self.updates = model, decay, 0
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.averages = {
            name: weight.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            for name, weight in self.weights.items()
        }
        known = {weight: name for name, weight in self.weights.items()}
        self.places = [
            (module, inner, known[weight])
            for module in model.modules()
            for inner, weight in module.named_parameters(recurse=False, remove_duplicate=False)
            if weight in known
        ]

    @property
    def share(self) -> float:
        """By how much the next update moves the averages towards the weights."""
        return 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def follow(self, filled: Tensor | None = None) -> None:
        """After an update; `filled`: slots of the scenario memory that hold other texts now."""
        same: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, average in self.averages.items():
            weight = self.weights[name]
            if weight.dtype == average.dtype:
                same[0].append(average)
                same[1].append(weight)
            else:
                for whole, part in zip(average.view(-1).split(PIECE), weight.view(-1).split(PIECE), strict=True):
                    whole.lerp_(part.to(average.dtype), self.share)
        if same[0]:
            torch._foreach_lerp_(*same, self.share)
        for name in MEMORY if filled is not None else ():
            if name in self.averages:
                self.averages[name][filled] = self.weights[name][filled].to(torch.float32)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with averages for weights."""
        standing = {name: nn.Parameter(average) for name, average in self.averages.items()}
        try:
            for module, inner, name in self.places:
                setattr(module, inner, standing[name])
            yield
        finally:
            for module, inner, name in self.places:
                setattr(module, inner, self.weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """What is saved: the averages, and the model's buffers as they are."""
        lasting = self.model.state_dict()
        return self.averages | {name: buffer for name, buffer in self.model.named_buffers() if name in lasting}

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """One average after another into its place; raises UserError when the file lacks one or has another shape."""
        with safe_open(path, "pt", backend="pread") as saved:
            shapes = {name: list(saved.get_slice(name).get_shape()) for name in saved.offset_keys()}
            for name, average in self.averages.items():
                if shapes.get(name) != list(average.shape):
                    raise UserError(f"{path} has {shapes.get(name)} for {name}, which is {list(average.shape)} here")
                average.copy_(saved.get_tensor(name))


def follow(loop: "TrainLoop", filled: Tensor | None) -> None:
    """After a step of a loop, unless fp16's scaler left it out."""
    if loop.ema is not None and not loop.skipped_in_a_row:
        loop.ema.follow(filled)


@contextmanager
def averaged(loop: "TrainLoop") -> Iterator[None]:
    """The loop's model as it is judged and published: with its averages, where it has any."""
    if loop.ema is None:
        yield
        return
    try:
        with loop.ema.in_place():
            loop.placed.weights_moved()  # copies on a GPU are of others
            yield
    finally:
        loop.placed.weights_moved()
