"""Agreement of a model's labels with people's: measures, beside chance; as a table and a plot.

In    for each row what people said and what the model said.
Out   `Agreement` lines, the fields no better than chance, README.md and judged.png of preprocessing/judge.py.
Run   through preprocessing/judge.py

Emotions are measured by the area under the ROC curve of each label, the chance that a text that has it gets a higher
value than one that has not (.5 by chance); valence, arousal and dominance by correlation (0 by chance); of pairs of
texts (ETHICS, Scruples) the share in which the better one is given the greater valence (.5 by chance). A field's
figure is the mean over its labels. It is unreliable when the interval of that mean (95 %, 1,000 resamples of the
rows) reaches down to chance.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from preprocessing.metrics import Floats, Statistic, bootstrap_interval, pair_accuracy, pearson
from redheart_hf.labels import EMOTION_FIELDS, VAD

THRESHOLDS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CHANCE = {"auc": 0.5, "pearson": 0.0, "pair_accuracy": 0.5}
FIELDS = {"basic_emotions": EMOTION_FIELDS["basic_emotions"], "vad": VAD}
"""Field -> its labels: those that the prompts fill in and people have labelled somewhere."""


@dataclass(frozen=True)
class Said:
    """Of one row: what people said of a field, what the model said (`worse`: of the pair's other), how sure it is."""

    human: Sequence[float | None]
    model: Sequence[float]
    confidence: float
    worse: Sequence[float] | None = None


@dataclass(frozen=True)
class Agreement:
    """One line of the table."""

    field: str
    label: str
    """`all` for the field as a whole."""
    language: str
    reader: str
    measure: str
    rows: int
    value: float
    interval: tuple[float, float]
    chance: float

    @property
    def better_than_chance(self) -> bool:
        return self.interval[0] > self.chance


def auc(truth: Floats, found: Floats, weights: Floats | None = None) -> Floats:
    """Chance that a row with the label has a higher value than one without; equal values count half. NaN where all
    rows have it, or none."""
    held = truth >= 0.5
    weights = np.ones((1, len(found))) if weights is None else weights
    higher = np.heaviside(found[held][:, None] - found[~held][None, :], 0.5)
    with_label, without = weights[:, held], weights[:, ~held]
    pairs = with_label.sum(axis=1) * without.sum(axis=1)
    undefined = np.full(len(weights), np.nan)
    return np.divide(((with_label @ higher) * without).sum(axis=1), pairs, out=undefined, where=pairs > 0)


def statistics(field: str, rows: Sequence[Said]) -> dict[str, tuple[str, Statistic]]:
    """Label -> measure, and its value over weighted rows; labels that people never, or always, gave have none."""
    if rows[0].worse is not None:
        better, worse = (np.array([float(said[0]) for said in side]) for side in zip(*map(_pair, rows), strict=True))
        return {"valence of pairs": ("pair_accuracy", lambda weights: pair_accuracy(better, worse, weights))}
    truth = np.array([[np.nan if value is None else value for value in row.human] for row in rows], dtype=float)
    found = np.array([row.model for row in rows], dtype=float)
    measures: dict[str, tuple[str, Statistic]] = {}
    for column, label in enumerate(FIELDS[field]):
        known = ~np.isnan(truth[:, column])
        true, given = truth[known, column], found[known, column]
        if field == "vad" and known.any():
            measures[label] = ("pearson", _of(known, partial(pearson, true, given)))
        elif field != "vad" and 0 < (true >= 0.5).sum() < len(true):
            measures[label] = ("auc", _of(known, partial(auc, true, given)))
    return measures


def agreements(field: str, language: str, reader: str, rows: Sequence[Said]) -> Iterator[Agreement]:
    """Each label's, then the field's: the mean of those."""
    measures = statistics(field, rows)
    if not measures:
        return
    every = [statistic for _, statistic in measures.values()]
    measure = next(iter(measures.values()))[0]
    measures["all"] = (measure, lambda weights: np.mean([statistic(weights) for statistic in every], axis=0))
    for label, (name, statistic) in measures.items():
        value = float(statistic(np.ones((1, len(rows))))[0])
        interval = bootstrap_interval(statistic, len(rows))
        yield Agreement(field, label, language, reader, name, len(rows), value, interval, CHANCE[name])


def unreliable(found: Sequence[Agreement]) -> list[str]:
    """Fields that some language's or source's rows show to be no better than chance."""
    return sorted({line.field for line in found if line.label == "all" and not line.better_than_chance})


def table(found: Sequence[Agreement], model: str) -> str:
    """README.md of the folder."""
    lines = [
        f"# How far {model} agrees with people",
        "",
        "`auc`: chance that a text with the label gets the higher value; `pearson`: correlation; `pair_accuracy`: the",
        "better text of a pair is given the greater valence. Made by `python -m preprocessing.judge`.",
        "",
        "| Field | Label | Language | Source | Rows | Measure | Agreement | 95 % interval | Chance | |",
        "|---|---|---|---|---:|---|---:|---|---:|---|",
    ]
    for line in found:
        low, high = line.interval
        mark = "" if line.better_than_chance else "**not better than chance**"
        lines.append(
            f"| {line.field} | {line.label} | {line.language} | {line.reader} | {line.rows:,} | {line.measure} | "
            f"{line.value:.3f} | [{low:.3f}, {high:.3f}] | {line.chance:g} | {mark} |"
        )
    left_out = ", ".join(unreliable(found)) or "none"
    return "\n".join([*lines, "", f"Unreliable: {left_out}. In a job's recipe: `unreliable: [{left_out}]`.", ""])


def draw(said: dict[tuple[str, str, str], list[Said]], found: Sequence[Agreement], path: Path) -> None:
    """Left: each label's agreement and interval above chance. Right: agreement of what a threshold would keep."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2 + 0.28 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for place, line in enumerate(reversed(found)):
        colour = "tab:blue" if line.better_than_chance else "tab:red"
        span = [[line.value - line.interval[0]], [line.interval[1] - line.value]]
        left.errorbar(line.value - line.chance, place, xerr=np.abs(span), fmt="o", color=colour)
    left.axvline(0, color="grey")
    left.set_yticks(
        range(len(found)), [f"{line.reader} {line.language}: {line.label} ({line.field})" for line in reversed(found)]
    )
    left.set(title="agreement above chance, 95 %")
    for (field, language, reader), rows in said.items():
        kept = [[row for row in rows if row.confidence >= threshold] for threshold in THRESHOLDS]
        values = [next((line.value for line in quick(field, part)), np.nan) for part in kept]
        right.plot([len(part) / len(rows) for part in kept], values, "o-", label=f"{reader} {language}: {field}")
    right.set(title="agreement of the surest answers", xlabel="share of rows kept", xlim=(0, 1.02))
    right.legend()
    figure.savefig(path, dpi=120)


def quick(field: str, rows: Sequence[Said]) -> Iterator[Agreement]:
    """The field's agreement without its interval."""
    measures = statistics(field, rows) if len(rows) > 1 else {}
    if measures:
        value = float(np.mean([statistic(np.ones((1, len(rows))))[0] for _, statistic in measures.values()]))
        yield Agreement(field, "all", "", "", "", len(rows), value, (value, value), 0.0)


def _of(known: np.ndarray, statistic: Callable[[Floats], Floats]) -> Statistic:
    return lambda weights: statistic(weights[:, known])


def _pair(said: Said) -> tuple[Sequence[float], Sequence[float]]:
    assert said.worse is not None
    return said.model, said.worse
