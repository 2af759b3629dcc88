"""Where each part of a model is computed: on one device, or its first layers on the CPU and the rest on a GPU.

In    a model, a TrainConfig, the device that Accelerate chose.
Out   Placed: the model with its parts in their places, each of which fetches what it is given to where it is.
Run   `gpu_layers_ratio: 0.6` or `swap: on` in a recipe, through TrainLoop

A unit is what is placed as a whole: the embeddings, a block, a head. With `gpu_layers_ratio` the last blocks of that
share, and what follows them, are on the GPU; what reads the text and the first blocks are on the CPU. Hidden states
cross there once on the way forward and their gradients once on the way back, outside of what checkpointing computes
twice. With `heads_device: cpu` what follows the blocks is on the CPU again: three stages. Copies to a GPU go through
pinned memory without waiting, but under WSL2, where pinned memory is so short that it fails as if the GPU were full.

With `swap` all weights live in main memory and visit the GPU (training/swap.py).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from preprocessing.errors import UserError
from preprocessing.memory_room import is_wsl
from redheart_hf import RedHeartForMultiTask
from redheart_hf.modeling_embeddings import TextEncoder
from training.collator import Batch, to_device
from training.config import TrainConfig
from training.swap import SwapManager

CPU = torch.device("cpu")
READS, BLOCK = ("model.embeddings", "model.input_projection"), "model.blocks."
LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}


def units_of(model: RedHeartForMultiTask) -> Iterator[tuple[str, nn.Module]]:
    """Parts that are placed as a whole, in the order in which they compute."""
    for name, part in model.model.named_children():
        inner = part.named_children() if isinstance(part, nn.ModuleList) else [("", part)]
        yield from ((f"model.{name}.{number}".rstrip("."), unit) for number, unit in inner)
    yield from ((name, part) for name, part in model.named_children() if name != "model")


def places(model: RedHeartForMultiTask, config: TrainConfig, device: torch.device) -> dict[str, torch.device]:
    """Name of a unit -> where it is computed. `device`: where all would be without a split."""
    names = [name for name, _ in units_of(model)]
    if config.swap == "on":  # rows of a table are looked up where the table is
        reads = device if isinstance(model.model.embeddings, TextEncoder) else CPU
        return {name: reads if name == READS[0] else device for name in names}
    if config.gpu_layers_ratio is None:
        return dict.fromkeys(names, device)
    layers = len(model.model.blocks)
    on_cpu = layers - int(config.gpu_layers_ratio * layers + 0.5)
    after = CPU if config.heads_device == "cpu" else device
    found = dict.fromkeys(names, after)
    found |= dict.fromkeys(READS, CPU if on_cpu else device)
    return found | {f"{BLOCK}{layer}": CPU if layer < on_cpu else device for layer in range(layers)}


class Placed:
    """A model in its places. One device: nothing is hooked in, and nothing costs time."""

    def __init__(
        self,
        model: RedHeartForMultiTask,
        config: TrainConfig,
        device: torch.device,
        pretended: bool = False,
        stays: bool = False,
    ):
        """`pretended`: for a plan, whose fake tensors know neither streams nor pinned memory. `stays`: weights are
        left where they are, for who cuts them into pieces. Raises UserError for an optimizer that cannot move weights
        where they would be."""
        refuse_8bit_on_gpu(config, device)
        self.places = places(model, config, device)
        *_, last = self.places
        self.first, self.last = self.places[READS[0]], self.places[last]
        waits_for_none = device.type == "cuda" and not pretended
        self.pinned = waits_for_none and not is_wsl()
        self.crossed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.swap: SwapManager | None = None
        units = dict(units_of(model))
        for name, unit in units.items():
            if not stays:
                move(unit, CPU if config.swap == "on" else self.places[name])
        if config.swap == "on":
            room = int(config.swap_room_gib * 2**30)
            visitors = {name: unit for name, unit in units.items() if self.places[name] == device}
            self.swap = SwapManager(visitors, device, room, self.pinned, waits_for_none)
        if len(set(self.places.values())) > 1 or config.swap == "on":
            for name, unit in units.items():
                self.fetch_inputs(unit, self.places[name])
            self.cast_everywhere(model, config.mixed_precision)

    def to_places(self, batch: Batch) -> Batch:
        """The model's inputs where it begins, labels where it ends."""
        moved = to_device({name: value for name, value in batch.items() if name != "labels"}, self.first)
        return moved | {"labels": to_device(batch["labels"], self.last)}

    def figures(self) -> dict[str, Any]:
        """With swap: visits and bytes moved, since the run began."""
        return {"swap": asdict(self.swap.figures)} if self.swap is not None else {}

    def weights_moved(self) -> None:
        """After each update: copies of weights are of no use any more."""
        if self.swap is not None:
            self.swap.forget()

    def fetch_inputs(self, unit: nn.Module, device: torch.device) -> None:
        """Let a unit have its inputs where it is; checkpointing, which comes after, does not repeat that."""

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            return self.fetched((args, kwargs), device)

        unit.register_forward_pre_hook(before, with_kwargs=True)

    def fetched(self, values: Any, device: torch.device) -> Any:
        def fetch(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.device == device:
                return value
            known = self.crossed.get(value)
            if known is not None and known.device == device:
                return known
            crossed = Crossing.apply(value, device, self.pinned)
            if crossed.device == device:  # else it is the same memory, which would keep itself alive here
                self.crossed[value] = crossed
            return crossed

        return tree_map(fetch, values)

    def cast_everywhere(self, model: nn.Module, precision: str) -> None:
        """Lower precision on each of the devices: Accelerate knows of one. On the CPU bf16, and float32 for fp16."""
        kinds = {device.type for device in self.places.values()}
        casts = {
            kind: LOWER[precision] for kind in kinds if precision == "bf16" or (precision == "fp16" and kind != "cpu")
        }
        model.forward = casting(model.forward, casts)


def move(unit: nn.Module, device: torch.device) -> None:
    """Its tensors to `device`, one after the other; nothing is there twice. Call it before there is an optimizer."""
    moved: dict[nn.Parameter, nn.Parameter] = {}
    for module in unit.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.device != device and parameter not in moved:
                moved[parameter] = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
            setattr(module, name, moved.get(parameter, parameter))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def refuse_8bit_on_gpu(config: TrainConfig, device: torch.device) -> None:
    if config.optimizer == "adamw_8bit" and device.type != "cpu" and config.swap != "on":
        raise UserError(
            f"optimizer adamw_8bit runs on the CPU, and weights would live on {device}; use adamw, or swap on, with "
            "which they live in main memory"
        )


def casting(forward: Callable[..., Any], casts: dict[str, torch.dtype]) -> Callable[..., Any]:
    def cast(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for kind, dtype in casts.items():
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            return forward(*args, **kwargs)

    return cast


class Crossing(torch.autograd.Function):
    """A tensor on another device; its gradient comes back to where it was."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, device: torch.device, pinned: bool) -> Tensor:
        ctx.back, ctx.pinned = tensor.device, pinned
        return carried(tensor, device, pinned)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return carried(gradient, ctx.back, ctx.pinned), None, None


def carried(tensor: Tensor, device: torch.device, pinned: bool) -> Tensor:
    """A copy on `device`; to a GPU without waiting. On the CPU it is read at once, so that is waited for."""
    if pinned and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
