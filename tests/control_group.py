"""A control group with a limit of memory, and processes in it.

In    a folder of the group, its version (1 or 2); the limit in bytes, a command.
Out   the command's process, or how it ended; how often the kernel killed something in the group.
Run   through the fixture `group` of tests/conftest.py: making a group takes root.
"""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Group:
    """A control group; its limit is set anew for each run."""

    def __init__(self, folder: Path, version: int):
        self.folder, self.limit = folder, folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")
        self.events = folder / ("memory.events" if version == 2 else "memory.oom_control")

    def kills(self) -> int:
        lines = map(str.split, self.events.read_text().splitlines())
        return next(int(number) for name, number in lines if name == "oom_kill")

    def run(self, size: int, command: list[str]) -> subprocess.CompletedProcess:
        self.limit.write_text(str(size))
        process = self.start(command)
        out, err = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def start(self, command: list[str]) -> subprocess.Popen:
        inside = f'echo $$ > "{self.folder}/cgroup.procs" && exec "$@"'
        shell, environment = ["sh", "-c", inside, "sh", *command], os.environ | {"OMP_NUM_THREADS": "1"}
        pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(shell, cwd=ROOT, env=environment, text=True, **pipes)
