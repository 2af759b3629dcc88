"""How much memory this machine has left for a process: what is free, and what control groups leave of it.

In    /proc and /sys of Linux; the root they are read under can be another, for tests.
Out   bytes resident and free, and what sets the limit; who else holds memory.
Run   `python -c "from preprocessing.memory_room import room; print(room())"`

MemTotal is not what a process may use: others use it too, and a container's limit (control groups, version 1 and 2,
its own and all above it) may leave far less. A file's pages count as used there, but go when memory is asked for.
"""

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60  # version 1 writes a number near 2^63 where there is none


@dataclass(frozen=True)
class Room:
    """Bytes this process could still take, and what leaves no more than that."""

    free: int
    limited_by: str


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
