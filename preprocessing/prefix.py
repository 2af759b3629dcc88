"""The part of a prompt that all texts share is read once: its keys and values are lent to every batch.

In    token ids of the shared beginning.
Out   `Prefix.cache(rows)` to go on from, and the masks and positions of what follows.
Run   through preprocessing/score.py and preprocessing/decode.py.
"""

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from preprocessing.errors import UserError
from preprocessing.llm import Llm


class Prefix:
    def __init__(self, llm: Llm, ids: Sequence[int]) -> None:
        """Raises UserError for a model that keeps anything but keys and values of what it has read."""
        self.length = len(ids)
        self.window = getattr(llm.model.config, "sliding_window", None)
        self.name = llm.name
        cache = DynamicCache()
        with torch.inference_mode():
            llm.model(input_ids=torch.tensor([list(ids)]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]
        self._layers = [(keys, values) for keys, values in layers if keys is not None and values is not None]
        if not self._layers or any(keys.shape[2] != self.length for keys, _ in self._layers):
            raise UserError(
                f"{llm.name}: a {llm.model.config.model_type} model does not keep keys and values; take another"
            )

    def cache(self, rows: int) -> DynamicCache:
        """For so many rows; what a batch adds is its own."""
        # update() joins old and new into a tensor of its own, so the shared one is read only.
        return DynamicCache(
            [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in self._layers]
        )

    def check_length(self, total: int) -> None:
        """Masks here are those of full attention."""
        if self.window is not None and total > self.window:
            raise UserError(f"{self.name}: {total} tokens are more than its attention window of {self.window}")


def additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(rows, queries, keys) of bool -> what is added to attention scores, (rows, 1, queries, keys)."""
    mask = torch.zeros(allowed.shape, dtype=dtype)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def padded(rows: Sequence[Sequence[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids filled up on the right with 0, and which of them are real."""
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    real = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = torch.tensor(values, dtype=torch.long)
        real[row, : len(values)] = True
    return ids, real
