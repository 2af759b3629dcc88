"""One living process at a time writes into a run's folder.

In    the run's folder.
Out   OUTPUT_DIR/run.lock, held while the block runs, gone after it; UserError where another process holds it.
Run   through training/train.py

The file says who holds it: pid, when that process began, host, boot and command. What counts is the system's lock on
it (flock), which ends with its holder and is never waited for. Two cases are decided by what the file says: a file
system that knows no such locks, and a holder that has died and left a child with the file open, as workers that read
ahead may be for a moment.
"""

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError

LOCK = "run.lock"
BOOT, PROCESSES = Path("/proc/sys/kernel/random/boot_id"), Path("/proc")
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def held_run(output_dir: Path, main_process: bool = True, make: bool = True) -> Iterator[None]:
    """Holds the folder; of several processes of one run the main one does. Raises UserError. Without `make` a folder
    that is not there is left to those who look for it."""
    if not main_process or not (make or output_dir.is_dir()):
        yield
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / LOCK
    handle = take(path)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, (json.dumps(own_record(), indent=2) + "\n").encode(), 0)
        yield
    finally:
        if is_at(handle, path):
            path.unlink(missing_ok=True)
        os.close(handle)


def take(path: Path) -> int:
    """A locked handle of the file that lies at `path`."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks = True
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, *NO_LOCKS):
                os.close(handle)
                raise
            locks = error.errno not in NO_LOCKS
            record = read_record(handle)
            if record is None and locks:  # it is about to say who it is
                record = {}
            if record is not None and not is_dead(record, locks):
                os.close(handle)
                raise UserError(refusal(path, record)) from None
            if locks:  # its holder is dead, and what is left of it has the file open: another file takes its place
                remove(handle, path)
                os.close(handle)
                continue
        if is_at(handle, path):  # else its holder has just ended, and took it away
            return handle
        os.close(handle)


def remove(handle: int, path: Path) -> None:
    """Take the file away, unless another process that saw the same has done it already and another lies there."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if is_at(handle, path):
            path.unlink()
    finally:
        os.close(folder)


def own_record() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "began": began(os.getpid()),
        "host": socket.gethostname(),
        "boot": boot(),
        "processes": processes(),
        "command": shlex.join([sys.executable, *sys.argv]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def read_record(handle: int) -> dict[str, Any] | None:
    """What the holder wrote; None for nothing, or half of it."""
    try:
        record = json.loads(os.pread(handle, 1 << 16, 0))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def is_dead(record: dict[str, Any], held: bool) -> bool:
    """Whether the process that a record names is known to have ended: none but those of this machine are known, and of
    these only those of this container. `held`: somebody holds the file, so that a start of the machine since then
    means another machine of that name."""
    if record.get("host") != socket.gethostname() or not isinstance(pid := record.get("pid"), int):
        return False
    if record.get("boot") != boot():
        return not held
    return record.get("processes") == processes() and began(pid) != record.get("began")


def processes() -> str:
    """Of the processes that can be seen from here: another one in another container."""
    try:
        return os.readlink(PROCESSES / "self" / "ns" / "pid")
    except OSError:
        return ""


def boot() -> str:
    """Another one after each start of the machine; "" where it is not told."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""


def began(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; None where there is no such process, or only its end."""
    try:
        fields = (PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19] if fields[0] not in "ZX" else None


def is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def refusal(path: Path, record: dict[str, Any]) -> str:
    who = f"process {record.get('pid', 'that has not said which')}"
    where = f" on {record['host']}" if record.get("host") not in (None, socket.gethostname()) else ""
    said = f", begun {record['time']}: {record.get('command')}" if record.get("time") else ""
    return (
        f"{path.parent} is in use by {who}{where}{said}. Wait until it ends, or end it (kill "
        f"{record.get('pid', 'PID')}: it saves first), or give another --output_dir; where it is known to have ended, "
        f"remove {path}"
    )
