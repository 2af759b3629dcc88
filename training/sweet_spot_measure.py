"""Each module of each checkpoint, measured in a model whose other modules are held.

In    a model, rows of dev, the checkpoints of a run.
Out   scores of whole checkpoints; of each module by checkpoint, in the best of them; how far each module moved.
Run   through training/sweet_spot.py

The others are those of the reference, the whole checkpoint with the best choosing score. One module at a time is read
into the model and put back exactly; what comes before it in the model answers as it did, and is not asked again. What
was measured is kept on the disk, module by module, so that an analysis that was killed goes on; a file that is there
is whole, and of these very checkpoints and rows.
"""

import json
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn
from tqdm.auto import tqdm

from preprocessing.errors import UserError
from preprocessing.folders import MANIFEST
from preprocessing.metrics import Floats
from redheart_hf import RedHeartForMultiTask
from training.dev_scores import DevScores, Scores, digest_of
from training.figures import Thresholds
from training.model_parts import (
    modules_of,
    movement,
    put_back,
    put_in,
    saved_names,
    taken_out,
    weights_in,
)
from training.score import TOTAL, total_of

Curves = dict[str, Floats]
"""By task and in total, (E, 1 + B): of each checkpoint the score, and the score on B resamples."""
MOVED = "moved"


class Measurements:
    """Of one run, by one set of rows."""

    def __init__(
        self,
        model: RedHeartForMultiTask,
        dev: DevScores,
        checkpoints: list[Path],
        samples: int,
        folder: Path,
        weights_moved: Callable[[], None] = lambda: None,
    ):
        """What was measured is kept in `folder`; `weights_moved` tells those who hold copies of weights."""
        if not checkpoints:
            raise UserError("there is no checkpoint to choose from; train with save_steps below the run's steps")
        if not dev.rows:
            raise UserError("dev has no rows in its choosing half; give more rows")
        self.model, self.dev, self.checkpoints, self.samples = model, dev, checkpoints, samples
        self.folder, self.weights_moved = folder, weights_moved
        saved_as = saved_names(model)
        self.weights = [weights_in(checkpoint, saved_as) for checkpoint in checkpoints]
        self.modules = {name: [one for one in names if one in saved_as] for name, names in modules_of(model).items()}
        self.modules = {name: names for name, names in self.modules.items() if names}
        self.all_names = [name for names in self.modules.values() for name in names]

    @cached_property
    def fingerprint(self) -> str:
        """Of the checkpoints, the rows and how they are measured."""
        manifests = [(checkpoint / MANIFEST).read_text(encoding="utf-8") for checkpoint in self.checkpoints]
        return digest_of(*manifests, self.dev.fingerprint, str(self.samples), self.dev.mixed_precision)

    def load(self, index: int) -> None:
        """The whole checkpoint into the model."""
        put_in(self.model, self.weights[index], self.all_names)

    def kept(self, name: str, measure: Callable[[], Curves]) -> Curves:
        """What `measure` gives, or has given before."""
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            with safe_open(path, "numpy") as saved:
                if saved.metadata().get("of") == self.fingerprint:
                    return {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118
        found = measure()
        self.folder.mkdir(parents=True, exist_ok=True)
        passing = path.with_suffix(".partial")
        save_file(
            {key: np.ascontiguousarray(value) for key, value in found.items()}, passing, {"of": self.fingerprint}
        )
        passing.replace(path)
        return found

    def score(self) -> Scores:
        found, _ = self.judge(self.dev, self.samples)
        total_of(found.values)
        return found

    def judge(
        self, dev: DevScores, samples: int = 0, thresholds: Thresholds | None = None
    ) -> tuple[Scores, Thresholds]:
        """Of the model as it is by now."""
        self.weights_moved()
        return dev.score(self.model, samples, thresholds)

    @cached_property
    def whole(self) -> Curves:
        """Of the checkpoints as they are."""

        def measure() -> Curves:
            found = []
            for index in tqdm(range(len(self.checkpoints)), desc="checkpoints", unit="checkpoint", leave=False):
                self.load(index)
                found.append(self.score())
            return as_curves(found)

        return self.kept("whole", measure)

    @cached_property
    def reference(self) -> int:
        """The checkpoint with the best choosing score, of equal ones the earliest."""
        return int(self.whole[TOTAL][:, 0].argmax())

    def of_module(self, module: str) -> Curves:
        """Its movement, and the curves of the module in the reference, which the model has to hold.

        Where its tensors are those of the checkpoint before, or of the reference, nothing is measured twice; where
        they are the same in all, there are no curves.
        """
        return self.kept(module, lambda: self.measure(module))

    def measure(self, module: str) -> Curves:
        names, last = self.modules[module], len(self.checkpoints)
        moved = [movement(before, after, names) for before, after in pairwise(self.weights)]
        found: Curves = {MOVED: np.array([np.nan, *moved])}
        if not any(moved):
            return found
        same = {self.reference: self.reference}
        for index in (*range(self.reference + 1, last), *reversed(range(self.reference))):
            beside = index - 1 if index > self.reference else index + 1
            still = moved[max(index, beside) - 1] == 0
            same[index] = same[beside] if still else index
        curves = {task: np.repeat(of[self.reference][None], last, axis=0) for task, of in self.whole.items()}
        kept = taken_out(self.model, names)
        with self.dev.remembering(self.before(names)):
            for index in sorted(set(same.values()) - {self.reference}):
                put_in(self.model, self.weights[index], names)
                scores = as_curves([self.score()])
                for task, values in scores.items():
                    curves[task][[place for place, of in same.items() if of == index]] = values[0]
        put_back(self.model, kept)
        return found | curves

    def before(self, names: list[str]) -> nn.Module | None:
        """The part of the model that answers before any of these tensors is asked."""
        if not any(name.startswith("model.") for name in names):
            return self.model.model
        reads = any(name.startswith("model.embeddings.") for name in names)
        return None if reads else self.model.model.embeddings

    def facts(self) -> list[dict[str, object]]:
        """What is known of each checkpoint before it is judged."""
        return [
            {
                "checkpoint": checkpoint.name,
                "step": step_in(checkpoint),
                "precision": weights.precision(),
                "score": float(self.whole[TOTAL][index, 0]),
                "scores": {task: float(of[index, 0]) for task, of in self.whole.items() if task != TOTAL},
                "interval": interval(self.whole[TOTAL][index, 1:]),
            }
            for index, (checkpoint, weights) in enumerate(zip(self.checkpoints, self.weights, strict=True))
        ]


def as_curves(found: list[Scores]) -> Curves:
    return {
        task: np.stack([np.concatenate(([one.values[task]], one.samples[task])) for one in found])
        for task in found[0].values
    }


def interval(samples: Floats) -> list[float]:
    """The central 95 % of the resamples."""
    return [float(bound) for bound in np.percentile(samples, (2.5, 97.5))]


def step_in(checkpoint: Path) -> int:
    """The step that a checkpoint was written after, as its manifest says."""
    return int(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["facts"]["step"])
