"""A run that is asked to end, and a folder that two runs want: real processes, real signals.

In    runs of redheart-tiny on the shipped scenarios, in processes of their own.
Out   exit codes, what is said, checkpoints; weights beside those of a run that was left alone.
Run   `pytest tests/test_train_signals.py -m "slow or not slow"`
"""

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from select import select

import pytest
from test_train_out_of_memory import ROOT, command, finish, hear_signals, last_state, start, wait_for_steps
from test_train_sharding import launch

from preprocessing.errors import UserError
from preprocessing.folders import verify
from training.checkpoint import checkpoints, step_of
from training.run_lock import LOCK, began, held_run

NEVER_SAVED = ("--save_steps", 1000)


def ended(process: subprocess.Popen, output_dir: Path, code: int) -> str:
    """What a run said that ended in order: its checkpoint is of the last step that it logged."""
    _, err = process.communicate()
    assert process.returncode == code, err[-3000:]
    assert "Traceback" not in err
    (folder,) = checkpoints(output_dir)
    assert verify(folder)["step"] == step_of(folder) == len((output_dir / "metrics.jsonl").read_bytes().splitlines())
    assert f"after step {step_of(folder)}, in order: {folder} is saved. Start the same command again" in err
    assert not (output_dir / LOCK).exists()
    return err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_terminated_saves_and_goes_on_to_the_same_weights(tokenizer_dir, tmp_path):
    finish(command(tmp_path / "alone", tokenizer_dir, *NEVER_SAVED))
    given = command(tmp_path / "run", tokenizer_dir, *NEVER_SAVED)
    process = start(given)
    wait_for_steps(process, tmp_path / "run", 3)
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM: the run saves after this step and ends" in ended(process, tmp_path / "run", 143)
    finish(given)
    assert last_state(tmp_path / "run") == last_state(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_ctrl_c_is_enough(tokenizer_dir, tmp_path):
    process = start(command(tmp_path / "run", tokenizer_dir, *NEVER_SAVED))
    wait_for_steps(process, tmp_path / "run", 3)
    process.send_signal(signal.SIGINT)
    assert "once more ends it at once" in ended(process, tmp_path / "run", 130)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_under_nohup_goes_on_without_its_terminal(tokenizer_dir, tmp_path):
    process = start(["nohup", *command(tmp_path / "run", tokenizer_dir, *NEVER_SAVED)])
    wait_for_steps(process, tmp_path / "run", 2)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["behind", "before"])
def test_a_terminal_that_closes_ends_what_is_before_it_and_not_what_is_behind(way: str, tokenizer_dir, tmp_path):
    """A shell in a terminal of its own, which is then taken away, as by a window that closes."""
    given = shlex.join(command(tmp_path / "run", tokenizer_dir, *NEVER_SAVED, "--max_steps", 300))
    shell, terminal = pty.fork()
    if shell == 0:
        os.chdir(ROOT)
        hear_signals()
        os.execvpe("bash", ["bash", "--norc", "-i"], os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    os.write(terminal, (given + (" &\n" if way == "behind" else "\n")).encode())
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 2:
        if select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 1 << 16)
    (run,) = children_of(shell)
    os.close(terminal)
    os.waitpid(shell, 0)
    while Path(f"/proc/{run}").exists():
        time.sleep(0.05)
    if way == "behind":
        assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    else:
        (folder,) = checkpoints(tmp_path / "run")
        assert verify(folder)["step"] == metrics.read_bytes().count(b"\n")
        assert "ended by SIGHUP after step" in (tmp_path / "run" / "logs" / "training.log").read_text()


def children_of(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_end_together_when_one_is_asked(tokenizer_dir, tmp_path):
    given = command(tmp_path / "run", tokenizer_dir, *NEVER_SAVED)[1:]
    process = launch(given, sharded=False)
    wait_for_steps(process, tmp_path / "run", 3)
    os.kill(children_of(process.pid)[-1], signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode != 0
    (folder,) = checkpoints(tmp_path / "run")
    assert verify(folder)["step"] >= 3
    assert said.count(f"after step {step_of(folder)}, in order") == 2, said[-3000:]


# ---------------------------------------------------------------- a folder in use


HOLDER = """
import sys, time
from pathlib import Path
from training.run_lock import held_run
with held_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_refused_with_who_uses_it(holder, tmp_path):
    said = rf"run is in use by process {holder.pid}, begun .*: .*python.* -c .*\(kill {holder.pid}: it saves first\)"
    with pytest.raises(UserError, match=said), held_run(tmp_path / "run"):
        pytest.fail("it was let in")
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == holder.pid


def test_what_a_killed_process_held_is_free(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with held_run(tmp_path / "run"):
        record = json.loads((tmp_path / "run" / LOCK).read_text())
        assert (record["pid"], record["began"]) == (os.getpid(), began(os.getpid()))
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_child_that_outlives_its_dead_parent_holds_nothing(tmp_path):
    """As workers that read ahead do for a moment: the file is still locked, by nobody's run."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLDER.replace("    time", "    import os\n    os.fork()\n    time"),
            str(tmp_path / "run"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    children: list[str] = []
    while not children:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.kill()
    parent.wait()
    try:
        with held_run(tmp_path / "run"):
            assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    finally:
        os.kill(int(children[0]), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_run_in_the_same_folder_does_not_begin(holder, tokenizer_dir, tmp_path):
    process = start(command(tmp_path / "run", tokenizer_dir))
    _, err = process.communicate()
    assert process.returncode == 2
    assert f"is in use by process {holder.pid}" in err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [LOCK]
