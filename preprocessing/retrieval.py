"""Finds the texts nearest in meaning among many, by vectors of a text encoder and a FAISS index over them.

In    records and their vectors (rows, D), each of length one, so that the inner product is the cosine.
Out   an index in memory; or a folder: the texts with their labels, the index, and manifest.json with the SHA-256 of
      every file.
Run   `python -m training.similar --model DIR --data scenarios=data/scenarios/train.jsonl --output INDEX`

The index is that of `datasets` (`add_faiss_index`), written as FAISS writes it: nothing in the folder is a pickle or
runs code. It is read only if every file is the one that the manifest names, and searched only with vectors of the
encoder that made it, as cosines between two encoders mean nothing. `flat` compares with every text and misses none;
`hnsw` (arXiv 1603.09320) goes through a graph of neighbours (recall and speed in docs/preprocessing-steps.md).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import faiss
import numpy as np
from datasets import Dataset

from preprocessing.errors import UserError
from preprocessing.folders import MANIFEST, read_manifest, verify, write_folder
from preprocessing.progress import without_bars
from preprocessing.records import RANGES, Record

Kind = Literal["flat", "hnsw"]
FACTORIES = {"flat": "Flat", "hnsw": "HNSW32"}
HNSW_SEARCH = 128
"""How many neighbours a search keeps in view; FAISS begins with 16, which misses more."""
FORM = 1
_COLUMN = "vector"
_INDEX, _TEXTS = "vectors.faiss", "texts"

Embed = Callable[[list[str]], np.ndarray]
"""Texts to vectors (texts, D) of length one."""


class Encoder(Protocol):
    """What makes vectors, before it is in memory (preprocessing/text_vectors.py)."""

    @property
    def hash(self) -> str: ...

    def open(self) -> Embed: ...

    def reads(self, language: str) -> bool:
        """False where texts in it are to be let pass; raises UserError where its vectors would mean nothing."""
        ...

    def whole(self, texts: list[str]) -> list[bool]:
        """Which texts are read to their end: cut ones would be alike whose ends differ."""
        ...


@dataclass(frozen=True)
class Near:
    """A text that was found; `labels` are those of its record, by name."""

    id: str
    text: str
    language: str
    similarity: float
    labels: dict[str, Any]


class Retrieval:
    """Open for searching; `texts` are in the order in which they were given."""

    def __init__(self, texts: Dataset, kind: Kind, encoder: str) -> None:
        self.texts, self.kind, self.encoder = texts, kind, encoder

    def search(
        self, vectors: np.ndarray, encoder: str, count: int = 5, below: float = 1.01, least: float = -1.0
    ) -> list[list[Near]]:
        """For each of the vectors the nearest `count`, nearest first, of a similarity from `least` to under `below`.

        A `below` of 0.95 leaves out what says the same, so that others in a like situation are found.
        """
        found = self.places(vectors, encoder, count, below, least)
        return [[self._near(place, score) for place, score in row] for row in found]

    def places(
        self, vectors: np.ndarray, encoder: str, count: int = 5, below: float = 1.01, least: float = -1.0
    ) -> list[list[tuple[int, float]]]:
        """The same as (position among the texts, similarity)."""
        if encoder != self.encoder:
            raise UserError(
                f"the index was made by the text encoder {self.encoder}, and asked with {encoder}; make it anew with "
                "training.similar and this model"
            )
        asked = np.ascontiguousarray(vectors, dtype=np.float32)
        more = count if below > 1 else 4 * count + 16
        found = self.texts.search_batch(_COLUMN, asked, k=min(more, len(self.texts)))
        return [
            [
                (int(place), float(score))
                for score, place in zip(scores, places, strict=True)
                if place >= 0 and least <= score < below
            ][:count]
            for scores, places in zip(found.total_scores, found.total_indices, strict=True)
        ]

    def _near(self, place: int, score: float) -> Near:
        row = self.texts[place]
        return Near(row["id"], row["text"], row["language"], score, json.loads(row["labels"]))


def build(
    records: Sequence[Record], vectors: np.ndarray, encoder: str, folder: Path, kind: Kind = "flat"
) -> Retrieval:
    """Writes `folder` whole or not at all; `encoder` tells the encoder that made the vectors from any other."""
    if folder.exists():
        raise UserError(f"{folder} is there already; name another folder, or remove it")
    texts = _texts_of(records, vectors)

    def write(work: Path) -> None:
        with without_bars():
            texts.save_to_disk(work / _TEXTS)
            _with_index(texts, vectors, kind).save_faiss_index(_COLUMN, str(work / _INDEX))

    write_folder(folder, write, {"form": FORM, "kind": kind, "encoder": encoder, "rows": len(texts)})
    return load(folder)


def in_memory(records: Sequence[Record], vectors: np.ndarray, encoder: str) -> Retrieval:
    """The same as a flat index, of which nothing is written."""
    with without_bars():
        return Retrieval(_with_index(_texts_of(records, vectors), vectors, "flat"), "flat", encoder)


def load(folder: Path) -> Retrieval:
    """UserError where a file is missing, is not the one that was written, or was not written with the others."""
    manifest = read_manifest(folder, "index")
    facts = manifest["facts"]
    form, kind, encoder = (facts.get(name) for name in ("form", "kind", "encoder"))
    if form != FORM or kind not in FACTORIES:
        raise UserError(f"{folder} holds an index of form {form!r}, {kind!r}; this version reads {FORM}; make it anew")
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    for name in sorted(there - set(manifest["files"])):
        raise UserError(f"{folder}: {name} is not in the manifest; make it anew")
    verify(folder, what="index")
    texts = Dataset.load_from_disk(str(folder / _TEXTS))
    texts.load_faiss_index(_COLUMN, str(folder / _INDEX))
    if kind == "hnsw":
        texts.get_index(_COLUMN).faiss_index.hnsw.efSearch = HNSW_SEARCH
    return Retrieval(texts, kind, encoder)


def labels_by_name(record: Record) -> dict[str, Any]:
    labels = {name: value for name in RANGES if (value := getattr(record, name)) is not None}
    if record.actions is not None:
        labels["actions"] = [action.text for action in record.actions]
        labels["chosen"] = record.chosen
    return labels


def _texts_of(records: Sequence[Record], vectors: np.ndarray) -> Dataset:
    if not records or vectors.ndim != 2 or len(vectors) != len(records):
        raise UserError(f"an index wants a vector a record; got {len(records):,} records, vectors {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.allclose(lengths, 1, atol=1e-3):
        raise UserError(
            f"vectors must have length one; the {int(np.argmax(abs(lengths - 1)))}th has {lengths.max():g}"
        )
    return Dataset.from_list([_row(record) for record in records])


def _row(record: Record) -> dict[str, str]:
    labels = json.dumps(labels_by_name(record), ensure_ascii=False)
    return {"id": record.id, "text": record.text, "language": record.language, "labels": labels}


def _with_index(texts: Dataset, vectors: np.ndarray, kind: Kind) -> Dataset:
    texts.add_faiss_index_from_external_arrays(
        np.ascontiguousarray(vectors, dtype=np.float32),
        _COLUMN,
        string_factory=FACTORIES[kind],
        metric_type=faiss.METRIC_INNER_PRODUCT,
    )
    return texts
