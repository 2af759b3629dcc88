"""A checkpoint judged on the dev rows of its run, without training: what the mode train-validate does.

In    latest, a checkpoint's folder, or its name (training/checkpoint_choice.py); --run DIR, one run's folder.
Out   a table of figures on the reporting half of dev, with thresholds chosen on the other; --output JSON.
Run   bash run_learning.sh train-validate --load-checkpoint
      python -m training.judge_checkpoint checkpoint_epoch_0020 --run runs/unified_train --output figures.json

A checkpoint that kept its weights alone, in two bytes a number, is judged as it is. Where the run kept an average of
its weights (ema_decay), that is what is judged, as it was in the run.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
from pathlib import Path

from preprocessing.errors import UserError, run
from training.checkpoint import checkpoints, run_of
from training.checkpoint_choice import RUNS, by_name
from training.evaluate import Evaluation, evaluate_dev
from training.finished_run import open_run
from training.model_parts import ema_in, held_in, put_in, saved_names, weights_in
from training.report import figures_table, write_json


def newest_run(folder: Path) -> Path:
    """Of the runs in `folder`, the one whose newest checkpoint is the latest."""
    found = [run for run in folder.glob("*") if checkpoints(run)]
    if not found:
        raise UserError(f"no run in {folder.absolute()} has a checkpoint yet; --run DIR names one elsewhere")
    return max(found, key=lambda run: checkpoints(run)[-1].stat().st_mtime)


def find(asked: str, run_folder: Path | None) -> Path:
    """The checkpoint that is meant; raises UserError with those there are."""
    if Path(asked).is_dir():
        return Path(asked)
    folder = run_folder or newest_run(Path(RUNS))
    if asked != "latest":
        return by_name(folder, asked)
    if not (there := checkpoints(folder)):
        raise UserError(f"{folder} has no checkpoint yet")
    return there[-1]


def judged(checkpoint: Path) -> Evaluation:
    """Its model on the dev rows of the run that it lies in."""
    opened = open_run(run_of(checkpoint))
    model, wanted = opened.model, weights_in(checkpoint, saved_names(opened.model))
    put_in(model, wanted, held_in(wanted))
    if (averages := ema_in(checkpoint, model)) is not None:
        put_in(model, averages, held_in(averages))
    return evaluate_dev(model, opened.tokenizer, opened.data.dev, opened.config.mixed_precision)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.judge_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", nargs="?", default="latest", help="latest, a folder, or a name")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run's folder (the newest in runs/)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file to write figures and scores to")
    options = parser.parse_args()
    checkpoint = find(options.checkpoint, options.run)
    evaluation = judged(checkpoint)
    print(f"{checkpoint}:")
    print(figures_table(evaluation.figures))
    for half, scores in evaluation.scores.items():
        print(f"score of the {half} half: " + ", ".join(f"{task} {value:.4f}" for task, value in scores.items()))
    if options.output is not None:
        found = {"checkpoint": str(checkpoint), "figures": evaluation.figures, "scores": evaluation.scores}
        write_json(options.output, found)


if __name__ == "__main__":
    run(main)
