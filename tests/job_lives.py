"""Preprocessing jobs as processes of their own, killed or side by side, each of them real.

In    JSON objects on the command line: the fields of JobConfig; seconds after which a life is killed, or workers.
Out   finished data sets; a line of JSON a job: how each life ended.
Run   through tests/test_prep_killed.py

The lives are forks of this process, which has imported all and computed nothing: starting Python anew takes seconds.
"""

import json
import os
import shutil
import signal
import sys
import time

import preprocessing.enrichment
import preprocessing.llm  # noqa: F401
from preprocessing.errors import UserError, run
from preprocessing.pipeline import run_job
from preprocessing.settings import JobConfig


def start(fields: dict) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            run_job(JobConfig(**fields))
            code = 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            code = error.exit_code
        finally:
            os._exit(code)
    return process


def ended(process: int) -> int:
    """0, the exit code, or the negative number of the signal."""
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def killed(job: dict, seconds: float) -> int:
    """A life killed after so many seconds; one that had ended is forgotten, and another is killed sooner."""
    while True:
        process = start(job)
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
        if (end := ended(process)) != 0:
            return end
        shutil.rmtree(job["output"])
        os.remove(f"{job['output']}.answers")
        seconds /= 2


def main() -> None:
    for spec in map(json.loads, sys.argv[1:]):
        started = time.monotonic()
        ends = []
        for seconds in spec.get("kills", []):
            ends.append(killed(spec["job"], seconds))
        together = [start(spec["job"]) for _ in range(spec.get("workers", 1))]
        ends += [ended(process) for process in together]
        print(json.dumps({"ends": ends, "seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    run(main)
