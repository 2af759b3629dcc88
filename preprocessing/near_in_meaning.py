"""Sets aside texts that say in other words what an earlier one says, by the cosine of their vectors.

In    records, one after another; a text encoder (preprocessing/text_vectors.py).
Out   the same records or `Rejected`.
Run   through preprocessing/pipeline.py

Each row is compared with all that were kept before it, so that time goes with the square of the rows (figures in
docs/preprocessing-steps.md), and memory holds 4 bytes for each of D numbers and kept row. As with near-duplicates in
letters, a row goes only if the earlier one has each of its labels with the same value.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice

import faiss
import numpy as np

from preprocessing.errors import UserError
from preprocessing.filters import labels_of
from preprocessing.readers import Rejected
from preprocessing.records import Record
from preprocessing.retrieval import Encoder
from preprocessing.steps import set_aside

BATCH = 256
NEAREST = 8
"""Earlier rows that are looked at for one with the same labels."""


class NearInMeaning:
    """Judges records by their `text` alone; those with a second part, a worse text, turns or actions pass.

    So do those in a language that the encoder is not to read, and those longer than it reads: it would compare how
    they begin.
    """

    name = "near-in-meaning"

    def __init__(self, encoder: Encoder, threshold: float = 0.97) -> None:
        if not 0 < threshold <= 1:
            raise UserError(f"meaning_threshold must be above 0 and 1 at most, got {threshold}")
        self.encoder, self.threshold = encoder, threshold
        self.made_of = encoder.hash
        self.counts: Counter[str] = Counter()

    def __call__(self, records: Iterable[Record]) -> Iterator[Record | Rejected]:
        remaining = iter(records)
        embed = self.encoder.open()
        reads = cache(self.encoder.reads)
        kept = _Kept(self.threshold)
        while batch := list(islice(remaining, BATCH)):
            out: dict[int, Record | Rejected] = dict(enumerate(batch))
            compared = [place for place, record in enumerate(batch) if reads(record.language) and _is_compared(record)]
            self.counts["passed: in a language that the encoder does not read"] += sum(
                not reads(record.language) for record in batch
            )
            whole = self.encoder.whole([batch[place].text for place in compared]) if compared else []
            places = [place for place, is_whole in zip(compared, whole, strict=True) if is_whole]
            self.counts["passed: longer than the encoder reads"] += len(compared) - len(places)
            if places:
                vectors = np.ascontiguousarray(embed([batch[place].text for place in places]), dtype=np.float32)
                out.update(zip(places, kept.judged([batch[place] for place in places], vectors), strict=True))
            yield from out.values()
        self.counts = +(self.counts + kept.counts)


def _is_compared(record: Record) -> bool:
    return not (record.text_pair or record.worse or record.turns or record.actions)


class _Kept:
    """What was kept so far."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.index: faiss.IndexFlatIP | None = None
        self.said: list[tuple[str, frozenset[tuple[str, str]]]] = []
        self.counts: Counter[str] = Counter()

    def judged(self, records: list[Record], vectors: np.ndarray) -> Iterator[Record | Rejected]:
        if self.index is None:
            self.index = faiss.IndexFlatIP(vectors.shape[1])
        before = len(self.said)
        earlier = _earlier(self.index, vectors, self.threshold)
        among = vectors @ vectors.T
        added: list[int] = []
        for row, record in enumerate(records):
            alike = [(score, self.said[place]) for score, place in earlier[row]]
            alike += [
                (float(among[row, other]), self.said[before + place])
                for place, other in enumerate(added)
                if among[row, other] >= self.threshold
            ]
            said = frozenset((label, repr(value)) for label, value in labels_of(record))
            covering = [(score, name) for score, (name, labels) in alike if said <= labels]
            if covering:
                score, name = max(covering)
                yield set_aside(record, "same-meaning", f"{score:.3f} like {name}")
                continue
            if alike:
                self.counts["kept: like an earlier text, with other labels"] += 1
            self.said.append((record.id, said))
            added.append(row)
            yield record
        self.index.add(vectors[added])


def _earlier(index: faiss.IndexFlatIP, vectors: np.ndarray, threshold: float) -> list[list[tuple[float, int]]]:
    """For each vector (score, place) of up to `NEAREST` kept rows that reach the threshold."""
    if not index.ntotal:
        return [[] for _ in vectors]
    scores, places = index.search(vectors, min(NEAREST, index.ntotal))
    return [
        [(float(score), int(place)) for score, place in zip(*found, strict=True) if score >= threshold]
        for found in zip(scores, places, strict=True)
    ]
