"""A model taken apart: which tensors belong to which module, and a module's tensors out of another checkpoint.

In    a model; folders that `save_model` wrote, or a file of tensors under the model's own names (ema.safetensors).
Out   names by module; the same model with some tensors exchanged, and exactly put back.
Run   through training/sweet_spot.py and training/crossover.py

Every parameter and buffer is in one module and in no other. Blocks are one module together: each of them reads what
the one before it writes. A module's tensors are read by name, one at a time, so that beside the model there is one
tensor, and one module where it is to be put back.

The ethics head has a part in regret too: the neutral view of utility is what it says.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from preprocessing.errors import UserError
from redheart_hf.labels import TASKS
from redheart_hf.modeling_embeddings import TextEncoder
from training.creation import weight_files
from training.sharding import put, same_place

EMA = "ema.safetensors"
CHUNK = 1 << 20  # numbers that are there in double precision at once
TASKS_OF = {
    "ethics_projection": ("ethics", "regret"),
    "ethics_head": ("ethics", "regret"),
    "ethics_analyzer": ("ethics", "regret"),
    "affect_filter": ("emotion",),
}
"""Whose tasks are not told by its name. What is not of one task has a part in all."""


def modules_of(model: nn.Module) -> dict[str, list[str]]:
    """Module -> names of its parameters and buffers, in the order of the model: each name once."""
    reads = "text_encoder" if isinstance(model.get_submodule("model.embeddings"), TextEncoder) else "embeddings"
    modules: dict[str, list[str]] = {}
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, _ in tensors:
        modules.setdefault(module_of(name, reads), []).append(name)
    return modules


def module_of(name: str, reads: str = "embeddings") -> str:
    """The module of a tensor by its name; `reads` is what the module is called that reads the text."""
    first, *rest = name.split(".")
    if first != "model":
        return first
    if rest[0] == "embeddings":
        return reads
    if rest[0] in ("blocks", "final_norm"):
        return "backbone"
    if rest[0] == "task_projections":
        return f"{rest[2]}_projection"
    return rest[0]


def tasks_of(module: str) -> tuple[str, ...]:
    """The tasks that a module works for; () is all of them."""
    own = tuple(task for task in TASKS if module.startswith(f"{task}_"))
    return TASKS_OF.get(module, own)


@dataclass(frozen=True)
class Weights:
    """Weights on the disk, by the names that a model has for them."""

    files: tuple[Path, ...]
    saved_as: Mapping[str, Sequence[str]]
    """Own name -> names that it may have there."""

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], Tensor]]:
        """A function from own names to tensors; it raises UserError for one that is not there."""
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(file, "pt", backend="pread")) for file in self.files]
            place = {saved: file for file in files for saved in file.offset_keys()}

            def get(name: str) -> Tensor:
                found = next((saved for saved in self.saved_as[name] if saved in place), None)
                if found is None:
                    raise UserError(f"{self.files[0].parent} lacks {name} of this model: it is of another one")
                return place[found].get_tensor(found)

            yield get

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Those of `names` that are ever saved, each with its tensor, one after the other."""
        with self.opened() as get:
            for name in names:
                if name in self.saved_as:
                    yield name, get(name)

    def precision(self) -> str:
        """bfloat16 where any tensor is, as in a checkpoint that was thinned; else float32."""
        for file in self.files:
            with safe_open(file, "pt", backend="pread") as tensors:
                if any(tensors.get_slice(name).get_dtype() == "BF16" for name in tensors.offset_keys()):
                    return "bfloat16"
        return "float32"


def saved_names(model: PreTrainedModel) -> dict[str, list[str]]:
    """Own name -> names under which Transformers may have saved it; raises UserError where it saves otherwise."""
    own = model.state_dict()
    named: dict[Any, list[str]] = {}
    for saved, place in revert_weight_conversion(model, own).items():
        named.setdefault(same_place(place), []).append(saved)
    if changed := sorted(name for name, place in own.items() if same_place(place) not in named):
        raise UserError(
            f"Transformers saves {changed[0]} of this text encoder together with other tensors, so that it cannot be "
            "taken out of a checkpoint alone; leave sweet_spot and crossover out"
        )
    return {name: named[same_place(place)] for name, place in own.items()}


def weights_in(folder: Path, saved_as: Mapping[str, Sequence[str]]) -> Weights:
    """The weights of a model folder."""
    return Weights(tuple(weight_files(folder)), saved_as)


def ema_in(folder: Path, model: nn.Module) -> Weights | None:
    """The averaged weights of a checkpoint, under the model's own names, if it has them."""
    path = folder / EMA
    return Weights((path,), {name: (name,) for name in model.state_dict()}) if path.is_file() else None


def held_in(weights: Weights) -> set[str]:
    """Own names of the tensors that are there: averages are of what was trained, without what never moves."""
    own = {saved: name for name, all_saved in weights.saved_as.items() for saved in all_saved}
    held: set[str] = set()
    for file in weights.files:
        with safe_open(file, "pt", backend="pread") as tensors:
            held |= {own[saved] for saved in tensors.offset_keys() if saved in own}
    return held


@torch.no_grad()
def put_in(model: nn.Module, weights: Weights, names: Iterable[str]) -> None:
    """Write saved tensors into the model, in the precision that it has; raises UserError for another shape."""
    own = model.state_dict()
    for name, value in weights.read(names):
        if own[name].shape != value.shape:
            raise UserError(
                f"{weights.files[0].parent} has {name} of shape {list(value.shape)}, this model of "
                f"{list(own[name].shape)}: it is a checkpoint of another model"
            )
        put(own[name], value)


def taken_out(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of saved tensors of the model, to be put back."""
    own = model.state_dict()
    return {name: own[name].clone() for name in names if name in own}


@torch.no_grad()
def put_back(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    for name, value in kept.items():
        put(own[name], value)


@torch.no_grad()
def put_mean(model: nn.Module, many: Sequence[Weights]) -> None:
    """The mean of several checkpoints, tensor by tensor; whole numbers are those of the last."""
    with ExitStack() as stack:
        readers = [stack.enter_context(weights.opened()) for weights in many]
        for name, place in model.state_dict().items():
            last = readers[-1](name)
            if last.is_floating_point():
                last = last.float()
                for get in readers[:-1]:
                    last += get(name)
                last /= len(readers)
            put(place, last)


def movement(before: Weights, after: Weights, names: Sequence[str]) -> float:
    """How far these tensors went: the norm of their change over their norm before it; 0 only where none changed.

    Where one side is a thinned checkpoint, in bfloat16, the other is rounded alike: what rounding does is no movement.
    """
    changed, length = 0.0, 0.0
    with before.opened() as get_old, after.opened() as get_new:
        for name in names:
            if name in before.saved_as:
                parts = (get(name).flatten().split(CHUNK) for get in (get_old, get_new))
                for old, new in zip(*parts, strict=True):
                    if torch.bfloat16 in (old.dtype, new.dtype):
                        old, new = old.bfloat16(), new.bfloat16()
                    changed += float((new.double() - old.double()).square().sum())
                    length += float(old.double().square().sum())
    return (changed / length) ** 0.5 if length else changed**0.5
