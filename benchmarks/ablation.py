"""What each part of the model is good for: the whole, and the whole without it, on the same rows of real data.

In    REDHEART_DATA_DIR (GoEmotions, EmoBank, ETHICS) and the shipped scenarios; MiniLM, frozen, its features kept.
Out   OUTPUT/VARIANT-SEED.json, one a run, and a table of means and standard deviations over the seeds.
Run   REDHEART_DATA_DIR=/path/to/data python benchmarks/ablation.py --output outputs/ablation
      REDHEART_DATA_DIR=/path/to/data python benchmarks/ablation.py --only whole bare --seeds 1
      REDHEART_DATA_DIR=/path/to/data python benchmarks/ablation.py --card outputs/real_text/final

4,000 English rows, the same for all; figures on dev rows that share no text with them. The backbone is the recipe's,
heads and modules are small, so that the table costs about an hour of one core; the last line says what it did cost. A
run that is there already is not done again, one that was killed begins anew. The second table takes from each run the
whole with the same seed. Differences within the spread mean nothing. --card puts both into a trained model's card.
"""

import argparse
import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, PreTrainedTokenizerBase

from benchmarks.cached_encoder import CachedEncoder
from preprocessing.encode import encode
from preprocessing.errors import UserError, run
from preprocessing.overlap import hold_out, without_overlaps
from preprocessing.readers import parse_source, read
from preprocessing.records import Record, by_reader
from redheart_hf.labels import MODULES, TASKS
from training import surd_targets
from training.build import build_accelerator, build_model, resolve_folder
from training.collator import Collator
from training.command_line import parse_config
from training.config import TrainConfig
from training.evaluate import evaluate_dev
from training.loading import read_config
from training.loop import TrainLoop
from training.report import store_in_config, write_json
from training.standardize import fit_standardization
from training.surd_score import surd_errors

ROOT = Path(__file__).resolve().parents[1]
surd_targets.LEAST = 1500  # a run here sees about 4,000 verdicts; chance, as it finds 128 cells, is logged beside
RECIPE = ROOT / "training" / "recipes" / "real_text.yaml"
DATA = "${REDHEART_DATA_DIR}"
CARD = """\
## Ablation

What each part is good for, of runs of this architecture with small heads (not of this model's own training), with

    {command}

{said}
"""
# reader -> file, rows to train on, rows of dev; of files without a dev split, rows are held out by group.
SOURCES: dict[str, tuple[str, int, int]] = {
    "goemotions": (f"goemotions={DATA}/goemotions/ekman_train.tsv", 1727, 1000),
    "emobank": (f"emobank={DATA}/emobank/emobank.csv@train", 900, 700),
    "ethics_util": (f"ethics_util={DATA}/ethics/util_train.csv", 600, 400),
    "ethics_deontology": (f"ethics_deontology={DATA}/ethics/deontology_train.csv", 220, 300),
    "ethics_justice": (f"ethics_justice={DATA}/ethics/justice_train.csv", 215, 300),
    "ethics_virtue": (f"ethics_virtue={DATA}/ethics/virtue_train.csv", 200, 0),
    "scenarios": (f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}", 100, 33),
}
JUDGED = ("ethics_util", "ethics_deontology", "ethics_justice", "scenarios")  # readers whose rows have an outcome
SCENARIOS_DEV = f"scenarios={ROOT / 'data' / 'scenarios' / 'dev.jsonl'}"
SMALL: dict[str, Any] = {
    "task_projection_size": 128,
    "task_specialization_size": 96,
    "task_attention_size": 96,
    "emotion_trunk_sizes": [128],
    "moe_intermediate_size": 64,
    "emotion_level_size": 96,
    "emotion_culture_size": 64,
    "emotion_attention_size": 64,
    "ethics_trunk_sizes": [128],
    "ethics_expert_sizes": [64],
    "regret_trunk_sizes": [128],
    "regret_view_sizes": [64],
    "surd_trunk_sizes": [128],
    "surd_term_sizes": [64],
    "analyzer_size": 96,
    "num_analyzer_heads": 4,
    **{f"num_{task}_analyzer_layers": 1 for task in TASKS},
    **{f"{task}_analyzer_intermediate_size": 192 for task in TASKS},
    "num_filters": 48,
    "filter_mixer_size": 96,
    "memory_slots": 256,
}
# The affect filter hears dialogues alone, of which there are none here. What the SURD head says is its own affair: its
# error (thousandths of the surprise) stands beside that of looking its terms up by the predicted state; below it, the
# head knows more than the state.
WHOLE = [name for name in MODULES if name != "affect_filter"]
LEFT_OUT = [name for name in WHOLE if name != "surd_head"]
VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {"modules": WHOLE},
    **{f"without {name}": {"modules": [other for other in WHOLE if other != name]} for name in LEFT_OUT},
    "dense mixture": {"modules": WHOLE, "num_experts_per_tok": 8},
    "sigmoid router": {"modules": WHOLE, "router_scores": "sigmoid"},
    "bare": {"modules": []},
}
FIGURES = {
    "GoEmotions F1": ("goemotions", "macro_f1"),
    "EmoBank r(V)": ("emobank", "pearson_v"),
    "r(A)": ("emobank", "pearson_a"),
    "r(D)": ("emobank", "pearson_d"),
    "pairs": ("ethics_util", "pair_accuracy"),
    "deontology": ("ethics_deontology", "accuracy"),
    "justice": ("ethics_justice", "accuracy"),
    "utility r": ("scenarios", "pearson_utility"),
    "regret r": ("scenarios", "pearson_regret"),
    "SURD error": ("surd", "head_rmse"),
    "… of look-up": ("surd", "looked_up_rmse"),
}
HEADER = ("| | " + " | ".join(FIGURES) + " | runs |", "|---|" + "---|" * (len(FIGURES) + 1))


def rows() -> tuple[list[Record], dict[str, list[Record]]]:
    """The same training and dev rows on every call, none in both; in English, as the encoder is."""
    train: list[Record] = []
    dev = in_english(SCENARIOS_DEV)
    for source, count, dev_count in SOURCES.values():
        records = in_english(source)
        if dev_count:
            records, held = hold_out(records, dev_count, seed=0)
            dev += held
        train += hold_out(records, count, seed=1)[1] if count < len(records) else records
    return train, by_reader(without_overlaps(dev, train)[0])


def in_english(source: str) -> list[Record]:
    return [record for record in read(parse_source(source)).records if record.language == "en"]


def config_of(output: Path, variant: str, seed: int, epochs: int) -> TrainConfig:
    config = parse_config([str(RECIPE), "--output_dir", str(output / f"{variant.replace(' ', '_')}-{seed}")])
    config.seed, config.epochs, config.passes, config.holdout, config.dev = seed, epochs, {}, {}, []
    config.learning_rate, config.answer_learning_rate = 5e-4, 2e-3  # 250 steps, and the encoder does not learn
    config.save_steps, config.save_total_limit, config.warmup_steps, config.mixed_precision = 200, 1, 50, "no"
    config.model |= SMALL | {"text_encoder_mode": "frozen"} | VARIANTS[variant]
    return config


def one_run(config: TrainConfig, train: list[Record], dev: dict[str, list[Record]], encoder: CachedEncoder) -> Any:
    """Figures on dev after training, and the seconds of the processor that it took."""
    started = time.process_time()
    shutil.rmtree(config.output_dir, ignore_errors=True)
    tokenizer, model = build_model(config)
    model.model.embeddings.encoder = encoder
    dataset, collator = encode(train, tokenizer, model.config.max_length), Collator(tokenizer)
    fit_standardization(model, dataset, collator, config, progress=False)
    loop = TrainLoop(build_accelerator(config), model, dataset, collator, config)
    loop.train()
    figures = evaluate_dev(model, tokenizer, dev).figures
    judged = [record for reader in JUDGED for record in dev[reader]]
    held = encode(judged, tokenizer, model.config.max_length)
    batches = (collator([held[row] for row in range(at, min(at + 64, len(held)))]) for at in range(0, len(held), 64))
    figures |= {"surd": surd_errors(loop.surd_targets, model, batches) or {}}
    return {"figures": figures, "cpu_seconds": time.process_time() - started, "parameters": model.num_parameters()}


def prepare(output: Path, tokenizer: PreTrainedTokenizerBase, config: TrainConfig, records: list[Record]):
    encoder = AutoModel.from_pretrained(
        resolve_folder(config.text_encoder or "", "text_encoder"), dtype=torch.float32
    ).eval()
    cached = CachedEncoder(encoder, output / "features.safetensors")
    dataset = encode(records, tokenizer, config.model["max_length"])
    cached.add([ids for sequences in dataset["sequences"] for ids in sequences])
    return cached


def found_in(output: Path, variant: str, seeds: int) -> list[dict[str, Any]]:
    """What the runs of a variant gave, by seed; main() has seen that their settings are those asked for."""
    names = [output / f"{variant.replace(' ', '_')}-{seed}.json" for seed in range(seeds)]
    return [json.loads(path.read_text()) for path in names if path.exists()]


def table(output: Path, variants: list[str], seeds: int) -> str:
    """Mean +- standard deviation over the seeds; the same of differences from the whole with that seed; the cost."""
    of_variant = {variant: found for variant in variants if (found := found_in(output, variant, seeds))}
    whole = {run["config"]["seed"]: values(run) for run in of_variant.get("whole", [])}
    lines = [*HEADER]
    lines += [line_of(variant, [values(run) for run in found]) for variant, found in of_variant.items()]
    lines += ["", "Less the whole with the same seed:", "", *HEADER]
    for variant, found in of_variant.items():
        less = [values(run) - whole[seed] for run in found if (seed := run["config"]["seed"]) in whole]
        if variant != "whole" and less:
            lines.append(line_of(variant, less, sign="+"))
    seconds = sum(run["cpu_seconds"] for found in of_variant.values() for run in found)
    return "\n".join([*lines, "", f"{seconds / 60:.0f} minutes of the processor for all of these runs"])


def values(run: dict[str, Any]) -> np.ndarray:
    """The figures of one run, NaN where it has none."""
    return np.array([run["figures"][reader].get(figure, np.nan) for reader, figure in FIGURES.values()])


def line_of(variant: str, runs: list[np.ndarray], sign: str = "") -> str:
    spreads = np.std(runs, axis=0, ddof=1 if len(runs) > 1 else 0)
    cells = [
        "" if np.isnan(mean) else f"{mean:{sign}.3f} ± {spread:.3f}"
        for mean, spread in zip(np.mean(runs, axis=0), spreads, strict=True)
    ]
    return f"| {variant} | " + " | ".join(cells) + f" | {len(runs)} |"


def done(result: Path, config: TrainConfig) -> bool:
    """Whether this run is there already; raises UserError for one with other settings, which no table may mix in."""
    if not result.exists():
        return False
    if json.loads(result.read_text())["config"] != config.to_dict():
        raise UserError(f"{result} was made with other settings; give another --output, or remove it")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/ablation"), help="folder of runs (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (%(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the 4,000 rows (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants to run")
    parser.add_argument("--card", type=Path, metavar="DIR", help="a trained model whose card gets the tables")
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.epochs < 1:
        raise UserError(f"--seeds and --epochs are at least 1, got {arguments.seeds} and {arguments.epochs}")
    if arguments.card is not None:
        read_config(arguments.card)  # refused before the runs rather than after them
    arguments.output.mkdir(parents=True, exist_ok=True)
    train, dev = rows()
    config = config_of(arguments.output, "whole", 0, arguments.epochs)
    tokenizer, _ = build_model(config)
    held = [record for records in dev.values() for record in records]
    encoder = prepare(arguments.output, tokenizer, config, train + held)
    todo = [(variant, seed) for seed in range(arguments.seeds) for variant in arguments.only]
    for variant, seed in tqdm(todo, desc="runs"):
        config = config_of(arguments.output, variant, seed, arguments.epochs)
        result = Path(config.output_dir).with_suffix(".json")
        if not done(result, config):
            found = one_run(config, train, dev, encoder)
            write_json(result, found | {"config": config.to_dict()})
            print(f"{variant}, seed {seed}: {found['cpu_seconds']:.0f} CPU seconds", flush=True)
    tables = table(arguments.output, arguments.only, arguments.seeds)
    said = f"{len(train)} rows, {arguments.epochs} epochs, frozen encoder\n\n{tables}"
    print(f"\n{said}")
    if arguments.card is not None:
        only = " ".join(shlex.quote(variant) for variant in arguments.only)
        command = f"python benchmarks/ablation.py --seeds {arguments.seeds} --epochs {arguments.epochs} --only {only}"
        store_in_config(arguments.card, lambda _: {}, CARD.format(command=command, said=said))


if __name__ == "__main__":
    run(main)
