"""How much memory a run may take: what it was told, or a part of what is free, of main memory and of a GPU.

In    --ram_gib, --vram_gib, --memory_fraction; what is free (preprocessing/memory_room.py).
Out   a limit for each device, and where its number comes from.
Run   `python -c "from training.memory_limits import limit_of_run; print(limit_of_run(None, 0.9))"`
"""

import resource
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from preprocessing.errors import UserError
from preprocessing.memory_room import PROC, Room, is_wsl, resident, room
from training.memory_kinds import GPU_CONTEXT


@dataclass(frozen=True)
class Limit:
    """Bytes that this process may take in all, and where the number comes from."""

    size: int
    said: str


def limit_of_run(ram_gib: float | None, fraction: float) -> Limit:
    """`ram_gib`, which may be used whole; without it `fraction` of what is free, what this process has counted in."""
    if ram_gib is not None:
        return Limit(int(ram_gib * 2**30), f"--ram_gib {ram_gib:g}")
    found = room()
    wsl = "; more of Windows' memory: `memory=` under [wsl2] in .wslconfig, then `wsl --shutdown`" if is_wsl() else ""
    return Limit(int(fraction * (found.free + resident())), f"{fraction:g} of what is free; {found.limited_by}{wsl}")


def limits_of_run(ram_gib: float | None, vram_gib: float | None, fraction: float, on_gpu: bool) -> dict[str, Limit]:
    """Device -> its limit: cpu, and gpu for a run that uses one. Raises UserError for a GPU of unknown size."""
    limits = {"cpu": limit_of_run(ram_gib, fraction)}
    if on_gpu:
        limits["gpu"] = limit_of_gpu(vram_gib, fraction)
    return limits


def sizes_of(limits: Mapping[str, Limit]) -> dict[str, int]:
    return {device: limit.size for device, limit in limits.items()}


def limit_of_gpu(vram_gib: float | None, fraction: float) -> Limit:
    """`vram_gib`, which may be used whole; without it `fraction` of what is free on this machine's GPU."""
    if vram_gib is not None:
        return Limit(int(vram_gib * 2**30), f"--vram_gib {vram_gib:g}")
    if not torch.cuda.is_available():
        raise UserError("no GPU is found here whose memory could be asked for; say how much it has: --vram_gib 8")
    free = torch.cuda.mem_get_info()[0] + GPU_CONTEXT  # to ask is to make the context, which the plan has in it
    return Limit(int(fraction * free), f"{fraction:g} of what is free on the GPU: {free / 2**30:.1f} GiB")


def room_on(device: torch.device) -> Room:
    if device.type == "cuda":
        free, size = torch.cuda.mem_get_info(device)
        return Room(free, f"memory of {device}: {size / 2**30:.1f} GiB")
    found, (limit, _) = room(), resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return found
    taken = int((PROC / "self" / "statm").read_text().split()[0]) * resource.getpagesize()
    own = Room(max(0, limit - taken), f"ulimit -v: addresses of {limit / 2**30:.1f} GiB")
    return min(own, found, key=lambda room: room.free)
