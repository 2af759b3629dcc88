"""A run opened from its folder: the model of its newest checkpoint, its data, and which epoch each checkpoint ends.

In    RUN_DIR.
Out   OpenedRun; UserError where the folder is none of a run, or what it learned from has changed.
Run   through training/sweet_spot.py and training/crossover.py
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from preprocessing.errors import UserError
from redheart_hf import RedHeartForMultiTask
from training.batch_plan import BatchPlan
from training.checkpoint import checkpoints
from training.checkpoint_metadata import regular
from training.config import TrainConfig
from training.data import RunData, prepare_data
from training.dev_scores import DevScores
from training.evaluate import Half
from training.loading import load_model
from training.sweet_spot_measure import Measurements, step_in
from training.weights import batches_of


@dataclass
class OpenedRun:
    """`state` is what the newest checkpoint says of the run."""

    folder: Path
    config: TrainConfig
    state: dict[str, Any]
    model: RedHeartForMultiTask
    tokenizer: PreTrainedTokenizerBase
    data: RunData

    @property
    def checkpoints(self) -> list[Path]:
        return regular(self.folder)

    @property
    def epochs(self) -> list[float]:
        plan = batches_of(self.data.train, self.config, num_processes=self.state["num_processes"])
        return [epochs_at(plan, step_in(checkpoint)) for checkpoint in self.checkpoints]

    def dev(self, half: Half, rows: int | None = None) -> DevScores:
        precision = self.config.mixed_precision
        return DevScores(self.model.config, self.tokenizer, self.data.dev, half, rows, precision)

    def measurements(self, samples: int, rows: int | None = None) -> Measurements:
        work = self.folder / "sweet_spot_analysis" / "measured"
        return Measurements(self.model, self.dev("choosing", rows), self.checkpoints, samples, work)


def open_run(folder: Path) -> OpenedRun:
    found = checkpoints(folder)
    if not found:
        raise UserError(f"{folder} holds no checkpoints; name the output_dir of a run")
    try:
        state = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
        known = {field.name for field in dataclasses.fields(TrainConfig)}
        fields = {name: value for name, value in state["train_config"].items() if name in known}
        config = TrainConfig(**fields | {"output_dir": str(folder), "betas": tuple(fields["betas"])})
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{found[-1] / 'state.json'} cannot be used: {error}; remove {found[-1]}") from error
    model, tokenizer = load_model(found[-1])
    data = prepare_data(config, model.config, tokenizer, write=False)
    if not data.dev:
        raise UserError(f"the run in {folder} had neither dev nor holdout: there is nothing to choose by")
    if data.train.info.description != (trained_on := state["identity"]["data"]):
        raise UserError(
            f"{found[-1]} was trained on {trained_on}, its recipe's sources now give "
            f"{data.train.info.description}: bring them back, or dev may hold what was trained on"
        )
    return OpenedRun(folder, config, state, model, tokenizer, data)


def epochs_at(plan: BatchPlan, step: int) -> float:
    """Epochs that lie behind the first `step` steps, with the part of one that is begun."""
    epoch = plan.epoch_of(step)
    first, after = plan.first_step(epoch), plan.first_step(epoch + 1)
    return round(epoch + (step - first) / (after - first), 4)
