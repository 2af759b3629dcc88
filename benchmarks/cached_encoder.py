"""A frozen encoder whose hidden states are computed once and kept on the disk.

In    an encoder, a file for its states (safetensors, half precision), sequences of token ids.
Out   a module that answers as the encoder does, for the sequences it was given, in the time of a look-up.
Run   through benchmarks/ablation.py.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm


class CachedEncoder(nn.Module):
    """The frozen encoder's hidden states, computed once for each sequence of token ids and then looked up."""

    def __init__(self, encoder: nn.Module, path: Path):
        super().__init__()
        self.config, self.path = encoder.config, path
        self.of = {"encoder": encoder}  # in a dictionary, so that its weights are in no checkpoint
        self.features: dict[str, torch.Tensor] = load_file(path) if path.exists() else {}

    @torch.no_grad()
    def add(self, sequences: list[list[int]], batch_size: int = 64) -> None:
        """Compute what is not there yet, like lengths together, and keep it on the disk."""
        new = sorted({key_of(ids): ids for ids in sequences if key_of(ids) not in self.features}.values(), key=len)
        for start in tqdm(range(0, len(new), batch_size), desc="features", disable=not new):
            part = new[start : start + batch_size]
            longest = max(map(len, part))
            input_ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in part])
            mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in part])
            states = self.of["encoder"](input_ids=input_ids, attention_mask=mask).last_hidden_state.half()
            self.features |= {key_of(ids): state[: len(ids)].clone() for ids, state in zip(part, states, strict=True)}
        if new:
            save_file(self.features, self.path)

    def forward(self, input_ids, attention_mask=None, **kwargs):
        lengths = attention_mask.sum(dim=1).tolist()
        found = [self.features[key_of(ids[:n])] for ids, n in zip(input_ids.tolist(), lengths, strict=True)]
        return SimpleNamespace(last_hidden_state=nn.utils.rnn.pad_sequence(found, batch_first=True).float())


def key_of(ids: list[int]) -> str:
    return np.asarray(ids, dtype=np.int32).tobytes().hex()
