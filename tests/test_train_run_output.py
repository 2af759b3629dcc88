"""What a run prints is kept, and a run outlives its terminal: a real one, which is closed while the run goes on.

In    a program that prints through training/run_output.py, on a pseudo terminal.
Out   failures where the log would miss a line, or the run end with its terminal.
Run   pytest tests/test_train_run_output.py
"""

import os
import pty
import subprocess
import sys

import pytest
from tiny_run import ROOT

PROGRAM = """
import sys, time
from pathlib import Path
from tqdm import tqdm
from training.run_output import kept_output
with kept_output(Path(sys.argv[1])):
    print("first", flush=True)
    sys.stdin.readline()
    for number in tqdm(range(20), desc="steps"):
        print(f"line {number}", file=sys.stderr, flush=True)
    print("zuletzt: 마지막 줄")
    if len(sys.argv) > 2:
        raise RuntimeError("broke off")
"""


def start(tmp_path, *arguments: str, **streams) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True, **streams)


def logged(tmp_path) -> list[str]:
    return (tmp_path / "logs" / "training.log").read_text(encoding="utf-8").splitlines()


def test_a_run_goes_on_when_its_terminal_is_closed(tmp_path):
    ours, theirs = pty.openpty()
    process = start(tmp_path, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert b"first" in os.read(ours, 100)
    os.close(ours)  # from now on every write of the program to it fails
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    lines = logged(tmp_path)
    for number in range(20):  # after what there was of the bar, as on the terminal
        assert [line for line in lines if line.endswith(f"line {number}")]
    assert lines[0] == "first"
    assert "zuletzt: 마지막 줄" in lines


def test_the_log_and_the_screen_say_the_same_and_a_bar_is_one_line(tmp_path):
    process = start(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    out, _ = process.communicate(b"\n", timeout=60)
    assert out.decode().splitlines() == ["first", "zuletzt: 마지막 줄"]
    lines = logged(tmp_path)
    assert set(out.decode().splitlines()) < set(lines)
    assert [line for line in lines if "20/20" in line]
    assert not [line for line in lines if "\r" in line]


@pytest.mark.parametrize("times", [1, 2])
def test_the_error_a_run_ends_with_is_in_its_log(tmp_path, times):
    for _ in range(times):
        process = start(tmp_path, "break", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process.communicate(b"\n", timeout=60)
        assert process.returncode == 1
    assert logged(tmp_path).count("RuntimeError: broke off") == times  # a later stretch is added to the log
