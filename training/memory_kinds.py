"""What a plan of memory says, and the two numbers in it that no program can go through.

In    bytes by device, kind and phase, from training/memory_plan.py.
Out   MemoryPlan: on each device the total, the peak and its phase; KERNELS, GPU_CONTEXT.
Run   through training/memory_plan.py
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

KERNELS = {"no": 72 << 20, "bf16": 80 << 20, "fp16": 80 << 20}
"""Bytes that torch's kernels, the pages of their libraries and the autograd engine take on the CPU beside all tensors:
measured, docs/memory.md says how."""
GPU_CONTEXT = 544 << 20
"""Bytes of a GPU that are no tensor: 512 MiB for CUDA's context and kernels, 32 MiB for cuBLAS (8 buffers of 4 MiB, as
CUBLAS_WORKSPACE_CONFIG asks). The first is what is commonly seen, and was not measured here."""
KINDS = ("weights", "gradients", "optimizer", "averages", "activations", "buffers", "process", "snapshot")
BESIDE_A_SAVE = ("forward", "backward", "update", "evaluate")


@dataclass
class DevicePlan:
    """Bytes of one device: by kind, what each kind takes at its own most; `phases`, the most of everything in each."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    process: int
    phases: dict[str, int]
    snapshot: int = 0
    """A copy of weights and moments, from which a checkpoint is written while steps go on (training/saving.py)."""
    arrived: int = 0
    """What a step copies to it from the other device."""
    averages: int = 0
    """Of the weights, with `ema_decay`."""

    @property
    def total(self) -> int:
        return sum(getattr(self, kind) for kind in KINDS)

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=lambda phase: self.phases[phase])

    @property
    def peak(self) -> int:
        return self.phases[self.peak_phase]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"total": self.total, "peak": self.peak, "peak_phase": self.peak_phase}


@dataclass
class MemoryPlan:
    """Plans by device: cpu, and gpu where there is one to be used. Its own numbers are sums over the devices."""

    devices: dict[str, DevicePlan]
    notes: tuple[str, ...] = ()
    """What else is to be known of this plan, a line each."""
    taught: tuple[str, ...] = ()
    """Parameters that the optimizer keeps something of."""

    def of_kind(self, kind: str) -> int:
        return sum(getattr(plan, kind) for plan in self.devices.values())

    @property
    def phases(self) -> dict[str, int]:
        names = {phase: 0 for plan in self.devices.values() for phase in plan.phases}
        return {phase: sum(plan.phases.get(phase, 0) for plan in self.devices.values()) for phase in names}

    @property
    def total(self) -> int:
        return self.of_kind("total")

    @property
    def peak(self) -> int:
        return self.of_kind("peak")

    @property
    def peak_phase(self) -> str:
        phases = self.phases
        return max(phases, key=lambda phase: phases[phase])

    def beside_a_save(self) -> "MemoryPlan":
        """The same, of a run whose steps go on while a copy of weights and moments is written."""
        size, cpu = sum(map(self.of_kind, ("weights", "optimizer", "averages"))), self.devices["cpu"]
        phases = {name: most + (size if name in BESIDE_A_SAVE else 0) for name, most in cpu.phases.items()}
        return replace(self, devices=self.devices | {"cpu": replace(cpu, snapshot=size, phases=phases)})

    def fits(self, limits: dict[str, int]) -> bool:
        """Whether each device's peak is within its limit."""
        return all(plan.peak <= limits[device] for device, plan in self.devices.items())

    def to_dict(self) -> dict[str, Any]:
        sums = {kind: self.of_kind(kind) for kind in KINDS}
        sums |= {"total": self.total, "peak": self.peak}
        devices = {device: plan.to_dict() for device, plan in self.devices.items()}
        return sums | {"phases": self.phases, "peak_phase": self.peak_phase, "devices": devices, "notes": self.notes}
