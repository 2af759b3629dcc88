"""pipeline("red-heart") beside pipeline("text-classification"): many texts a second, and one text at a time.

In    REDHEART_DATA_DIR (GoEmotions); ours as training/recipes/real_text.yaml builds it on MiniLM; the peer with the
      same tokenizer, one linear layer of seven labels on an encoder like MiniLM, of so many layers that it has as
      many weights as ours. Speed does not depend on what either has learned.
Out   a table: rows a second of each, texts of real lengths in the order of the file, and milliseconds a text, median
      and 95th percentile, both by turns in the same process; the ratios.
Run   REDHEART_DATA_DIR=/path/to/data python benchmarks/pipeline.py
      REDHEART_DATA_DIR=/path/to/data python benchmarks/pipeline.py --rows 2000 --repeats 1 --batch_size 32
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, pipeline

from preprocessing.errors import UserError, run
from preprocessing.readers import parse_source, read
from redheart_hf import RedHeartPipeline
from training.build import build_model, resolve_folder
from training.command_line import parse_config

SOURCE = "goemotions=${REDHEART_DATA_DIR}/goemotions/ekman_train.tsv"
RECIPE = Path(__file__).resolve().parents[1] / "training" / "recipes" / "real_text.yaml"
Ask = Callable[..., Any]


def pipelines() -> dict[str, Ask]:
    """Ours and the peer, of one size, with the same tokenizer."""
    config = parse_config([str(RECIPE)])
    tokenizer, model = build_model(config)
    folder = resolve_folder(config.text_encoder or "", "text_encoder")
    size = model.num_parameters()
    peer = min((like(folder, layers) for layers in range(6, 16)), key=lambda one: abs(one.num_parameters() - size))
    print(f"red-heart: {size / 1e6:.1f}M parameters; text-classification: {peer.num_parameters() / 1e6:.1f}M")
    return {
        "red-heart": RedHeartPipeline(model=model.eval(), tokenizer=tokenizer, task="red-heart"),
        "text-classification": pipeline("text-classification", model=peer, tokenizer=tokenizer, top_k=None),
    }


def like(folder: str, layers: int) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder, num_labels=7, num_hidden_layers=layers)
    return AutoModelForSequenceClassification.from_config(config)


def rows_a_second(ask: Ask, texts: list[str], batch_size: int) -> float:
    started = time.perf_counter()
    answers = ask(texts, batch_size=batch_size, **({} if isinstance(ask, RedHeartPipeline) else {"truncation": True}))
    if len(answers) != len(texts):
        raise RuntimeError(f"{len(answers)} answers to {len(texts)} texts")
    return len(texts) / (time.perf_counter() - started)


def milliseconds(ask: Ask, texts: list[str]) -> list[float]:
    found = []
    for text in texts:
        started = time.perf_counter()
        ask(text)
        found.append(1000 * (time.perf_counter() - started))
    return found


def line(name: str, *values: object) -> str:
    return f"| {name} | " + " | ".join(map(str, values)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="texts (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=64, help="of both (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each (%(default)s)")
    parser.add_argument("--single", type=int, default=300, help="texts asked one at a time (%(default)s)")
    asked = parser.parse_args()
    texts = [record.text for record in read(parse_source(SOURCE)).records[: asked.rows]]
    if len(texts) < asked.rows:
        raise UserError(f"{SOURCE} has {len(texts)} rows, fewer than --rows {asked.rows}")
    of = pipelines()
    for ask in of.values():
        rows_a_second(ask, texts[:256], asked.batch_size)  # what is made at the first call is not timed
    rates = {name: [] for name in of}
    for _ in range(asked.repeats):
        for name, ask in of.items():
            rates[name].append(rows_a_second(ask, texts, asked.batch_size))
    single = {name: milliseconds(ask, texts[: asked.single]) for name, ask in of.items()}
    print(line("", "rows a second", "ms a text, median", "95 %"))
    print("|---|---|---|---|")
    for name in of:
        rate, one = float(np.median(rates[name])), single[name]
        print(line(name, f"{rate:.0f}", f"{np.median(one):.1f}", f"{np.percentile(one, 95):.1f}"))
    ours, peer = of
    ratio = np.median(np.array(rates[ours]) / np.array(rates[peer]))
    slower = np.median(single[ours]) / np.median(single[peer])
    print(line("ratio", f"{ratio:.2f}", f"{slower:.2f}", ""))


if __name__ == "__main__":
    run(main)
