"""The plan of a run's memory beside what was measured: on the bar, in timings.jsonl, in memory_report.json.

In    a MemoryMonitor; the plan and its limit, where the run is planned; what earlier stretches of the run wrote.
Out   memory_report.json in output_dir; from it and timings.jsonl, memory.png (training/memory_plot.py).
Run   through training/train.py

memory_report.json: `planned`, as MemoryPlan.to_dict has it, and `limit`; `measured`, the process's `peak` with its phase
and all `phases`, and the same of each of `devices`; `error`, by device planned over measured, less one. A phase that
was planned or measured alone has none. A run that goes on keeps the most of its earlier stretches.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError
from training.memory_kinds import MemoryPlan
from training.memory_limits import Limit
from training.memory_monitor import MemoryMonitor, Phases
from training.report import write_json
from training.run_log import lines_logged

GIB = 2**30
REPORT = "memory_report.json"


def planned_of(planned: dict[str, Any] | None, device: str) -> Phases:
    """Bytes planned on `device` by phase, and `peak`; nothing where nothing is planned."""
    found = (planned or {}).get("devices", {}).get(device)
    if planned is None or found is None:
        return {}
    return found.get("phases", planned["phases"] if device == "cpu" else {}) | {"peak": found["peak"]}


class MemoryReport:
    """Of one run, in the folder it writes to."""

    def __init__(
        self,
        output_dir: Path,
        monitor: MemoryMonitor,
        plan: MemoryPlan | None = None,
        limit: Limit | None = None,
        num_processes: int = 1,
    ):
        self.output_dir, self.monitor, self.limit, self.num_processes = output_dir, monitor, limit, num_processes
        self.planned = plan.to_dict() if plan is not None else None

    def recall(self, folder: Path) -> None:
        """Counts in the earlier stretches of this run, which wrote into `folder`: of a killed one also what it logged
        after its last checkpoint. Raises UserError for a damaged report."""
        path = folder / REPORT
        try:
            measured = json.loads(path.read_text(encoding="utf-8"))["measured"] if path.exists() else {"peak": 0}
            found = measured.get("devices") or {"cpu": {"peak": measured["peak"], "phases": {}}}
            for device, of_device in found.items():
                self.monitor.recall(device, of_device["phases"] | {"peak": of_device["peak"]})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {type(error).__name__}: {error}; remove it") from error
        for line in lines_logged(folder):
            for device, phases in line.get("memory", {}).items():
                self.monitor.recall(device, phases)

    def measured(self) -> dict[str, dict[str, Any]]:
        """By device the peak, the phase it fell in (None where that is not known), and all phases."""
        self.monitor.turn(self.monitor.current)
        found = {}
        for device, peak in self.monitor.peaks.items():
            phases = {name: size for name, size in self.monitor.phases[device].items() if name != "peak"}
            highest = max(phases, key=lambda name: phases[name], default=None)
            known = highest is not None and phases[highest] == peak
            found[device] = {"peak": peak, "peak_phase": highest if known else None, "phases": phases}
        return found

    def to_dict(self) -> dict[str, Any]:
        devices = self.measured()
        measured: dict[str, Any] = devices["cpu"] | {"devices": devices}
        if unable := self.monitor.unable():
            measured["phases_not_measured"] = unable
        if self.num_processes > 1:
            measured["process"] = f"the first of {self.num_processes}"
        errors = {name: self.error(name, found["phases"] | {"peak": found["peak"]}) for name, found in devices.items()}
        limit = asdict(self.limit) if self.limit is not None else None
        return {"planned": self.planned, "limit": limit, "measured": measured, "error": errors}

    def error(self, device: str, measured: Phases) -> dict[str, float]:
        """Planned over measured, less one, of each phase that was both."""
        planned = planned_of(self.planned, device)
        return {name: round(planned[name] / size - 1, 4) for name, size in measured.items() if size and name in planned}

    def write(self) -> None:
        write_json(self.output_dir / REPORT, self.to_dict())

    def take_recent(self) -> dict[str, Phases]:
        return self.monitor.take_recent()

    def on_bar(self) -> dict[str, str]:
        """Measured so far over planned, GiB: ram=1.79/2.10GiB; without a plan what was measured, alone."""
        shown = {}
        for device, size in self.monitor.peaks.items():
            planned = planned_of(self.planned, device).get("peak")
            of_plan = f"/{planned / GIB:.2f}" if planned else ""
            shown["ram" if device == "cpu" else "vram"] = f"{size / GIB:.2f}{of_plan}GiB"
        return shown
