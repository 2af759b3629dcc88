"""A job whose questions are asked by many processes or machines, and whose data set has the bytes of one process.

In    a job as of preprocessing/pipeline.py with `enrich`; the number of tasks and who runs them.
Out   what the job writes; until then the work lies in .OUTPUT.work, which all machines must see.
Run   `python -m preprocessing.scale_out recipe.yaml --executor local --tasks 8 --workers 2`

Reading, filtering and writing stay in one process: filters look at all rows in order, and take minutes where a
language model takes the night. What is spread is asking. This process reads, lets datatrove run the tasks, collects
what they wrote into the file of answers, and writes the data set as ever. Nothing that tasks share has two writers.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from preprocessing.answers import Given, given_of, text_of
from preprocessing.asking import Answers, Asker, pieces_of
from preprocessing.errors import DoesNotFit, UserError, run
from preprocessing.files import write_lines
from preprocessing.memory_room import room
from preprocessing.pipeline import fingerprint, run_job
from preprocessing.prepared import Prepared
from preprocessing.progress import Progress
from preprocessing.records import Record
from preprocessing.scale_journal import Growth, answers_in, files_of, known_file, machines_in
from preprocessing.scale_settings import ScaleConfig, parse_config
from preprocessing.scale_task import Plan, rows_in, share
from preprocessing.settings import JobConfig
from preprocessing.sources import expand
from preprocessing.workplace import Workplace

_LOOK_SECONDS = 5
_AT_A_TIME = 1_000
"""Answers that are put into the file of answers in one commit."""


def spread(config: ScaleConfig, prepared: Prepared, asker: Asker, place: Workplace) -> None:
    """Let tasks ask what is open, and collect it. Raises UserError where a task did not end well."""
    from preprocessing.scale_engines import executor_of

    _unload(asker)
    check_memory(config)
    tasks = config.tasks_for(prepared.rows)
    with place.alone("another process spreads the work; waiting for it"):
        collect(place.folder, asker.cache)
        plan = _plan(config, prepared, asker, place, tasks)
        answers = Path(plan.answers)
        answers.mkdir(mode=0o700, parents=True, exist_ok=True)  # for Slurm it holds a pickle, which is a program
        executor = executor_of(config, plan, tasks, answers / "logs")
        open_ = survey(prepared, asker, tasks, answers)
        for task in range(tasks):
            if task in open_:
                (answers / "logs" / "completions" / f"{task:05d}").unlink(missing_ok=True)
            else:
                executor.mark_rank_as_completed(task)
        if not open_:
            return
        print(f"{len(open_)} of {tasks} tasks are open; their logs: {answers / 'logs'}", file=sys.stderr, flush=True)
        with _shown(prepared.rows, prepared.rows - sum(open_.values()), answers):
            executor.run()
        collect(place.folder, asker.cache)
        if open_ := survey(prepared, asker, tasks, None):
            named = ", ".join(map(str, list(open_)[:10])) + (", ..." if len(open_) > 10 else "")
            raise UserError(
                f"{len(open_)} of {tasks} tasks have left {sum(open_.values()):,} rows open: {named}; the logs in "
                f"{answers / 'logs'} say why. What was answered is kept, and the same command goes on"
            )
        _warn_of_machines(answers)


def check_memory(config: ScaleConfig) -> None:
    """Raises DoesNotFit where the workers of this machine would not: they look before they load, but all at once."""
    there = room()
    if config.executor == "local" and config.workers * config.memory_gib * 2**30 > there.free:
        raise DoesNotFit(
            f"{config.workers} workers of {config.memory_gib} GiB each are more than the {there.free / 2**30:.1f} GiB "
            f"that are left ({there.limited_by}); fewer --workers, or a smaller --memory-gib where the language model "
            "needs less"
        )


def survey(prepared: Prepared, asker: Asker, tasks: int, answers: Path | None) -> dict[int, int]:
    """Task -> rows that still want an answer; into `answers` goes what each of these tasks need not ask again."""
    open_: dict[int, int] = {}
    for task in range(tasks):
        pieces = share(task, tasks, prepared.rows)
        known: dict[str, Given] = {}
        rows = (row for piece in pieces_of(prepared, pieces) for row in piece)
        answered = sum(_follow(row, asker, known) for row in rows)
        if answered == rows_in(pieces, prepared.rows):
            continue
        open_[task] = rows_in(pieces, prepared.rows) - answered
        if answers is not None and known:
            write_lines(known_file(answers, task), (f"{key} {text_of(given)}" for key, given in known.items()))
    return open_


def collect(folder: Path, cache: Answers) -> None:
    """Put what all tasks of the job wrote, in whichever division, into the file of answers."""
    waiting: dict[str, Given] = {}
    for path in (path for answers in sorted(folder.glob("spread-*")) for path in files_of(answers)):
        for key, text in answers_in(path):
            waiting[key] = given_of(text)
            if len(waiting) == _AT_A_TIME:
                cache.put(waiting)
                waiting = {}
    if waiting:
        cache.put(waiting)


def _plan(config: ScaleConfig, prepared: Prepared, asker: Asker, place: Workplace, tasks: int) -> Plan:
    """A folder for each division of these rows: what a number means in it never changes.

    What was judged is told by its outcome: the folder may be named from here alone.
    """
    made_of = fingerprint(prepared.facts["fingerprint"], asker.facts, tasks)
    job = config.job()
    return Plan(
        job=replace(job, enrich=_anywhere(job), answers=None, judged=None, unreliable=asker.facts["unreliable"]),
        prepared=str(prepared.folder),
        fingerprint=prepared.facts["fingerprint"],
        facts=asker.facts,
        answers=str(place.folder / f"spread-{made_of[:16]}"),
        threads=config.threads,
    )


def _anywhere(job: JobConfig) -> str:
    """The model's name, as it reads from any folder of any machine."""
    assert job.enrich is not None
    name = expand(job.enrich)
    return name if name.startswith("package:") else str(Path(name).absolute())


def _follow(row: Record, asker: Asker, known: dict[str, Given]) -> bool:
    """Whether all questions about the row are answered; the answers there are go into `known`."""
    for question in asker.questions:
        if question.wants(row):
            key = question.key(row)
            given = asker.cache.get(key)
            if given is None:
                return False
            known[key] = given
            row = question.merged(row, given)
    return True


def _unload(asker: Asker) -> None:
    """This process asks nothing: it keeps what tells the keys of answers, and lets the weights go."""
    for question in asker.questions:
        question.enricher.llm.model = None  # type: ignore[attr-defined]


@contextmanager
def _shown(rows: int, done: int, answers: Path) -> Iterator[None]:
    """A bar over all tasks, wherever they run."""
    growth, ended = Growth(answers), threading.Event()
    with Progress(rows, "asking") as progress:
        progress.add(done, 0)

        def look() -> None:
            last = False
            while not last:
                last = ended.wait(_LOOK_SECONDS)
                if new := growth.rows():
                    progress.add(new, new)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            yield
        finally:
            ended.set()
            looking.join()


def _warn_of_machines(answers: Path) -> None:
    if len(machines := machines_in(answers)) > 1:
        print(
            f"note: the answers are of {len(machines)} kinds of machine ({'; '.join(sorted(machines))}), which round "
            "otherwise: another run may differ from this one in last digits",
            file=sys.stderr,
        )


def main() -> None:
    config = parse_config(sys.argv[1:])
    # The workers' torch reads it when it is imported.
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    run_job(config.job(), partial(spread, config))


if __name__ == "__main__":
    run(main)
