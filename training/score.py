"""One number by which checkpoints of a run are compared, and how sure a difference between two of them is.

In    what a model says of dev's records (training/evaluate.py), thresholds, a half of dev.
Out   {"emotion": mean of that task's figures, ..., "score": mean of the tasks}; or the same of resamples of the rows.
Run   through training/evaluate.py

A task's score is the mean over its readers, a reader's that over its figures, of those that are better when larger:
macro-F1 of labels, correlation of numbers, accuracy of choices. Accuracy beside macro-F1 is left out, since a majority
carries it, and so are errors and what judges variances. A correlation that is not defined, since the model answers the
same to every text, counts 0.

What is chosen (an epoch, a learning rate, a mixture of checkpoints) is chosen by the choosing half, so that the
reporting half says what the choice is worth. Resamples are of groups, drawn by the reader's name and their number
alone: those of two models are of the same rows, and their difference is paired.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from preprocessing.errors import UserError
from preprocessing.metrics import Floats, resample_weights
from redheart_hf.labels import VAD
from training.figures import PRIMARY, Figure, Thresholds, groups_of, members

if TYPE_CHECKING:
    from training.evaluate import Half, Predicted

TOTAL = "score"
TASK_OF_READER = {
    **dict.fromkeys(("goemotions", "goemotions_fine", "goemotions_ko_mt", "kote", "va_kor", "emobank"), "emotion"),
    **dict.fromkeys(("ethics_util", "ethics_deontology", "ethics_justice", "ethics_virtue"), "ethics"),
    **dict.fromkeys(("moralchoice", "scruples_dilemmas"), "ethics"),
}
"""Of readers whose rows have labels of one task."""
TASK_OF_FIGURE = {
    **{f"pearson_{kind}{name[0]}": "emotion" for name in VAD for kind in ("", "turn_")},
    **{"emotion_accuracy": "emotion", "macro_f1": "emotion", "pair_accuracy": "ethics"},
    **{"pearson_utility": "regret", "choice_accuracy": "regret", "pearson_regret": "regret"},
}
"""The figures that count, and the task of each where its reader has labels of several. Utility in views is what the
regret head says."""


def scores(predicted: Mapping[str, "Predicted"], thresholds: Thresholds, half: "Half | None") -> dict[str, float]:
    """Each task's score and the total, on that half of the rows; {} where it has nothing that can be scored."""
    return {name: float(value[0]) for name, value in score_samples(predicted, thresholds, half, samples=0).items()}


def score_samples(
    predicted: Mapping[str, "Predicted"], thresholds: Thresholds, half: "Half | None", samples: int = 1000
) -> dict[str, Floats]:
    """As `scores`, (samples,) of each on resamples of the rows; of the rows themselves, (1,), where `samples` is 0."""
    readers: dict[str, list[Floats]] = {}
    for reader, whole in predicted.items():
        part = whole.half(half)
        figures = PRIMARY[reader](part.records, part.arrays, thresholds) if part.records else ()
        for task, values in by_task(reader, figures, partial(drawn, reader, samples, groups_of(part.records))):
            readers.setdefault(task, []).append(values)
    tasks = {task: np.mean(of_readers, axis=0) for task, of_readers in readers.items()}
    return tasks | {TOTAL: np.mean(list(tasks.values()), axis=0)} if tasks else {}


def by_task(
    reader: str, figures: Iterator[Figure] | Sequence[Figure], weights_of: Callable[[Figure], Floats | None]
) -> Iterator[tuple[str, Floats]]:
    """The reader's mean figure in each task it has labels of."""
    found: dict[str, list[Floats]] = {}
    for figure in figures:
        if figure.name in TASK_OF_FIGURE:
            task = TASK_OF_READER.get(reader, TASK_OF_FIGURE[figure.name])
            found.setdefault(task, []).append(np.nan_to_num(figure.statistic(weights_of(figure)), nan=0.0))
    for task, values in found.items():
        yield task, np.mean(values, axis=0)


def drawn(reader: str, samples: int, groups: np.ndarray, figure: Figure) -> Floats | None:
    """(samples, rows): how often each row is in each resample, the same for every model."""
    if not samples:
        return None
    count, member = members(figure, groups)
    seed = int.from_bytes(blake2b(reader.encode(), digest_size=8).digest())
    return resample_weights(np.random.default_rng([seed, count]), count, samples)[:, member]


def total_of(found: Mapping[str, float], half: str = "choosing") -> float:
    """The total; raises UserError where dev has nothing to choose by."""
    if not math.isfinite(total := found.get(TOTAL, math.nan)):
        raise UserError(
            f"dev has no rows in its {half} half that a score could be made of: give more rows, or a source of "
            f"{', '.join(PRIMARY)}"
        )
    return total
