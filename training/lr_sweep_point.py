"""One point of a sweep: a short run at one rate, scored, or found to diverge.

In    a short run's TrainConfig, a model with its initial weights, the data.
Out   SweepPoint.
Run   through training/lr_sweep.py
"""

import math
from dataclasses import dataclass, field
from statistics import fmean, median

from accelerate.utils import set_seed
from tqdm.auto import tqdm

from training.loop import TrainLoop
from training.nonfinite import NonFiniteError

TIMES, IN_A_ROW, BEGINNING = 4.0, 10, 3
"""A run has diverged when its loss is above TIMES its start (by three times the start's size, where that is negative)
for IN_A_ROW steps; its start is the median of the first BEGINNING."""
LAST = 0.2


@dataclass
class SweepPoint:
    """`loss` is the mean over the last fifth of its steps."""

    learning_rate: float
    seed: int
    steps: int
    loss: float | None
    diverged: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    """Of the choosing half of dev, by task and in total."""
    dev_loss: float | None = None


class SweepLoop(TrainLoop):
    """TrainLoop's own steps, without its log, evaluation and checkpoints."""

    def short_run(self, bar: tqdm) -> SweepPoint:
        """All steps, or as many as it takes to see that the loss diverges."""
        config, losses = self.config, []
        point = SweepPoint(config.learning_rate, config.seed, 0, None)
        self.model.train()
        above = 0
        try:
            for group in self.groups():
                set_seed(self.seed_of_step())
                taken, _ = self.take_step(group)
                self.step += 1
                bar.update()
                losses.append(taken["total"])
                above = above + 1 if losses[-1] > limit_of(losses) else 0
                if above == IN_A_ROW:
                    point.diverged = (
                        f"loss above {limit_of(losses):.4g} for {IN_A_ROW} steps, {losses[-1]:.4g} in step {self.step}"
                    )
                    break
        except NonFiniteError as error:
            point.diverged = str(error).split(";")[0]
        point.steps = self.step
        last = losses[-max(1, math.ceil(LAST * len(losses))) :]
        point.loss = fmean(last) if last and all(map(math.isfinite, last)) else None
        return point


def limit_of(losses: list[float]) -> float:
    start = median(losses[:BEGINNING])
    return start + (TIMES - 1) * abs(start)
