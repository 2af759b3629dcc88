"""What a trained model says about records, as arrays in the order of the records.

In    a model, its tokenizer, records; or the folder both were saved in.
Out   one array a quantity, one row a record (`predict_records` lists them); NaN or -1 where a record has none.
Run   through training/evaluate.py and training/predict.py.

Letters: R records, A actions of the record that has most, N sequences of a batch.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from preprocessing.encode import encode
from preprocessing.errors import UserError
from preprocessing.progress import without_bars
from preprocessing.records import Record
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from redheart_hf.answers import Arrays, arrays_of_sequences, to_numpy
from redheart_hf.labels import VIEWS
from redheart_hf.outputs import RedHeartOutput
from training.collator import MODEL_INPUTS, Collator
from training.surd_targets import agents_of

BATCH_SIZE = 64  # records a forward pass, wherever a model is asked and not taught
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

Predictions = Arrays
OF_DEEDS = ("circumstances", "contributions", "utility", "acceptability")
"""What is said of the chosen action, where there are actions, else of the text."""


def check_turns(records: Iterable[Record], config: RedHeartConfig) -> None:
    """Raises UserError when there are dialogues but nothing in the model that follows them."""
    if "affect_filter" not in config.modules:
        for record in records:
            if record.turns:
                raise UserError(
                    f"{record.id} has {len(record.turns)} turns before its text, but the model has no affect_filter "
                    "to follow them; train one with that module, or take the turns away"
                )


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout and gradients; afterwards the model is as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def predict_records(
    model: RedHeartForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    batch_size: int = BATCH_SIZE,
    num_proc: int = 1,
    progress: bool = True,
    mixed_precision: str = "no",
    cache: bool = True,
) -> Predictions:
    """Arrays by name, row i of each for records[i].

    Of the record's own text (the better one of a pair): basic_emotions (R, 7), fine_emotions (R, 28), korean_emotions
    (R, 44), polarity (R, 4) and culture (R, 3) as probabilities, vad_mean and vad_log_variance (R, 3), text_regret
    (R, 3). Of the chosen action, where there are actions, else of the text: circumstances and contributions (R, 7),
    utility (R,), acceptability (R, 4). Of pairs: utility_better, utility_worse (R,). Of actions: utility_views
    (R, A, 3), regret (R, 3), best (R,). With an affect filter: turn_vad_mean and turn_vad_log_variance (R, 3), VAD of
    the text given all turns of its dialogue. With a SURD head: surd_terms (R, 2, 12) and surd_agents (R, 2, 3), its
    terms and the predictions they are of, for the chosen action or the text, and for the worse text of a pair. And
    truncated (R,): sequences cut to the model's max_length.

    `cache` keeps the encoded records for a next call; without it nothing of them stays on the disk.
    """
    config = model.config
    check_turns(records, config)
    most_actions = max((len(record.actions or ()) for record in records), default=0)
    with tempfile.TemporaryDirectory() as passing:
        folder = None if cache else passing
        with without_bars():  # the bar below, and that of a run around it, are enough
            dataset = encode(records, tokenizer, config.max_length, config.text_prefix, num_proc, folder)
        batches = predicted_batches(model, Collator(tokenizer), dataset, batch_size, most_actions, mixed_precision)
        with tqdm(total=len(dataset), desc="predict", unit="record", leave=False, disable=not progress) as bar:
            collected: list[tuple[np.ndarray, Predictions]] = []
            for indices, arrays in batches:
                collected.append((indices, arrays))
                bar.update(len(indices))
    back = np.argsort(np.concatenate([indices for indices, _ in collected]))
    return {name: np.concatenate([arrays[name] for _, arrays in collected])[back] for name in collected[0][1]}


def predicted_batches(
    model: RedHeartForMultiTask,
    collator: Collator,
    dataset: Dataset,
    batch_size: int,
    most_actions: int,
    mixed_precision: str,
) -> Iterator[tuple[np.ndarray, Predictions]]:
    """Indices of records and their arrays, the longest records first: what does not fit in memory fails at once."""
    order = np.argsort(-np.asarray(dataset["length"]), kind="stable")
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        rows = [dataset[int(index)] for index in indices]
        batch = collator(rows)
        inputs = {name: batch[name].to(model.device) for name in MODEL_INPUTS if name in batch}
        with evaluation_mode(model), autocast(model.device, mixed_precision):
            output = model(**inputs)
        yield indices, arrays_of(output, rows, batch, most_actions, model.config.calibration or {})


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    dtype = AUTOCAST.get(mixed_precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def arrays_of(
    output: RedHeartOutput,
    rows: list[dict[str, Any]],
    batch: dict[str, Any],
    most_actions: int,
    calibration: Mapping[str, list[list[float]]],
) -> Predictions:
    """The quantities of one batch, one row a record."""
    of_sequences = arrays_of_sequences(output, calibration)
    text = np.asarray(batch["first_row"])
    chosen = np.asarray([-1 if row["chosen"] is None else row["chosen"] for row in rows])
    deed = np.where(chosen >= 0, text + 1 + chosen, text)
    is_pair = np.asarray([bool(row["is_pair"]) for row in rows])
    worse = np.where(is_pair, text + 1, text)
    utility, views = of_sequences["utility"], of_sequences.pop("utility_views")
    arrays = {name: values[deed if name in OF_DEEDS else text] for name, values in of_sequences.items()}
    arrays["utility_better"] = np.where(is_pair, utility[text], np.nan)
    arrays["utility_worse"] = np.where(is_pair, utility[worse], np.nan)
    arrays["truncated"] = np.asarray([row["truncated"] for row in rows])
    if output.surd is not None:
        judged = np.stack((np.where(is_pair, text, deed), worse), axis=1)
        none = ~np.stack((np.ones_like(is_pair), is_pair), axis=1)[..., None]
        arrays["surd_terms"] = np.where(none, np.nan, to_numpy(output.surd.terms)[judged])
        arrays["surd_agents"] = np.where(none, np.nan, to_numpy(agents_of(output))[judged])
    return arrays | action_arrays(output, views, rows, text, chosen, most_actions)


def action_arrays(
    output: RedHeartOutput,
    views: np.ndarray,
    rows: list[dict[str, Any]],
    text: np.ndarray,
    chosen: np.ndarray,
    most_actions: int,
) -> Predictions:
    """utility_views, regret and best; NaN and -1 for records without actions and beyond a record's last one."""
    utility_views = np.full((len(rows), most_actions, len(VIEWS)), np.nan)
    regret, best = np.full((len(rows), len(VIEWS)), np.nan), np.full(len(rows), -1)
    groups = np.flatnonzero(chosen >= 0)
    for index in groups:
        actions = len(rows[index]["sequences"]) - 1
        utility_views[index, :actions] = views[text[index] + 1 : text[index] + 1 + actions]
    if len(groups):
        regret[groups] = to_numpy(output.regret.regret)
        best[groups] = output.regret.best.cpu().numpy()
    return {"utility_views": utility_views, "regret": regret, "best": best}
