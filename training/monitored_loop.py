"""TrainLoop, its way of a step unchanged, measured in the phases that its memory was planned in.

In    what TrainLoop takes, and the run's MemoryReport.
Out   the same run; its memory in timings.jsonl, on TensorBoard and on the bar, memory_report.json at each checkpoint.
Run   through training/train.py

Phases begin and end where those of PretendedLoop do (training/memory_plan.py). With `update_in_backward` weights move
in the backward phase, in the plan as here.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import torch

from redheart_hf.outputs import RedHeartOutput
from training.collator import Batch
from training.loop import TrainLoop
from training.memory_report import MemoryReport
from training.monitor import StageClock
from training.run_log import RunLog


class MonitoredLoop(TrainLoop):
    """Evaluation is measured by whoever evaluates, a save by the log it is done with."""

    def __init__(self, *arguments: Any, memory: MemoryReport):
        super().__init__(*arguments)
        self.memory = memory
        self.phase = memory.monitor.phase
        self.clock = memory.monitor.clock = StageClock(self.accelerator.device)

    def groups(self) -> Iterator[list[Batch]]:
        with closing(super().groups()) as groups:  # type: ignore[type-var]
            while True:
                with self.clock.stage("read"):
                    group = next(groups, None)
                if group is None:
                    return
                yield group

    def take_steps(self, log: RunLog, groups: Iterator[list[Batch]]) -> None:
        log.memory = self.memory
        self.clock.take()
        super().take_steps(log, groups)

    def forward(self, batch: Batch) -> RedHeartOutput:
        with self.phase("forward"):
            return super().forward(batch)

    def compute(self, outputs, batch, counts) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with self.phase("forward"), self.clock.stage("compute"):
            return super().compute(outputs, batch, counts)

    def backward(self, loss: torch.Tensor) -> None:
        with self.phase("backward"):
            super().backward(loss)

    def update(self, step_sums, counts, group) -> tuple[dict[str, float], dict[str, Any]]:
        with self.phase("update"):
            return super().update(step_sums, counts, group)
