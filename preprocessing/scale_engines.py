"""datatrove runs the tasks: as processes of this machine, as an array of Slurm jobs, or on a Ray cluster.

In    a `Plan`, the number of tasks, a folder that all machines see.
Out   an executor of datatrove; when its `run` returns, the tasks are done, or it has raised.
Run   through preprocessing/scale_out.py

The executors are datatrove's but for what they do about a task that dies. For Slurm datatrove pickles the executor
into the folder, and each job runs what it finds there: the folder must be its owner's alone.
"""

import multiprocessing
import os
import shlex
import subprocess
import sys
import traceback
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.queues import SimpleQueue
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from preprocessing.errors import DoesNotFit, UserError, run
from preprocessing.processes import end_with_parent
from preprocessing.scale_settings import ScaleConfig
from preprocessing.scale_task import Plan, ask_task

_SLURM_JOBS = 1_000
"""Jobs of an array, of which clusters admit 1,001 unless told otherwise."""


class AskTask(PipelineStep):
    """The one step of the pipeline; documents do not pass through it, the rows lie on the disk."""

    name, type = "ask", "red heart"

    def __init__(self, plan: Plan, apart: bool):
        super().__init__()
        self.plan, self.apart = plan, apart

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        if not self.apart:
            ask_task(self.plan, rank, world_size)
            return data
        process = multiprocessing.get_context("spawn").Process(target=_apart, args=(self.plan, rank, world_size))
        process.start()
        process.join()
        if process.exitcode:
            raise UserError(f"task {rank} ended with exit code {process.exitcode} (-9: killed, as where memory ends)")
        return data


class Local(LocalPipelineExecutor):
    """Processes of this machine. datatrove's own pool waits for ever for one that was killed."""

    def run(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        # A number, not a queue: a pipe holds some thousand ranks, and who fills it waits for workers that may be gone.
        taken: Synchronized[int] = spawn.Value("i", 0)
        said: SimpleQueue[tuple[int, str]] = spawn.SimpleQueue()
        log = self.logging_dir.resolve_paths("stderr.txt")
        workers = [
            spawn.Process(target=_work, args=(self, taken, said, log), daemon=True) for _ in range(self.workers)
        ]
        try:
            for worker in workers:
                worker.start()
            running = list(workers)
            while running:
                ended = wait([worker.sentinel for worker in running])
                for worker in [worker for worker in running if worker.sentinel in ended]:
                    running.remove(worker)
                    worker.join()
                    _refuse(worker.exitcode, said, log)
        finally:
            for worker in workers:
                if worker.is_alive():
                    worker.kill()


class Slurm(SlurmPipelineExecutor):
    """An array of jobs. With --wait in its script, sbatch returns when all of them have ended."""

    def run(self) -> None:
        try:
            super().run()
        except subprocess.CalledProcessError as error:
            if "SLURM_ARRAY_TASK_ID" in os.environ:
                raise
            # Which tasks failed is seen by what they left; sbatch told its own reason on stderr.
            print(f"sbatch ended with exit code {error.returncode}", file=sys.stderr, flush=True)

    def launch_merge_stats(self) -> None:
        """A job that sums up statistics is not worth its place in the queue."""


def executor_of(config: ScaleConfig, plan: Plan, tasks: int, logs: Path) -> PipelineExecutor:
    logs.mkdir(exist_ok=True)
    logger.remove()  # what it says is in the log of each task
    common: dict[str, Any] = {"tasks": tasks, "workers": config.workers, "logging_dir": str(logs)}
    # Ray's executor, too, waits in a pool, and would do so for ever for a process that is killed: what may be killed
    # for its memory is a process of its own.
    common["pipeline"] = [AskTask(plan, apart=config.executor == "ray")]
    if config.executor == "local":
        return Local(**common)
    common["cpus_per_task"] = config.threads
    if config.executor == "ray":
        return RayPipelineExecutor(
            **common, mem_per_cpu_gb=config.memory_gib / config.threads, time=config.hours * 3600
        )
    here, bin_ = Path.cwd(), Path(sys.executable).parent
    return Slurm(
        **common,
        time=f"{config.hours}:00:00",
        partition=config.partition,
        mem_per_cpu_gb=-(-config.memory_gib // config.threads),
        qos=None,
        job_name=f"redheart-{Path(config.output).name}",
        env_command=f"cd {shlex.quote(str(here))}; export PYTHONPATH={shlex.quote(str(here))} "
        f'PATH={shlex.quote(str(bin_))}:"$PATH" OMP_NUM_THREADS={config.threads}',
        sbatch_args={"wait": "", **config.sbatch},
        tasks_per_job=-(-tasks // _SLURM_JOBS),
        slurm_logs_folder=str(logs / "slurm"),
    )


def _work(executor: Local, taken: "Synchronized[int]", said: "SimpleQueue[tuple[int, str]]", log: str) -> None:
    """A process: one open task after another, until there is none or one fails."""
    end_with_parent()
    sys.stderr = open(log, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    try:
        while (rank := _next(taken)) < executor.world_size:
            executor._run_for_rank(rank, local_rank=1)  # passes over what is done
    except UserError as error:
        said.put((error.exit_code, str(error)))
        sys.exit(error.exit_code)
    except Exception:
        said.put((1, traceback.format_exc()))
        sys.exit(1)


def _next(taken: "Synchronized[int]") -> int:
    with taken.get_lock():
        taken.value += 1
        return taken.value - 1


def _apart(plan: Plan, task: int, tasks: int) -> None:
    end_with_parent()
    run(partial(ask_task, plan, task, tasks))


def _refuse(code: int | None, said: "SimpleQueue[tuple[int, str]]", log: str) -> None:
    """Raises what a worker raised, or says by what it was ended."""
    if code == 0:
        return
    if code is not None and code > 0 and not said.empty():
        code, text = said.get()
        if code == 1:
            raise RuntimeError(f"a task failed:\n{text}")
        raise {2: UserError, 3: DoesNotFit}[code](text)
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    raise UserError(
        f"a worker was ended by {how}; the system does so where memory runs out (SIGKILL, 9): fewer --workers need "
        f"less. All that was answered is kept, and the same command goes on; what the workers said is in {log}"
    )
