"""Puts a final model together from the checkpoints of a run, and says what that was worth.

In    RUN_DIR, the folder of a run with its checkpoints; the dev sources of its recipe; sweet_spot_analysis/.
Out   RUN_DIR/final/, its parents in the model card; RUN_DIR/crossover.json and a table.
Run   python -m training.crossover outputs/main
      python -m training.crossover outputs/main --average 3 --rows 500

Candidates are the best single checkpoint, the last one, the averages that the run kept of its weights (EMA), the
mean of the last few, and the mixture: the best single checkpoint into which modules of other checkpoints are put as
long as the score rises (training/crossover_mixture.py). The one with the best score on the choosing half of dev wins,
of equal ones the simpler. So the winner is never worse there than the best single checkpoint; what the choice is worth
says the reporting half, on which all candidates are compared with the best single one, on the same resamples.

Weights are read tensor by tensor into one model. Nothing is drawn by chance and nothing but checkpoints and rows
counts: what was killed is done again, to the same bits.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.errors import UserError, run
from training.crossover_mixture import Mixture, mix
from training.dev_scores import DevScores
from training.model_parts import ema_in, held_in, put_in, put_mean
from training.report import write_json
from training.score import TOTAL, total_of
from training.sweet_spot import FOLDER, SAMPLES, find_sweet_spots
from training.sweet_spot_measure import Measurements, interval

RESULT = "crossover.json"
AVERAGE = 5
BEST, LAST, EMA, MEAN, MIXTURE = "best single", "last", "EMA", "mean", "mixture"


@dataclass
class Candidate:
    """`load` puts it into the model."""

    name: str
    parents: list[str]
    load: Callable[[], None]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    difference: dict[str, Any] | None = None
    """On the reporting half, to the best single checkpoint: value and interval."""


def cross_over(
    measured: Measurements, spots: dict[str, Any], reporting: DevScores, average: int, output_dir: Path
) -> Candidate:
    """The winner, which the model holds afterwards; all candidates are in OUTPUT_DIR/crossover.json."""
    mixture = mix(measured, spots)
    found = candidates(measured, mixture, average)
    of_best = None
    for candidate in found:
        candidate.load()
        chosen, thresholds = measured.judge(measured.dev)
        candidate.scores["choosing"] = chosen.values
        told, _ = measured.judge(reporting, measured.samples, thresholds)
        if TOTAL in told.values:
            of_best = told if of_best is None else of_best
            candidate.scores["reporting"] = told.values
            less = told.samples[TOTAL] - of_best.samples[TOTAL]
            value = told.values[TOTAL] - of_best.values[TOTAL]
            candidate.difference = {"value": value, "interval": interval(less)}
    winner = max(found, key=lambda candidate: total_of(candidate.scores["choosing"]))  # of equal ones the first
    write_json(output_dir / RESULT, as_dict(found, winner, mixture, measured, reporting))
    winner.load()
    return winner


def candidates(measured: Measurements, mixture: Mixture, average: int) -> list[Candidate]:
    """The simplest first."""
    thin = set(rounded(measured))
    names = [
        checkpoint.name + (" (kept in bfloat16)" if checkpoint.name in thin else "")
        for checkpoint in measured.checkpoints
    ]
    best, last = measured.reference, len(names) - 1
    found = [Candidate(BEST, [names[best]], lambda: measured.load(best))]
    if last != best:
        found.append(Candidate(LAST, [names[last]], lambda: measured.load(last)))
    for index in range(len(names)):  # complete checkpoints have them: the newest, and the best by the averages
        if ema_in(measured.checkpoints[index], measured.model) is not None:
            name = f"{EMA} of {names[index]}"
            found.append(Candidate(name, [names[index]], partial(load_ema, measured, index)))
    if last and average > 1:
        weights = measured.weights[-average:]
        title = f"{MEAN} of the last {len(weights)}"
        found.append(Candidate(title, names[-average:], lambda: put_mean(measured.model, weights)))
    if mixture.modules:
        parents = [f"{names[best]} but for:"]
        parents += [f"{module} of {names[index]}" for module, index in mixture.modules.items()]
        found.append(Candidate(MIXTURE, parents, lambda: mixture.load(measured)))
    return found


def rounded(measured: Measurements) -> list[str]:
    """Names of the checkpoints whose weights were thinned to bfloat16 after they were written."""
    if measured.weights[-1].precision() == "bfloat16":  # so is the model
        return []
    pairs = zip(measured.checkpoints, measured.weights, strict=True)
    return [checkpoint.name for checkpoint, weights in pairs if weights.precision() == "bfloat16"]


def load_ema(measured: Measurements, index: int) -> None:
    """The averaged weights over the checkpoint's own: buffers and what never learns have no average."""
    measured.load(index)
    weights = ema_in(measured.checkpoints[index], measured.model)
    assert weights is not None
    put_in(measured.model, weights, held_in(weights))


def as_dict(
    found: list[Candidate], winner: Candidate, mixture: Mixture, measured: Measurements, reporting: DevScores
) -> dict[str, Any]:
    return {
        "fingerprint": measured.fingerprint,
        "rows": {"choosing": measured.dev.rows, "reporting": reporting.rows},
        "samples": measured.samples,
        "winner": winner.name,
        "parents": winner.parents,
        "rounded": rounded(measured),
        "candidates": [
            {"name": one.name, "parents": one.parents, "scores": one.scores, "difference": one.difference}
            for one in found
        ],
        "tried": mixture.tried,
    }


def table_of(result: dict[str, Any]) -> str:
    """A line a candidate: its score on both halves, and its distance to the best single one."""
    wide = max(len(one["name"]) for one in result["candidates"])
    lines = [f"{'candidate':<{wide}} {'choosing':>9} {'reporting':>9} {'difference':>10}  95 % interval"]
    for one in result["candidates"]:
        told = one["scores"].get("reporting", {}).get(TOTAL, np.nan)
        line = f"{one['name']:<{wide}} {one['scores']['choosing'][TOTAL]:>9.4f} {told:>9.4f}"
        if one["difference"] is not None:
            low, high = one["difference"]["interval"]
            line += f" {one['difference']['value']:>+10.4f}  [{low:+.4f}, {high:+.4f}]"
        lines.append(line + ("  <- final" if one["name"] == result["winner"] else ""))
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.crossover", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of the run, with its checkpoints")
    parser.add_argument(
        "--average", type=int, default=AVERAGE, metavar="K", help="the mean is of so many (%(default)s)"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="at most so many rows of dev's choosing half (all)")
    arguments = parser.parse_args()
    if arguments.average < 1 or (arguments.rows is not None and arguments.rows < 1):
        raise UserError(f"--average and --rows must be at least 1, got {arguments.average} and {arguments.rows}")
    return arguments


def main() -> None:
    from training.crossover_final import write_crossed
    from training.finished_run import open_run
    from training.run_lock import held_run

    arguments = parse_arguments()
    with held_run(arguments.run, make=False):
        opened = open_run(arguments.run)
        measured = opened.measurements(SAMPLES, arguments.rows)
        spots = find_sweet_spots(measured, opened.epochs, arguments.run / FOLDER)
        winner = cross_over(measured, spots, opened.dev("reporting"), arguments.average, arguments.run)
        write_crossed(opened, winner.parents)


if __name__ == "__main__":
    run(main)
