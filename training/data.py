"""From sources to what the loop trains on and what it is judged by.

In    sources as READER=PATH, rows to hold out, a tokenizer.
Out   an encoded training set; dev records per reader; rejected.jsonl, holdout.jsonl and data.json in output_dir.
Run   through training/train.py; `python -m preprocessing.readers READER=PATH` shows what a source holds.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from datasets import Dataset, List, Value
from transformers import PreTrainedTokenizerBase

from preprocessing.encode import encode_in_chunks
from preprocessing.errors import UserError
from preprocessing.origin_weights import LABELS, ONLY_HUMAN, complete, counted_only, weights_of
from preprocessing.overlap import find_overlaps, hold_out, without_overlaps
from preprocessing.readers import parse_source, read, write_rejected
from preprocessing.records import NULLABLE, RANGES, Record, by_reader, write_records
from preprocessing.sources import expand, refuse_repeated
from redheart_hf import RedHeartConfig
from redheart_hf.labels import EMOTION_FIELDS, ETHICS_EXPERTS, VAD
from redheart_hf.losses import TERMS
from training.collator import WEIGHTS
from training.config import TrainConfig
from training.figures import check_measurable
from training.inference import check_turns
from training.regret_cases import with_cases
from training.report import write_json
from training.sampling import of_source
from training.text_vectors import of_folder
from training.weights import with_weights

TERM_OF_LABEL = {"regret": "text_regret"}
"""Labels that are not learned by the term of their own name."""


@dataclass
class RunData:
    """`train` is encoded; `dev` and `counts` are by reader; `labels` are those that it teaches, and
    `emotion_counts` how often each emotion of a field is there."""

    train: Dataset
    dev: dict[str, list[Record]]
    counts: dict[str, int]
    labels: list[str]
    emotion_counts: dict[str, list[float]]

    @cached_property
    def digest(self) -> dict[str, str]:
        """Of the encoded rows to train on, and of the rows to judge by with their labels."""
        rows = [(reader, record.to_dict()) for reader, records in self.dev.items() for record in records]
        dev = hashlib.blake2b(json.dumps(rows, sort_keys=True).encode(), digest_size=8).hexdigest()
        return {"data": self.train.info.description, "dev": dev}


def read_sources(sources: list[str], rejected: list, config: TrainConfig | None = None) -> dict[str, list[Record]]:
    """Records by reader; rows set aside are added to `rejected`. With a config, its passes of sources weigh them."""
    records: list[Record] = []
    for argument in sources:
        result = read(parse_source(argument))
        rejected += result.rejected
        records += result.records if config is None else of_source(result.records, argument, config)
    return by_reader(records)


def labels_of(records: Iterable[Record], loss_weights: Mapping[str, float] | None = None) -> list[str]:
    """Names of the labels that occur and that a term of the loss learns from, its factor not being zero.

    Acceptability is told by expert; utility is taught by pairs or by actions, its views by actions alone. VAD counts
    as taught where each of the three is: an answer about dominance that nobody taught would be made up.
    """
    weights = dict.fromkeys(TERMS, 1.0) | dict(loss_weights or {})
    by_name = [name for name in RANGES if name not in NULLABLE and weights[TERM_OF_LABEL.get(name, name)]]
    found, affects = set(), set()
    for record in records:
        found |= {name for name in by_name if getattr(record, name) is not None}
        if weights["vad"]:
            affects |= {name for name, value in zip(VAD, record.vad or [], strict=False) if value is not None}
        if weights["acceptability"]:
            judged = zip(ETHICS_EXPERTS, record.acceptability or [], strict=False)
            found |= {f"acceptability/{expert}" for expert, value in judged if value is not None}
        if record.worse is not None and weights["preference"]:
            found.add("utility")
        if record.actions and weights["utility_views"]:
            found |= {"utility", "utility_views"}
    return sorted(found | ({"vad"} if affects == set(VAD) else set()))


def count_emotions(records: Iterable[Record]) -> dict[str, list[float]]:
    """Per field of emotions that any record has, the sum of each label over the records."""
    counts: dict[str, list[float]] = {}
    for record in records:
        for field in EMOTION_FIELDS:
            values = getattr(record, field)
            if values is not None:
                sums = counts.setdefault(field, [0.0] * len(values))
                for index, value in enumerate(values):
                    sums[index] += value or 0.0
    return counts


def class_balanced_weights(counts: list[float], beta: float) -> list[float]:
    """(1 - beta) / (1 - beta^n) of each label, scaled to a mean of one (Cui et al. 2019, arXiv 1901.05555).

    A label that never occurs keeps one: there is nothing to weigh up.
    """
    raw = [(1 - beta) / (1 - beta**count) if count > 0 else None for count in counts]
    known = [weight for weight in raw if weight is not None]
    return [1.0 if weight is None else weight * len(known) / sum(known) for weight in raw]


def label_weights(counts: dict[str, list[float]], beta: float) -> dict[str, list[float]]:
    """Class-balanced weights of every field of emotions."""
    return {field: class_balanced_weights(times, beta) for field, times in counts.items()}


def take_holdouts(
    train: dict[str, list[Record]], dev: dict[str, list[Record]], config: TrainConfig
) -> dict[str, list[Record]]:
    """Move `config.holdout` rows of each named reader from train to dev; gives back what was moved."""
    held_out = {}
    for reader, rows in config.holdout.items():
        if reader not in train:
            raise UserError(f"holdout names {reader!r}, which is not among the training readers: {', '.join(train)}")
        train[reader], held_out[reader] = hold_out(train[reader], rows, config.seed)
        if not train[reader]:
            raise UserError(f"holdout of {rows} rows leaves nothing of {reader} to train on")
        dev.setdefault(reader, []).extend(held_out[reader])
    return held_out


def some_of(train: dict[str, list[Record]], rows: int | None, seed: int) -> dict[str, list[Record]]:
    """No more than `rows` of all records, by chance and in their order, with at least one of each reader."""
    everything = [(reader, record) for reader, records in train.items() for record in records]
    if rows is None or rows >= len(everything):
        return train
    if rows < len(train):
        raise UserError(f"train_rows is {rows}, and there are {len(train)} readers to take a record of: raise it")
    shuffled = np.random.default_rng(seed).permutation(len(everything))
    first_of = {everything[index][0]: index for index in reversed(shuffled)}
    rest = [index for index in shuffled if index not in first_of.values()]
    kept: dict[str, list[Record]] = {}
    for index in sorted([*first_of.values(), *rest[: rows - len(first_of)]]):
        reader, record = everything[index]
        kept.setdefault(reader, []).append(record)
    return kept


def with_origin_weights(dataset: Dataset, records: list[Record], weights: Mapping[str, float]) -> Dataset:
    """The encoded records with a column of weights, if a label of any counts more or less than one."""
    said = [weights_of(record, weights) for record in records]
    if not any(said):
        return dataset
    column = [[of.get(label, 1.0) for label in LABELS] for of in said]
    weighed = dataset.add_column(WEIGHTS, column, feature=List(Value("float32")))
    digest = hashlib.blake2b(json.dumps(column).encode(), digest_size=8).hexdigest()
    weighed.info.description = f"{dataset.info.description}-{digest}"
    return weighed


def encoder_of(config: TrainConfig) -> str:
    """Of the run's text encoder; a fresh one's own folder, or the model's that it starts from."""
    return expand(config.text_encoder or config.start_from or "")


def counted(records: dict[str, list[Record]], weights: Mapping[str, float]) -> dict[str, list[Record]]:
    """By reader, the records without labels whose origin weighs nothing."""
    return {reader: list(counted_only(rows, weights)) for reader, rows in records.items()}


def prepare_data(
    config: TrainConfig,
    model_config: RedHeartConfig,
    tokenizer: PreTrainedTokenizerBase,
    write: bool,
    approve: Callable[[dict[str, str]], None] | None = None,
) -> RunData:
    """Read, hold out, weigh, take what dev shares with train out of dev, encode; reports are written where `write`,
    once `approve` has seen their digest and raised nothing."""
    rejected: list = []
    refuse_repeated([parse_source(source) for source in [*config.train, *config.dev]])
    weights = complete(config.origin_weights)
    train = counted(read_sources(config.train, rejected, config), weights)
    dev = read_sources(config.dev, rejected)
    held_out = take_holdouts(train, dev, config)
    dev = counted(dev, ONLY_HUMAN)
    train = some_of(train, config.train_rows, config.seed)
    all_train = [record for records in train.values() for record in records]
    all_dev = [record for records in dev.values() for record in records]
    check_turns(all_train + all_dev, model_config)
    overlaps = find_overlaps(all_train, all_dev)
    kept, dropped = without_overlaps(all_dev, all_train)
    if all_dev and not kept:
        raise UserError(
            f"all {len(all_dev)} dev rows also occur in training, so that none is left to judge by; give others"
        )
    dev = by_reader(kept)
    check_measurable(dev)
    form, anew = (tokenizer, model_config.max_length, model_config.text_prefix), write and config.force_preprocess
    dataset = encode_in_chunks(all_train, config.chunk_rows, *form, config.num_proc, anew)
    dataset = with_weights(with_origin_weights(dataset, all_train, weights), all_train)
    dataset = with_cases(dataset, all_train, config, lambda: of_folder(encoder_of(config)))
    counts = {reader: len(records) for reader, records in train.items()}
    report = {
        "train": counts,
        "dev": {reader: len(records) for reader, records in dev.items()},
        "rejected": Counter(f"{row.file}: {row.reason}" for row in rejected),
        "overlaps": str(overlaps).splitlines(),
        "taken_out_of_dev": Counter(record.reader for record in dropped),
        "truncated_sequences": int(sum(dataset["truncated"])),
    }
    found = RunData(dataset, dev, counts, labels_of(all_train, config.loss_weights), count_emotions(all_train))
    if approve is not None:
        approve(found.digest)
    if write:
        output_dir = Path(config.output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        write_rejected(output_dir / "rejected.jsonl", rejected)
        for reader, records in held_out.items():
            write_records(output_dir / f"holdout_{reader}.jsonl", records)
        write_json(output_dir / "data.json", report)
        print(json.dumps(report, indent=2, ensure_ascii=False))
    return found
