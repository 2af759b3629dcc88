"""A ledger of a computation's memory, kept while the computation is only pretended.

In    any torch code, run inside `with Ledger() as ledger:`.
Out   ledger.live, and ledger.take_most(): bytes of the tensors alive now, and the most since it was asked last.
Run   through training/memory_plan.py

Inside, torch makes fake tensors (its FakeTensorMode): they have shapes, types and lifetimes, and no memory. The ledger
writes down each storage as it comes and strikes it out when the last tensor on it has gone, so that what is kept for
the backward pass, what views share and what is freed on the way are counted as they would be. What follows from real
tensors alone (the batch, masks, rows of alternatives) is computed, since shapes depend on its values. The value of a
fake tensor is not known: who asks gets `ledger.answer`, true or false. What a kernel takes for itself is not seen.
"""

import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.held_memory import LEAST_HELD

PAGE = 4096
MOST_REAL = 1 << 16  # elements of what is made from nothing and yet computed: positions, unit matrices
VALUE_OF = torch.ops.aten._local_scalar_dense.default


class Ledger(TorchDispatchMode):
    """Bytes of all tensors made inside. What was made may be used afterwards for its shape only."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.most = 0, 0
        self.answer = False
        self.computes = False
        """Whether small tensors made from nothing are real. Off while a model is made: all its weights are fake."""
        self.sizes: dict[int, int] = {}
        self.pretence = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self) -> "Ledger":
        self.pretence.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.pretence.__exit__(*error)

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None) -> Any:
        given = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
        fake = any(isinstance(part, FakeTensor) for part in given)
        if operator is VALUE_OF and fake:
            return self.value_of(args[0])
        if given and not fake:
            return self.entered(really(operator, args, kwargs))
        made = operator(*args, **(kwargs or {}))
        if self.computes and not given and isinstance(made, torch.Tensor) and made.numel() <= MOST_REAL:
            made = really(operator, args, kwargs)
        return self.entered(made)

    def value_of(self, tensor: torch.Tensor) -> bool | int | float:
        if tensor.dtype == torch.bool:
            return self.answer
        return float(self.answer) if tensor.dtype.is_floating_point else int(self.answer)

    def entered(self, made: Any) -> Any:
        for part in tree_leaves(made):
            if isinstance(part, torch.Tensor):
                self.enter(part.untyped_storage())
        return made

    def enter(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = held(storage.nbytes())
        self.live += self.sizes[key]
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self.strike_out, key)

    def strike_out(self, key: int) -> None:
        self.live -= self.sizes.pop(key)

    def take_most(self) -> int:
        most, self.most = self.most, self.live
        return most


def really(operator, args, kwargs) -> Any:
    with unset_fake_temporarily():
        return operator(*args, **(kwargs or {}))


def held(size: int) -> int:
    """Bytes that a tensor of `size` takes: its own pages, or a place among the small ones."""
    return size if size < LEAST_HELD else -(-size // PAGE) * PAGE
