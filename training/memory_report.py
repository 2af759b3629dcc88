"""The plan of a run's memory beside what was measured: on the bar, in timings.jsonl, in memory_report.json.

In    a MemoryMonitor; the plan and its limit, where the run is planned; what earlier stretches of the run wrote.
Out   memory_report.json in output_dir; from it and timings.jsonl, memory.png (training/memory_plot.py).
Run   through training/train.py

memory_report.json: `planned`, as MemoryPlan.to_dict has it, and `limits`, by device (`limit`: of the CPU); `measured`,
the process's `peak` with its phase, `phases` and what of them is `used` (training/memory_monitor.py), and the same of
each of `devices`; `error`, by device planned over measured, less one: of the peak, and of what each phase used, where
that is known, else of all that was resident in it. A phase that was planned or measured alone has none. A run that
goes on keeps the most of its earlier stretches; of timings.jsonl it reads what came after `timings_bytes`, which the
report has counted.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError
from training.memory_kinds import MemoryPlan
from training.memory_limits import Limit
from training.memory_monitor import MemoryMonitor, Most
from training.report import write_json
from training.run_log import TIMINGS, lines_logged

GIB = 2**30
REPORT = "memory_report.json"


def planned_of(planned: dict[str, Any] | None, device: str) -> dict[str, int]:
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
        limits: Mapping[str, Limit] | None = None,
        num_processes: int = 1,
    ):
        self.output_dir, self.monitor, self.num_processes = output_dir, monitor, num_processes
        self.limits = {device: asdict(limit) for device, limit in (limits or {}).items()}
        self.planned = plan.to_dict() if plan is not None else None

    def recall(self, folder: Path) -> None:
        """Counts in the earlier stretches of this run, which wrote into `folder`: of a killed one also what it logged
        after its last report. Raises UserError for a damaged report or log."""
        path, counted = folder / REPORT, 0
        found: list[dict[str, dict[str, Any]]] = []
        try:
            if path.exists():
                report = json.loads(path.read_text(encoding="utf-8"))
                measured, counted = report["measured"], report.get("timings_bytes", 0)
                found.append(measured.get("devices", {"cpu": {"peak": measured["peak"], "phases": {}}}))
            found += [line.get("memory", {}) for line in lines_logged(folder, counted)]
            for devices in found:
                for name in devices.keys() & self.monitor.most.keys():
                    self.monitor.most[name].count_in(devices[name])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {type(error).__name__}: {error}; remove it") from error

    def to_dict(self) -> dict[str, Any]:
        self.monitor.turn(self.monitor.current)
        devices = {name: asdict(most) | {"peak_phase": peak_phase(most)} for name, most in self.monitor.most.items()}
        measured: dict[str, Any] = devices["cpu"] | {"devices": devices}
        if unable := {device.name: device.unable for device in self.monitor.devices if device.unable is not None}:
            measured["phases_not_measured"] = unable
        if self.num_processes > 1:
            measured["process"] = f"the first of {self.num_processes}"
        errors = {name: self.error(name, most) for name, most in self.monitor.most.items()}
        limits = {"limit": self.limits.get("cpu"), "limits": self.limits}
        path = self.output_dir / TIMINGS
        counted = {"timings_bytes": path.stat().st_size if path.exists() else 0}
        return {"planned": self.planned} | limits | {"measured": measured, "error": errors} | counted

    def error(self, device: str, most: Most) -> dict[str, float]:
        """Planned over measured, less one, of each phase that was both."""
        planned, measured = planned_of(self.planned, device), (most.used or most.phases) | {"peak": most.peak}
        return {name: round(planned[name] / size - 1, 4) for name, size in measured.items() if planned.get(name)}

    def write(self) -> None:
        write_json(self.output_dir / REPORT, self.to_dict())

    def on_bar(self) -> dict[str, str]:
        """Measured so far over planned, GiB: ram=1.79/2.10GiB; without a plan what was measured, alone."""
        shown = {}
        for device, most in self.monitor.most.items():
            planned = planned_of(self.planned, device).get("peak")
            of_plan = f"/{planned / GIB:.2f}" if planned else ""
            shown["ram" if device == "cpu" else "vram"] = f"{most.peak / GIB:.2f}{of_plan}GiB"
        return shown


def peak_phase(most: Most) -> str | None:
    """The phase that used the most; None where phases were not measured, or not always."""
    if max(most.phases.values(), default=0) < most.peak:
        return None
    return max(most.used or most.phases, key=lambda phase: (most.used or most.phases)[phase])
