"""Runs a command's main function as the shell would, in this process, or a program in two processes on CPUs.

In    a module with `main`, its arguments, bytes for stdin; or a program's arguments.
Out   (exit code, stdout, stderr), or the command and the environment of its launcher.
Run   `from commands import run_command` in a test.
"""

import io
import os
import shutil
import socket
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest

from preprocessing.errors import run
from training.native import COMPILERS

NEEDS_COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="adamw_8bit needs a C++ compiler, none is here"
)

# What `accelerate launch --config_file training/launch/fsdp2_offload.yaml` sets.
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}


def two_processes(*arguments: object, sharded: bool) -> tuple[list[str], dict[str, str]]:
    """What starts a program twice, one thread each, as one run: for `subprocess`, with `env`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)} | (FSDP2 if sharded else {})
    return [*command, *map(str, arguments)], environment


def run_command(module: ModuleType, *arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    argv = [module.__name__, *map(str, arguments)]
    code = 0
    with patch.object(sys, "argv", argv), patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))):
        try:
            with redirect_stdout(out), redirect_stderr(err):
                run(module.main)
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()
