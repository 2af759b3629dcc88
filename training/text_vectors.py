"""Texts as vectors: the mean of a text encoder's states over the tokens, of length one.

In    a model folder that training wrote, or the folder of a Hugging Face encoder; texts.
Out   vectors (texts, D) as NumPy arrays; a name by which an encoder is told from any other.
Run   through training/similar.py and training/predict.py

Of a Red Heart model the encoder it reads with is taken, with what it has learned. The mean over tokens is how
sentence encoders such as all-MiniLM and E5 were trained to be used (arXiv 1908.10084). Letters: B texts, T tokens.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from preprocessing.errors import UserError
from redheart_hf import RedHeartForMultiTask
from redheart_hf.modeling_embeddings import TextEncoder
from training.inference import BATCH_SIZE, evaluation_mode
from training.loading import load_model, what_loading_raises

Read = Callable[..., torch.Tensor]


class TextVectors:
    """Call it with texts. `encoder` is a hash of the encoder's weights."""

    def __init__(
        self, module: nn.Module, read: Read, tokenizer: PreTrainedTokenizerBase, max_length: int, prefix: str = ""
    ) -> None:
        self.module, self.read, self.tokenizer = module, read, tokenizer
        self.max_length, self.prefix = max_length, prefix
        self.encoder = f"{_hash_of(module)}{f' prefix {prefix!r}' if prefix else ''}"

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, D), float32, in the order of the texts; they are read in the order of their lengths."""
        order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), place))
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(order), BATCH_SIZE):
            places = order[start : start + BATCH_SIZE]
            found.update(zip(places, self._batch([self.prefix + texts[place] for place in places]), strict=True))
        return np.stack([found[place] for place in range(len(texts))])

    def _batch(self, texts: list[str]) -> np.ndarray:
        device = next(self.module.parameters()).device
        read = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        mask_BT1 = read["attention_mask"].unsqueeze(-1).to(device)
        names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in read]
        with evaluation_mode(self.module):
            states_BTD = self.read(**{name: read[name].to(device) for name in names}).float()
        mean_BD = (states_BTD * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1)
        return nn.functional.normalize(mean_BD, dim=-1).cpu().numpy()


def of_model(model: RedHeartForMultiTask, tokenizer: PreTrainedTokenizerBase) -> TextVectors:
    """Vectors of the encoder that a model reads with; UserError where it has embeddings of its own instead."""
    reader = model.model.embeddings
    if not isinstance(reader, TextEncoder):
        raise UserError(
            "this model has no text encoder, and means of its own embeddings say little of meaning; give a model "
            "trained with text_encoder, or the folder of an encoder"
        )
    return TextVectors(reader, reader.read, tokenizer, model.config.max_length, model.config.text_prefix)


def of_folder(folder: Path, prefix: str | None = None) -> TextVectors:
    """Of a Red Heart model, or of an encoder that AutoModel loads; `prefix` is for the latter, as E5's "query: "."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} is no model folder: {error}") from None
    if kind == "redheart":
        if prefix is not None:
            raise UserError("a Red Heart model has the prefix it was trained with; leave --prefix out")
        return of_model(*load_model(folder, mode="inference"))
    with what_loading_raises(folder, "a text encoder"):
        encoder = AutoModel.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    longest = min(512, getattr(encoder.config, "max_position_embeddings", 512), tokenizer.model_max_length)

    def read(**inputs: torch.Tensor) -> torch.Tensor:
        return encoder(**inputs).last_hidden_state

    return TextVectors(encoder, read, tokenizer, longest, prefix or "")


def _hash_of(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
