"""Draws a sweep: the score of every run over its rate, the loss beside it, and what was chosen.

In    lr_sweep.json as a dictionary.
Out   a PNG file.
Run   through training/lr_sweep.py
"""

from pathlib import Path
from typing import Any

from training.score import TOTAL


def draw_sweep(found: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # 40 MB, which nothing else here needs
    from matplotlib.figure import Figure

    scored = [point for point in found["points"] if point["diverged"] is None]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.plot([point["learning_rate"] for point in scored], [point["scores"][TOTAL] for point in scored], "o")
    axes.set(xlabel="learning rate", ylabel="choosing score", title=f"{found['settings']['steps']} steps a run")
    for point in found["points"]:
        if point["diverged"] is not None:
            axes.axvline(point["learning_rate"], color="red", alpha=0.4, linestyle="--", label="diverged")
    if found["chosen"] is not None:
        axes.axvline(found["chosen"], color="green", linestyle=":", label=f"chosen: {found['chosen']:.3g}")
    losses = axes.twinx()
    for name, mark in (("loss", "x"), ("dev_loss", "+")):
        points = [point for point in scored if point[name] is not None]
        rates = [point["learning_rate"] for point in points]
        losses.plot(rates, [point[name] for point in points], mark, color="grey", label=name.replace("_", " of "))
    losses.set_ylabel("loss: of training over the last fifth (x), of dev (+)")
    handles, labels = axes.get_legend_handles_labels()
    kept = dict(zip(labels, handles, strict=True))
    axes.legend(kept.values(), kept.keys())
    figure.savefig(path, dpi=110)
