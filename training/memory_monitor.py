"""What a process takes of memory, measured: the most in each phase of its work, on each device.

In    phases, as they begin and end; /proc/self of Linux, torch.cuda.
Out   bytes by device and phase, from the process's start and since they were last asked for.
Run   through training/train.py; `python benchmarks/memory_monitor.py` prints what it costs.

Linux keeps the most that a process had resident (VmHWM), and begins it anew when "5" is written to
/proc/self/clear_refs (Documentation/filesystems/proc.rst). So the mark is read and then begun anew at each turn from
one phase to another: what lies between two turns is that phase's own, and no peak is lost, wherever it falls. Where
the file cannot be written the mark is never begun anew: there is one peak for all, and it is said why.

What is resident includes what a phase before has freed and the allocator lets rest (training/held_memory.py). So
there is a second figure, what a phase has used: tensors alive at their most, and what the process had beside tensors
as the phase ended. That is what a plan tells beforehand.

Who reads VmHWM or getrusage's ru_maxrss of such a process (`/usr/bin/time -v`) finds what came after its last turn.
`OMP_NUM_THREADS=1 python benchmarks/memory_monitor.py` prints what a turn costs.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from preprocessing.memory_room import PROC
from training.held_memory import is_held, take_recent
from training.monitor import StageClock

FIRST, BETWEEN = "read", "between"


@dataclass
class Most:
    """Bytes: the most at all, and by phase; `used` less what rests, where that is known."""

    peak: int = 0
    phases: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)

    def count_in(self, other: Mapping[str, Any]) -> None:
        """What `asdict` has made of another, of the same run."""
        self.peak = max(self.peak, other["peak"])
        for mine, theirs in ((self.phases, other["phases"]), (self.used, other.get("used", {}))):
            mine |= {phase: max(size, mine.get(phase, 0)) for phase, size in theirs.items()}


class Device(Protocol):
    """One memory; `unable` says why phases cannot be told apart there, None where they can."""

    name: str
    unable: str | None

    def take(self) -> tuple[int, int | None]:
        """Bytes, the most since it was last asked (where phases cannot be told apart, since the start); of them used,
        None where that is not known."""
        ...


class ProcessMemory:
    """What the process has resident: on the CPU all phases share it with the interpreter. Of its tensors is known what
    rests if they were held by the time this was made."""

    name = "cpu"

    def __init__(self, proc: Path = PROC):
        self.unable: str | None = None
        self.is_held = is_held()
        self.status = (proc / "self" / "status").open("rb", buffering=0)
        self.missed, _ = self.sizes()
        mark = proc / "self" / "clear_refs"
        try:
            self.mark = mark.open("wb", buffering=0)
            self.mark.write(b"5")
        except OSError as error:
            self.unable = f"{mark} cannot be written: {error.strerror}"

    def sizes(self) -> tuple[int, int]:
        """The most since the mark was begun anew, and what there is now."""
        self.status.seek(0)
        _, _, lines = self.status.read(4096).partition(b"VmHWM:")
        most, _, now, *_ = lines.replace(b"VmRSS:", b"").split(None, 3)
        return 1024 * int(most), 1024 * int(now)

    def take(self) -> tuple[int, int | None]:
        most, now = self.sizes()
        most, self.missed = max(most, self.missed), 0
        if self.unable is not None:
            return most, None
        self.mark.write(b"5")
        if not self.is_held:
            return most, None
        tensors = take_recent()
        return most, min(most, tensors.most + now - tensors.live - tensors.resting)


class CudaMemory:
    """What tensors take on a GPU; CUDA's own context, which the plan has in it, is not seen."""

    name = "gpu"
    unable: str | None = None

    def __init__(self, device: torch.device):
        torch.cuda.init()
        self.device = device

    def take(self) -> tuple[int, int | None]:
        most = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return most, None


class MemoryMonitor:
    """`with monitor.phase(name)` around each phase. What comes before the first is `read`, what lies between two
    `between`. A phase inside another belongs to the inner one alone; of a phase that comes again the most is kept."""

    def __init__(self, *devices: Device):
        self.devices = devices or (ProcessMemory(),)
        self.current, self.around = FIRST, [BETWEEN]
        self.clock: StageClock | None = None  # set by whoever wants times beside
        self.most, self.recent = self.nothing(), self.nothing()

    def nothing(self) -> dict[str, Most]:
        return {device.name: Most() for device in self.devices}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.turn(name)
        self.around.append(name)
        try:
            yield
        finally:
            self.around.pop()
            self.turn(self.around[-1])

    def turn(self, name: str) -> None:
        """What was taken until now belongs to the phase so far, what is taken from now on to `name`."""
        phase = self.current
        for device in self.devices:
            most, used = device.take()
            for kept in (self.most[device.name], self.recent[device.name]):
                kept.peak = max(kept.peak, most)
                if device.unable is None and most > kept.phases.get(phase, 0):
                    kept.phases[phase] = most
                if used is not None and used > kept.used.get(phase, 0):
                    kept.used[phase] = used
        self.current = name
        if self.clock is not None:
            self.clock.turn(name)

    def take_recent(self) -> dict[str, dict[str, Any]]:
        """Of each device the most since this was last asked for, as a dictionary."""
        self.turn(self.current)
        recent, self.recent = self.recent, self.nothing()
        return {name: asdict(most) for name, most in recent.items()}


def monitor_of(device: torch.device) -> MemoryMonitor:
    """Of this process, and of the GPU that it computes on."""
    return MemoryMonitor(ProcessMemory(), *([CudaMemory(device)] if device.type == "cuda" else []))
