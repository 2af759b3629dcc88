"""How far the plan of a run's memory is off: planned and measured peak of many runs, each in a process of its own.

In    REDHEART_DATA_DIR with goemotions/, the shipped scenarios; configurations drawn once, seeded, from all there are.
Out   a table and its errors, beside the rule that `accelerate estimate-memory` prints for training (four times the
      weights); in the --output folder memory_plan.jsonl, the rows, and memory_plan.png, the plot.
Run   REDHEART_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/memory_plan.py --output outputs/memory_plan

A run takes two steps, on real texts, with the longest of its micro-batches planned for. Error: planned over measured,
less one; below zero the run took more than was planned. Runs done are kept in the output folder: called again, the
benchmark goes on where it was.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
CONFIGURATIONS = 44
CHOICES: dict[str, list[Any]] = {
    "preset": ["redheart-tiny", "redheart-200m", "redheart-330m", "redheart-730m"],
    "optimizer": ["adamw", "adamw_8bit"],
    "mixed_precision": ["no", "bf16"],
    "batch_size": [1, 4, 16],
    "model.max_length": [32, 96],
    "gradient_checkpointing": [False, True],
    "low_memory": [False, True],
    "alternatives": [False, True],
}
LOW = {"weight_precision": "bf16", "update_in_backward": True, "clipping": "previous_norm"}


def configurations() -> Iterator[dict[str, Any]]:
    """As many, seeded, from all that hold together; the same for every call."""
    every = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]
    sound = [
        chosen
        for chosen in every
        if not chosen["low_memory"] or (chosen["optimizer"], chosen["mixed_precision"]) == ("adamw_8bit", "bf16")
    ]
    random.Random(0).shuffle(sound)
    yield from sound[:CONFIGURATIONS]


def measure(chosen: dict[str, Any], tokenizer: Path, ram_gib: float) -> dict[str, Any]:
    """Planned and measured bytes of one run; `exit_code` 3 where it was refused."""
    fields = {name: value for name, value in chosen.items() if name not in ("low_memory", "alternatives")}
    fields |= LOW if chosen["low_memory"] else {}
    source = f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}"
    if not chosen["alternatives"]:
        source = f"goemotions={Path(os.environ['REDHEART_DATA_DIR']) / 'goemotions' / 'ekman_dev.tsv'}"
    with tempfile.TemporaryDirectory() as folder:
        fields |= {"output_dir": folder, "tokenizer": tokenizer, "max_steps": 2, "save_steps": 2, "ram_gib": ram_gib}
        command = [sys.executable, "training/train.py", "--train", json.dumps([source])]
        for name, value in fields.items():
            command += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        report = Path(folder) / "memory_report.json"
        if done.returncode not in (0, 3):
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
        sizes = json.loads(report.read_text()) if done.returncode == 0 else {}
    found = {"chosen": chosen, "exit_code": done.returncode}
    if sizes:
        planned = sizes["planned"]
        found |= {"planned": planned["peak"], "measured": sizes["measured"]["peak"], "process": planned["process"]}
        found |= {"phase": planned["peak_phase"], "rule": 4 * weights_in_floats(chosen["preset"])}
    return found


def weights_in_floats(preset: str) -> int:
    from redheart_hf import preset_config
    from redheart_hf.presets import parameters_by_module

    return 4 * sum(parameters_by_module(preset_config(preset)).values())


def as_line(found: dict[str, Any]) -> str:
    chosen = found["chosen"]
    named = [
        f"{chosen['preset'].removeprefix('redheart-'):<5}",
        f"{chosen['optimizer']:<10}",
        f"{chosen['mixed_precision']:<4}",
        f"{chosen['batch_size']:>2} x {chosen['model.max_length']:<3}",
        "again" if chosen["gradient_checkpointing"] else "     ",
        "low" if chosen["low_memory"] else "   ",
        "actions" if chosen["alternatives"] else "       ",
    ]
    if found["exit_code"] == 3:
        return "  ".join([*named, "refused"])
    error, rule = (found[name] / found["measured"] - 1 for name in ("planned", "rule"))
    sizes = [found[name] / GIB for name in ("planned", "measured")]
    return "  ".join([*named, f"{sizes[0]:7.3f} {sizes[1]:7.3f} {100 * error:+6.1f} % {100 * rule:+7.1f} %"])


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    measured = np.array([run["measured"] for run in runs]) / GIB
    figure, axes = plt.subplots(figsize=(6, 6))
    axes.scatter(measured, [run["planned"] / GIB for run in runs], label="planned", s=18)
    axes.scatter(measured, [run["rule"] / GIB for run in runs], label="four times the weights", s=18, marker="x")
    ends = [measured.min() * 0.9, measured.max() * 1.1]
    axes.plot(ends, ends, color="grey", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="measured peak, GiB", ylabel="GiB", title="Plan and reality")
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the table's rows and the plot")
    parser.add_argument("--ram-gib", type=float, default=16.0, help="runs planned above it are refused (%(default)s)")
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "outputs" / "main" / "tokenizer")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = arguments.output / "memory_plan.jsonl"
    done = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    for chosen in tqdm(list(configurations()), desc="runs"):
        if chosen not in [run["chosen"] for run in done]:
            done.append(measure(chosen, arguments.tokenizer.resolve(), arguments.ram_gib))
            with rows.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    print("\n".join(map(as_line, done)))
    runs = [run for run in done if run["exit_code"] == 0]
    for name, said in (("planned", "the plan"), ("rule", "four times the weights")):
        errors = np.array([run[name] / run["measured"] - 1 for run in runs])
        print(
            f"{said}: {len(runs)} runs, mean absolute error {100 * abs(errors).mean():.1f} %, from "
            f"{100 * errors.min():+.1f} % to {100 * errors.max():+.1f} %, too low in {(errors < 0).sum()}"
        )
    plot(runs, arguments.output / "memory_plan.png")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
