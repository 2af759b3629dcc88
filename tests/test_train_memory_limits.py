"""How much memory there is: the machine's, and what control groups of either version leave of it.

In    folders laid out as Linux lays out /proc and /sys/fs/cgroup.
Out   the smallest room, and its name.
Run   `pytest tests/test_train_memory_limits.py`
"""

from pathlib import Path

import pytest

from preprocessing.memory_room import is_wsl, resident, room
from training.memory_limits import limit_of_run

GIB = 1 << 30


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n", encoding="ascii")


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path]:
    """20 GiB are free, and a process of 1 GiB is in the group /lab/job of both versions."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    write(
        proc,
        {
            "meminfo": f"MemTotal: {32 << 20} kB\nMemAvailable: {20 << 20} kB",
            "self/status": f"VmHWM: {2 << 20} kB\nVmRSS: {1 << 20} kB",
            "self/cgroup": "9:name=systemd:/\n4:cpu,memory:/lab/job\n0::/lab/job",
            "version": "Linux version 6.1",
        },
    )
    return proc, groups


def group(root: Path, at: str, limit: object, used: int, cache: int, version: int) -> None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    prefix = "" if version == 2 else "total_"
    statistics = f"{prefix}inactive_file {cache // 2}\n{prefix}active_file {cache - cache // 2}"
    write(root / at, {names[0]: limit, names[1]: used, "memory.stat": statistics})


def test_without_a_limit_it_is_what_the_machine_has_free(machine):
    proc, groups = machine
    group(groups, "lab/job", "max", 3 * GIB, 0, 2)
    group(groups / "memory", "lab/job", (1 << 63) - 4096, 3 * GIB, 0, 1)
    assert room(proc, groups).free == 20 * GIB
    assert "memory free on this machine: 20.0 GiB" in room(proc, groups).limited_by


@pytest.mark.parametrize("version", [1, 2])
def test_a_groups_limit_counts_less_what_it_uses_but_not_less_its_cached_files(machine, version):
    proc, groups = machine
    root = groups if version == 2 else groups / "memory"
    group(root, "lab/job", 8 * GIB, used=5 * GIB, cache=2 * GIB, version=version)
    assert room(proc, groups).free == 5 * GIB  # 8 - (5 - 2)
    assert "lab/job/memory." in room(proc, groups).limited_by


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_the_groups_above_counts(machine, version):
    proc, groups = machine
    root = groups if version == 2 else groups / "memory"
    group(root, "lab/job", 8 * GIB, used=1 * GIB, cache=0, version=version)
    group(root, "lab", 9 * GIB, used=7 * GIB, cache=0, version=version)
    assert room(proc, groups).free == 2 * GIB
    assert "/lab/memory." in room(proc, groups).limited_by


def test_in_a_container_the_own_group_is_the_root(machine):
    """Its path is the host's and not there; the limit is where the groups are mounted."""
    proc, groups = machine
    group(groups, ".", 4 * GIB, used=3 * GIB, cache=0, version=2)
    assert room(proc, groups).free == GIB


def test_a_group_beyond_its_limit_has_no_room(machine):
    proc, groups = machine
    group(groups, "lab/job", GIB, used=2 * GIB, cache=0, version=2)
    assert room(proc, groups).free == 0


def test_a_budget_may_be_used_whole_and_a_fraction_is_of_what_is_free_and_taken_already():
    assert limit_of_run(1.5, 0.8).size == 3 * GIB // 2
    found = limit_of_run(None, 0.5)
    assert found.size == pytest.approx(0.5 * (room().free + resident()), rel=0.1)  # others come and go meanwhile


def test_windows_linux_is_known_by_its_kernel(machine):
    proc, _ = machine
    assert not is_wsl(proc)
    (proc / "version").write_text("Linux version 6.6.87-microsoft-standard-WSL2\n", encoding="ascii")
    assert is_wsl(proc)
