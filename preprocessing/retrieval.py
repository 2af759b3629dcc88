"""Finds the texts nearest in meaning among many, by vectors of a text encoder and a FAISS index over them.

In    records and their vectors (rows, D), each of length one, so that the inner product is the cosine.
Out   a folder: the texts with their labels, the index, and manifest.json with the SHA-256 of every file.
Run   `python -m training.similar --model DIR --data scenarios=data/scenarios/train.jsonl --output INDEX`

The index is that of `datasets` (`add_faiss_index`), written as FAISS writes it: nothing in the folder is a pickle or
runs code. It is read only if every file is the one that the manifest names, and searched only with vectors of the
encoder that made it, as cosines between two encoders mean nothing. `flat` compares with every text and misses none;
`hnsw` (arXiv 1603.09320) goes through a graph of neighbours (recall and speed in docs/preprocessing-steps.md).
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import faiss
import numpy as np
from datasets import Dataset

from preprocessing.errors import UserError
from preprocessing.records import RANGES, Record

Kind = Literal["flat", "hnsw"]
FACTORIES = {"flat": "Flat", "hnsw": "HNSW32"}
HNSW_SEARCH = 128
"""How many neighbours a search keeps in view; FAISS begins with 16, which misses more."""
FORM = 1
_COLUMN = "vector"
_INDEX, _TEXTS, _MANIFEST = "vectors.faiss", "texts", "manifest.json"


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
                self._near(int(place), float(score))
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
    if not records or vectors.ndim != 2 or len(vectors) != len(records):
        raise UserError(f"an index wants a vector a record; got {len(records):,} records, vectors {vectors.shape}")
    if folder.exists():
        raise UserError(f"{folder} is there already; name another folder, or remove it")
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.allclose(lengths, 1, atol=1e-3):
        raise UserError(
            f"vectors must have length one; the {int(np.argmax(abs(lengths - 1)))}th has {lengths.max():g}"
        )
    texts = Dataset.from_list([_row(record) for record in records])
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".index-", dir=folder.parent))
    try:
        with _without_bars():
            texts.save_to_disk(work / _TEXTS)
            _with_index(texts, vectors, kind).save_faiss_index(_COLUMN, str(work / _INDEX))
        files = {str(path.relative_to(work)): _sha256(path) for path in sorted(work.rglob("*")) if path.is_file()}
        manifest = {"form": FORM, "kind": kind, "encoder": encoder, "rows": len(texts), "files": files}
        (work / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return load(folder)


def load(folder: Path) -> Retrieval:
    """UserError where a file is missing or is not the one that was written."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        form, kind, encoder, files = (manifest[name] for name in ("form", "kind", "encoder", "files"))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder} holds no index that can be read ({error}); make one with training.similar"
        ) from None
    if form != FORM or kind not in FACTORIES:
        raise UserError(f"{folder} holds an index of form {form!r}, {kind!r}; this version reads {FORM}; make it anew")
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {_MANIFEST}
    for name in sorted(there ^ set(files)):
        raise UserError(f"{folder}: {name} is {'not in the manifest' if name in there else 'missing'}; make it anew")
    for name, expected in files.items():
        if _sha256(folder / name) != expected:
            raise UserError(f"{folder}: {name} is not the file that was written; make the index anew")
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


@contextmanager
def _without_bars() -> Iterator[None]:
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
