"""What 8 and 4 bits cost a trained model on the CPU: its figures on GoEmotions dev beside those in bfloat16.

In    --model DIR, a trained folder; REDHEART_DATA_DIR (GoEmotions).
Out   a table: macro-F1, how far it is from bfloat16's in points with what 95 % of resamples of the rows find (the same
      for all, so that the difference is paired); MB of weights; rows a second.
Run   REDHEART_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/quantized.py --model outputs/real_text/final

Thresholds are those in the folder's config, the same for all: both halves of dev tell of a difference. Which layers
keep their precision: redheart_hf/quantization.py.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from transformers import BitsAndBytesConfig

from benchmarks.ablation import DATA
from preprocessing.readers import parse_source, read
from redheart_hf import RedHeartForMultiTask
from training.evaluate import predict_by_reader
from training.loading import load_tokenizer
from training.score import score_samples, scores

WAYS: dict[str, dict[str, Any]] = {
    "fp32": {"dtype": torch.float32},
    "bf16": {"dtype": torch.bfloat16},
    "8 bits": {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "dtype": torch.bfloat16},
    "4 bits, nf4": {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
        "dtype": torch.bfloat16,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--rows", type=int, help="the first rows of dev alone (all)")
    options = parser.parse_args()
    records = read(parse_source(f"goemotions={DATA}/goemotions/ekman_dev.tsv")).records[: options.rows]
    tokenizer = load_tokenizer(options.model)
    found, samples = {}, {}
    for way, given in WAYS.items():
        model = RedHeartForMultiTask.from_pretrained(options.model, **given).eval()
        begun = time.perf_counter()
        predicted = predict_by_reader(model, tokenizer, {"goemotions": records})
        seconds = time.perf_counter() - begun
        score = scores(predicted, model.config.thresholds, None)["emotion"]
        samples[way] = score_samples(predicted, model.config.thresholds, None)["emotion"]
        found[way] = score, model.get_memory_footprint() / 1e6, len(records) / seconds
    print("| | macro-F1 | points from bf16 | MB | rows a second |\n|---|---:|---:|---:|---:|")
    for way, (score, size, speed) in found.items():
        points = 100 * (score - found["bf16"][0])
        low, high = 100 * np.quantile(samples[way] - samples["bf16"], [0.025, 0.975])
        print(f"| {way} | {score:.4f} | {points:+.2f} [{low:+.2f}, {high:+.2f}] | {size:.0f} | {speed:.0f} |")


if __name__ == "__main__":
    main()
