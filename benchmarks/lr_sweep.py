"""How near a refined sweep of five rates comes to the best of a grid of thirteen.

In    REDHEART_DATA_DIR (GoEmotions, ETHICS); MiniLM, frozen, its features kept.
Out   OUTPUT/TASK/lr_sweep_results/lr_sweep.json, a table of all rates, the factor between the two choices.
Run   REDHEART_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/lr_sweep.py --output outputs/lr_sweep

The grid goes from 1e-5 to 1e-2 in steps of a factor 1.78. The five rates, and those that refine them, are taken from
it (they differ in the third digit), so that both are chosen from the same runs: what is asked is whether nine runs at
most find what thirteen do. The grid's best is that of its mean score over the seeds; the last line says how far below
it the sweep's choice scores. A run that is there is not done again.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from accelerate.utils import set_seed
from transformers import AutoConfig, AutoModel

from benchmarks.cached_encoder import CachedEncoder
from benchmarks.sweet_spot import ENCODER, SIZES
from preprocessing.encode import encode
from preprocessing.errors import run
from preprocessing.overlap import hold_out
from preprocessing.readers import parse_source, read
from preprocessing.records import by_reader
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from training.build import build_accelerator
from training.collator import Collator
from training.config import TrainConfig
from training.dev_scores import DevScores
from training.loading import load_tokenizer
from training.lr_sweep_choice import best_of, choose, finer
from training.lr_sweep_runs import Sweep
from training.lr_sweep_settings import SweepSettings
from training.standardize import fit_standardization

DATA = "${REDHEART_DATA_DIR}"
TASKS: dict[str, dict[str, tuple[int, int]]] = {  # source -> rows to train on, rows of dev
    "goemotions": {f"goemotions={DATA}/goemotions/ekman_train.tsv": (1600, 2000)},
    "ethics": {
        f"ethics_util={DATA}/ethics/util_train.csv": (800, 1000),
        f"ethics_deontology={DATA}/ethics/deontology_train.csv": (400, 600),
    },
}
GRID = SweepSettings(points=13)
WHOLE_RUN, LENGTH = 500, 48


def sweep_of(task: str, output: Path, steps: int, seeds: int) -> Sweep:
    """The runs of one task, on its subset; the frozen encoder is looked up."""
    tokenizer = load_tokenizer(ENCODER)
    train, dev = [], []
    for source, (rows, held) in TASKS[task].items():
        rest, kept = hold_out(read(parse_source(source)).records, held, seed=0)
        train, dev = train + hold_out(rest, rows, seed=1)[1], dev + kept
    dataset, collator = encode(train, tokenizer, LENGTH), Collator(tokenizer)
    whole = encode(train + dev, tokenizer, LENGTH)
    encoder = CachedEncoder(
        AutoModel.from_pretrained(ENCODER, dtype=torch.float32).eval(), output / f"{task}.safetensors"
    )
    encoder.add([ids for sequences in whole["sequences"] for ids in sequences])
    shell = AutoConfig.from_pretrained(ENCODER)
    shell.num_hidden_layers, shell.vocab_size = 1, 1  # its place is taken by the features
    sizes = RedHeartConfig(**SIZES | {"max_length": LENGTH}, text_encoder_config=shell)

    def make_model(config: TrainConfig) -> RedHeartForMultiTask:
        set_seed(config.seed)
        model = RedHeartForMultiTask(sizes)
        model.model.embeddings.encoder = encoder
        fit_standardization(model, dataset, collator, config, progress=False)
        return model

    config = TrainConfig(
        **{"output_dir": str(output / task), "train": [f"{task}=given"], "max_steps": WHOLE_RUN, "batch_size": 32},
        **{"learning_rate": 1e-4, "answer_learning_rate": 1e-3, "warmup_steps": 50, "loss_weighting": "equal"},
    )
    rows = DevScores(sizes, tokenizer, by_reader(dev), "choosing")
    settings = SweepSettings(points=13, steps=steps, seeds=seeds)
    return Sweep(config, settings, build_accelerator(config), dataset, collator, rows, make_model, WHOLE_RUN)


def compared(sweep: Sweep) -> dict[str, Any]:
    """The grid's best and the refined sweep's choice, from the same runs."""
    rates = GRID.rates()
    coarse = sweep.tried(rates[::3])
    between = [min(rates, key=lambda rate, wanted=wanted: abs(math.log(rate / wanted))) for wanted in finer(coarse)]
    refined = coarse | sweep.tried(between)
    chosen = choose(refined, coarse)
    grid = sweep.tried(rates)
    sweep.write(chosen)
    best = best_of(grid)
    factor = max(best, chosen.rate) / min(best, chosen.rate)
    less = (grid[best] or math.nan) - (refined[chosen.rate] or math.nan)
    found = {"grid": grid, "best": best, "chosen": chosen.rate, "why": chosen.why, "runs": len(refined)}
    return found | {"factor": factor, "less": less}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/lr_sweep"), help="folder (%(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="steps of a run (%(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each rate (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="tasks")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for task in arguments.only:
        found = compared(sweep_of(task, arguments.output, arguments.steps, arguments.seeds))
        print(f"\n{task}: {arguments.steps} steps, mean over {arguments.seeds} seeds")
        for rate, score in found["grid"].items():
            marks = [name for name in ("best", "chosen") if found[name] == rate]
            print(f"  {rate:<11.3g} {'diverged' if score is None else f'{score:.4f}'}  {', '.join(marks)}")
        print(f"  {found['runs']} rates instead of {len(found['grid'])}: {found['why']}")
        print(f"  factor {found['factor']:.2f}, score {found['less']:.4f} below the grid's best", flush=True)


if __name__ == "__main__":
    run(main)
