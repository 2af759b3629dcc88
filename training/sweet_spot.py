"""Finds, for each module of a model, the checkpoint at which it was best, or says that there is none.

In    RUN_DIR, the folder of a run with its checkpoints; the dev sources of its recipe.
Out   RUN_DIR/sweet_spot_analysis/: sweet_spot_analysis.json, sweet_spot_report.txt, plots/MODULE.png.
Run   python -m training.sweet_spot outputs/main
      python -m training.sweet_spot outputs/main --rows 500 --samples 2000

A module's signal is the score of its own task, of all tasks where it works for all, on the choosing half of dev: its
tensors are taken from each checkpoint in turn and put into the best whole checkpoint, in which all else is held
(training/sweet_spot_measure.py). So the other modules are those that learned beside it until then, and a curve may
peak at that very checkpoint because they fit each other there. A module that no score depends on is judged by how far
it moved instead, and the report says so. When a curve names a checkpoint: training/sweet_spot_curve.py.

An analysis that was killed goes on with the modules it lacks. One whose checkpoints and rows are the same is there
already, and is left as it is.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from preprocessing.errors import UserError, run
from preprocessing.metrics import Floats
from training.model_parts import tasks_of
from training.report import write_json
from training.score import TOTAL
from training.sweet_spot_curve import LEAST_CHECKPOINTS, Finding, judge_movement, judge_scores
from training.sweet_spot_measure import MOVED, Curves, Measurements, interval
from training.sweet_spot_plot import draw_modules
from training.sweet_spot_report import report_of

FOLDER, RESULT, REPORT = "sweet_spot_analysis", "sweet_spot_analysis.json", "sweet_spot_report.txt"
SAMPLES = 1000


def find_sweet_spots(
    measured: Measurements, epochs: list[float], folder: Path, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """The analysis, written into `folder`, or as it stands there. The model is left with the reference's weights, or
    as it was. `epochs`: how many each checkpoint has behind it."""
    done = finished(folder, measured.fingerprint)
    if done is not None:
        say(f"{folder / RESULT} is of these checkpoints and rows already")
        return done
    facts = [fact | {"epoch": epoch} for fact, epoch in zip(measured.facts(), epochs, strict=True)]
    measured.load(measured.reference)
    modules = {}
    for module in tqdm(measured.modules, desc="modules", unit="module", leave=False):
        curves = measured.of_module(module) if len(facts) >= LEAST_CHECKPOINTS else {}
        modules[module] = judged(module, curves, facts, len(measured.modules))
    found = {
        "fingerprint": measured.fingerprint,
        "rows": measured.dev.rows,
        "samples": measured.samples,
        "reference": facts[measured.reference]["checkpoint"],
        "seen": facts,
        "modules": modules,
        "checkpoints": sorted({of["checkpoint"] for of in modules.values() if of["checkpoint"]}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).write_text(report_of(found), encoding="utf-8")
    draw_modules(found, folder / "plots")
    write_json(folder / RESULT, found)
    shutil.rmtree(measured.folder, ignore_errors=True)
    return found


def judged(module: str, curves: Curves, facts: list[dict[str, Any]], modules: int) -> dict[str, Any]:
    """The signal of a module, what it says, and its effect on the total score, which crossover goes by."""
    epochs, steps = [fact["epoch"] for fact in facts], [fact["step"] for fact in facts]
    tasks = [task for task in tasks_of(module) or (TOTAL,) if task in curves]
    own: Floats = np.mean([curves[task] for task in tasks], axis=0) if tasks else np.zeros((len(facts), 1))
    if tasks and np.ptp(own[:, 0]) > 0:
        signal, shown = "score", own[:, 0]
        finding = judge_scores(own[:, 0], own[:, 1:].T, epochs, modules)
    else:
        signal, shown = "movement", curves.get(MOVED, np.full(len(facts), np.nan))
        why = "no score of dev changes with it" if tasks else "dev has no score of its task"
        finding = judge_movement(shown, steps, f"{why}, so that only its movement is known")
    return {
        "signal": signal,
        "tasks": tasks,
        "verdict": finding.verdict,
        "why": finding.why,
        **named(finding, facts),
        "curve": [
            {
                "epoch": epochs[index],
                "value": as_number(shown[index]),
                "interval": interval(own[index, 1:]) if signal == "score" else None,
                "smoothed": finding.smoothed[index] if finding.smoothed else None,
            }
            for index in range(len(facts))
        ],
        "total": curves[TOTAL][:, 0].tolist() if TOTAL in curves else None,
        "movement": [as_number(value) for value in curves[MOVED]] if MOVED in curves else None,
    }


def named(finding: Finding, facts: list[dict[str, Any]]) -> dict[str, Any]:
    if finding.best is None:
        return {"epoch": None, "step": None, "checkpoint": None, "confidence": None}
    fact = facts[finding.best]
    return {name: fact[name] for name in ("epoch", "step", "checkpoint")} | {"confidence": finding.confidence}


def as_number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def finished(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """An analysis that is there, of the same checkpoints and rows."""
    if not (folder / RESULT).is_file():
        return None
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return found if found["fingerprint"] == fingerprint else None
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder / RESULT} is damaged: {error}; remove it to have it made anew") from error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.sweet_spot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of the run, with its checkpoints")
    parser.add_argument("--rows", type=int, metavar="N", help="at most so many rows of dev's choosing half (all)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="resamples of the rows (%(default)s)")
    arguments = parser.parse_args()
    if arguments.samples < 100 or (arguments.rows is not None and arguments.rows < 1):
        raise UserError(
            f"--samples must be at least 100 and --rows 1, got {arguments.samples} and {arguments.rows}: a confidence "
            "is a share of the resamples"
        )
    return arguments


def main() -> None:
    from training.finished_run import open_run  # it brings in all of training, which --help does not need
    from training.run_lock import held_run

    arguments = parse_arguments()
    folder = arguments.run / FOLDER
    with held_run(arguments.run, make=False):
        opened = open_run(arguments.run)
        measured = opened.measurements(arguments.samples, arguments.rows)
        find_sweet_spots(measured, opened.epochs, folder)
    print((folder / REPORT).read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    run(main)
