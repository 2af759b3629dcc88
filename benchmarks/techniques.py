"""What each technique of training is worth: plain, each of them alone, and together, on the same rows of real data.

In    REDHEART_DATA_DIR (GoEmotions, EmoBank, ETHICS); MiniLM, frozen, its features kept.
Out   OUTPUT/VARIANT-SEED.json, one a run, and a table of means and standard deviations over the seeds.
Run   REDHEART_DATA_DIR=/path/to/data python benchmarks/techniques.py --output outputs/techniques
      REDHEART_DATA_DIR=/path/to/data python benchmarks/techniques.py --rows 2000 --epochs 4 --seeds 3 --only plain EMA
      REDHEART_DATA_DIR=/path/to/data python benchmarks/techniques.py --rows all --epochs 2 --seeds 1 \
          --only "smoothing, R-Drop, EMA" --output outputs/techniques_all

Rows are the same for all runs; dev shares no text with them. The encoder is frozen and in evaluation mode; what is
trained, and its dropout, is the recipe's block and small heads. Each epoch ends in an evaluation and a checkpoint;
figures are of the reporting half of dev, after the last step. Crossover takes the checkpoints of a run that is in the
table without it, and chooses by the other half. A run that is there already is not done again, one that was killed
begins anew: so the same command goes on. The last two columns are score and macro-F1 less those of plain with the same
seed; differences within their spread mean nothing. `converged` is the first epoch whose score by the choosing half is
within a hundredth of the run's best.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm.auto import tqdm

from benchmarks.ablation import DATA, RECIPE, SMALL, in_english, prepare
from benchmarks.cached_encoder import CachedEncoder
from preprocessing.encode import encode
from preprocessing.errors import UserError, run
from preprocessing.overlap import hold_out, without_overlaps
from preprocessing.records import Record, by_reader
from training.build import build_accelerator, build_model
from training.checkpoint import checkpoints
from training.collator import Collator
from training.command_line import parse_config
from training.config import TrainConfig
from training.crossover import AVERAGE, RESULT, cross_over
from training.dev_scores import DevScores
from training.evaluate import HALVES, Evaluation, evaluate_dev
from training.finished_run import epochs_at
from training.loop import TrainLoop
from training.report import write_json
from training.standardize import fit_standardization
from training.sweet_spot import FOLDER, SAMPLES, find_sweet_spots
from training.sweet_spot_measure import Measurements, step_in

# reader -> file, its share of the rows to train on, rows of dev, which are held out by group
SOURCES: dict[str, tuple[str, float, int]] = {
    "goemotions": (f"goemotions={DATA}/goemotions/ekman_train.tsv", 0.45, 1500),
    "emobank": (f"emobank={DATA}/emobank/emobank.csv@train", 0.22, 1000),
    "ethics_util": (f"ethics_util={DATA}/ethics/util_train.csv", 0.15, 600),
    "ethics_deontology": (f"ethics_deontology={DATA}/ethics/deontology_train.csv", 0.06, 400),
    "ethics_justice": (f"ethics_justice={DATA}/ethics/justice_train.csv", 0.06, 400),
    "ethics_virtue": (f"ethics_virtue={DATA}/ethics/virtue_train.csv", 0.06, 400),
}
STOPPING = {"early_stopping_patience": 2}
TECHNIQUES: dict[str, dict[str, Any]] = {
    "label smoothing": {"label_smoothing": 0.1},
    "R-Drop": {"rdrop_alpha": 1.0},
    "EMA": {"ema_decay": 0.999},
}
# The recipe's terms have weights that were chosen for them; what weighs by itself begins without.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    **TECHNIQUES,
    "early stopping": STOPPING,
    "equal": {"loss_weights": {}},
    "uncertainty": {"loss_weights": {}, "loss_weighting": "uncertainty"},
    "FAMO": {"loss_weights": {}, "loss_weighting": "famo"},
    "smoothing, R-Drop, EMA": {name: value for of in TECHNIQUES.values() for name, value in of.items()},
}
CROSSED = {"plain": "crossover", "smoothing, R-Drop, EMA": "all, with crossover"}  # what is made of whose checkpoints
COLUMNS = ("score", "macro-F1", "GoEmotions F1", "EmoBank r", "pairs", "converged", "steps", "CPU s", "not finite")
LESS = COLUMNS[:2]


def rows(count: int | None) -> tuple[list[Record], dict[str, list[Record]]]:
    """The same `count` training rows and dev rows on every call, none in both; None: all that are not held out."""
    train: list[Record] = []
    dev: list[Record] = []
    for source, share, dev_count in SOURCES.values():
        records, held = hold_out(in_english(source), dev_count, seed=0)
        dev += held
        wanted = len(records) if count is None else round(share * count)
        if wanted > len(records):
            raise UserError(
                f"--rows {count} would take {wanted} rows of {source}, which has {len(records)} to train on"
            )
        train += records if wanted == len(records) else hold_out(records, wanted, seed=1)[1]
    return train, by_reader(without_overlaps(dev, train)[0])


def config_of(output: Path, variant: str, seed: int, asked: argparse.Namespace, rows: int) -> TrainConfig:
    config = parse_config([str(RECIPE), "--output_dir", str(output / f"{file_name(variant)}-{seed}")])
    config.seed, config.epochs, config.passes, config.holdout, config.dev = seed, asked.epochs, {}, {}, []
    config.learning_rate, config.answer_learning_rate = 5e-4, 2e-3  # as in ablation.py
    config.save_steps = config.eval_steps = -(-rows // config.batch_size)
    config.save_total_limit, config.warmup_steps, config.mixed_precision = asked.epochs, 50, "no"
    config.model |= SMALL | {"text_encoder_mode": "frozen"}
    for name, value in VARIANTS[variant].items():
        setattr(config, name, value)
    return config


def file_name(variant: str) -> str:
    return variant.replace(", ", "+").replace(" ", "_")


def one_run(
    config: TrainConfig, train: list[Record], dev: dict[str, list[Record]], encoder: CachedEncoder, crossed: bool
) -> list[dict[str, Any]]:
    """What every evaluation found, the last one's figures, and the seconds of the processor that the run took; the
    same of the final model that crossover makes of its checkpoints."""
    started = time.process_time()
    shutil.rmtree(config.output_dir, ignore_errors=True)
    tokenizer, model = build_model(config)
    model.model.embeddings.encoder = encoder
    dataset, collator = encode(train, tokenizer, model.config.max_length), Collator(tokenizer)
    fit_standardization(model, dataset, collator, config, progress=False)
    found: list[tuple[int, Evaluation]] = []

    def evaluate() -> Evaluation:
        found.append((loop.step, evaluate_dev(model, tokenizer, dev)))
        return found[-1][1]

    loop = TrainLoop(build_accelerator(config), model, dataset, collator, config, evaluate)
    loop.train()
    results = [as_result(found, loop, started)]
    if crossed:
        halves = [DevScores(model.config, tokenizer, dev, half) for half in HALVES]
        folder, saved = loop.output_dir, checkpoints(loop.output_dir)
        measured = Measurements(model, halves[0], saved, SAMPLES, folder / FOLDER / "measured")
        epochs = [epochs_at(loop.plan, step_in(checkpoint)) for checkpoint in saved]
        cross_over(measured, find_sweet_spots(measured, epochs, folder / FOLDER), halves[1], AVERAGE, folder)
        final = as_result([(loop.step, evaluate_dev(model, tokenizer, dev))], loop, started)
        final["converged"] = results[0]["converged"]
        results.append(final | {"crossover": json.loads((folder / RESULT).read_text())})
    shutil.rmtree(config.output_dir)  # checkpoints of all runs would fill a disk
    return results


def as_result(found: list[tuple[int, Evaluation]], loop: TrainLoop, started: float) -> dict[str, Any]:
    return {
        "scores": [[step, evaluation.scores] for step, evaluation in found],
        "figures": found[-1][1].figures,
        "steps": loop.step,
        "converged": converged(found, loop.config),
        "skipped": loop.skipped_steps,
        "cpu_seconds": time.process_time() - started,
    }


def converged(found: list[tuple[int, Evaluation]], config: TrainConfig) -> float:
    """The first epoch whose score by the choosing half is within a hundredth of the run's best."""
    scores = [(step, evaluation.scores["choosing"]["score"]) for step, evaluation in found]
    best = max(score for _, score in scores)
    return next(step for step, score in scores if score >= 0.99 * best) / (config.eval_steps or 1)


def values(found: dict[str, Any]) -> np.ndarray:
    """One run's numbers in the order of COLUMNS."""
    figures = found["figures"]
    macro = np.mean([figure["macro_f1"] for figure in figures.values() if "macro_f1" in figure])
    correlation = np.mean([figures["emobank"][f"pearson_{axis}"] for axis in "vad"])
    return np.array(
        [
            found["scores"][-1][1]["reporting"]["score"],
            macro,
            figures["goemotions"]["macro_f1"],
            correlation,
            figures["ethics_util"]["pair_accuracy"],
            found["converged"],
            found["steps"],
            found["cpu_seconds"],
            found["skipped"],
        ]
    )


def table(output: Path) -> str:
    """Mean +- standard deviation over the seeds of the runs that are there."""
    runs = {
        variant: {one["seed"]: values(one) for one in found}
        for variant in (*VARIANTS, *CROSSED.values())
        if (found := [json.loads(path.read_text()) for path in sorted(output.glob(f"{file_name(variant)}-*.json"))])
    }
    plain = runs.get("plain", {})
    columns = (*COLUMNS, *(f"{name} less plain" for name in LESS))
    lines = ["| | " + " | ".join(columns) + " | runs |", "|---|" + "---|" * (len(columns) + 1)]
    for variant, by_seed in runs.items():
        less = [(of - plain[seed])[: len(LESS)] for seed, of in by_seed.items() if seed in plain]
        others = said(less, sign="+") if less and variant != "plain" else [""] * len(LESS)
        cells = [variant, *said(list(by_seed.values())), *others, str(len(by_seed))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def said(runs: list[Any], sign: str = "") -> list[str]:
    means, spreads = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1 if len(runs) > 1 else 0)
    of = [0 if mean > 10 else 4 for mean in means]
    return [f"{m:{sign}.{d}f} ± {s:.{d}f}" for m, s, d in zip(means, spreads, of, strict=True)]


def done(result: Path, settings: dict[str, Any]) -> bool:
    """Whether this run is there already; raises UserError for one with other settings, which no table may mix in."""
    if not result.exists():
        return False
    found = json.loads(result.read_text())
    if {name: found[name] for name in settings} != settings:
        raise UserError(f"{result} was made with other settings; give another --output, or remove it")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/techniques"), help="folder of runs (%(default)s)")
    parser.add_argument("--rows", default="4000", help="rows to train on, or all (%(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="passes over them (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants to run")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    if asked.rows != "all" and not asked.rows.isdecimal():
        raise UserError(f"--rows must be a number or all, got {asked.rows!r}")
    train, dev = rows(None if asked.rows == "all" else int(asked.rows))
    config = config_of(asked.output, "plain", 0, asked, len(train))
    tokenizer, _ = build_model(config)
    encoder = prepare(asked.output, tokenizer, config, train + [record for of in dev.values() for record in of])
    for variant, seed in tqdm([(of, seed) for seed in range(asked.seeds) for of in asked.only], desc="runs"):
        config = config_of(asked.output, variant, seed, asked, len(train))
        result = Path(f"{config.output_dir}.json")
        settings = {"seed": seed, "rows": len(train), "config": config.to_dict()}
        if not done(result, settings):
            crossed = CROSSED.get(variant)
            found = one_run(config, train, dev, encoder, crossed is not None)
            for name, of in reversed(list(zip((variant, crossed), found, strict=False))):  # the run's own ends it
                write_json(asked.output / f"{file_name(name)}-{seed}.json", settings | of)
            print(f"{variant}, seed {seed}: {found[-1]['cpu_seconds']:.0f} CPU seconds", flush=True)
    print(f"\n{len(train)} rows, {asked.epochs} epochs, frozen encoder\n{table(asked.output)}")


if __name__ == "__main__":
    run(main)
