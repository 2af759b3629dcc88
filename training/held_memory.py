"""Holds this process to the memory that its tensors need.

In    nothing; once, before the first large tensor is made.
Out   from then on, memory of tensors on the CPU that never exceeds what those alive at one time have needed.
Run   through training/train.py

The C library keeps what is freed for later, in pieces that may fit nothing that comes later: a run over texts of many
lengths takes up to several times what its tensors need, and nobody can say beforehand how much. Given back at once it
costs page faults, a quarter of a step. So freed blocks rest here until they are wanted again, and go back as soon as
resting would make the process larger than its tensors have been at their most (kernels/held_memory.cpp). What is not a
tensor (Python's objects, a kernel's own buffers) stays with the C library, which is told to give large pieces back.
"""

import ctypes
from functools import cache
from typing import Any, NamedTuple

from training.native import load_kernel

LEAST_HELD = 1 << 17
"""Bytes from which on a tensor is held; smaller ones are the C library's. As in kernels/held_memory.cpp."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class HeldMemory(NamedTuple):
    """Bytes: of tensors alive, of blocks that rest, and the most that tensors have taken at one time."""

    live: int
    resting: int
    most: int


@cache
def hold_memory() -> None:
    """From here on tensors on the CPU take what they need and no more. Raises UserError without a C++ compiler."""
    kernel = load_kernel("held_memory")
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "mallopt"):  # glibc; by itself it moves its threshold up with what is freed
        c_library.mallopt(M_MMAP_THRESHOLD, LEAST_HELD)
        c_library.mallopt(M_TRIM_THRESHOLD, LEAST_HELD)
    kernel.held_memory_install()


def is_held() -> bool:
    return bool(hold_memory.cache_info().currsize)


def give_back_memory() -> None:
    """What nobody needs goes back to the system: blocks that rest, what the C library keeps."""
    give_back_resting()
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "malloc_trim"):  # glibc
        c_library.malloc_trim(0)


def held_memory() -> HeldMemory:
    """What is held now; call `hold_memory` first."""
    return ask(load_kernel("held_memory").held_memory_figures)


def take_recent() -> HeldMemory:
    """The same, but the most since this was last asked for."""
    return ask(load_kernel("held_memory").held_memory_take_recent)


def ask(function: Any) -> HeldMemory:
    numbers = [ctypes.c_uint64() for _ in HeldMemory._fields]
    function(*map(ctypes.byref, numbers))
    return HeldMemory(*(number.value for number in numbers))


def give_back_resting() -> None:
    """What rests goes back to the system: tensors are over, and something else is to come."""
    if is_held():
        load_kernel("held_memory").held_memory_give_back_resting()
