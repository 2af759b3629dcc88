"""What a process takes of memory, measured: the most in each phase of its work, on each device.

In    phases, as they begin and end; /proc/self of Linux, torch.cuda.
Out   bytes by device and phase, from the process's start and since they were last asked for.
Run   through training/train.py; `python benchmarks/memory_monitor.py` prints what it costs.

Linux keeps the most that a process had resident (VmHWM), and begins it anew when "5" is written to
/proc/self/clear_refs (Documentation/filesystems/proc.rst). So the mark is read and then begun anew at each turn from
one phase to another: what lies between two turns is that phase's own, and no peak is lost, wherever it falls. Where
the file cannot be written the mark is never begun anew: there is one peak for all, and it is said why.

Who reads VmHWM or getrusage's ru_maxrss of such a process (`/usr/bin/time -v`) finds what came after its last turn.
A turn is one read and one write of open files: 4 to 5 microseconds, for redheart-tiny a ten-thousandth to a
two-thousandth of a step (`OMP_NUM_THREADS=1 python benchmarks/memory_monitor.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from training.memory_limits import PROC

FIRST, BETWEEN = "read", "between"
Phases = dict[str, int]


class Device(Protocol):
    """One memory; `unable` says why phases cannot be told apart there, None where they can."""

    name: str
    unable: str | None

    def take(self) -> int:
        """Bytes, the most since it was last asked; where phases cannot be told apart, since the start."""
        ...


class ProcessMemory:
    """What the process has resident: on the CPU all phases share it with the interpreter."""

    name = "cpu"

    def __init__(self, proc: Path = PROC):
        self.unable: str | None = None
        self.status = (proc / "self" / "status").open("rb", buffering=0)
        self.missed = self.most()
        mark = proc / "self" / "clear_refs"
        try:
            self.mark = mark.open("wb", buffering=0)
            self.mark.write(b"5")
        except OSError as error:
            self.unable = f"{mark} cannot be written: {error.strerror}"

    def most(self) -> int:
        self.status.seek(0)
        return 1024 * int(self.status.read(4096).partition(b"VmHWM:")[2].split(None, 1)[0])

    def take(self) -> int:
        most, self.missed = max(self.most(), self.missed), 0
        if self.unable is None:
            self.mark.write(b"5")
        return most


class CudaMemory:
    """What tensors take on a GPU."""

    unable = None

    def __init__(self, device: torch.device):
        torch.cuda.init()
        self.device, self.name = device, f"cuda:{device.index or 0}"

    def take(self) -> int:
        most = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return most


class MemoryMonitor:
    """`with monitor.phase(name)` around each phase. What comes before the first is `read`, what lies between two
    `between`. A phase inside another belongs to the inner one alone; of a phase that comes again the most is kept."""

    def __init__(self, *devices: Device):
        self.devices = devices or (ProcessMemory(),)
        self.current, self.around = FIRST, [BETWEEN]
        self.peaks: dict[str, int] = {device.name: 0 for device in self.devices}
        self.phases: dict[str, Phases] = {device.name: {} for device in self.devices}
        self.recent: dict[str, Phases] = {device.name: {} for device in self.devices}

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
        for device in self.devices:
            most = device.take()
            self.peaks[device.name] = max(self.peaks[device.name], most)
            phase = self.current if device.unable is None else "peak"
            for kept in (self.phases[device.name], self.recent[device.name]):
                if most > kept.get(phase, 0):
                    kept[phase] = most
        self.current = name

    def take_recent(self) -> dict[str, Phases]:
        """Bytes by device and phase since this was last asked for; {"peak": bytes} of all the time, where phases
        cannot be told apart."""
        self.turn(self.current)
        recent, self.recent = self.recent, {name: {} for name in self.recent}
        return recent

    def recall(self, device: str, phases: Phases) -> None:
        """Counts in what an earlier stretch of the run took; under `peak`, what is of no phase."""
        if device in self.peaks:
            self.peaks[device] = max(self.peaks[device], *phases.values(), 0)
            known = self.phases[device]
            known |= {name: max(size, known.get(name, 0)) for name, size in phases.items()}

    def unable(self) -> dict[str, str]:
        """Devices whose phases cannot be told apart, and why."""
        return {device.name: device.unable for device in self.devices if device.unable is not None}


def monitor_of(device: torch.device) -> MemoryMonitor:
    """Of this process, and of the GPU that it computes on."""
    return MemoryMonitor(ProcessMemory(), *([CudaMemory(device)] if device.type == "cuda" else []))
