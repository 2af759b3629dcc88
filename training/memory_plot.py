"""Draws what a run was planned to take of memory beside what it took: memory.png.

In    memory_report.json as a dictionary (training/memory_report.py), timings.jsonl of the same folder.
Out   FOLDER/memory.png: for each device bars by phase, and the measured peak from one logged step to the next.
Run   through training/train.py; again: `python -m training.memory_plot outputs/main`

It is drawn when the run is over and its tensors are gone: matplotlib takes 40 MB, which are not planned for. In
memory_report.json it is a phase of its own, `draw`; in the plot it cannot be.
"""

import gc
import json
import sys
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preprocessing.errors import UserError, run
from training.held_memory import give_back_resting
from training.memory_report import GIB, REPORT, planned_of
from training.run_log import lines_logged

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_memory(report: dict[str, Any], folder: Path) -> None:
    gc.collect()
    give_back_resting()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    devices = report["measured"]["devices"]
    figure = Figure(figsize=(8 * len(devices), 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(devices), squeeze=False)
    for column, device in enumerate(devices):
        draw_phases(axes[0, column], report, device)
        draw_steps(axes[1, column], report, device, folder)
    figure.savefig(folder / "memory.png", dpi=120)


def draw_phases(axes: "Axes", report: dict[str, Any], device: str) -> None:
    """Side by side what was planned, used and resident, in the order in which phases were first entered."""
    found = report["measured"]["devices"][device]
    resident = found["phases"] | {"peak": found["peak"]}
    bars = {"planned": planned_of(report["planned"], device), "used": found["used"], "resident": resident}
    bars = {label: sizes for label, sizes in bars.items() if sizes}
    width = 0.8 / len(bars)
    for number, (label, sizes) in enumerate(bars.items()):
        places = {place + number * width: name for place, name in enumerate(resident) if name in sizes}
        axes.bar(list(places), [sizes[name] / GIB for name in places.values()], width, label=label)
    axes.set_xticks([place + (len(bars) - 1) * width / 2 for place in range(len(resident))], list(resident))
    axes.set(title=f"{device}: the most in each phase", ylabel="GiB")
    draw_limit(axes, report, device)
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper left", ncols=4)


def draw_steps(axes: "Axes", report: dict[str, Any], device: str, folder: Path) -> None:
    """Of a step that was taken twice, the greater."""
    lines = [(line["step"], line.get("memory", {}).get(device)) for line in lines_logged(folder)]
    for label in ("resident", "used"):
        steps: dict[int, int] = {}
        for step, most in filter(itemgetter(1), lines):
            size = most["peak"] if label == "resident" else max(most["used"].values(), default=0)
            steps[step] = max(steps.get(step, 0), size)
        if any(steps.values()):
            heights = [steps[step] / GIB for step in sorted(steps)]
            axes.plot(sorted(steps), heights, marker=".", label=f"{label}, since the line before")
    if planned := planned_of(report["planned"], device).get("peak"):
        axes.axhline(planned / GIB, linestyle="--", color="grey", label="planned peak")
    axes.set(title=f"{device}: the most from line to line of timings.jsonl", xlabel="step", ylabel="GiB")
    draw_limit(axes, report, device)
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper left", ncols=4)


def draw_limit(axes: "Axes", report: dict[str, Any], device: str) -> None:
    """Where it is less than twice what was taken: beside a far higher one nothing else could be read."""
    limit, peak = report["limits"].get(device), report["measured"]["devices"][device]["peak"]
    if limit is not None:
        if limit["size"] < 2 * peak:
            axes.axhline(limit["size"] / GIB, linestyle=":", color="red", label="limit")
        else:
            axes.set_title(f"{axes.get_title()}; limit {limit['size'] / GIB:.1f} GiB")


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("give one folder, that of a run: python -m training.memory_plot outputs/main")
    folder = Path(sys.argv[1])
    if not (folder / REPORT).is_file():
        raise UserError(f"{folder} has no {REPORT}: it is not the folder of a run")
    draw_memory(json.loads((folder / REPORT).read_text(encoding="utf-8")), folder)


if __name__ == "__main__":
    run(main)
