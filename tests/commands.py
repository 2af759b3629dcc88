"""Runs a command's main function as the shell would, in this process; what some commands need of the machine.

In    a module with `main`, its arguments, bytes for stdin.
Out   (exit code, stdout, stderr).
Run   `from commands import run_command` in a test.
"""

import io
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import ModuleType
from unittest.mock import patch

import pytest

from preprocessing.errors import run
from training.native import COMPILERS

NEEDS_COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="adamw_8bit needs a C++ compiler, none is here"
)


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
