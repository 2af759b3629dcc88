"""Which record is in which batch: a pure function of seed and step, so that any step can be reached at once.

In    lengths (tokens) and readers of all records, passes of each reader an epoch, batch size, processes, seed.
Out   per optimizer step a list of micro-batches, each a list of record indices for one process.
Run   `BatchPlan(lengths, readers, batch_size=32, seed=0).step(1_000_000)`

Records are shuffled, cut into pools, and each pool is sorted by length before it is cut into batches: little padding,
and what meets in a batch still changes each epoch. A reader with one pass has every record exactly once an epoch; with
p passes its records come in one shuffled round after the other, of which each epoch takes the next p, so that none
comes a second time before all have come once. Passes may differ by epoch, [4, 0.5] for four in the first and a half in
each one after: a curriculum. Batches of an epoch differ by at most one record.

With `chunk_rows` an epoch goes through the data in chunks of about so many records, in an order of chance: a chunk has
its share of each reader's records, as they lie in the data, and is done with before the next begins. Of data that are
mapped from the disk no more than one chunk, and the batch across its end, is wanted in memory at a time.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from preprocessing.errors import UserError


def as_list(passes: float | Sequence[float]) -> list[float]:
    """Passes by epoch, the last of which holds for all epochs after it."""
    return [float(passes)] if isinstance(passes, int | float) else list(passes)


class BatchPlan:
    """Micro-batches of every step of a run."""

    def __init__(
        self,
        lengths: Sequence[int],
        readers: Sequence[str],
        batch_size: int,
        seed: int,
        passes: Mapping[str, float | Sequence[float]] | None = None,
        accumulation: int = 1,
        pool_batches: int = 50,
        process: int = 0,
        num_processes: int = 1,
        chunk_rows: int | None = None,
    ):
        self.lengths = np.asarray(lengths)
        self.seed, self.accumulation, self.pool_batches = seed, accumulation, pool_batches
        self.process, self.num_processes = process, num_processes
        self.global_batch_size = batch_size * num_processes
        names = np.asarray(readers)
        self.members = {name: np.flatnonzero(names == name) for name in sorted(set(readers))}
        self.chunks = -(-len(names) // chunk_rows) if chunk_rows else 1
        if unknown := sorted(set(passes or {}) - set(self.members)):
            raise UserError(f"passes names {unknown}, not among the training readers: {', '.join(self.members)}")
        self.passes = {name: as_list((passes or {}).get(name, 1.0)) for name in self.members}
        # Epochs from the last one that any reader lists on are alike.
        self.steps_listed = [self._steps_of(epoch) for epoch in range(max(map(len, self.passes.values())))]
        self._epoch_batches = lru_cache(maxsize=2)(self._plan_epoch)

    def quota(self, name: str, epoch: int) -> int:
        """How many records reader `name` gives in this epoch."""
        passes = self.passes[name]
        return round(len(self.members[name]) * passes[min(epoch, len(passes) - 1)])

    def _steps_of(self, epoch: int) -> int:
        records = sum(self.quota(name, epoch) for name in self.members)
        least = self.num_processes * self.accumulation
        if records < least:
            raise UserError(
                f"{records} records in epoch {epoch} cannot give {self.num_processes} processes {self.accumulation} "
                f"micro-batches each"
            )
        # The second bound matters for batches of one: a remainder then makes some of two, since none may be empty.
        return min(-(-records // (self.global_batch_size * self.accumulation)), records // least)

    def first_step(self, epoch: int) -> int:
        """The optimizer step with which `epoch` begins; that of epoch E is the number of steps of E epochs."""
        listed = self.steps_listed
        return sum(listed[:epoch]) + max(0, epoch - len(listed)) * listed[-1]

    def epoch_of(self, step: int) -> int:
        """The epoch that optimizer step `step` belongs to."""
        listed = self.steps_listed
        for epoch in range(len(listed)):
            if step < self.first_step(epoch + 1):
                return epoch
        return len(listed) + (step - sum(listed)) // listed[-1]

    def ends_epoch(self, steps: int) -> bool:
        """Whether the first `steps` optimizer steps are whole epochs."""
        return steps == self.first_step(self.epoch_of(steps))

    def _take(self, index: int, name: str, epoch: int) -> np.ndarray:
        """The records of reader `name` (the `index`-th) in this epoch: the next `quota` of its endless rounds."""
        rows = self.members[name]
        listed = min(epoch, len(self.passes[name]))
        position = sum(self.quota(name, earlier) for earlier in range(listed))
        position += (epoch - listed) * self.quota(name, epoch)
        end = position + self.quota(name, epoch)
        taken = []
        while position < end:
            turn, start = divmod(position, len(rows))
            stop = min(len(rows), start + end - position)
            order = np.random.default_rng((self.seed, index, turn)).permutation(len(rows))
            taken.append(rows[order[start:stop]])
            position += stop - start
        return np.concatenate(taken) if taken else rows[:0]

    def _plan_epoch(self, epoch: int) -> list[np.ndarray]:
        """Global batches of one epoch, `accumulation` of them a step, in order."""
        random = np.random.default_rng((self.seed, epoch))
        records = np.concatenate([self._take(index, name, epoch) for index, name in enumerate(self.members)])
        order = random.permutation(records)
        chunks = self._in_chunks(order, random) if self.chunks > 1 else [order]
        pool_size = self.pool_batches * self.global_batch_size
        pools = [chunk[start : start + pool_size] for chunk in chunks for start in range(0, len(chunk), pool_size)]
        by_length = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        batches = np.array_split(by_length, self._steps_of(epoch) * self.accumulation)
        begins = np.cumsum([0, *map(len, batches[:-1])])
        of_chunk = np.searchsorted(np.cumsum([len(chunk) for chunk in chunks]), begins, side="right")
        inside = [np.flatnonzero(of_chunk == chunk) for chunk in range(len(chunks))]
        return [batches[index] for indices in inside for index in random.permutation(indices)]

    def _in_chunks(self, order: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
        """The records in the same order, apart by chunk; the chunks in one of chance."""
        chunk_of = np.empty(len(self.lengths), dtype=np.int64)
        for rows in self.members.values():
            chunk_of[rows] = np.arange(len(rows)) * self.chunks // len(rows)
        of_records = chunk_of[order]
        return [order[of_records == chunk] for chunk in random.permutation(self.chunks)]

    def step(self, step: int) -> list[list[int]]:
        """This process's micro-batches of optimizer step `step` (0-based, over the whole run)."""
        epoch = self.epoch_of(step)
        first = (step - self.first_step(epoch)) * self.accumulation
        batches = self._epoch_batches(epoch)[first : first + self.accumulation]
        return [batch[self.process :: self.num_processes].tolist() for batch in batches]
