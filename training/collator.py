"""Records of the encoded dataset become one batch of tensors.

In    rows as `preprocessing.encode` wrote them, and the tokenizer's padding id and side.
Out   {input_ids, attention_mask, (token_type_ids), (alternatives, chosen), (turns), labels, ids, first_row}.
Run   `Collator(tokenizer)([dataset[i] for i in (3, 1, 4)])`

A record gives one sequence, or two (better and worse of a pair), or one more than it has actions (text, then text with
each action) or turns before it (text, then these, the oldest first). Actions that other cases lend come last; then
`among` is the deed's regret beside all of them (training/regret_alternatives.py). Every label is there for every
sequence, NaN where it is absent, so that each batch asks the same of the model. Letters: N sequences, G groups of
alternatives or dialogues, A alternatives, S turns, P pairs.
"""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from preprocessing.origin_weights import LABELS
from redheart_hf.labels import (
    CIRCUMSTANCES,
    CULTURE,
    EMOTION_FIELDS,
    ETHICS_EXPERTS,
    VAD,
    VIEWS,
)

Batch = dict[str, Any]

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "alternatives", "chosen", "turns")

TEXT_LABELS = {  # of the text itself
    **{field: len(names) for field, names in EMOTION_FIELDS.items()},
    "vad": len(VAD),
    "culture": len(CULTURE),
    "regret": len(VIEWS),
}
WEIGHTS = "origin_weights"
"""Column of a dataset of which some labels count more than others: a weight for each of `LABELS`."""
DEED_LABELS = {"circumstances": len(CIRCUMSTANCES), "acceptability": len(ETHICS_EXPERTS)}  # of the chosen action


class Collator:
    """Pads sequences to the longest of the batch and lays the labels beside them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    def __call__(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        sequences = [sequence for record in records for sequence in record["sequences"]]
        padded: dict[str, Any] = {"input_ids": sequences}
        if records[0]["segments"] is not None:
            padded["token_type_ids"] = [segment for record in records for segment in record["segments"]]
        batch: dict[str, Any] = dict(self.tokenizer.pad(padded, return_tensors="pt"))
        first_row = torch.tensor([len(record["sequences"]) for record in records]).cumsum(0).tolist()
        first_row = [0, *first_row[:-1]]
        batch["labels"] = self.labels(records, first_row, len(sequences))
        self.add_alternatives(batch, records, first_row)
        self.add_turns(batch, records, first_row)
        batch["ids"] = [record["id"] for record in records]
        batch["first_row"] = first_row
        return batch

    def labels(self, records: list[dict], first_row: list[int], num_sequences: int) -> dict[str, torch.Tensor]:
        sizes = TEXT_LABELS | DEED_LABELS | {"utility_views": len(VIEWS)}
        labels = {name: torch.full((num_sequences, size), float("nan")) for name, size in sizes.items()}
        pairs = []
        for record, row in zip(records, first_row, strict=True):
            deed_row = row if record["chosen"] is None else row + 1 + record["chosen"]
            for name in sizes:
                values = record.get(name)
                if values is not None:
                    labels[name][deed_row if name in DEED_LABELS else row] = as_tensor(values)
            for position, utility in enumerate(record["utilities"] or []):
                labels["utility_views"][row + 1 + position] = as_tensor(utility)
            if record["is_pair"]:
                pairs.append((row, row + 1))
        labels |= label_weights(records, first_row, num_sequences)
        labels["preference"] = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
        return labels

    def add_alternatives(self, batch: dict[str, Any], records: list[dict], first_row: list[int]) -> None:
        """Row indices of the actions of each record that has any, and the regret of the chosen one."""
        groups = [
            (record, range(row + (record["chosen"] is not None), row + len(record["sequences"])))
            for record, row in zip(records, first_row, strict=True)
            if record["chosen"] is not None or "among" in record  # in the latter the text is the deed, and comes first
        ]
        if not groups:
            return
        widest = max(len(rows) for _, rows in groups)
        alternatives = torch.full((len(groups), widest), -1, dtype=torch.long)
        if weights := [regret_weight(record) for record, _ in groups if WEIGHTS in record]:
            batch["labels"]["alternatives_regret_weights"] = torch.tensor(weights).unsqueeze(-1)
        regret = torch.full((len(groups), len(VIEWS)), float("nan"))
        for index, (record, rows) in enumerate(groups):
            alternatives[index, : len(rows)] = torch.arange(rows.start, rows.stop)
            if (target := record.get("among", record["regret"])) is not None:
                regret[index] = as_tensor(target)
        batch["alternatives"] = alternatives
        batch["chosen"] = torch.tensor([record["chosen"] or 0 for record, _ in groups])
        batch["labels"]["alternatives_regret"] = regret

    def add_turns(self, batch: dict[str, Any], records: list[dict], first_row: list[int]) -> None:
        """turns (G, S): row indices of each dialogue in order, its text last, padded with -1."""
        dialogues = [
            [*range(row + 1, row + 1 + record["num_turns"]), row]
            for record, row in zip(records, first_row, strict=True)
            if record["num_turns"]
        ]
        if dialogues:
            longest = max(map(len, dialogues))
            batch["turns"] = torch.tensor([rows + [-1] * (longest - len(rows)) for rows in dialogues])


def label_weights(records: list[dict], first_row: list[int], num_sequences: int) -> dict[str, torch.Tensor]:
    """NAME_weights (N, 1) of each label, where the dataset has weights: how much the labels of a record count."""
    if WEIGHTS not in records[0]:
        return {}
    names = (*TEXT_LABELS, *DEED_LABELS, "utility_views")
    weights = {name: torch.ones(num_sequences, 1) for name in names}
    for record, row in zip(records, first_row, strict=True):
        rows = slice(row, row + len(record["sequences"]))  # a label of the record is of one of its rows
        for name in names:
            weights[name][rows] = weights_in(record)["actions" if name == "utility_views" else name]
        lent = [dict(zip(LABELS, said, strict=True))["actions"] for said in record.get("lent_weights", ())]
        weights["utility_views"][rows.stop - len(lent) : rows.stop, 0] = torch.tensor(lent)
    return {f"{name}_weights": value for name, value in weights.items()}


def weights_in(record: dict[str, Any]) -> dict[str, float]:
    return dict(zip(LABELS, record[WEIGHTS], strict=True))


def regret_weight(record: dict[str, Any]) -> float:
    """Of a regret beside actions that others lend, the least of what it was computed from."""
    own = weights_in(record)
    lent = [dict(zip(LABELS, said, strict=True))["actions"] for said in record.get("lent_weights", ())]
    return min(own["regret"], own["actions"], *lent) if lent else own["regret"]


def as_tensor(values: list[float | None]) -> torch.Tensor:
    """float32, with NaN for None."""
    return torch.tensor([float("nan") if value is None else value for value in values])


def ids_of(group: list[Batch]) -> str:
    return f"records of the step: {[record_id for batch in group for record_id in batch['ids']]}"


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors of a nested batch on `device`; everything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: to_device(item, device) for name, item in value.items()}
    return value
