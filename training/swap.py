"""Weights that live in main memory and visit a GPU while they are in use.

In    parts of a model (units), the GPU, and how many bytes of weights may stay there after use.
Out   the same parts, whose forward passes compute on the GPU; counts of visits, and bytes moved.
Run   `swap: on` in a recipe, through TrainLoop

A unit's weights are copied over before it computes, and the copy is dropped when it has; with gradient_checkpointing
a block's come a second time for the backward pass, without it they wait there. Gradients go home to main memory,
where the optimizer is, and where `update_in_backward` uses each at once: on the GPU there are never more weights than
those of the units at work. While one unit computes, the next one's weights are on their way, on a stream of their own:
which is next is known from the last time.

With room for more, copies stay, for the way back or for the next evaluation, until weights have moved. Copies go in
the order of their priority: blocks before the heads, which are asked more than once, and of equals the one that was
used longest ago.
"""

import functools
from collections import deque
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

BLOCK = "model.blocks."


@dataclass
class Figures:
    """Since the run began: units whose weights were there when wanted, or not; bytes copied to the GPU."""

    hits: int = 0
    misses: int = 0
    bytes_moved: int = 0


@dataclass
class Guest:
    """A unit's weights on the GPU."""

    tensors: dict[str, Tensor]
    arrived: Any
    used: int = 0

    @property
    def size(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Host(nn.Module):
    """A unit with its own forward, for functional_call to lend it other weights. Layers in it that would be computed
    twice each are computed twice together: weights come once for all of them."""

    def __init__(self, unit: nn.Module):
        super().__init__()
        layers: Any = [layer for layer in unit.modules() if getattr(layer, "gradient_checkpointing", False)]
        self.twice = layers[0]._gradient_checkpointing_func if layers else None
        for layer in layers:
            layer.gradient_checkpointing = False
        self.unit, self.own_forward = unit, unit.forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.own_forward(*args, **kwargs)


class SwapManager:
    def __init__(self, units: Mapping[str, nn.Module], device: torch.device, room: int, pinned: bool, streams: bool):
        self.hosts = {name: Host(unit) for name, unit in units.items()}
        self.device, self.room, self.figures = device, room, Figures()
        self.stream = torch.cuda.Stream(device) if streams else None
        self.done: deque[Any] = deque(maxlen=2)
        """When the last two units will have computed."""
        self.guests: dict[str, Guest] = {}
        self.time, self.recent = 0, ("", "")
        self.following: dict[tuple[str, str], str] = {}
        """The last two units that computed -> the one that came after them the last time."""
        for name, host in self.hosts.items():
            if pinned:
                for _, tensor in tensors_of(host.unit):
                    pin(tensor)
            host.unit.forward = functools.partial(self.compute, name)

    def compute(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The forward pass of a unit; of a checkpointed one its weights come again for the backward pass."""
        host = self.hosts[name]
        if host.twice is not None and host.unit.training:
            return host.twice(functools.partial(self.visit, name, **kwargs), *args)
        return self.visit(name, *args, **kwargs)

    def visit(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The forward pass of a unit, with its weights as guests; their gradients arrive at home."""
        guest, host = self.invite(name), self.hosts[name]
        home = {f"unit.{key}": tensor for key, tensor in tensors_of(host.unit)}
        lent = {key: Visit.apply(home[key], tensor) for key, tensor in guest.tensors.items()}
        computed = functional_call(host, lent, args, kwargs)
        if self.stream is not None:
            self.done.append(torch.cuda.current_stream(self.device).record_event())
        return computed

    def invite(self, name: str) -> Guest:
        """The unit's weights on the GPU, and those of the unit that came after it last time on their way."""
        self.following[self.recent] = name
        self.recent = (self.recent[1], name)
        there = name in self.guests
        self.figures.hits += there
        self.figures.misses += not there
        guest = self.guests[name] if there else self.bring(name, keep=())
        if guest.arrived is not None:
            torch.cuda.current_stream(self.device).wait_event(guest.arrived)
            for tensor in guest.tensors.values():
                tensor.record_stream(torch.cuda.current_stream(self.device))
        self.time += 1
        guest.used = self.time
        self.make_room(0, keep=(name,))
        following = self.following.get(self.recent)
        if following is not None and following not in self.guests:
            self.bring(following, keep=(name,)).used = self.time
        return guest

    def bring(self, name: str, keep: tuple[str, ...]) -> Guest:
        home = [(f"unit.{key}", tensor) for key, tensor in tensors_of(self.hosts[name].unit)]
        self.make_room(sum(tensor.nbytes for _, tensor in home), keep)
        if len(self.done) == self.done.maxlen:  # or the host would run ahead, and with it the guests' number
            self.done[0].synchronize()
        on_stream = torch.cuda.stream(self.stream) if self.stream is not None else nullcontext()
        with on_stream, torch.inference_mode(False):  # a guest of an evaluation may stay for a step
            tensors = {
                key: tensor.detach().to(self.device, non_blocking=self.stream is not None, copy=True)
                for key, tensor in home
            }
            arrived = self.stream.record_event() if self.stream is not None else None
        self.guests[name] = Guest(tensors, arrived)
        self.figures.bytes_moved += self.guests[name].size
        return self.guests[name]

    def make_room(self, size: int, keep: tuple[str, ...]) -> None:
        """Let guests go until `size` more bytes leave no more than `room`, or only those to `keep` are left."""
        leaving = sorted((name for name in self.guests if name not in keep), key=self.worth)
        there = sum(guest.size for guest in self.guests.values())
        for name in leaving:
            if there + size <= self.room:
                return
            there -= self.guests.pop(name).size

    def worth(self, name: str) -> tuple[bool, int]:
        """Those of least worth leave first."""
        return not name.startswith(BLOCK), self.guests[name].used

    def forget(self) -> None:
        """The weights have moved: copies of them are of no use."""
        self.guests.clear()


class Visit(torch.autograd.Function):
    """The weight on the GPU; its gradient goes to the weight at home."""

    @staticmethod
    def forward(ctx: Any, home: Tensor, guest: Tensor) -> Tensor:
        ctx.home = home.device
        return guest.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.home), None


def pin(tensor: Tensor) -> None:
    """Lets the GPU read a tensor without waiting, where it lies: torch's own pinned memory comes in powers of two."""
    if tensor.nbytes:
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0))


def tensors_of(unit: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers; forward passes write neither."""
    return [*unit.named_parameters(), *unit.named_buffers()]
