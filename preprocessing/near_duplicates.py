"""Sets aside texts that differ from an earlier one in a few letters, found by MinHash and checked by exact Jaccard.

In    records, one after another.
Out   the same records or `Rejected`; the pairs that were found in `pairs`, a file of JSON lines, where one is named.
Run   through preprocessing/pipeline.py

A text is the set of its letter sequences: of 3 letters in Korean, where a letter is a syllable, of 5 in English. How
alike two texts are is the share of sequences that both have of all that either has (Jaccard). rensa makes signatures
of 128 numbers; texts that agree in one band of these are compared exactly, so that nothing is set aside by chance.
What chance can do is miss a pair, 1 in 100 of those just at the threshold and fewer above it.

Every row is compared with the rows kept before it, in the order of the file, whatever the number of processes. Of two
alike rows the second goes only if the first has each of its labels with the same value: authors wrote pairs that
differ in one word and in the judgement for it, and these are what there is to learn.

Records and signatures wait on the disk (figures in docs/preprocessing-steps.md); in memory are 8 bytes a row, some 30
more while a band is sorted, and 24 for each band in which a row agrees with another.
"""

import json
import multiprocessing
import tempfile
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Literal

import numpy as np
import rensa

from preprocessing.errors import UserError
from preprocessing.files import write_lines
from preprocessing.filters import labels_of, texts_of
from preprocessing.processes import end_with_parent
from preprocessing.readers import Rejected
from preprocessing.records import Record
from preprocessing.spool import Spool
from preprocessing.steps import set_aside
from preprocessing.text import normalise

SEQUENCE = {"ko": 3, "en": 5}
"""Letters in a row that are compared, by language."""
NUMBERS = 128
RECALL = 0.99
BATCH = 1000
SEED = 1
REMEMBERED = 4096
"""Earlier rows whose sequences are not made anew each time."""

_Compared = Callable[[int], tuple[str, set[str], dict[str, object]]]


class NearDuplicates:
    """`other_labels` says what becomes of a row that is like an earlier one but has labels which that one lacks."""

    name = "near-duplicates"

    def __init__(
        self,
        threshold: float = 0.8,
        num_proc: int = 1,
        other_labels: Literal["keep", "drop"] = "keep",
        pairs: Path | None = None,
    ) -> None:
        self.bands, self.width = bands_for(threshold)
        self.threshold, self.num_proc, self.other_labels, self.pairs = threshold, num_proc, other_labels, pairs
        self.counts: Counter[str] = Counter()

    def __call__(self, records: Iterable[Record]) -> Iterator[Record | Rejected]:
        with Spool() as spool, ExitStack() as open_files:
            files = [open_files.enter_context(tempfile.TemporaryFile()) for _ in range(self.bands)]
            for keys in self._keys(records, spool):
                for file, column in zip(files, keys.T, strict=True):
                    file.write(column.tobytes())
            found = _Found()
            self._compare(spool, _shared_bands(files), found)
            if self.pairs is not None:
                write_lines(self.pairs, (json.dumps(pair, ensure_ascii=False) for pair in found.listed(spool)))
            dropped = {row: place for place, row in enumerate(found.rows) if found.dropped[place]}
            for row, record in enumerate(spool):
                if (place := dropped.get(row)) is None:
                    yield record
                else:
                    alike = f"{found.likeness[place]:.3f} like {spool[found.kept[place]].id}"
                    yield set_aside(record, "near-duplicate", alike)

    def _keys(self, records: Iterable[Record], spool: Spool) -> Iterator[np.ndarray]:
        """Band keys (rows, bands) of each batch; the records themselves go into the spool."""
        remaining = iter(records)

        def batches() -> Iterator[list[tuple[str, str]]]:
            while batch := list(islice(remaining, BATCH)):
                for record in batch:
                    spool.append(record)
                yield [(_text(record), record.language) for record in batch]

        if self.num_proc == 1:
            yield from (band_keys(batch, self.bands, self.width) for batch in batches())
            return
        waiting: deque[Future[np.ndarray]] = deque()
        try:
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(self.num_proc, spawn, initializer=end_with_parent) as pool:
                for batch in batches():
                    waiting.append(pool.submit(band_keys, batch, self.bands, self.width))
                    if len(waiting) > 2 * self.num_proc:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                f"one of the {self.num_proc} processes that make signatures was ended from outside, as happens where "
                "memory runs out; start again with fewer"
            ) from error

    def _compare(self, spool: Spool, shared: tuple[np.ndarray, np.ndarray], found: "_Found") -> None:
        """Goes through the rows that agree with others in a band, and judges each by the kept ones among these."""
        starts = np.flatnonzero(np.diff(shared[0], prepend=-1)).tolist()
        rows, buckets = (array("i", column.tobytes()) for column in shared)
        # Kept rows of a bucket as a chain, the last one first: with lists a million rows took 200 MiB more.
        last = array("i", [-1]) * (max(buckets, default=-1) + 1)
        before = array("i", [-1]) * len(rows)

        @lru_cache(maxsize=REMEMBERED)
        def of(row: int) -> tuple[str, set[str], dict[str, object]]:
            record = spool[row]
            return record.language, _sequences(_text(record), record.language), dict(labels_of(record))

        for start, stop in zip(starts, [*starts[1:], len(rows)][: len(starts)], strict=True):
            others = set()
            for entry in range(start, stop):
                link = last[buckets[entry]]
                while link >= 0:
                    others.add(rows[link])
                    link = before[link]
            row = rows[start]
            if not (others and self._drops(spool[row], row, sorted(others), found, of)):
                for entry in range(start, stop):
                    bucket = buckets[entry]
                    before[entry], last[bucket] = last[bucket], entry

    def _drops(self, record: Record, row: int, others: list[int], found: "_Found", of: _Compared) -> bool:
        mine, said = _sequences(_text(record), record.language), dict(labels_of(record))
        alike = []
        for other in others:
            language, theirs, theirs_said = of(other)
            likeness = _likeness(mine, theirs, self.threshold)
            if likeness >= self.threshold and language == record.language:
                covered = self.other_labels == "drop" or said.items() <= theirs_said.items()
                alike.append((covered, likeness, -other))
        if not alike:
            return False
        covered, likeness, other = max(alike)
        found.add(row, -other, likeness, covered)
        if not covered:
            self.counts["kept: like an earlier text, with other labels"] += 1
        return covered


def bands_for(threshold: float) -> tuple[int, int]:
    """(bands, numbers a band): the widest bands with which `RECALL` of the pairs at the threshold share one."""
    if not 0.5 <= threshold < 1:
        raise UserError(f"near-duplicates wants a threshold from 0.5 to below 1, got {threshold}")
    fits = [w for w in range(1, NUMBERS + 1) if 1 - (1 - threshold**w) ** (NUMBERS // w) >= RECALL]
    return NUMBERS // max(fits), max(fits)


def band_keys(batch: list[tuple[str, str]], bands: int, width: int) -> np.ndarray:
    """(rows, bands) numbers of 64 bits; texts (with their language) that agree in a band agree in its number."""
    sets = [list(_sequences(text, language)) for text, language in batch]
    digests = np.asarray(rensa.RMinHash.digests_from_token_sets(sets, num_perm=NUMBERS, seed=SEED), dtype=np.uint64)
    factors = np.random.default_rng(SEED).integers(1, 2**64, size=(bands, width), dtype=np.uint64) | np.uint64(1)
    return (digests[:, : bands * width].reshape(-1, bands, width) * factors).sum(axis=2, dtype=np.uint64)


def _text(record: Record) -> str:
    return " / ".join(map(normalise, texts_of(record)))


def _sequences(text: str, language: str) -> set[str]:
    length = SEQUENCE[language]
    return {text[start : start + length] for start in range(max(1, len(text) - length + 1))}


def _likeness(one: set[str], other: set[str], least: float) -> float:
    """Jaccard; 0 where the sizes alone keep it below `least`."""
    if min(len(one), len(other)) < least * max(len(one), len(other)):
        return 0.0
    both = len(one & other)
    return both / (len(one) + len(other) - both)


def _shared_bands(files: Iterable[IO[bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """(rows, buckets), in the order of the rows: the buckets of two or more rows that each row is in."""
    all_rows, all_buckets, first = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], 0
    for file in files:
        file.seek(0)
        keys = np.frombuffer(file.read(), dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        in_order = keys[order]
        same = in_order[1:] == in_order[:-1]
        shared = np.append(same, False) | np.append(False, same)
        if not shared.any():
            continue
        buckets = np.cumsum(np.append(True, ~same), dtype=np.int32)[shared]
        all_rows.append(order[shared].astype(np.int32))
        all_buckets.append(np.unique(buckets, return_inverse=True)[1].astype(np.int32) + np.int32(first))
        first = int(all_buckets[-1].max()) + 1
    rows, buckets = np.concatenate(all_rows), np.concatenate(all_buckets)
    del all_rows, all_buckets
    by_row = np.argsort(rows, kind="stable")
    return rows[by_row], buckets[by_row]


class _Found:
    """Pairs: the row, the earlier row it is like, how much, and whether it was dropped for it; 17 bytes each."""

    def __init__(self) -> None:
        self.rows, self.kept, self.likeness, self.dropped = array("i"), array("i"), array("d"), array("b")

    def add(self, row: int, kept: int, likeness: float, dropped: bool) -> None:
        self.rows.append(row)
        self.kept.append(kept)
        self.likeness.append(likeness)
        self.dropped.append(dropped)

    def listed(self, spool: Spool) -> Iterator[dict[str, object]]:
        for row, kept, likeness, dropped in zip(self.rows, self.kept, self.likeness, self.dropped, strict=True):
            one, other = spool[row], spool[kept]
            outcome = "dropped" if dropped else "both kept: other labels"
            pair = {"similarity": round(likeness, 4), "outcome": outcome}
            yield pair | {"kept": other.id, "other": one.id, "kept_text": other.text, "other_text": one.text}
