"""Tensors are held to what they need: a process is no larger than those alive at one time have been.

In    processes of their own (what is held once is held for good) that take and free tensors of many sizes.
Out   their size beside what their tensors took; every number in every tensor.
Run   `pytest tests/test_train_held_memory.py`
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import NEEDS_COMPILER

pytestmark = NEEDS_COMPILER
ROOT = Path(__file__).resolve().parents[1]
START = """
import json, os, random, torch
from training.held_memory import hold_memory, held_memory
from preprocessing.memory_room import most_resident, resident

torch.set_num_threads(1)
random.seed(0)
(torch.ones(200, 200) @ torch.ones(200, 200)).sum()
"""
MANY_LENGTHS = """
before, alive, taken, most = most_resident(), [], 0, 0
for turn in range(3000):
    if alive and (taken > 200_000_000 or random.random() < 0.45):
        taken -= alive.pop(random.randrange(len(alive))).nbytes
    else:
        alive.append(torch.full((random.randrange(40_000, 4_000_000),), float(turn)))
        taken += alive[-1].nbytes
    most = max(most, taken)
right = all(bool((part == part[0]).all()) for part in alive) and len({float(part[0]) for part in alive}) == len(alive)
print(json.dumps({"grown": most_resident() - before, "most": most, "right": right}))
"""


def run(code: str) -> dict:
    done = subprocess.run([sys.executable, "-c", START + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_process_is_as_large_as_its_tensors_were_and_not_larger():
    """By what the C library keeps it is larger: the second run shows that there was something to hold."""
    held, free = run("hold_memory()" + MANY_LENGTHS), run(MANY_LENGTHS)
    assert held["right"]
    assert held["most"] == free["most"]
    assert held["grown"] < 1.02 * held["most"] + 8_000_000
    assert free["grown"] > held["grown"]


def test_what_rests_is_taken_again_and_goes_where_it_would_make_the_process_larger():
    figures = run(
        """
hold_memory()
page = 4096
first, second = torch.ones(100 * 1024 * page // 4), torch.ones(50 * 1024 * page // 4)
figures = [held_memory()]
del first
figures.append(held_memory())   # rests
third = torch.ones(40 * 1024 * page // 4)
figures.append(held_memory())   # taken from what rests, the remainder goes on resting
fourth = torch.ones(90 * 1024 * page // 4)
figures.append(held_memory())   # no room beside what rests
print(json.dumps([[part // 1024 // page for part in figure] for figure in figures] + [resident()]))
"""
    )
    assert figures[:4] == [[150, 0, 150], [50, 100, 150], [90, 60, 150], [180, 0, 180]]


def test_a_process_that_forks_can_go_on_in_both():
    found = run(
        """
hold_memory()
numbers = torch.arange(1_000_000.0)
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, str(float((numbers + 1).sum())).encode())
    os._exit(0)
os.waitpid(child, 0)
print(json.dumps([float(os.read(reader, 99)), float((numbers + 1).sum())]))
"""
    )
    assert found[0] == found[1] == pytest.approx(1_000_000 * 1_000_001 / 2, rel=1e-6)
