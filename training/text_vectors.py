"""Vectors of the text encoder that a Red Heart model reads with, with what it has learned.

In    a model folder that training wrote, or the folder of a Hugging Face encoder.
Out   `TextVectors` (preprocessing/text_vectors.py).
Run   through training/similar.py and training/predict.py
"""

import hashlib
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from preprocessing import text_vectors
from preprocessing.errors import UserError
from preprocessing.model_files import kind_of, place_of
from preprocessing.text_vectors import TextVectors
from redheart_hf import RedHeartForMultiTask
from redheart_hf.modeling_embeddings import TextEncoder
from training.loading import load_model


def of_model(model: RedHeartForMultiTask, tokenizer: PreTrainedTokenizerBase) -> TextVectors:
    """Vectors of the encoder that a model reads with; UserError where it has embeddings of its own instead."""
    reader, prefix = model.model.embeddings, model.config.text_prefix
    if not isinstance(reader, TextEncoder):
        raise UserError(
            "this model has no text encoder, and means of its own embeddings say little of meaning; give a model "
            "trained with text_encoder, or the folder of an encoder"
        )
    name = f"{_hash_of(reader)}{f' prefix {prefix!r}' if prefix else ''}"
    return TextVectors(reader, reader.read, tokenizer, model.config.max_length, name, prefix)


def of_folder(folder: Path | str, prefix: str | None = None) -> TextVectors:
    """Of a Red Heart model, or of an encoder that AutoModel loads; `prefix` is for the latter, as E5's "query: "."""
    folder = place_of(str(folder), "model")
    if kind_of(folder) != "redheart":
        return text_vectors.of_folder(str(folder), prefix or "")
    if prefix is not None:
        raise UserError("a Red Heart model has the prefix it was trained with; leave --prefix out")
    return of_model(*load_model(folder, mode="inference"))


def _hash_of(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
