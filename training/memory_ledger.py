"""A ledger of a computation's memory, kept while the computation is only pretended.

In    any torch code, run inside `with Ledger() as ledger:`.
Out   ledger.live, and ledger.take_most(): bytes of the tensors alive now, and the most since it was asked last; the
      same of any device in ledger.accounts.
Run   through training/memory_plan.py

Inside, torch makes fake tensors (its FakeTensorMode): they have shapes, types and lifetimes, and no memory. The ledger
writes down each storage as it comes and strikes it out when the last tensor on it has gone, so that what is kept for
the backward pass, what views share and what is freed on the way are counted as they would be. What follows from real
tensors alone (the batch, masks, rows of alternatives) is computed, since shapes depend on its values; such tensors
pass for being wherever they are wanted. The value of a fake tensor is not known: who asks gets `ledger.answer`, true
or false. What a kernel takes for itself is not seen.
"""

import weakref
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from training.held_memory import LEAST_HELD

PAGE, GPU_PIECE = 4096, 512
MOST_REAL = 1 << 16  # elements of what is made from nothing and yet computed: positions, unit matrices
VALUE_OF = torch.ops.aten._local_scalar_dense.default
CPU = torch.device("cpu")


@dataclass
class Account:
    """Bytes of the tensors on one device: alive now, and the most since `take_most` was called last."""

    live: int = 0
    most: int = 0
    arrived: int = 0
    """What was copied to it from another device, in all."""

    def add(self, size: int) -> None:
        self.live += size
        self.most = max(self.most, self.live)

    def take_most(self) -> int:
        most, self.most = self.most, self.live
        return most


class Ledger(TorchDispatchMode):
    """Bytes of all tensors made inside. What was made may be used afterwards for its shape only."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts: defaultdict[str, Account] = defaultdict(Account)
        self.answer = False
        self.computes = False
        """Whether small tensors made from nothing are real. Off while a model is made: all its weights are fake."""
        self.sizes: dict[int, tuple[str, int]] = {}
        self.pretence = FakeTensorMode(allow_non_fake_inputs=True)

    @property
    def live(self) -> int:
        return self.accounts["cpu"].live

    def take_most(self) -> int:
        return self.accounts["cpu"].take_most()

    def __enter__(self) -> "Ledger":
        self.pretence.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.pretence.__exit__(*error)

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        given = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
        fakes = [part for part in given if isinstance(part, FakeTensor)]
        if operator is VALUE_OF and fakes:
            return self.value_of(args[0])
        if given and not fakes:
            return self.entered(really(operator, args, kwargs))
        if len(fakes) < len(given):
            args, kwargs = self.beside(fakes, (args, kwargs))
        made = operator(*args, **kwargs)
        if self.computes and not given and isinstance(made, torch.Tensor) and made.numel() <= MOST_REAL:
            made = really(operator, args, kwargs)
        if operator is torch.ops.aten._to_copy.default and made.device.type != fakes[0].device.type:
            self.accounts[made.device.type].arrived += made.nbytes
        return self.entered(made)

    def beside(self, fakes: list[FakeTensor], given: Any) -> Any:
        """The same arguments with real tensors as fake ones, on the device that the fake ones are on."""
        device = next((part.device for part in fakes if part.device.type != "cpu"), CPU)

        def placed(part: Any) -> Any:
            if not isinstance(part, torch.Tensor) or isinstance(part, FakeTensor) or device == CPU:
                return part
            return torch.empty_like(self.pretence.from_tensor(part), device=device)

        return tree_map(placed, given)

    def value_of(self, tensor: torch.Tensor) -> bool | int | float:
        if tensor.dtype == torch.bool:
            return self.answer
        return float(self.answer) if tensor.dtype.is_floating_point else int(self.answer)

    def entered(self, made: Any) -> Any:
        for part in tree_leaves(made):
            if isinstance(part, torch.Tensor):
                self.enter(part.untyped_storage(), part.device.type)
        return made

    def enter(self, storage: torch.UntypedStorage, device: str) -> None:
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = device, held(storage.nbytes(), device)
        self.accounts[device].add(self.sizes[key][1])
        weakref.finalize(storage, self.strike_out, key)

    def strike_out(self, key: int) -> None:
        device, size = self.sizes.pop(key)
        self.accounts[device].live -= size


def really(operator, args, kwargs) -> Any:
    """Computed, on the CPU."""
    args, kwargs = tree_map(lambda part: CPU if isinstance(part, torch.device) else part, (args, kwargs))
    with unset_fake_temporarily():
        return operator(*args, **kwargs)


def held(size: int, device: str = "cpu") -> int:
    """Bytes that a tensor of `size` takes. On the CPU its own pages, or a place among the small ones; on a GPU pieces
    of 512 bytes, as torch gives them out."""
    if device != "cpu":
        return -(-size // GPU_PIECE) * GPU_PIECE
    return size if size < LEAST_HELD else -(-size // PAGE) * PAGE
