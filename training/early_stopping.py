"""A run that ends once dev has not become better for a while.

In    after each evaluation its score, on the choosing half of dev (training/score.py).
Out   whether the run ends with this step; the history, which is in the checkpoint.
Run   `early_stopping_patience: 5` in a recipe, through TrainLoop

An evaluation is better when its score exceeds the best one so far by more than `early_stopping_min_delta`. After
`early_stopping_patience` evaluations in a row that are not, the run ends as it would at its last step: with a
checkpoint, and final/ of the weights it has then. The learning rate goes by the steps that were asked for, and has not
come to its end. With `ema_decay` the averages are what is judged.

Whether to end follows from the history alone: a run that goes on from a checkpoint ends where it would have ended.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from accelerate.utils import broadcast_object_list

from preprocessing.errors import UserError
from training.ema import averaged
from training.evaluate import Evaluation
from training.run_log import RunLog
from training.score import total_of
from training.sharding import is_sharded

if TYPE_CHECKING:
    from training.loop import TrainLoop


class EarlyStopping:
    """`patience` None: never."""

    def __init__(self, patience: int | None, min_delta: float = 0.0):
        self.patience, self.min_delta = patience, min_delta
        self.history: list[tuple[int, float]] = []
        """(step, score) of every evaluation."""

    def see(self, step: int, evaluation: Evaluation | None) -> None:
        """What the main process found; of others, None. All of them know it afterwards. Raises UserError in all of
        them where dev has nothing to score by."""
        if self.patience is None:
            return
        sent: list[float | str | None] = [None]
        if evaluation is not None:
            try:
                sent = [total_of(evaluation.scores["choosing"])]
            except UserError as error:
                sent = [f"early_stopping_patience {self.patience}: {error}"]
        broadcast_object_list(sent, from_process=0)
        if isinstance(sent[0], str):
            raise UserError(sent[0])
        assert sent[0] is not None
        self.history.append((step, sent[0]))

    @property
    def best(self) -> tuple[int, float]:
        """(step, score) of the last evaluation that was better."""
        return best_of(self.history, self.min_delta)

    @property
    def stopped(self) -> bool:
        if self.patience is None or not self.history:
            return False
        steps = [step for step, _ in self.history]
        return len(steps) - 1 - steps.index(self.best[0]) >= self.patience

    def said(self) -> dict[str, float]:
        """For the log of a run that was ended."""
        step, score = self.best
        return {"best_step": step, "best_score": score, "evaluations_since": self.patience or 0}

    def ended(self, total_steps: int) -> str:
        """For the user."""
        step, score = self.best
        return (
            f"ended early, after step {self.history[-1][0]} of {total_steps}: dev was best at step {step} (score "
            f"{score:.4f}), and {self.patience} evaluations since were no better"
        )

    def state_dict(self) -> list[tuple[int, float]]:
        return list(self.history)

    def load_state_dict(self, state: Sequence[Sequence[float]]) -> None:
        self.history = [(int(step), float(score)) for step, score in state]


def judge(loop: "TrainLoop", log: RunLog) -> None:
    """Evaluate the loop's model, its averages where it has any, and see whether the run ends with that."""
    evaluation = None
    # Others have the same weights and nothing to add, unless each has a piece of them.
    if loop.evaluate is not None and (loop.accelerator.is_main_process or is_sharded(loop.accelerator)):
        with averaged(loop):
            evaluation = loop.evaluate()
        loop.judged = loop.step, evaluation
        log.write(loop.step, {"eval": evaluation.figures, "score": evaluation.scores})
        loop.saver.judged = (loop.step, evaluation.scores)
        loop.model.train()
    loop.accelerator.wait_for_everyone()
    loop.stopping.see(loop.step, evaluation)
    if loop.stopping.stopped and loop.step < loop.total_steps:
        log.write(loop.step, {"loss": loop.loss_means.take(), "stopped_early": loop.stopping.said()})


def best_of(history: Sequence[tuple[int, float]], min_delta: float) -> tuple[int, float]:
    best = (0, -math.inf)
    for step, score in history:
        if score > best[1] + min_delta:
            best = (step, score)
    return best
