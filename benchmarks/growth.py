"""Does a grown model earn its past? Grown and trained on, beside a fresh one of its size, for the same arithmetic.

In    REDHEART_DATA_DIR with goemotions/ and emobank/; redheart-tiny with a tokenizer trained on their texts.
Out   a table: loss on dev of the small model, of the grown one before and after 200 more steps, and of fresh ones.
Run   REDHEART_DATA_DIR=/path/to/data python benchmarks/growth.py

The data is large enough that, with the default steps, no run sees a row twice: what is compared is learning, not
learning by heart. Arithmetic is counted (floating-point operations of a forward pass on the same batch), not timed.
The fresh model gets the operations of the small one's steps besides those of the grown one's. Both get the best of
three learning rates; the grown one's are lower, since it has come to the end of a schedule before.
Copies must not stay equal: two lines say how far what twins compute is apart, right after growing and at the end.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerBase

from preprocessing.encode import encode
from preprocessing.errors import run
from preprocessing.overlap import hold_out
from preprocessing.readers import parse_source, read
from redheart_hf import RedHeartForMultiTask
from redheart_hf.growth import grow
from redheart_hf.losses import gaussian_nll, label_counts, loss_sums, masked_sum, multi_task_loss
from training.build import build_accelerator, build_model
from training.collator import MODEL_INPUTS, Collator
from training.config import TrainConfig
from training.inference import evaluation_mode
from training.loop import TrainLoop
from training.train_tokenizer import texts_of, train_tokenizer

SOURCES = {"goemotions/ekman_train.tsv": "goemotions", "emobank/emobank.csv@train": "emobank"}
DEV_ROWS = 1000
RATES = (5e-4, 1e-3, 2e-3)
GROWN_RATES = (5e-5, 1e-4, 2e-4)
OTHER_ORDER = 1000  # added to the seed: what trains on goes through the rows in another order
Data = tuple[PreTrainedTokenizerBase, Dataset, Dataset]


def data_of(folder: Path) -> Data:
    """Tokenizer (saved in folder), training rows and dev rows."""
    train, dev = [], []
    for path, reader in SOURCES.items():
        records = read(parse_source(f"{reader}=${{REDHEART_DATA_DIR}}/{path}")).records
        rest, held = hold_out(records, DEV_ROWS, seed=0)
        train, dev = train + rest, dev + held
    tokenizer = train_tokenizer(texts_of(train), vocab_size=4096, max_length=96)
    tokenizer.save_pretrained(folder / "tokenizer")
    return tokenizer, encode(train, tokenizer, 96), encode(dev, tokenizer, 96)


def config_of(folder: Path, name: str, seed: int, steps: int, rate: float, start: Path | None = None) -> TrainConfig:
    given = (
        {"start_from": str(start)} if start else {"tokenizer": str(folder / "tokenizer"), "model": {"max_length": 96}}
    )
    return TrainConfig(
        output_dir=str(folder / f"{name}-{seed}"),
        train=["given"],
        seed=seed,
        max_steps=steps,
        learning_rate=rate,
        warmup_steps=steps // 10,
        loss_weighting="equal",
        save_steps=steps,
        **given,
    )


def trained(config: TrainConfig, data: Data) -> RedHeartForMultiTask:
    tokenizer, train, _ = data
    _, model = build_model(config)
    TrainLoop(build_accelerator(config), model, train, Collator(tokenizer), config).train()
    return model


def dev_loss(model: RedHeartForMultiTask, data: Data) -> float:
    """The sum over terms of each one's mean loss over all its labels in dev; VAD's is its plain likelihood.

    In training it is weighed by the predicted deviation, so that it rises where a model grows surer.
    """
    tokenizer, _, dev = data
    collator, sums, counts = Collator(tokenizer), {}, {}
    with evaluation_mode(model):
        for start in range(0, len(dev), 64):
            batch = collator([dev[row] for row in range(start, min(start + 64, len(dev)))])
            output = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
            emotion = output.emotion
            likelihood = partial(gaussian_nll, emotion.vad_mean, emotion.vad_log_variance)
            of_batch = loss_sums(output, batch["labels"], model.config)
            for term, value in (of_batch | {"vad": masked_sum(likelihood, batch["labels"]["vad"])}).items():
                sums[term] = sums.get(term, 0.0) + value
            for term, count in label_counts(batch["labels"], len(batch["input_ids"])).items():
                counts[term] = counts.get(term, 0) + count
        return float(multi_task_loss(sums, counts, {}, model.config)[0])


def operations(model: RedHeartForMultiTask, data: Data) -> int:
    """Floating-point operations of one forward pass over the first 32 rows of dev."""
    tokenizer, _, dev = data
    batch = Collator(tokenizer)([dev[row] for row in range(32)])
    counter = FlopCounterMode(display=False)
    with evaluation_mode(model), counter:
        model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
    return counter.get_total_flops()


def twins_apart(model: RedHeartForMultiTask, width: int) -> float:
    """Median distance of what a block's first units compute from what their copies do, over its length.

    What came twice is the same in both places, so that a unit is the sum of its weights for them: right after growth
    the noise is gone from the sum, and the distance is nothing but rounding.
    """
    weight = model.model.blocks[0].mlp.up_proj.weight.detach()
    rows = weight.unflatten(1, (width, -1)).sum(dim=1).chunk(width, dim=0)
    return float(((rows[0] - rows[1]).norm(dim=1) / rows[0].norm(dim=1)).median())


def compare(folder: Path, data: Data, seed: int, small_steps: int, grown_steps: int) -> dict[str, float]:
    small = trained(config_of(folder, "small", seed, small_steps, 1e-3), data)
    grown = grow(small, 2, 1, 0.1, seed)
    start = folder / f"grown-{seed}"
    grown.save_pretrained(start)
    data[0].save_pretrained(start)
    found = {"small": dev_loss(small, data), "grown": dev_loss(grown, data), "twins before": twins_apart(grown, 2)}
    for rate in GROWN_RATES:
        more = trained(config_of(folder, f"more-{rate:g}", seed + OTHER_ORDER, grown_steps, rate, start), data)
        found |= {f"trained on, {rate:g}": dev_loss(more, data), f"twins after, {rate:g}": twins_apart(more, 2)}
    fresh_steps = grown_steps + round(small_steps * operations(small, data) / operations(grown, data))
    sizes = {
        name: value for name, value in grown.config.to_dict().items() if value != small.config.to_dict().get(name)
    }
    for rate in RATES:
        config = config_of(folder, f"fresh-{rate:g}", seed, fresh_steps, rate)
        config.model |= sizes
        found[f"fresh, {rate:g}"] = dev_loss(trained(config, data), data)
    return found | {"fresh steps": fresh_steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of everything (%(default)s)")
    parser.add_argument("--small-steps", type=int, default=600, help="steps of the small model (%(default)s)")
    parser.add_argument("--grown-steps", type=int, default=200, help="steps of the grown one (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = data_of(Path(name))
        results = [
            compare(Path(name), data, seed, arguments.small_steps, arguments.grown_steps)
            for seed in range(arguments.seeds)
        ]
    print(f"\nloss on {len(data[2])} dev rows; {arguments.small_steps} steps, grown, {arguments.grown_steps} more")
    for figure in results[0]:
        values = [result[figure] for result in results]
        print(f"{figure:<20}{'  '.join(f'{value:9.4f}' for value in values)}   mean {np.mean(values):.4f}")


if __name__ == "__main__":
    run(main)
