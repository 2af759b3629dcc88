"""One task of a job that is spread over machines: it asks about its share of the prepared rows.

In    a `Plan`, which all tasks share; the number of the task.
Out   its answers, in files of its own (preprocessing/scale_journal.py).
Run   through preprocessing/scale_engines.py

A task reads nothing but the parts that hold its pieces, and the language model. Which rows it has follows from its
number and the number of tasks.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.asking import PIECE_ROWS, Asker, piece_count, pieces_of
from preprocessing.errors import UserError
from preprocessing.folders import read_manifest
from preprocessing.prepared import Prepared
from preprocessing.progress import Progress
from preprocessing.scale_journal import Journal
from preprocessing.settings import JobConfig

_opened: dict[str, Asker] = {}
"""The model stays loaded for the next task of the same process."""


@dataclass(frozen=True)
class Plan:
    """What every task is told. The paths are the same on all machines."""

    job: JobConfig
    prepared: str
    """Folder of the prepared rows."""
    fingerprint: str
    """Of these rows."""
    facts: dict[str, Any]
    """What the model must be: `Asker.facts` of the process that spreads the work."""
    answers: str
    """Folder of the answers of all tasks."""
    threads: int


def share(task: int, tasks: int, rows: int) -> range:
    """The pieces of a task: neighbours, so that it reads few parts."""
    pieces = piece_count(rows)
    return range(task * pieces // tasks, (task + 1) * pieces // tasks)


def rows_in(pieces: range, rows: int) -> int:
    """All pieces have the same number of rows but for the last one of all."""
    return min(pieces.stop * PIECE_ROWS, rows) - min(pieces.start * PIECE_ROWS, rows)


def ask_task(plan: Plan, task: int, tasks: int) -> None:
    """Ask what is open in the task's rows. Raises UserError where this machine does not serve."""
    # Before torch is imported, which is when it is read.
    os.environ["OMP_NUM_THREADS"] = str(plan.threads)
    facts = read_manifest(Path(plan.prepared), "preparation")["facts"]
    if facts["fingerprint"] != plan.fingerprint:
        raise UserError(
            f"on {socket.gethostname()} {plan.prepared} holds other rows than the job's; is it the same disk there?"
        )
    prepared = Prepared(Path(plan.prepared), facts)
    journal = Journal(Path(plan.answers), task, plan.threads)
    pieces = share(task, tasks, prepared.rows)
    try:
        asker = _asker(plan, journal)
        with Progress(rows_in(pieces, prepared.rows), f"task {task} of {tasks}") as progress:
            for piece in pieces_of(prepared, pieces):
                if all(asker.filled(row) is not None for row in piece):
                    progress.add(len(piece), 0)
                    continue
                progress.add(len(piece), asker.ask(piece))
                journal.did(len(piece))
    finally:
        journal.close()


def _asker(plan: Plan, journal: Journal) -> Asker:
    """The model of the plan. Raises UserError where the one on this machine is another: its answers would be lost."""
    key = repr(plan)
    if key not in _opened:
        from preprocessing.questions import open_asker

        _opened.clear()
        asker = open_asker(plan.job, journal)
        if asker.facts != plan.facts:
            raise UserError(
                f"on {socket.gethostname()} {plan.job.enrich} is {asker.facts['model']}, and the job is asked by "
                f"{plan.facts['model']}; put the same files there"
            )
        _opened[key] = asker
    _opened[key].cache = journal
    return _opened[key]
