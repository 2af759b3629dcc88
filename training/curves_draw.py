"""The pictures of a run's curves, each of one subject, from the lines that the run has written.

In    lines of metrics.jsonl and timings.jsonl by step, memory_report.json or None; a folder.
Out   losses.png, figures.png, learning_rate.png, gradient_norms.png, ...; none of what nothing is known of.
Run   through training/curves.py
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.curves_text import drawable
from training.memory_report import GIB, planned_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Lines = Sequence[Mapping[str, Any]]
Points = dict[str, list[tuple[int, float]]]


def draw_all(metrics: Lines, timings: Lines, report: Mapping[str, Any] | None, output: Path) -> list[Path]:
    """Pictures of earlier drawings that there would be none of now are removed."""
    subjects = {
        "losses": lines_of(points(metrics, "loss"), "loss by term", "mean since the line before", log=True),
        "score": lines_of(scores(metrics), "score on dev: the half that chooses, and the half that is told", "score"),
        "figures": intervals_of(figures(metrics)),
        "learning_rate": lines_of(single(metrics, "learning_rate"), "learning rate", "rate"),
        "loss_weights": lines_of(points(metrics, "weights"), "weights of the terms", "factor"),
        "gradient_norms": lines_of(
            single(metrics, "gradient_norm") | points(metrics, "gradient_norms"),
            "length of the gradient, before clipping",
            "norm",
            log=True,
        ),
        "stages": stacked(stages(timings)),
        "memory": lines_of(memory(timings), "memory: the most since the line before", "GiB", levels=planned(report)),
        "queue": lines_of(points(timings, "queue"), "queue: seconds waited, batches ready, batches prepared", "value"),
        "regret": lines_of(points(timings, "regret"), "alternatives since the line before", "count"),
    }
    written = []
    for name, draw in subjects.items():
        path = output / f"{name}.png"
        path.unlink(missing_ok=True)
        if draw is not None:
            save(draw, path)
            written.append(path)
    return written


def save(draw: Any, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw(axes)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize="small", ncols=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def points(lines: Lines, key: str) -> Points:
    """Curves of what stands under `key`, a number by name."""
    found: Points = {}
    for line in lines:
        for name, value in (line.get(key) or {}).items():
            if number(value):
                found.setdefault(name, []).append((line["step"], value))
    return found


def single(lines: Lines, key: str) -> Points:
    found = [(line["step"], line[key]) for line in lines if number(line.get(key))]
    return {key: found} if found else {}


def scores(lines: Lines) -> Points:
    """The score of each half of dev."""
    found: Points = {}
    for line in lines:
        for half, values in (line.get("score") or {}).items():
            if isinstance(values, Mapping) and number(values.get("score")):
                found.setdefault(half, []).append((line["step"], values["score"]))
    return found


def figures(lines: Lines) -> dict[str, list[tuple[int, float, float, float]]]:
    """reader figure -> (step, value, low, high), of figures with an interval."""
    found: dict[str, list[tuple[int, float, float, float]]] = {}
    for line in lines:
        for reader, values in (line.get("eval") or {}).items():
            for name, value in values.items() if isinstance(values, Mapping) else ():
                low, high = values.get(f"{name}_interval") or (None, None)
                if isinstance(low, float) and isinstance(high, float) and number(value):
                    found.setdefault(f"{reader} {name}", []).append((line["step"], value, low, high))
    return found


def stages(lines: Lines) -> Points:
    """Seconds a step by stage, of the steps since the line before; a stage that did not come took none."""
    known = [line for line in lines if line.get("stages")]
    names = sorted({name for line in known for name in line["stages"]})
    before, found = 0, Points()
    for line in known:
        steps = max(1, line["step"] - before)
        for name in names:
            found.setdefault(name, []).append((line["step"], line["stages"].get(name, 0.0) / steps))
        before = line["step"]
    return found


def memory(lines: Lines) -> Points:
    found: Points = {}
    for line in lines:
        for device, most in (line.get("memory") or {}).items():
            found.setdefault(f"{device}: resident", []).append((line["step"], most["peak"] / GIB))
            if used := max((most.get("used") or {}).values(), default=0):
                found.setdefault(f"{device}: used", []).append((line["step"], used / GIB))
    return found


def planned(report: Mapping[str, Any] | None) -> dict[str, float]:
    """Levels to draw beside: each device's planned peak."""
    if report is None:
        return {}
    peaks = {device: planned_of(report["planned"], device).get("peak") for device in report["measured"]["devices"]}
    return {f"{device}: planned": peak / GIB for device, peak in peaks.items() if peak}


def lines_of(
    found: Points, title: str, said: str, log: bool = False, levels: Mapping[str, float] | None = None
) -> Any:
    if not found:
        return None

    def draw(axes: "Axes") -> None:
        for name, curve in found.items():
            axes.plot(*zip(*curve, strict=True), marker=".", label=drawable(name), color=colour(name, found))
        for name, level in (levels or {}).items():
            axes.axhline(level, linestyle="--", color="grey", label=drawable(name))
        if log and all(value > 0 for curve in found.values() for _, value in curve):
            axes.set_yscale("log")
        axes.set(title=title, ylabel=said)

    return draw


def intervals_of(found: Mapping[str, Sequence[tuple[int, float, float, float]]]) -> Any:
    if not found:
        return None

    def draw(axes: "Axes") -> None:
        for name, curve in found.items():
            steps, values, low, high = zip(*curve, strict=True)
            axes.plot(steps, values, marker=".", label=drawable(name), color=colour(name, found))
            axes.fill_between(steps, low, high, alpha=0.15, color=colour(name, found))
        axes.set(title="figures on dev, with 95 % intervals", ylabel="value")

    return draw


def stacked(found: Points) -> Any:
    if not found:
        return None

    def draw(axes: "Axes") -> None:
        steps = [step for step, _ in next(iter(found.values()))]
        heights = [[value for _, value in curve] for curve in found.values()]
        colours = [colour(name, found) for name in found]
        if len(steps) == 1:  # an area needs two
            bottom = 0.0
            for name, (height,), shade in zip(found, heights, colours, strict=True):
                axes.bar(steps, height, bottom=bottom, label=drawable(name), color=shade)
                bottom += height
        else:
            axes.stackplot(steps, heights, labels=[drawable(name) for name in found], colors=colours)
        axes.set(title="time of a step by stage", ylabel="seconds a step")

    return draw


def colour(name: str, names: Iterable[str]) -> Any:
    """As many as there are curves: the ten of matplotlib would come again."""
    from matplotlib import colormaps

    listed = list(names)
    return colormaps["turbo"]((listed.index(name) + 0.5) / len(listed))
