"""Keeps a run's tensors out of the processes that it forks.

In    a model, its optimizer.
Out   a context in which a fork does not get their memory.
Run   through training/regret_pool.py

A fork has the memory of its parent as it was, and as soon as the parent writes to a page, as every step does to all
weights and moments, the kernel copies it: the forks would keep a second state of the model alive, which nobody reads
and no plan knows of. madvise(MADV_DONTFORK) leaves pages out of forks.
"""

import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.sharding import local

LEAST_BYTES = 2**16  # below it is hardly a whole page, and each range costs the kernel an entry


def tensors_of(model: nn.Module, optimizer: Any) -> Iterator[Tensor]:
    """Weights, buffers, gradients and moments that are in main memory."""
    found = [*model.parameters(), *model.buffers()]
    found += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    found += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    yield from (part for part in map(local, found) if part.device.type == "cpu" and not part.is_meta)


def pages_of(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Address -> length of the whole pages of their storages."""
    size, found = mmap.PAGESIZE, {}
    for tensor in tensors:
        storage: torch.UntypedStorage = tensor.untyped_storage()
        if storage.nbytes() >= LEAST_BYTES:
            begin = -(-storage.data_ptr() // size) * size
            found[begin] = (storage.data_ptr() + storage.nbytes()) // size * size - begin
    return found


@contextmanager
def not_forked(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Whoever is forked inside must not touch them: it would end by SIGSEGV."""
    pages = pages_of(tensors)
    advise(pages, mmap.MADV_DONTFORK)
    try:
        yield
    finally:
        advise(pages, mmap.MADV_DOFORK)


def advise(pages: dict[int, int], advice: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for begin, length in pages.items():
        if libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), advice):
            raise OSError(ctypes.get_errno(), f"madvise: {os.strerror(ctypes.get_errno())}")
