"""Which record is in which batch: a pure function of seed and step, so that any step can be reached at once.

In    lengths (tokens) and readers of all records, passes of each reader an epoch, batch size, processes, seed.
Out   per optimizer step a list of micro-batches, each a list of record indices for one process.
Run   `BatchPlan(lengths, readers, batch_size=32, seed=0).step(1_000_000)`

Records are shuffled, cut into pools, and each pool is sorted by length before it is cut into batches: little padding,
and what meets in a batch still changes each epoch. A reader with one pass has every record exactly once an epoch; with
p passes its records come in one shuffled round after the other, of which each epoch takes the next p, so that none
comes a second time before all have come once. Batches of an epoch differ by at most one record.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from preprocessing.errors import UserError


class BatchPlan:
    """Micro-batches of every step of a run."""

    def __init__(
        self,
        lengths: Sequence[int],
        readers: Sequence[str],
        batch_size: int,
        seed: int,
        passes: Mapping[str, float] | None = None,
        accumulation: int = 1,
        pool_batches: int = 50,
        process: int = 0,
        num_processes: int = 1,
    ):
        self.lengths = np.asarray(lengths)
        self.seed, self.accumulation, self.pool_batches = seed, accumulation, pool_batches
        self.process, self.num_processes = process, num_processes
        self.global_batch_size = batch_size * num_processes
        names = np.asarray(readers)
        self.members = {name: np.flatnonzero(names == name) for name in sorted(set(readers))}
        if unknown := sorted(set(passes or {}) - set(self.members)):
            raise UserError(f"passes names {unknown}, not among the training readers: {', '.join(self.members)}")
        self.quotas = {name: round(len(rows) * (passes or {}).get(name, 1.0)) for name, rows in self.members.items()}
        records = sum(self.quotas.values())
        if records < num_processes * accumulation:
            raise UserError(
                f"{records} records an epoch cannot give {num_processes} processes {accumulation} micro-batches each"
            )
        # The second bound matters for batches of one: a remainder then makes some of two, since none may be empty.
        full = -(-records // (self.global_batch_size * accumulation))
        self.steps_per_epoch = min(full, records // (num_processes * accumulation))
        self._epoch_batches = lru_cache(maxsize=2)(self._plan_epoch)

    def _take(self, index: int, name: str, epoch: int) -> np.ndarray:
        """The records of reader `name` (the `index`-th) in this epoch: the next `quota` of its endless rounds."""
        rows, quota = self.members[name], self.quotas[name]
        taken, position, end = [], epoch * quota, (epoch + 1) * quota
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
        pool_size = self.pool_batches * self.global_batch_size
        pools = [order[start : start + pool_size] for start in range(0, len(order), pool_size)]
        by_length = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        batches = np.array_split(by_length, self.steps_per_epoch * self.accumulation)
        return [batches[index] for index in random.permutation(len(batches))]

    def step(self, step: int) -> list[list[int]]:
        """This process's micro-batches of optimizer step `step` (0-based, over the whole run)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        first = within * self.accumulation
        batches = self._epoch_batches(epoch)[first : first + self.accumulation]
        return [batch[self.process :: self.num_processes].tolist() for batch in batches]
