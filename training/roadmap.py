"""Ten short tests of a recipe, from how it is to how it should be: which settings hold, learn, are fast, and fit.

In    a recipe and fields of it, as training/train.py takes them; --budget-gib.
Out   a line a test with its four criteria; --output JSON.
Run   python -m training.roadmap training/recipes/main.yaml --budget-gib 8
      python -m training.roadmap RECIPE --preset redheart-4.3b --budget-gib 70 --output roadmap.json

Each test is one short run of training/preflight.py, ten records learned by heart, with the settings of the test before
it and one more: 1 the recipe with Pre-LN + GELU blocks; 2 and 3 Post-LN + SwiGLU; 4 and 5 dropout .02 and a
layer_norm_eps of 1e-6; 6 and 7 the arithmetic that the processor or GPU has, a rate of 1e-5, gradients cut to .5;
8 and 9 He's initialisation; 10 all of it, on other records. The second of two is the first with another seed: tests 1
to 9 take the same ten records, so that their seconds and losses can be compared.

stable: no loss or gradient was NaN or infinite. converging: the last third of the losses lies below the first.
faster: a record takes no longer than in test 1. under budget: memory stayed below --budget-gib, and below the plan.
A long run is ready to start when tests 8, 9 and 10 pass in a row; faster is told, and does not decide.

Exit codes: 0 ready, 1 a fault of the program, 2 something you can mend or not ready.
"""

import dataclasses
import json
import math
import subprocess
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from preprocessing.errors import UserError, run
from training.build import build_accelerator, read_architecture
from training.collator import Collator
from training.command_line import parse_config
from training.config import TrainConfig
from training.data import prepare_data
from training.memory_monitor import monitor_of
from training.memory_report import MemoryReport
from training.memory_run import hold, plan_run
from training.preflight import GIB, RECORDS, ShortRun, short_run
from training.report import write_json

Change = dict[str, Any]
STABLE = {"block_type": "post_ln_swiglu"}
STEADY = {"hidden_dropout": 0.02, "layer_norm_eps": 1e-6}
QUICK: Change = {"mixed_precision": "auto", "learning_rate": 1e-5, "max_grad_norm": 0.5}
HE = {"initialization": "he"}
TESTS: list[tuple[str, Change, Change]] = [
    ("Pre-LN + GELU", {"block_type": "pre_ln_gelu"}, {}),
    *[("Post-LN + SwiGLU", STABLE, {})] * 2,
    *[("dropout .02, eps 1e-6", STABLE | STEADY, {})] * 2,
    *[("native arithmetic, rate 1e-5", STABLE | STEADY, QUICK)] * 2,
    *[("He initialisation", STABLE | STEADY | HE, QUICK)] * 2,
    ("all of it", STABLE | STEADY | HE, QUICK),
]
"""Name, fields of the model, fields of the run."""
READY = 3
"""So many tests have to pass in a row at the end."""


@dataclass
class Test:
    """One line of the roadmap. Seconds are of a micro-batch with its share of the update."""

    name: str
    first_loss: float
    last_loss: float
    seconds: float
    peak_gib: float
    faults: list[str]
    stable: bool
    converging: bool
    faster: bool
    under_budget: bool

    @property
    def passed(self) -> bool:
        return self.stable and self.converging and self.under_budget


def take(number: int, config: TrainConfig) -> ShortRun:
    """Test `number`, counted from 1, in this process."""
    _, of_model, of_run = TESTS[number - 1]
    config = dataclasses.replace(config, **of_run | {"model": config.model | of_model})
    accelerator = build_accelerator(config)
    hold(config, accelerator)
    monitor = monitor_of(accelerator.device)
    tokenizer, model_config = read_architecture(config)
    data, collator = prepare_data(config, model_config, tokenizer, write=False), Collator(tokenizer)
    config, plan, limits = plan_run(config, model_config, data, collator, accelerator)
    memory = MemoryReport(Path(config.output_dir), monitor, plan, limits)
    rows = rows_of(number, len(data.train), config.seed)
    seeded = dataclasses.replace(config, seed=config.seed + number % 2)
    return short_run(seeded, data, rows, collator, accelerator, memory, (tokenizer, model_config))


def rows_of(number: int, records: int, seed: int) -> np.ndarray:
    """(10,): the same for all tests but the last, whatever seed their weights come from."""
    order = np.random.default_rng(seed).permutation(records)
    return np.take(order, np.arange(RECORDS) + (number == len(TESTS)) * RECORDS, mode="wrap")


def in_a_process(number: int, arguments: list[str]) -> ShortRun:
    """The same in a process of its own: one that is killed for memory is a test that was not stable."""
    command = [sys.executable, "-m", "training.roadmap", "--test", str(number), *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ended.returncode == UserError.exit_code:
        raise UserError(f"test {number} could not be taken, for the reason above")
    if ended.returncode:
        how = f"killed by signal {-ended.returncode}" if ended.returncode < 0 else f"exit code {ended.returncode}"
        return ShortRun([], 0.0, 0.0, faults=[how])
    return ShortRun(**json.loads(ended.stdout.splitlines()[-1]))


def judged(name: str, short: ShortRun, first: Test | None, budget: float | None) -> Test:
    """A short run beside the criteria; `first` is test 1, None where this is it."""
    third = max(1, len(short.losses) // 3)
    start, end = fmean(short.losses[:third] or [math.nan]), fmean(short.losses[-third:] or [math.nan])
    peak = max(short.peak.values(), default=0) / GIB
    seconds = short.seconds_micro_batch + short.seconds_update
    over_plan = [fault for fault in short.faults if "planned" in fault]
    return Test(
        name,
        start,
        end,
        seconds,
        peak,
        short.faults,
        stable=not [fault for fault in short.faults if fault not in over_plan and "did not fall" not in fault],
        converging=end < start,
        faster=first is None or 0 < seconds <= first.seconds,
        under_budget=not over_plan and (budget is None or peak < budget),
    )


def line(number: int, test: Test) -> str:
    marks = (test.stable, test.converging, test.faster, test.under_budget)
    shown = "".join(f"{'yes' if mark else 'NO':>12}" for mark in marks)
    figures = f"{test.first_loss:>9.4f}{test.last_loss:>9.4f}{test.seconds:>9.3f}{test.peak_gib:>8.2f}"
    return f"{number:>2}  {test.name:<30}{figures}{shown}"


def parse_arguments() -> tuple[Namespace, list[str]]:
    parser = ArgumentParser(
        prog="python -m training.roadmap",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--budget-gib", type=float, help="memory that each test may take (no more than its plan)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file to write the tests to")
    parser.add_argument("--test", type=int, choices=range(1, len(TESTS) + 1), help="take this one alone, print JSON")
    return parser.parse_known_args()


def main() -> None:
    options, arguments = parse_arguments()
    config = parse_config(arguments)
    if options.test is not None:
        with redirect_stdout(sys.stderr):
            short = take(options.test, config)
        print(json.dumps(asdict(short)))
        return
    print(f"{'':>4}{'test':<30}{'loss':>9}{'to':>9}{'seconds':>9}{'GiB':>8}", end="")
    print("".join(f"{name:>12}" for name in ("stable", "converging", "faster", "in budget")))
    done: list[Test] = []
    for number, (name, _, _) in enumerate(TESTS, 1):
        done.append(judged(name, in_a_process(number, arguments), done[0] if done else None, options.budget_gib))
        print(line(number, done[-1]), flush=True)
    if options.output is not None:
        write_json(options.output, {"tests": [asdict(test) for test in done]})
    if not all(test.passed for test in done[-READY:]):
        raise UserError(f"the last {READY} tests did not all pass: a long run with these settings should not start")
    print(f"ready: the last {READY} tests passed in a row")


if __name__ == "__main__":
    run(main)
