"""The runs of a sweep: each written down when it is done, those that are there already not done again.

In    a TrainConfig, SweepSettings, the run's data, what makes a model with its initial weights.
Out   OUTPUT_DIR/lr_sweep_results/lr_sweep.json and its plot; the rate that is chosen.
Run   through training/lr_sweep.py
"""

import gc
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from tqdm.auto import tqdm

from preprocessing.errors import UserError
from redheart_hf import RedHeartForMultiTask
from training.collator import Collator
from training.config import FREE_ON_RESUME, TrainConfig
from training.dev_scores import DevScores, digest_of
from training.held_memory import give_back_memory
from training.lr_sweep_choice import Choice, choose, finer
from training.lr_sweep_plot import draw_sweep
from training.lr_sweep_point import SweepLoop, SweepPoint
from training.lr_sweep_settings import SweepSettings, short, with_rate
from training.report import write_json
from training.score import TOTAL, total_of

FOLDER, RESULT, PLOT = "lr_sweep_results", "lr_sweep.json", "lr_sweep_plot.png"
FREE = FREE_ON_RESUME | {"eval_steps", "lr_sweep"}
"""Fields on which no run of a sweep depends."""

MakeModel = Callable[[TrainConfig], RedHeartForMultiTask]
"""A model as the run of this config would start with: the same weights for the same seed."""


class Sweep:
    """A sweep for one run, in the folder it writes to."""

    def __init__(
        self,
        config: TrainConfig,
        settings: SweepSettings,
        accelerator: Accelerator,
        dataset: Dataset,
        collator: Collator,
        dev: DevScores,
        make_model: MakeModel,
        total_steps: int,
    ):
        self.config, self.settings, self.accelerator = config, settings, accelerator
        self.dataset, self.collator, self.dev, self.make_model = dataset, collator, dev, make_model
        self.total_steps, self.steps = total_steps, settings.steps_of(total_steps)
        self.folder = Path(config.output_dir) / FOLDER
        self.points = self.recalled()

    @property
    def fingerprint(self) -> str:
        """Of everything that decides what a run at a rate gives."""
        fields = {name: value for name, value in self.config.to_dict().items() if name not in FREE}
        data = [self.dataset.info.description, self.dev.fingerprint]
        return digest_of(json.dumps(fields, sort_keys=True), *data, str(self.steps))

    def run(self) -> Choice:
        """The runs that are lacking, and the choice; the same in every process."""
        coarse = self.tried(self.settings.rates())
        tried = dict(coarse)
        if self.settings.refine:
            tried |= self.tried(finer(coarse))
        chosen = choose(tried, coarse)
        self.write(chosen)
        if self.accelerator.is_main_process:
            draw_sweep(self.as_dict(chosen), self.folder / PLOT)
        return chosen

    def tried(self, rates: list[float]) -> dict[float, float | None]:
        """The mean score over seeds of each rate; None where a run diverged."""
        seeds = [self.config.seed + index for index in range(self.settings.seeds)]
        runs = [(rate, seed) for seed in seeds for rate in rates if self.found(rate, seed) is None]
        quiet = not self.accelerator.is_main_process
        with tqdm(total=len(runs) * self.steps, desc="sweep", unit="step", disable=quiet) as bar:
            for rate, seed in runs:
                bar.set_description(f"sweep, rate {rate:.1e}")
                point = self.one_run(rate, seed, bar)
                bar.update(self.steps - point.steps)  # those that a run which diverged did not take
                self.points.append(point)
                self.points.sort(key=lambda one: (one.learning_rate, one.seed))
                self.write(None)
        means: dict[float, float | None] = {}
        for rate in rates:
            points = [point for point in self.points if point.learning_rate == rate and point.seed in seeds]
            diverged = any(point.diverged for point in points)
            means[rate] = None if diverged else fmean(point.scores[TOTAL] for point in points)
        return means

    def found(self, rate: float, seed: int) -> SweepPoint | None:
        return next((point for point in self.points if (point.learning_rate, point.seed) == (rate, seed)), None)

    def one_run(self, rate: float, seed: int, bar: tqdm) -> SweepPoint:
        config = short(with_rate(self.config, rate), self.steps, self.total_steps, seed)
        model = self.make_model(config)
        loop = SweepLoop(self.accelerator, model, self.dataset, self.collator, config)
        point = loop.short_run(bar)
        if self.accelerator.is_main_process and point.diverged is None:
            scores, _ = self.dev.score(model)
            total_of(scores.values)
            point.scores = scores.values
            point.dev_loss = self.dev.loss(model)
        self.accelerator.free_memory()
        del loop, model
        gc.collect()
        give_back_memory()
        return broadcast_object_list([point])[0]

    def as_dict(self, chosen: Choice | None) -> dict[str, Any]:
        """lr_sweep.json; without a choice, a sweep that is not done."""
        return {
            "fingerprint": self.fingerprint,
            "settings": asdict(self.settings) | {"steps": self.steps},
            "recipe_rate": self.config.learning_rate,
            "chosen": chosen.rate if chosen else None,
            "why": chosen.why if chosen else None,
            "command": shlex.join(sys.argv),
            "points": [asdict(point) for point in self.points],
        }

    def write(self, chosen: Choice | None) -> None:
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / RESULT, self.as_dict(chosen))

    def recalled(self) -> list[SweepPoint]:
        """The runs of an earlier sweep of the same settings and data."""
        path = self.folder / RESULT
        if not path.is_file():
            return []
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["fingerprint"] == self.fingerprint:
                return [SweepPoint(**point) for point in saved["points"]]
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error}; remove it to have the sweep done anew") from error
        self.accelerator.print(f"{path} is of a sweep with other settings or data: it is done anew")
        return []
