"""Processes that prepare what the model will compute with next, in order, whatever their number and their fate.

In    a function from a job to what is to be prepared; jobs, in order; how many workers, how much may lie ready.
Out   what was prepared, in the order of the jobs; figures of waiting.
Run   through training/groups.py; `python benchmarks/regret_pool.py` prints what a step waits.

A job says all that decides its result, so it does not matter who does it, when, or how often. A worker has one job at
a time and a pipe of its own, so that what is left behind by one that is killed can be told from what is whole: half an
answer is dropped, the death is reported, a new worker takes its place, and the job is done again. A job that ends
three workers ends the run: it would end the fourth.

Workers are forks, which share the data's memory, without the model's (training/regret_pool_memory.py). They live no
longer than the trainer, however it ends: the kernel kills them when it is gone (prctl, PR_SET_PDEATHSIG), and they
have closed every file and lock of it. No thread is needed in the trainer: whenever it asks for the next result it
takes in what has come and gives out what is to be done.
"""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from preprocessing.errors import UserError
from training.held_memory import give_back_memory
from training.regret_pool_memory import not_forked

Job = TypeVar("Job")
MOST_DEATHS = 3
PR_SET_PDEATHSIG = 1


class PoolError(RuntimeError):
    """What a worker raised while it prepared a job, with its traceback."""


class Worker:
    """A process, the pipes to and from it, and what it is doing: the number of a job, or None."""

    def __init__(self, prepare: Callable[[Any], Any]):
        fork = multiprocessing.get_context("fork")
        theirs, self.jobs = fork.Pipe(duplex=False)
        self.results, answers = fork.Pipe(duplex=False)
        given = (prepare, theirs, answers, os.getpid())
        self.process = fork.Process(target=serve, args=given, daemon=True, name="red-heart-pool")
        self.process.start()
        theirs.close()
        answers.close()
        self.doing: int | None = None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.jobs.close()
        self.results.close()


class OrderedPool(Generic[Job]):
    """`results(jobs)` gives prepare(job) of each. With no workers it is all done where it is asked for."""

    def __init__(
        self,
        prepare: Callable[[Job], Any],
        workers: int,
        ahead: int,
        apart: Callable[[], Iterable[torch.Tensor]] = tuple,
    ):
        """`ahead`: how many jobs may be in work or lie ready. `apart`: what workers are not to have of the trainer."""
        self.prepare, self.count, self.ahead, self.apart = prepare, workers, ahead, apart
        self.workers: list[Worker] = []
        self.given: dict[int, Job] = {}
        self.deaths: dict[int, int] = {}
        self.ready: dict[int, Any] = {}
        self.waited, self.asked, self.depth, self.prepared, self.redone = 0.0, 0, 0, 0, 0

    def results(self, jobs: Iterable[Job]) -> Iterator[Any]:
        """Raises PoolError, in its turn, for a job that cannot be prepared; UserError for one that ends workers."""
        numbered = enumerate(jobs)
        if not self.count:
            for _, job in numbered:
                started = time.perf_counter()
                found = self.prepare(job)
                self.note(started)
                yield found
            return
        try:
            self.workers = [self.worker() for _ in range(self.count)]
            number = 0
            while self.fill(numbered):
                started = time.perf_counter()
                self.take_in(0.0)
                self.depth += len(self.ready)
                while number not in self.ready:
                    self.fill(numbered)
                    self.take_in(None)
                whole, found = self.ready.pop(number)
                self.fill(numbered)
                if not whole:
                    raise PoolError(f"a worker could not prepare job {number}:\n{found}")
                found = as_tensors(found)
                self.note(started)
                yield found
                number += 1
        finally:
            self.close()

    def worker(self) -> Worker:
        with not_forked(self.apart()):
            return Worker(self.prepare)

    def note(self, started: float) -> None:
        self.waited += time.perf_counter() - started
        self.asked += 1
        self.prepared += 1

    def fill(self, numbered: Iterator[tuple[int, Job]]) -> bool:
        """Give a job to each that has none, as long as there is room; False when all is done and taken."""
        for worker in self.workers:
            if worker.doing is None and len(self.given) + len(self.ready) < self.ahead:
                number, job = next(numbered, (None, None))
                if number is None:
                    break
                self.given[number] = job  # type: ignore[assignment]
                self.give(worker, number)
        return bool(self.given or self.ready)

    def give(self, worker: Worker, number: int) -> None:
        worker.doing = number
        with suppress(OSError):  # it has died at rest, which the next look at it tells
            worker.jobs.send((number, self.given[number]))

    def take_in(self, timeout: float | None) -> None:
        """What has come, of whoever has something to tell; with None, waits until there is something."""
        speakers: dict[Any, Worker] = {worker.results: worker for worker in self.workers}
        for worker in [speakers[found] for found in wait(list(speakers), timeout)]:
            try:
                number, whole, result = worker.results.recv()
            except (EOFError, OSError):  # it has died, with half an answer or none
                self.replace(worker)
                continue
            self.ready[number] = (whole, result)
            del self.given[number]
            worker.doing = None

    def replace(self, worker: Worker) -> None:
        """Another in the place of one that has died, with what that one was doing."""
        worker.end()
        number, code = worker.doing, worker.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        what = "it had nothing to do" if number is None else f"its job {self.given[number]!s:.60} is done again"
        print(f"worker {worker.process.pid} has ended ({how}); {what}", file=sys.stderr)
        if number is not None:
            self.redone += 1
            self.deaths[number] = self.deaths.get(number, 0) + 1
            if self.deaths[number] >= MOST_DEATHS:
                raise UserError(
                    f"{MOST_DEATHS} workers ended ({how}) at the same job, {self.given[number]!s:.200}; with "
                    "--num_workers 0 it is done in the run itself, which then shows why; signal 9 without a sender "
                    "is a lack of memory: use fewer workers"
                )
        other = self.worker()
        self.workers[self.workers.index(worker)] = other
        if number is not None:
            self.give(other, number)

    def take_figures(self) -> dict[str, float]:
        """Since last asked: seconds that the run waited, results that lay ready when it asked (mean), results, jobs
        done again."""
        asked, self.asked = self.asked, 0
        found = {
            "waited": self.waited,
            "ready": self.depth / asked if asked else 0.0,
            "prepared": self.prepared,
            "redone": self.redone,
        }
        self.waited, self.depth, self.prepared, self.redone = 0.0, 0, 0, 0
        return found

    def close(self) -> None:
        while self.workers:
            self.workers.pop().end()


def serve(prepare: Callable[[Any], Any], jobs: Connection, results: Connection, trainer: int) -> None:
    """A worker's life: one job after another, until the trainer is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != trainer:  # it was gone before the kernel knew
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which ends in order
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as is a terminal that closes: this ends with the trainer
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    close_all_but({0, 1, 2, jobs.fileno(), results.fileno()})
    torch.set_num_threads(1)
    give_back_memory()  # what the trainer had freed would be kept here too, once it is used again there
    gc.freeze()
    while True:
        try:
            number, job = jobs.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            answer: tuple[int, bool, Any] = (number, True, as_arrays(prepare(job)))
        except Exception:
            answer = (number, False, traceback.format_exc())
        results.send(answer)


def close_all_but(kept: set[int]) -> None:
    """Locks, pipes and sockets of the trainer: held open here, they would outlive it by a moment."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with suppress(OSError):  # the listing's own
                os.close(int(name))


def as_arrays(value: Any) -> Any:
    """Tensors as NumPy's arrays: torch would send them through shared memory, which a killed worker leaves behind."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {name: as_arrays(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(as_arrays(item) for item in value)
    return value


def as_tensors(value: Any) -> Any:
    """The inverse, in memory of torch's own, as where no worker was."""
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, dict):
        return {name: as_tensors(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(as_tensors(item) for item in value)
    return value
