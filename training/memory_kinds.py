"""What a plan of memory says, and the one number in it that is measured beforehand.

In    bytes by kind and by phase, from training/memory_plan.py.
Out   MemoryPlan: the total, the peak and its phase; KERNELS.
Run   through training/memory_plan.py
"""

from dataclasses import asdict, dataclass
from typing import Any

KERNELS = {"no": 72 << 20, "bf16": 80 << 20, "fp16": 80 << 20}
"""Bytes that torch's kernels, the pages of their libraries and the autograd engine take beside all tensors: measured,
docs/memory.md says how."""
KINDS = ("weights", "gradients", "optimizer", "activations", "buffers", "process")


@dataclass
class MemoryPlan:
    """Bytes: by kind, what each kind takes at its own most; `phases`, the most of everything in each phase."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    process: int
    phases: dict[str, int]

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.buffers + self.process

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=lambda phase: self.phases[phase])

    @property
    def peak(self) -> int:
        return self.phases[self.peak_phase]

    def to_dict(self) -> dict[str, Any]:
        devices = {"cpu": {"total": self.total, "peak": self.peak, "peak_phase": self.peak_phase}}
        return (
            asdict(self)
            | {"total": self.total, "peak": self.peak, "peak_phase": self.peak_phase}
            | {"devices": devices}
        )
