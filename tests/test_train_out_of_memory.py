"""A run that finds no memory ends with exit code 3, a record and a way on; taken up again it is the same run.

In    runs of redheart-tiny on the shipped scenarios, in processes of their own whose addresses are limited while they
      train (RLIMIT_AS), so that what they ask the system for is really refused; errors of real requests.
Out   exit codes, oom_stats, what is said; weights beside those of a run that was left alone.
Run   `pytest tests/test_train_out_of_memory.py -m "slow or not slow"`
"""

import errno
import json
import mmap
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import NEEDS_COMPILER
from tiny_run import build_loop, tiny_config

from preprocessing.errors import DoesNotFit, UserError
from preprocessing.memory_room import others
from training.checkpoint import checkpoint_at, checkpoints
from training.nonfinite import NonFiniteError
from training.out_of_memory import clean_up, is_out_of_memory, place, train_or_stop

ROOT = Path(__file__).resolve().parents[1]
STEPS = 14
MODEL = ("--model.modules", "[]", "--model.max_length", 48)


def command(output_dir: Path, tokenizer_dir: Path, *more: object) -> list[str]:
    scenarios = [f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}"]
    fields = ["--output_dir", output_dir, "--tokenizer", tokenizer_dir, "--train", json.dumps(scenarios)]
    fields += ["--max_steps", STEPS, "--batch_size", 8, "--save_steps", 3, "--log_steps", 1, *MODEL, *more]
    return [sys.executable, "training/train.py", *map(str, fields)]


def start(arguments: list[str]) -> subprocess.Popen:
    """Hearing the signals of a terminal, which tests in the background or under nohup have been told to ignore."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(arguments, cwd=ROOT, env=environment, text=True, preexec_fn=hear_signals, **pipes)


def hear_signals() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def finish(arguments: list[str]) -> None:
    process = start(arguments)
    _, err = process.communicate()
    assert process.returncode == 0, err[-3000:]


def wait_for_steps(process: subprocess.Popen, output_dir: Path, steps: int) -> None:
    metrics = output_dir / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_bytes().splitlines()) < steps:
        assert process.poll() is None, process.stderr and process.stderr.read()[-3000:]
        time.sleep(0.005)


def refuse_memory(pid: int) -> None:
    """From now on whatever the process asks the system for, it does not get."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() // 2
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))


def last_state(output_dir: Path) -> list[bytes]:
    folder = checkpoint_at(output_dir, STEPS)
    return [(folder / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]


def test_a_model_that_finds_no_memory_while_it_is_made_ends_the_run_in_the_same_way(tokenizer_dir, tmp_path):
    more = ("--preset", "redheart-800m", "--plan_memory", "false", "--hold_memory", "off")
    arguments = command(tmp_path / "run", tokenizer_dir, *more)
    limit = 3600 << 20  # addresses: enough for the libraries, too little for 3.2 GB of weights beside them
    done = subprocess.run(["prlimit", f"--as={limit}", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr[-2000:]
    assert "error: out of memory in train > build_loop > unmeasured_model > build_model" in done.stderr
    assert "free: 0.00 GiB (ulimit -v: addresses of 3.5 GiB)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("held", [pytest.param("on", marks=NEEDS_COMPILER), "off"])
def test_a_run_that_is_refused_memory_says_so_and_goes_on_to_the_same_weights(held, tokenizer_dir, tmp_path):
    alone, output_dir = tmp_path / "alone", tmp_path / "run"
    finish(command(alone, tokenizer_dir, "--hold_memory", held))
    given = command(output_dir, tokenizer_dir, "--hold_memory", held)
    process = start(given)
    wait_for_steps(process, output_dir, 4)
    refuse_memory(process.pid)
    _, err = process.communicate()
    assert process.returncode == 3, err[-3000:]
    assert "Traceback" not in err
    (written,) = (output_dir / "oom_stats").iterdir()
    record = json.loads(written.read_text(encoding="utf-8"))
    done = len((output_dir / "metrics.jsonl").read_bytes().splitlines())
    assert written.name == f"step-{record['step']}.json"
    assert record["step"] in (done, done + 1)
    assert record["phase"] in ("read", "forward", "backward", "update", "step", "save", "between steps")
    newest = checkpoints(output_dir)[-1]
    assert record["checkpoint"] == str(newest)
    assert record["planned"]["peak"] > record["measured"]["resident"] > 0
    assert (record["measured"]["held"] is None) == (held == "off")
    for said in (f"in step {record['step']} ({record['phase']})", record["error"], str(newest), "ulimit -v", "PID "):
        assert said in err
    finish(given)
    assert last_state(output_dir) == last_state(alone)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_it_advises_can_be_done(tokenizer_dir, tmp_path):
    output_dir = tmp_path / "run"
    process = start(command(output_dir, tokenizer_dir, "--batch_size", 32, "--model.max_length", 96))
    wait_for_steps(process, output_dir, 4)
    refuse_memory(process.pid)
    _, err = process.communicate()
    (advised,) = (line for line in err.splitlines() if line.startswith("  python "))
    again = [sys.executable, *shlex.split(advised)[1:], "--max_steps", "1"]
    process = start(again)
    _, err = process.communicate()
    assert process.returncode == 3, err
    fitting = err[err.index("These settings fit") :].splitlines()[1]
    finish([*again, *shlex.split(fitting.partition("  (")[0])])
    assert (tmp_path / "run-less" / "final" / "model.safetensors").is_file()


def raised_by(act) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which it is, is what is asked
        act()
    return caught.value


HELD = """
import torch
from training.held_memory import hold_memory
from training.out_of_memory import is_out_of_memory
hold_memory()
try:
    torch.empty(1 << 60, dtype=torch.uint8)
except Exception as error:
    print(type(error).__name__, is_out_of_memory(error), error)
"""


@NEEDS_COMPILER
def test_held_memory_says_what_it_has_no_room_for():
    done = subprocess.run([sys.executable, "-c", HELD], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith(f"OutOfMemoryError True can't allocate memory: the system has no room for {1 << 60}")


@pytest.mark.parametrize(
    "act",
    [lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: bytearray(1 << 62), lambda: mmap.mmap(-1, 1 << 60)],
    ids=["torch", "Python", "the system"],
)
def test_errors_of_too_little_memory_are_known(act):
    assert is_out_of_memory(raised_by(act))


@pytest.mark.parametrize(
    "error",
    [
        raised_by(lambda: torch.ones(2, 2) @ torch.ones(3, 3)),
        raised_by(lambda: torch.empty(-1)),
        raised_by(lambda: Path("nowhere").read_text()),
        NonFiniteError("step 1: loss is not finite; ids ['out of memory']"),
        UserError("not enough memory"),
        RuntimeError("could not create a primitive descriptor for a matmul primitive"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_not_taken_for_it_and_pass_as_they_are(error, tokenizer, scenarios, tmp_path):
    assert not is_out_of_memory(error)
    loop = build_loop(tokenizer, tiny_config(tmp_path / "run", max_steps=1), scenarios[:8])

    def fail(_):
        raise error

    loop.take_step = fail
    with pytest.raises(type(error)) as passed:
        train_or_stop(loop, None)
    assert passed.value is error
    assert not (tmp_path / "run" / "oom_stats").exists()


@pytest.mark.parametrize(
    ("part", "phase", "step"),
    [("forward", "forward", 1), ("backward", "backward", 1), ("update", "update", 1), ("evaluate", "evaluate", 2)],
)
def test_the_phase_is_where_it_happened_and_no_gradient_is_left(part, phase, step, tokenizer, scenarios, tmp_path):
    """A request that no machine can grant, made within the part."""
    config = tiny_config(tmp_path / "run", max_steps=2, save_steps=9)
    loop = build_loop(tokenizer, config, scenarios[:8])
    own = getattr(loop, part)

    def asking(*arguments):
        own(*arguments)
        torch.empty(1 << 60, dtype=torch.uint8)

    asking.__code__ = asking.__code__.replace(co_name=part)
    setattr(loop, part, asking)
    with pytest.raises(DoesNotFit) as stopped:
        train_or_stop(loop, None)
    record = json.loads((tmp_path / "run" / "oom_stats" / f"step-{step}.json").read_text())
    assert (record["step"], record["phase"], record["checkpoint"]) == (step, phase, None)
    assert "No checkpoint was written yet" in str(stopped.value)
    assert stopped.value.__context__ is None  # the error, and with it the frames and their activations, is gone
    assert all(parameter.grad is None for parameter in loop.bare_model.parameters())
    clean_up(loop)  # twice does no harm


def test_phases_within_the_model_are_those_of_the_loop():
    loop = SimpleNamespace(step=6)
    assert place(loop, ["forward", "take_steps", "take_step", "backward", "forward"]) == (7, "backward")
    assert place(loop, ["take_steps", "load_groups", "__next__"]) == (7, "read")
    assert place(loop, ["take_steps", "save_run", "update"]) == (6, "save")
    assert place(loop, ["take_steps"]) == (6, "between steps")


def test_those_who_hold_most_are_named_first(tmp_path):
    for pid, pages, name in ((7, 10, "small"), (8, 9000, "rival"), (os.getpid(), 99999, "self"), (9, 500, "middle")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "statm").write_text(f"99999 {pages} 1 1 0 1 0\n")
        (tmp_path / str(pid) / "comm").write_text(name + "\n")
    (tmp_path / "10").mkdir()  # one that ends while it is looked at
    (tmp_path / "meminfo").write_text("")
    page = resource.getpagesize()
    assert others(2, tmp_path) == [(9000 * page, 8, "rival"), (500 * page, 9, "middle")]
