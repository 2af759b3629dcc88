"""How much memory there is for this process: what the machine has free, and what its limits leave.

In    /proc and /sys of Linux; the root they are read under can be another, for tests.
Out   bytes resident, free, and the smallest limit with its name; of a GPU what is free; who else holds memory.
Run   `python -c "from training.memory_limits import room; print(room())"`

MemTotal is not what a process may use: others use it too, and a container's limit (control groups, version 1 and 2,
its own and all above it) may leave far less. A file's pages count as used there, but go when memory is asked for.
"""

import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from preprocessing.errors import UserError
from training.memory_kinds import GPU_CONTEXT

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60  # version 1 writes a number near 2^63 where there is none


@dataclass(frozen=True)
class Room:
    """Bytes this process could still take, and what leaves no more than that."""

    free: int
    limited_by: str


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


def numbers_in(path: Path) -> dict[str, int]:
    """`name value` or `name: value kB` lines as bytes."""
    found = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        name, *rest = line.replace(":", " ").split()
        if rest and rest[0].isdigit():
            found[name] = int(rest[0]) * (1024 if rest[-1] == "kB" else 1)
    return found


def resident(proc: Path = PROC) -> int:
    """Bytes of this process in memory now."""
    return numbers_in(proc / "self" / "status")["VmRSS"]


def most_resident(proc: Path = PROC) -> int:
    """The most of its bytes that were in memory at one time."""
    return numbers_in(proc / "self" / "status")["VmHWM"]


def room(proc: Path = PROC, groups: Path = GROUPS) -> Room:
    """What this process could still take before the kernel would have to kill somebody."""
    free = numbers_in(proc / "meminfo")["MemAvailable"]
    of_machine = Room(free, f"memory free on this machine: {free / 2**30:.1f} GiB")
    return min([of_machine, *rooms_of_groups(proc, groups)], key=lambda found: found.free)


def rooms_of_groups(proc: Path, groups: Path) -> Iterator[Room]:
    """What each control group that this process is in has left."""
    for line in (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield from rooms_above(groups, path, "memory.max", "memory.current", ("inactive_file", "active_file"))
        elif "memory" in controllers.split(","):
            kept = ("total_inactive_file", "total_active_file")
            yield from rooms_above(groups / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", kept)


def rooms_above(root: Path, path: str, limit_name: str, used_name: str, kept: tuple[str, ...]) -> Iterator[Room]:
    """Of the group at `path` and those above it; in a container its own group may be mounted as the root."""
    inside = Path(os.path.normpath("/" + path.lstrip("/"))).relative_to("/")
    folders = [root / inside, *(root / inside).parents]
    for folder in folders[: len(inside.parts) + 1] or [root]:
        limit = limit_of(folder / limit_name)
        if limit is None:
            continue
        used = int((folder / used_name).read_text(encoding="ascii"))
        statistics = numbers_in(folder / "memory.stat")
        used -= sum(statistics.get(name, 0) for name in kept)
        yield Room(max(0, limit - used), f"{folder / limit_name}: {limit / 2**30:.1f} GiB")


def limit_of(path: Path) -> int | None:
    """None where there is no such file, or it sets no limit."""
    if not path.is_file():
        return None
    written = path.read_text(encoding="ascii").strip()
    return None if written == "max" or int(written) >= NO_LIMIT else int(written)


def is_wsl(proc: Path = PROC) -> bool:
    """Whether this is the Windows Subsystem for Linux, whose memory .wslconfig sets."""
    return "microsoft" in (proc / "version").read_text(encoding="utf-8").lower()


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


def others(count: int = 5, proc: Path = PROC) -> list[tuple[int, int, str]]:
    """(bytes resident, PID, name) of the processes that hold most, without this one."""
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            pages = int((folder / "statm").read_text().split()[1])
            found.append((pages * resource.getpagesize(), int(folder.name)))
        except OSError:  # it has ended meanwhile
            continue
    most = sorted(found, reverse=True)[:count]
    return [(size, pid, name_of(proc / str(pid))) for size, pid in most]


def name_of(folder: Path) -> str:
    try:
        return (folder / "comm").read_text(errors="replace").strip()
    except OSError:
        return "one that has ended"
