"""Draws the curve of each module over the checkpoints of a run.

In    sweet_spot_analysis.json as a dictionary.
Out   FOLDER/MODULE.png: measured values with their intervals, the smoothed curve, the checkpoint that is named.
Run   through training/sweet_spot.py
"""

from pathlib import Path
from typing import Any


def draw_modules(found: dict[str, Any], folder: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # 40 MB, which nothing else here needs
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    for module, of in found["modules"].items():
        points = [point for point in of["curve"] if point["value"] is not None]
        if not points:
            continue
        epochs = [point["epoch"] for point in points]
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(epochs, [point["value"] for point in points], "o", label="measured")
        if of["signal"] == "score":
            low, high = zip(*(point["interval"] for point in points), strict=True)
            axes.fill_between(epochs, low, high, alpha=0.2, label="95 % over rows")
        if points[0]["smoothed"] is not None:
            axes.plot(epochs, [point["smoothed"] for point in points], label="smoothed")
        if of["epoch"] is not None:
            axes.axvline(of["epoch"], linestyle=":", color="red", label=of["verdict"])
        what = "score of " + ", ".join(of["tasks"]) if of["signal"] == "score" else "relative movement"
        axes.set(title=f"{module}: {of['verdict']}", xlabel="epoch", ylabel=what)
        axes.legend()
        figure.savefig(folder / f"{module}.png", dpi=100)
