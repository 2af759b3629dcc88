"""Whole runs of the training command, killed in the moment that was asked for, each of them real.

In    JSON objects on the command line: `recipe`; `kills`, each a mark, which time it is passed, seconds after that; a
      folder to move the finished run to, `moved_to`.
Out   the run, taken up after each kill until it ends; a line of JSON a spec: how often the last life passed each mark,
      and how many kills were given. All runs are made in one folder, which their checkpoints name.
Run   through tests/test_train_killed.py

Marks are what a run itself measures its time by (training/monitored_loop.py), and a few more that are set here. The
lives are forks of this process, which has imported all and computed nothing: starting Python anew takes seconds.
"""

import json
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import training.crossover_final
import training.sweet_spot_measure
from preprocessing import folders
from training import checkpoint_keep, lr_sweep_runs, train
from training.memory_monitor import MemoryMonitor
from training.monitor import StageClock

MARKS = (
    *("load", "sweep", "rate", "standardize", "read", "forward", "compute", "backward", "update", "evaluate"),
    *("save", "flush", "thin", "resume", "measure", "cross", "final", "draw"),
)
PASSED = np.frombuffer(mmap.mmap(-1, 8 * len(MARKS)), dtype=np.int64)


def passed(name: str) -> None:
    if name in MARKS:
        PASSED[MARKS.index(name)] += 1


def marking(name: str | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, before which a mark is passed; without a name, that of its argument."""

    def marked(*arguments: Any, **named: Any) -> Any:
        passed(arguments[1] if name is None else name)
        return function(*arguments, **named)

    return marked


def set_marks() -> None:
    MemoryMonitor.turn = marking(None, MemoryMonitor.turn)
    StageClock.turn = marking(None, StageClock.turn)
    folders.flush_to_disk = marking("flush", folders.flush_to_disk)
    checkpoint_keep.thin = marking("thin", checkpoint_keep.thin)
    lr_sweep_runs.SweepLoop.short_run = marking("rate", lr_sweep_runs.SweepLoop.short_run)
    training.sweet_spot_measure.Measurements.score = marking("measure", training.sweet_spot_measure.Measurements.score)
    training.crossover_final.cross_over = marking("cross", training.crossover_final.cross_over)
    train.write_final = marking("final", train.write_final)


def start(folder: Path) -> int:
    PASSED[:] = 0
    process = os.fork()
    if process == 0:
        torch.set_num_threads(1)
        out = os.open(folder.parent / f"{folder.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        set_marks()
        sys.argv = ["training/train.py", str(folder / "recipe.yaml")]
        code = 1
        try:
            train.main()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def killed(folder: Path, mark: str, time_of: int, delay: float) -> bool:
    """Whether a life was killed there; False where it ended before, as it does where nothing was left to do."""
    process = start(folder)
    while PASSED[MARKS.index(mark)] < time_of:
        if (ended := os.waitpid(process, os.WNOHANG)) != (0, 0):
            if ended[1] != 0:
                raise RuntimeError(f"a life ended with status {ended[1]} before {mark} {time_of}: {folder}.log")
            return False
        time.sleep(0.0005)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    return os.waitpid(process, 0)[1] == signal.SIGKILL


def main() -> None:
    for spec in map(json.loads, sys.argv[1:]):
        folder = Path(spec["recipe"]["output_dir"])
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(json.dumps(spec["recipe"]), encoding="utf-8")
        given = sum(killed(folder, *kill) for kill in spec["kills"])
        _, status = os.waitpid(start(folder), 0)
        if status != 0:
            raise RuntimeError(f"the last life ended with status {status}: {folder}.log")
        folder.rename(spec["moved_to"])
        print(json.dumps({"passed": dict(zip(MARKS, PASSED.tolist(), strict=True)), "killed": given}))


if __name__ == "__main__":
    main()
