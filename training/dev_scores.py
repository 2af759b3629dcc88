"""The score of many models on the same rows of dev, encoded and laid into batches once.

In    dev records by reader, a half of them, at most so many rows; a model, again and again.
Out   its score by task and in total (training/score.py), with resamples of the rows that are the same for every model.
Run   through training/lr_sweep.py, training/sweet_spot.py and training/crossover.py

What it says of the choosing half is what `evaluate_dev` says: thresholds are chosen on those rows for each model anew.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from preprocessing.encode import encode
from preprocessing.metrics import Floats
from preprocessing.overlap import half_of
from preprocessing.progress import without_bars
from preprocessing.records import Record
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from redheart_hf.losses import label_counts, loss_sums, multi_task_loss
from training.collator import MODEL_INPUTS, Batch, Collator, to_device
from training.evaluate import Half, Predicted, thresholds_from
from training.figures import Thresholds
from training.inference import BATCH_SIZE, arrays_of, autocast, evaluation_mode
from training.score import score_samples

REMEMBERED = 256 << 20


class Part(NamedTuple):
    """Rows that go through the model together."""

    indices: np.ndarray
    rows: list[dict[str, Any]]
    batch: Batch


class Scores(NamedTuple):
    """Of one model: by task and in total."""

    values: dict[str, float]
    samples: dict[str, Floats]
    """(samples,) of each on resamples of the rows; empty arrays where none were asked for."""


class DevScores:
    """Some rows of dev, waiting for models."""

    def __init__(
        self,
        config: RedHeartConfig,
        tokenizer: PreTrainedTokenizerBase,
        records_by_reader: Mapping[str, Sequence[Record]],
        half: Half,
        most_rows: int | None = None,
        mixed_precision: str = "no",
    ):
        self.half, self.mixed_precision = half, mixed_precision
        self.at = ("", 0)  # the reader and the number of the batch that is in the model
        of_half = {
            reader: [record for record in records if half_of(record) == half]
            for reader, records in records_by_reader.items()
        }
        self.records = thinned({reader: rows for reader, rows in of_half.items() if rows}, most_rows)
        self.parts = {reader: parts_of(rows, config, tokenizer) for reader, rows in self.records.items()}

    @property
    def rows(self) -> int:
        return sum(map(len, self.records.values()))

    @property
    def fingerprint(self) -> str:
        """Of the rows and their labels."""
        return digest_of(self.half, *(repr(row) for rows in self.records.values() for row in rows))

    def predict(self, model: RedHeartForMultiTask) -> dict[str, Predicted]:
        return {reader: Predicted(rows, self.arrays(model, reader)) for reader, rows in self.records.items()}

    def arrays(self, model: RedHeartForMultiTask, reader: str) -> dict[str, np.ndarray]:
        """As `predict_records` gives them."""
        most_actions = max(len(record.actions or ()) for record in self.records[reader])
        found = []
        for number, part in enumerate(self.parts[reader]):
            self.at = (reader, number)
            inputs = {name: part.batch[name].to(model.device) for name in MODEL_INPUTS if name in part.batch}
            with evaluation_mode(model), autocast(torch.device(model.device), self.mixed_precision):
                output = model(**inputs)
            calibration = model.config.calibration or {}
            found.append(arrays_of(output, part.rows, part.batch, most_actions, calibration))
        back = np.argsort(np.concatenate([part.indices for part in self.parts[reader]]))
        return {name: np.concatenate([arrays[name] for arrays in found])[back] for name in found[0]}

    @contextmanager
    def remembering(self, unit: nn.Module | None) -> Iterator[None]:
        """What `unit` answers to each batch is kept, up to REMEMBERED bytes in all, and not computed again: for those
        who change only what follows it. None: nothing is kept."""
        if unit is None:
            yield
            return
        forward, size = unit.forward, 0
        kept: dict[tuple[str, int], Any] = {}

        def look_up(*args: Any, **kwargs: Any) -> Any:
            nonlocal size
            if self.at in kept:
                return kept[self.at]
            answer = forward(*args, **kwargs)
            size += bytes_of(answer)
            if size <= REMEMBERED:
                kept[self.at] = answer
            return answer

        own = unit.__dict__.get("forward")
        unit.forward = look_up
        try:
            yield
        finally:
            del unit.__dict__["forward"]
            if own is not None:
                unit.forward = own

    def score(
        self, model: RedHeartForMultiTask, samples: int = 0, thresholds: Thresholds | None = None
    ) -> tuple[Scores, Thresholds]:
        """The model's scores and the thresholds they are of: those given, else chosen on these rows."""
        predicted = self.predict(model)
        if thresholds is None:
            thresholds = {**(model.config.thresholds or {}), **thresholds_from(predicted)}
        values = {name: float(value[0]) for name, value in score_samples(predicted, thresholds, self.half, 0).items()}
        drawn = score_samples(predicted, thresholds, self.half, samples) if samples else {}
        return Scores(values, drawn), thresholds

    def loss(self, model: RedHeartForMultiTask) -> float:
        """The mean loss over the labels of these rows, the terms added as they are."""
        sums: dict[str, torch.Tensor] = {}
        counts: dict[str, float] = {}
        for part in (part for parts in self.parts.values() for part in parts):
            batch = to_device(part.batch, torch.device(model.device))
            with evaluation_mode(model), autocast(torch.device(model.device), self.mixed_precision):
                output = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
                found = loss_sums(output, batch["labels"], model.config)
            for term, count in label_counts(part.batch["labels"], len(part.batch["input_ids"])).items():
                counts[term] = counts.get(term, 0.0) + count
            for term, value in found.items():
                sums[term] = sums.get(term, torch.zeros(())) + value.float().cpu()
        total, _ = multi_task_loss(sums, counts, {}, model.config)
        return float(total)


def thinned(records: dict[str, list[Record]], most_rows: int | None) -> dict[str, list[Record]]:
    """At most so many rows, of each reader the same share, spread evenly over it."""
    total = sum(map(len, records.values()))
    if most_rows is None or total <= most_rows:
        return records
    kept = {reader: max(1, len(rows) * most_rows // total) for reader, rows in records.items()}
    return {
        reader: [rows[int(at)] for at in np.linspace(0, len(rows) - 1, kept[reader]).round()]
        for reader, rows in records.items()
    }


def parts_of(records: list[Record], config: RedHeartConfig, tokenizer: PreTrainedTokenizerBase) -> list[Part]:
    with without_bars():
        dataset = encode(records, tokenizer, config.max_length, config.text_prefix)
    collator = Collator(tokenizer)
    order = np.argsort(-np.asarray(dataset["length"]), kind="stable")
    parts = []
    for start in range(0, len(order), BATCH_SIZE):
        indices = order[start : start + BATCH_SIZE]
        rows = [dataset[int(index)] for index in indices]
        parts.append(Part(indices, rows, collator(rows)))
    return parts


def bytes_of(answer: torch.Tensor | Mapping[str, torch.Tensor]) -> int:
    tensors = [answer] if isinstance(answer, torch.Tensor) else answer.values()
    return sum(tensor.nbytes for tensor in tensors)


def digest_of(*said: str) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for part in said:
        digest.update(part.encode("utf-8", "backslashreplace") + b"\0")
    return digest.hexdigest()
