"""The mixture: the best single checkpoint, into which modules of others are put as long as the score rises.

In    what was measured of a run's checkpoints, its sweet spots.
Out   Mixture: which module is of which checkpoint, and everything that was tried.
Run   through training/crossover.py

Modules come in the order of what each gave alone (sweet_spot_analysis.json, `total`). Of each are tried its sweet
spot and the two checkpoints that alone gave most; then heads together with their analyzers and projections, out of one
checkpoint, since what was learned side by side may only help side by side. Each try is measured on the choosing half
in the mixture as it is by then; it stays where the score is higher than without, else the model is put back exactly.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from redheart_hf.labels import TASKS
from training.model_parts import put_back, put_in, taken_out
from training.score import total_of
from training.sweet_spot_measure import Measurements

PARTS_OF_TASK = ("projection", "head", "analyzer")
TRIES = 2


@dataclass
class Mixture:
    """`modules`: of those that are not the reference's, the checkpoint each is of, counted from 0."""

    modules: dict[str, int] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)

    def load(self, measured: Measurements) -> None:
        measured.load(measured.reference)
        for module, index in self.modules.items():
            put_in(measured.model, measured.weights[index], measured.modules[module])


def mix(measured: Measurements, spots: dict[str, Any]) -> Mixture:
    """The mixture; the model holds it afterwards."""
    mixture = Mixture()
    measured.load(measured.reference)
    score = total_of(measured.judge(measured.dev)[0].values)
    names = [checkpoint.name for checkpoint in measured.checkpoints]
    for modules, index in tries(measured, spots):
        held = [mixture.modules.get(module, measured.reference) for module in modules]
        if all(at == index for at in held):
            continue
        tensors = [name for module in modules for name in measured.modules[module]]
        kept = taken_out(measured.model, tensors)
        put_in(measured.model, measured.weights[index], tensors)
        found = total_of(measured.judge(measured.dev)[0].values)
        better = found > score
        mixture.tried.append(
            {"modules": modules, "checkpoint": names[index], "before": score, "score": found, "accepted": better}
        )
        if better:
            score = found
            mixture.modules |= dict.fromkeys(modules, index)
        else:
            put_back(measured.model, kept)
    mixture.modules = {module: at for module, at in mixture.modules.items() if at != measured.reference}
    return mixture


def tries(measured: Measurements, spots: dict[str, Any]) -> list[tuple[list[str], int]]:
    """Modules and the checkpoint to take them from, in the order in which they are tried."""
    names, best = [checkpoint.name for checkpoint in measured.checkpoints], measured.reference
    gains = {module: gains_of(of, best) for module, of in spots["modules"].items()}
    found: list[tuple[list[str], int]] = []
    wanted: dict[str, list[int]] = {}
    for module, of in spots["modules"].items():
        spot = [names.index(of["checkpoint"])] if of["checkpoint"] and of["signal"] == "score" else []
        promising = [int(at) for at in np.argsort(-gains[module], kind="stable")[:TRIES] if gains[module][at] > 0]
        wanted[module] = [at for at in dict.fromkeys(spot + promising) if at != best]
    order = sorted(wanted, key=lambda module: -float(gains[module].max(initial=0)))
    for module in order:
        found += [([module], at) for at in wanted[module]]
    for task in TASKS:
        parts = [f"{task}_{part}" for part in PARTS_OF_TASK if f"{task}_{part}" in measured.modules]
        places = list(dict.fromkeys(at for part in parts for at in wanted.get(part, [])))
        found += [(parts, at) for at in places if len(parts) > 1]
    return found


def gains_of(module: dict[str, Any], reference: int) -> np.ndarray:
    """By checkpoint, what taking the module from there adds to the reference's total score."""
    total = np.asarray(module["total"] if module["total"] is not None else [], dtype=float)
    return total - total[reference] if len(total) else total
