"""Starts a run on this machine as the process that was started, so that its signals and its exit code are its own.

In    a recipe and fields, as training/train.py takes them; accelerate_config.yaml.
Out   the command for them; run as a program, that command in this process's place.
Run   python -m training.launched training/recipes/main.yaml --epochs 3

`accelerate launch` starts one process as its child: it hands no signal on to it, so that `kill` ends the launcher and
leaves the run alone, and it ends with 1 whatever the run ended with. What accelerate_config.yaml says as it is shipped
is what training/train.py does by itself: one process, on the GPU that is found, else on the CPU, in the precision of
the recipe. So the launcher is left out; it is taken where that file was changed in anything.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from preprocessing.errors import UserError, run

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "accelerate_config.yaml"
ONE_PROCESS = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "NO",
    "num_machines": 1,
    "machine_rank": 0,
    "num_processes": 1,
    "use_cpu": False,
}


def train_command(arguments: Sequence[str], config: Path = CONFIG) -> list[str]:
    train = [str(ROOT / "training" / "train.py"), *arguments]
    if yaml.safe_load(config.read_text(encoding="utf-8")) == ONE_PROCESS:
        return [sys.executable, *train]
    return [program("accelerate"), "launch", "--quiet", "--config_file", str(config), *train]


def program(name: str) -> str:
    """Beside this Python, else wherever it is found."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise UserError(f"{name} is not installed for {sys.executable}; `bash run_learning.sh setup` installs it")
    return found


def become(command: list[str]) -> None:
    """The command in this process's place."""
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))  # accelerate gives a process one otherwise
    sys.stdout.flush()
    os.execv(command[0], command)


def follow(command: list[str]) -> int:
    """The exit code of a command that others come after. SIGTERM is handed on to it; what a terminal sends, it hears
    itself. A code other than 0 also where it ended well although it was asked to end."""
    asked: list[int] = []
    child: subprocess.Popen | None = None

    def heard(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if number == signal.SIGTERM and child is not None:
            child.terminate()

    before: dict[int, Any] = {}
    for sent in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(sent) != signal.SIG_IGN:  # as under nohup: the command is to inherit that
            before[sent] = signal.signal(sent, heard)
    try:
        sys.stdout.flush()
        child = subprocess.Popen(command)
        if signal.SIGTERM in asked:  # before there was a child to hand it to
            child.terminate()
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code < 0:
        return 128 - code
    return code or (128 + asked[0] if asked else 0)


def main() -> None:
    become(train_command(sys.argv[1:]))


if __name__ == "__main__":
    run(main)
