"""Three short runs on ten records each, before a long one: does it stay finite, learn, keep to its plan, end in time?

In    what a run is made of: its config, data, plan and limits.
Out   OUTPUT_DIR/preflight.json and a table; UserError, and no run, where one of the three does not pass.
Run   through training/train.py with `preflight: true`; with `--preflight false` (`--skip-preflight` of a mode) a run
      begins without, and its checkpoints say so.

Each of the three starts from weights of its own seed, on ten records of its own, and takes TrainLoop's step with the
run's settings; only the rise of the learning rate is shorter. A run passes when no loss or gradient was NaN or
infinite, the mean loss of the last third of its steps is below that of the first, and memory stayed under the plan.
These runs learn ten records by heart: that is the least one may ask of a set-up, and where it cannot, days of training
would show the same.

The time of the whole run is worked out from the seconds of a micro-batch and those of an update, which are measured
apart, each the median over all steps but the first of each run. Texts of the ten records stand for all.
"""

import dataclasses
import time
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from json import dumps, loads
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset

from preprocessing.errors import UserError
from training.build import Architecture
from training.collator import Collator
from training.config import FREE_ON_RESUME, TrainConfig
from training.data import RunData
from training.fresh_model import fresh_model
from training.memory_report import MemoryReport
from training.monitored_loop import MonitoredLoop
from training.nonfinite import NonFiniteError
from training.regret_alternatives import Alternatives, alternatives_of
from training.report import write_json
from training.run_facts import PREFLIGHT as FILE
from training.weights import batches_of, steps_of

RUNS, RECORDS, STEPS, RISE = 3, 10, 12, 3
OVER_PLAN = 1.02
"""The planner's own error, measured (docs/memory.md), is at most half of these two hundredths on the low side."""
LONG_HOURS = 24.0
GIB = 2**30


@dataclass
class ShortRun:
    """Losses of each step; seconds of a micro-batch and of an update; bytes beside the plan's; what went wrong."""

    losses: list[float]
    seconds_micro_batch: float
    seconds_update: float
    peak: dict[str, int] = dataclasses.field(default_factory=dict)
    planned: dict[str, int] = dataclasses.field(default_factory=dict)
    faults: list[str] = dataclasses.field(default_factory=list)


class ShortLoop(MonitoredLoop):
    """MonitoredLoop whose steps leave nothing on the disk, and whose updates are timed apart from all the rest. Its
    data set is `rows` of `whole`, any case of which lends alternatives, as in the run."""

    def __init__(self, *arguments: Any, memory: MemoryReport, whole: Dataset, rows: np.ndarray):
        super().__init__(*arguments, memory=memory)
        self.whole, self.rows = whole, rows

    def alternatives(self) -> Alternatives | None:
        found = alternatives_of(self.whole, self.config, self.bare_model.config)
        return found and found.of_rows(self.rows.tolist())

    def take(self, steps: int) -> ShortRun:
        losses, rest, updates = [], [], []
        faults: list[str] = []
        self.model.train()
        started = time.perf_counter()
        for group in self.groups():
            set_seed(self.seed_of_step())
            self.updating = 0.0
            try:
                losses.append(self.take_step(group)[0]["total"])
            except NonFiniteError as error:
                faults.append(str(error))
                break
            self.step += 1
            now = time.perf_counter()
            rest.append((now - started - self.updating) / len(group))
            updates.append(self.updating)
            started = now
            if self.step == steps:
                break
        return ShortRun(losses, median(rest[1:] or [0.0]), median(updates[1:] or [0.0]), faults=faults)

    def update(self, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = super().update(*arguments)
        self.updating += time.perf_counter() - started
        return result


def preflight(
    config: TrainConfig,
    data: RunData,
    architecture: Architecture,
    collator: Collator,
    accelerator: Accelerator,
    memory: MemoryReport,
) -> str:
    """ "passed", or "passed before" with these very settings; raises UserError where one of the three runs fails."""
    path, asked = Path(config.output_dir) / FILE, fingerprint(config, data)
    if path.is_file() and (kept := loads(path.read_text(encoding="utf-8")))["of"] == asked and kept["passed"]:
        accelerator.print(f"preflight: passed before with these settings, see {path}")
        return "passed before"
    order = np.random.default_rng(config.seed).permutation(len(data.train))
    runs = []
    for index in range(RUNS):
        rows = np.take(order, np.arange(index * RECORDS, (index + 1) * RECORDS), mode="wrap")
        of_run = replace(config, seed=config.seed + index, update_weights=True)  # these models are thrown away
        runs.append(short_run(of_run, data, rows, collator, accelerator, memory, architecture))
    hours = projected_hours(runs, config, data, accelerator)
    passed = not any(run.faults for run in runs)
    if accelerator.is_main_process:
        write_json(path, {"of": asked, "passed": passed, "hours": hours, "runs": [asdict(run) for run in runs]})
        print(table(runs, hours, config))
    if not passed:
        fault = next(run.faults[0] for run in runs if run.faults)
        raise UserError(
            f"the run does not begin, since its preflight failed: {fault}; "
            f"{path} has all figures. A lower learning_rate or max_grad_norm helps against losses that rise or are "
            "not finite; --preflight false begins all the same, and the run's checkpoints say so"
        )
    return "passed"


def fingerprint(config: TrainConfig, data: RunData) -> str:
    """Of the settings that decide weights, and of the data."""
    settings = {name: value for name, value in config.to_dict().items() if name not in FREE_ON_RESUME}
    digest = blake2b(dumps([settings, data.train.info.description], sort_keys=True).encode(), digest_size=8)
    return digest.hexdigest()


def short_run(
    config: TrainConfig,
    data: RunData,
    rows: np.ndarray,
    collator: Collator,
    accelerator: Accelerator,
    memory: MemoryReport,
    architecture: Architecture,
) -> ShortRun:
    """One of the three: ten records again and again, `STEPS` times all of them."""
    batch_size = min(config.batch_size, RECORDS // accelerator.num_processes)
    accumulation = min(config.gradient_accumulation_steps, RECORDS // (batch_size * accelerator.num_processes))
    changes = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation, "passes": {}}
    changes |= {"max_steps": STEPS * RECORDS, "warmup_steps": min(config.warmup_steps, RISE), "text_encoder_start": 0}
    short = replace(config, **changes)
    model = fresh_model(short, architecture, data, collator, accelerator)
    ten = data.train.select(rows)
    ten = ten.remove_columns([name for name in ten.column_names if name == "weight"])
    loop = ShortLoop(accelerator, model, ten, collator, short, memory=memory, whole=data.train, rows=rows)
    run = loop.take(STEPS * loop.plan.first_step(1))
    error = memory.to_dict()
    for device, most in memory.monitor.most.items():
        run.peak[device] = most.peak
        if (error["planned"] or {}).get("devices", {}).get(device):
            run.planned[device] = error["planned"]["devices"][device]["peak"]
    accelerator.free_memory()
    run.faults += faults_of(run)
    return run


def faults_of(run: ShortRun) -> list[str]:
    """What a finished short run did not do."""
    found = []
    third = max(1, len(run.losses) // 3)
    first, last = fmean(run.losses[:third] or [0.0]), fmean(run.losses[-third:] or [0.0])
    if not run.faults and not last < first:
        found.append(f"the loss of ten records did not fall in {len(run.losses)} steps: {first:.4f} to {last:.4f}")
    for device, planned in run.planned.items():
        if run.peak[device] > OVER_PLAN * planned:
            found.append(
                f"{run.peak[device] / GIB:.2f} GiB of the {device.upper()} were taken, {planned / GIB:.2f} planned"
            )
    return found


def projected_hours(runs: list[ShortRun], config: TrainConfig, data: RunData, accelerator: Accelerator) -> float:
    """Of all steps of the run, without evaluations and checkpoints."""
    micro = median(run.seconds_micro_batch for run in runs) * max(1.0, config.batch_size / RECORDS)
    step = config.gradient_accumulation_steps * micro + median(run.seconds_update for run in runs)
    plan = batches_of(data.train, config, num_processes=accelerator.num_processes)
    return steps_of(config, plan) * step / 3600


def table(runs: list[ShortRun], hours: float, config: TrainConfig) -> str:
    """For people: one line a run, then the time of the whole."""
    lines = [f"{'preflight':<10}{'loss':>9}{'to':>9}{'s/micro-batch':>15}{'s/update':>10}{'GiB':>8}  result"]
    for number, run in enumerate(runs, 1):
        third = max(1, len(run.losses) // 3)
        first, last = fmean(run.losses[:third] or [0.0]), fmean(run.losses[-third:] or [0.0])
        lines.append(
            f"run {number:<6}{first:>9.4f}{last:>9.4f}{run.seconds_micro_batch:>15.3f}{run.seconds_update:>10.3f}"
            f"{max(run.peak.values()) / GIB:>8.2f}  {'; '.join(run.faults) or 'passed'}"
        )
    lines.append(f"the whole run is projected to take {hours:.1f} hours, without evaluations and checkpoints")
    if hours > LONG_HOURS:
        lines.append(f"warning: that is over {LONG_HOURS:.0f} hours; {shorter(hours, config)}")
    return "\n".join(lines)


def shorter(hours: float, config: TrainConfig) -> str:
    """Settings that would bring the run under a day."""
    share = LONG_HOURS / hours
    ways = []
    if (epochs := int(config.epochs * share)) >= 1 and config.max_steps is None:
        ways.append(f"epochs {epochs}")
    if config.max_steps is not None:
        ways.append(f"max_steps {int(config.max_steps * share)}")
    else:
        ways.append(f"train_rows with {share:.0%} of the records")
    if config.mixed_precision == "no":
        ways.append("mixed_precision auto, if that is faster here")
    return "one of these would bring it under: " + ", ".join(ways)
