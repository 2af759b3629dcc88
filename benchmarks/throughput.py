"""Samples per second of our loop beside Hugging Face's Trainer: same model, data, precision, optimizer, one run.

In    REDHEART_DATA_DIR with goemotions/ekman_train.tsv; --rows for less than the whole epoch.
Out   a table: ours, Trainer with its defaults, Trainer with length grouping; ratios of ours over each.
Run   REDHEART_DATA_DIR=/path/to/data python benchmarks/throughput.py --rows 8000
      REDHEART_DATA_DIR=/path/to/data python benchmarks/throughput.py            (the whole epoch: 43,410 rows)

The model is that of training/recipes/real_text.yaml (MiniLM trained along), in bf16 where this machine multiplies in
it, else float32 (the table says which), batch 32. The three take
turns --rounds times and the fastest turn of each counts: what else the machine does then weighs on all alike.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from preprocessing.encode import encode
from preprocessing.errors import run
from preprocessing.readers import parse_source, read
from training.build import build_accelerator, build_model
from training.collator import Collator
from training.command_line import parse_config
from training.config import TrainConfig
from training.loop import TrainLoop

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "training" / "recipes" / "real_text.yaml"
SOURCE = "goemotions=${REDHEART_DATA_DIR}/goemotions/ekman_train.tsv"


def config_for(output_dir: str) -> TrainConfig:
    """The recipe's model and precision, GoEmotions alone, batch 32, equal weights (as `.loss` of the model has)."""
    config = parse_config([str(RECIPE), "--output_dir", output_dir, "--batch_size", "32", "--epochs", "1"])
    config.train, config.dev, config.holdout, config.passes = [SOURCE], [], {}, {}
    config.loss_weighting, config.loss_weights, config.save_steps, config.log_steps = "equal", {}, 10**9, 50
    return config


def ours(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, folder: str) -> float:
    """Seconds of one epoch, from the loop's own clock (building the model and the last checkpoint left out)."""
    config = config_for(folder)
    accelerator = build_accelerator(config)
    _, model = build_model(config)
    TrainLoop(accelerator, model, dataset, Collator(tokenizer), config).train()
    return sum(json.loads(line)["seconds"] for line in (Path(folder) / "timings.jsonl").open())


def trainer(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, folder: str, **sampling: str) -> float:
    """Seconds of one epoch as the Trainer reports them."""
    config = config_for(folder)
    _, model = build_model(config)
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=config.batch_size,
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        bf16=config.mixed_precision == "bf16",
        use_cpu=not torch.accelerator.is_available(),
        save_strategy="no",
        logging_steps=config.log_steps,
        report_to="none",
        remove_unused_columns=False,
        **sampling,
    )
    return Trainer(model, arguments, Collator(tokenizer), dataset).train().metrics["train_runtime"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="rows of GoEmotions to train on; all by default")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each contestant (%(default)s)")
    arguments = parser.parse_args()
    tokenizer, model = build_model(config_for("unused"))
    records = read(parse_source(SOURCE)).records[: arguments.rows]
    dataset = encode(records, tokenizer, model.config.max_length)
    contestants: dict[str, Callable[[str], float]] = {
        "Trainer, defaults": lambda folder: trainer(dataset, tokenizer, folder),
        "Trainer, length grouping": lambda folder: trainer(
            dataset, tokenizer, folder, train_sampling_strategy="group_by_length", length_column_name="length"
        ),
        "ours": lambda folder: ours(dataset, tokenizer, folder),
    }
    seconds: dict[str, float] = {}
    for turn in range(arguments.rounds):
        for name, contestant in contestants.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds[name] = min(seconds.get(name, float("inf")), contestant(folder))
            print(f"round {turn + 1}: {name} {seconds[name]:.1f} s", flush=True)
    precision = config_for("unused").mixed_precision.replace("no", "float32")
    print(f"\n{len(records)} rows, {precision}, {torch.get_num_threads()} threads, {time.strftime('%Y-%m-%d')}")
    for name, value in seconds.items():
        rate = len(records) / value
        print(f"{name:<26}{rate:8.1f} samples/s   ours over it {value / seconds['ours']:.2f}")


if __name__ == "__main__":
    run(main)
