"""What a pretended run takes on one device, phase by phase.

In    an account of the ledger (training/memory_ledger.py); when a phase begins and ends.
Out   Book: bytes of gradients, optimizer's states, activations and buffers at their most; of all, in each phase.
Run   through training/memory_plan.py
"""

from collections.abc import Iterable

import torch

from training.memory_ledger import Account, held


class Book:
    """Of one device. What is written of a phase is without the optimizer's states: its first step makes them."""

    def __init__(self, account: Account):
        self.account = account
        self.most = dict.fromkeys(("forward", "backward", "update"), 0)
        self.gradients = self.optimizer = self.activations = self.buffers = 0
        self.kept = self.before = self.arrived = 0

    def open(self) -> None:
        self.before = self.account.live
        self.account.take_most()

    def close(self, name: str, gradients_wait: bool) -> None:
        """`gradients_wait`: whether gradients wait for the update, which then frees them."""
        most, after, states = self.account.take_most(), self.account.live, self.optimizer
        if name == "update":
            waited = self.gradients if gradients_wait else 0
            states = self.optimizer = max(self.optimizer, after - self.before + waited)
        self.most[name] = max(self.most[name], most - states)
        self.buffers = max(self.buffers, most - max(self.before, after))


def bytes_by_device(tensors: Iterable[torch.Tensor]) -> dict[str, int]:
    """What tensors take on each kind of device."""
    found: dict[str, int] = {}
    for tensor in tensors:
        kind = tensor.device.type
        found[kind] = found.get(kind, 0) + held(tensor.nbytes, kind)
    return found
