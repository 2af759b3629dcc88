"""All techniques at once: killed, they end as if left alone; in two processes, as in one.

In    the shipped scenarios, tests/tiny_run.py as the run that is killed; two processes on CPUs.
Out   weights, averages, optimizer, terms' weights, history and metrics.jsonl, byte by byte; gradients side by side.
Run   `pytest tests/test_train_techniques.py -m "slow or not slow"`; as a program, `torchrun --nproc_per_node 2
      tests/test_train_techniques.py TOKENIZER OUTPUT` writes what each process holds
"""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from commands import two_processes
from safetensors.torch import load_file, save_file
from test_train_gradients import GradientLoop, mixed_records
from test_train_rdrop import NO_DROPOUT, Blurred
from test_train_resume import KEPT_OUT, finish
from tiny_run import build_loop, tiny_config
from transformers import AutoTokenizer

from preprocessing.errors import UserError
from training.checkpoint import checkpoints
from training.sharding import is_asked, whole

ALL: dict[str, Any] = {"label_smoothing": 0.1, "rdrop_alpha": 1.0, "ema_decay": 0.9, "loss_weighting": "famo"}
STOPPING: dict[str, Any] = {"early_stopping_patience": 2, "early_stopping_min_delta": 10.0, "eval_steps": 2}
LAST = 6  # the third evaluation ends the run
FILES = ("model.safetensors", "optimizer.safetensors", "ema.safetensors")


def spec_of(tokenizer_dir: Path, output_dir: Path, **more: Any) -> str:
    config = {"output_dir": str(output_dir), "max_steps": 8, "gradient_accumulation_steps": 2, "batch_size": 3}
    config |= {"save_total_limit": 2, "log_steps": 3} | ALL | STOPPING
    return json.dumps({"tokenizer": str(tokenizer_dir), "config": config} | more)


def result_of(output_dir: Path) -> dict[str, Any]:
    newest = checkpoints(output_dir)[-1]
    state = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {name: (newest / name).read_bytes() for name in FILES}
    found |= {"metrics": (output_dir / "metrics.jsonl").read_bytes()}
    return found | {name: state[name] for name in state if name not in KEPT_OUT}


def assert_same_run(one: Path, other: Path) -> None:
    expected, found = result_of(one), result_of(other)
    assert [name for name in expected if expected[name] != found[name]] == []
    assert (found["step"], found["ema_updates"]) == (LAST, LAST)
    assert [step for step, _ in found["early_stopping"]] == [2, 4, 6]
    assert len(set(found["term_weights"]["logits"].values())) > 5  # it has learned
    assert json.loads(found["metrics"].splitlines()[-1])["stopped_early"]["best_step"] == 2


def test_two_kills_change_nothing(tokenizer_dir: Path, tmp_path: Path):
    """In a step and inside a save."""
    finish(
        spec_of(tokenizer_dir, tmp_path / "whole", kills=[]),
        spec_of(tokenizer_dir, tmp_path / "killed", kills=[2, -25]),
    )
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, -0.1) for name in ("label_smoothing", "rdrop_alpha", "ema_decay", "early_stopping_min_delta")),
        *((name, 1.0) for name in ("label_smoothing", "ema_decay")),
        *((name, math.nan) for name in ("label_smoothing", "rdrop_alpha", "ema_decay")),
        ("rdrop_alpha", math.inf),
        ("early_stopping_patience", 0),
    ],
)
def test_a_number_out_of_range_is_named_with_its_value(name: str, value: float, tmp_path: Path):
    with pytest.raises(UserError, match=rf"{name} must .* got {value}"):
        tiny_config(tmp_path, **{name: value})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_random_kills_change_nothing(tokenizer_dir: Path, tmp_path: Path):
    """Lines of metrics.jsonl are of losses, of evaluations and of the end: any of them may be the last one seen."""
    seed = random.randrange(2**32)
    print(f"kills follow from seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    finish(spec_of(tokenizer_dir, tmp_path / "whole", kills=[]))
    given = 0
    for number in range(5):
        kills = sorted(chance.sample(range(1, 5), 1)) + [-chance.randint(1, 22)]
        # The first kill may come when all is saved: then no flush is left for the second.
        given += finish(spec_of(tokenizer_dir, tmp_path / f"killed-{number}", kills=kills, may_end=True))
        assert_same_run(tmp_path / "whole", tmp_path / f"killed-{number}")
    assert given >= 5


def two_steps(tokenizer, output_dir: Path, rows: list[int]) -> GradientLoop:
    """Without dropout, which would differ by process; the second reading differs by something known."""
    fields = ALL | ({"ema_decay": None} if is_asked("ACCELERATE_USE_FSDP") else {})  # of pieces there is no average
    config = tiny_config(output_dir, batch_size=len(rows) // 2, gradient_accumulation_steps=2, **fields)
    loop = build_loop(tokenizer, config, mixed_records(), GradientLoop, **NO_DROPOUT)
    Blurred(loop.bare_model.model.input_projection)
    half = len(rows) // 2
    for _ in range(2):
        group = [loop.collator([loop.dataset[row] for row in part]) for part in (rows[:half], rows[half:])]
        loop.take_step(group)
    return loop


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_two_processes_train_as_one(sharded: bool, tokenizer, tokenizer_dir: Path, tmp_path: Path):
    one = two_steps(tokenizer, tmp_path / "whole", list(range(32)))
    command, environment = two_processes(__file__, tokenizer_dir, tmp_path, sharded=sharded)
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = [load_file(tmp_path / f"found-{process}.safetensors") for process in (0, 1)]
    logits = [json.loads((tmp_path / f"logits-{process}.json").read_text()) for process in (0, 1)]
    assert logits[0] == logits[1]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    expected = dict(one.bare_model.named_parameters()) if sharded else one.ema.averages
    for name, value in expected.items():
        # A step of Adam is a sign where a gradient is next to nothing; all but a few numbers are the same.
        close = (found[0][name] - value).abs() < 1e-4
        assert close.float().mean() > 0.99, name
    for term, logit in one.term_weights.logits.items():
        assert logits[0][term] == pytest.approx(logit, abs=2e-3), term


def main() -> None:
    """One of two processes: its sixteen of the thirty-two records."""
    torch.set_num_threads(1)
    process, output_dir = int(os.environ["RANK"]), Path(sys.argv[2])
    rows = list(range(16 * process, 16 * process + 16))
    loop = two_steps(AutoTokenizer.from_pretrained(sys.argv[1]), output_dir / f"process-{process}", rows)
    weights = {name: whole(weight.detach()).clone() for name, weight in loop.bare_model.named_parameters()}
    save_file(weights if loop.ema is None else loop.ema.averages, output_dir / f"found-{process}.safetensors")
    (output_dir / f"logits-{process}.json").write_text(json.dumps(loop.term_weights.state_dict()["logits"]))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
