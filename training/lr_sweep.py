"""Chooses a learning rate by short runs: each from the same weights, on the same batches, scored on dev.

In    a recipe and fields to set differently; points, range, steps and seeds of the sweep.
Out   OUTPUT_DIR/lr_sweep_results/: lr_sweep.json (every run, the choice and why), lr_sweep_plot.png.
Run   python -m training.lr_sweep training/recipes/main.yaml --points 5 --low 1e-5 --high 1e-2 --refine
      python training/train.py training/recipes/main.yaml --lr_sweep '{refine: true}'   (sweep, then train)

A range test, which raises the rate while it looks at the loss, says when training breaks, not where it learns best.
Here each rate is a run of its own through TrainLoop, with the run's own optimizer and its schedule compressed: warm-up
in proportion, the cosine at its end after the last step. It is judged by the choosing score of dev
(training/score.py); the loss stands beside it. A run whose loss is not finite, or stays above four times its start for
ten steps, is ended, and its rate is out.

answer_learning_rate, text_encoder_learning_rate and min_learning_rate are multiplied along: their proportions are the
recipe's. With `refine` two more rates are tried between the best and each of its neighbours.

A short run tells what is best for a short run: longer ones mostly want a lower rate, so that a choice near an edge of
a flat top errs upwards. More steps cost more and err less.

Every run is written down when it is done. A sweep that was killed goes on with the runs it lacks; one of other
settings or data is done anew, and says so.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend, 3 more memory than there is.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
from pathlib import Path

from accelerate import Accelerator

from preprocessing.errors import run
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from training.build import build_accelerator, read_architecture
from training.collator import Collator
from training.command_line import parse_config
from training.config import TrainConfig
from training.crossover_final import refuse_in_pieces
from training.data import RunData, prepare_data
from training.dev_scores import DevScores
from training.fresh_model import fresh_model
from training.lr_sweep_runs import FOLDER, RESULT, Sweep
from training.lr_sweep_settings import RATES, sweep_settings, with_rate
from training.memory_run import hold, plan_run, refuse_at_once, refuse_without_gpu
from training.run_lock import held_run
from training.weights import batches_of, steps_of


def with_swept_rate(
    config: TrainConfig,
    model_config: RedHeartConfig,
    data: RunData,
    collator: Collator,
    accelerator: Accelerator,
) -> TrainConfig:
    """The config with the rates that its sweep chooses; as it is without `lr_sweep`."""
    if config.lr_sweep is None:
        return config
    settings = sweep_settings(config.lr_sweep)

    def make_model(short: TrainConfig) -> RedHeartForMultiTask:
        return fresh_model(short, (collator.tokenizer, model_config), data, collator, accelerator)

    total_steps = steps_of(config, batches_of(data.train, config, num_processes=accelerator.num_processes))
    rows, precision = settings.rows, config.mixed_precision
    dev = DevScores(model_config, collator.tokenizer, data.dev, "choosing", rows, precision)
    sweep = Sweep(config, settings, accelerator, data.train, collator, dev, make_model, total_steps)
    chosen = sweep.run()
    accelerator.print(f"learning_rate {chosen.rate:g}: {chosen.why}")
    return with_rate(config, chosen.rate)


def began_with(config: TrainConfig, checkpoint: Path) -> TrainConfig:
    """The config with the rates of the checkpoint, where they are what this recipe's sweep may have made of its own:
    others are another run's, and stay different."""
    if config.lr_sweep is None or not (checkpoint / "state.json").is_file():
        return config
    saved = json.loads((checkpoint / "state.json").read_text(encoding="utf-8")).get("train_config", {})
    if saved.get("lr_sweep") != config.lr_sweep:
        return config
    swept, rates = with_rate(config, saved["learning_rate"]), {name: saved[name] for name in RATES}
    alike = all(
        mine == theirs or (None not in (mine, theirs) and math.isclose(mine, theirs, rel_tol=1e-9))
        for mine, theirs in ((getattr(swept, name), rates[name]) for name in RATES)
    )
    return dataclasses.replace(config, **rates) if alike else config


def parse_arguments(arguments: list[str]) -> TrainConfig:
    """The recipe's config, its `lr_sweep` changed by what the command line says of the sweep."""
    parser = argparse.ArgumentParser(
        prog="python -m training.lr_sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="All other fields are those of training/train.py.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file with fields of training/train.py")
    parser.add_argument("--points", type=int, help="rates, log-spaced (5)")
    parser.add_argument("--low", type=float, help="the lowest rate (1e-5)")
    parser.add_argument("--high", type=float, help="the highest rate (1e-2)")
    parser.add_argument("--seeds", type=int, help="runs a rate, whose mean counts (1)")
    parser.add_argument("--steps", type=int, help="steps of a run (a tenth of the whole run's, 20 to 200)")
    parser.add_argument("--rows", type=int, help="at most so many rows of dev's choosing half (all)")
    parser.add_argument("--refine", action="store_true", default=None, help="more rates around the best one")
    known, fields = parser.parse_known_args(arguments)
    config = parse_config([known.recipe, *fields])
    said = {name: value for name, value in vars(known).items() if name != "recipe" and value is not None}
    return dataclasses.replace(config, lr_sweep=(config.lr_sweep or {}) | said)


def main() -> None:
    config = parse_arguments(sys.argv[1:])
    with held_run(Path(config.output_dir), os.environ.get("RANK", "0") == "0"):
        sweep(config)


def sweep(config: TrainConfig) -> None:
    accelerator = build_accelerator(config)
    refuse_without_gpu(config, accelerator)
    refuse_in_pieces(config, accelerator)
    hold(config, accelerator)
    tokenizer, model_config = read_architecture(config)
    config.refuse_idle_settings(model_config)
    refuse_at_once(config, model_config, accelerator)
    with accelerator.main_process_first():
        data = prepare_data(config, model_config, tokenizer, write=accelerator.is_main_process)
    collator = Collator(tokenizer)
    config, _, _ = plan_run(config, model_config, data, collator, accelerator)
    with_swept_rate(config, model_config, data, collator, accelerator)
    accelerator.print(f"{config.output_dir}/{FOLDER}/{RESULT} written")
    accelerator.end_training()


if __name__ == "__main__":
    run(main)
