"""How far the plan of a run's memory is off: planned and measured peak of many runs, each in a process of its own.

In    REDHEART_DATA_DIR with goemotions/, the shipped scenarios; configurations drawn once, seeded, from all there are.
Out   a table and its errors, beside the estimates of accelerate and of PyTorch's MemTracker (memory_peers.py says how
      they are asked); in the --output folder memory_plan.jsonl and memory_peers.jsonl, the rows, and memory_plan.png.
Run   REDHEART_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/memory_plan.py --output outputs/memory_plan

A run takes two steps, on real texts, with the longest of its micro-batches planned for. Error: planned over measured,
less one; below zero the run took more than was planned. The others predict tensors alone, and are given the bytes of
the interpreter that the run itself had when it planned; accelerate's is a number for Adam, and its error on runs with
AdamW is told apart. Runs and estimates done are kept in the output folder: called again, the benchmark goes on where
it was, and measures nothing again.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
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
PEERS = {"accelerate": "accelerate's estimate", "memtracker": "PyTorch's MemTracker"}
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


def fields_of(chosen: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Fields of TrainConfig as the command line has them, and where the texts are."""
    fields = {name: value for name, value in chosen.items() if name not in ("low_memory", "alternatives")}
    fields |= LOW if chosen["low_memory"] else {}
    source = f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}"
    if not chosen["alternatives"]:
        source = f"goemotions={Path(os.environ['REDHEART_DATA_DIR']) / 'goemotions' / 'ekman_dev.tsv'}"
    return fields, source


def measure(chosen: dict[str, Any], tokenizer: Path, ram_gib: float) -> dict[str, Any]:
    """Planned and measured bytes of one run; `exit_code` 3 where it was refused."""
    fields, source = fields_of(chosen)
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
        found |= {"phase": planned["peak_phase"]}
    return found


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_row(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def measure_all(path: Path, tokenizer: Path, ram_gib: float) -> list[dict[str, Any]]:
    """A row for each configuration: those of the file, and the others, which are added to it."""
    done = [row["chosen"] for row in rows_of(path)]
    for chosen in tqdm([chosen for chosen in configurations() if chosen not in done], desc="runs"):
        add_row(path, measure(chosen, tokenizer, ram_gib))
    return rows_of(path)


def ask_peers(path: Path, tokenizer: Path, every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each estimator says of `every` run: `tensors` in bytes and `seconds`, or `why` it says nothing."""
    done = [row["chosen"] for row in rows_of(path)]
    waiting, configs = [chosen for chosen in every if chosen not in done], []
    for chosen in waiting:
        fields, source = fields_of(chosen)
        fields["model"] = {"max_length": fields.pop("model.max_length")}
        configs.append(json.dumps(fields | {"tokenizer": str(tokenizer), "train": [source], "max_steps": 2}))
    command = [sys.executable, "benchmarks/memory_peers.py", "plan", *PEERS]
    with tempfile.TemporaryFile("w+") as asked:
        asked.write("\n".join(configs))
        asked.seek(0)
        with subprocess.Popen(command, cwd=ROOT, stdin=asked, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            answers = (json.loads(line) for line in process.stdout if line.startswith('{"plan"'))
            for chosen, answer in zip(tqdm(waiting, desc="estimates"), answers, strict=True):
                add_row(path, {"chosen": chosen} | answer)
    return rows_of(path)


def join(run: dict[str, Any], peers: list[dict[str, Any]]) -> dict[str, Any]:
    """A measured run with the bytes that each peer predicts of it, where it does."""
    answers = next(answer for answer in peers if answer["chosen"] == run["chosen"])
    said = {name: answers[name]["tensors"] + run["process"] for name in PEERS if "tensors" in answers[name]}
    return run | said


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
    sizes = [f"{found[name] / GIB:7.3f}" for name in ("planned", "measured")]
    errors = [
        f"{100 * (found[name] / found['measured'] - 1):+7.1f} %" if name in found else "        -"
        for name in ("planned", *PEERS)
    ]
    return "  ".join([*named, *sizes, *errors])


def summary(runs: list[dict[str, Any]], name: str, said: str) -> str:
    """The error over those runs that it says something of; the plan's on the same ones."""
    answered = [run for run in runs if name in run]
    lines = [f"{said}: no answer in {len(runs) - len(answered)} of {len(runs)} runs"]
    for whose, shown in ((name, "its error"), ("planned", "the plan's on these runs"))[: 1 + (name != "planned")]:
        errors = np.array([run[whose] / run["measured"] - 1 for run in answered])
        lines.append(
            f"    {shown}: mean absolute {100 * abs(errors).mean():.1f} %, from {100 * errors.min():+.1f} % to "
            f"{100 * errors.max():+.1f} %, too low in {(errors < 0).sum()} of {len(errors)}"
        )
    return "\n".join(lines)


def what_it_took(peers: list[dict[str, Any]]) -> Iterator[str]:
    """Seconds of each estimator, and why some gave no answer."""
    for name in ("plan", *PEERS):
        taken = [row[name]["seconds"] for row in peers if "seconds" in row[name]]
        yield f"{name}: {np.median(taken):.1f} s of the processor an estimate (median), {max(taken):.1f} at most"
        for why, count in Counter(row[name]["why"] for row in peers if "why" in row[name]).items():
            yield f"    {count} without an answer: {why}"


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    measured = np.array([run["measured"] for run in runs]) / GIB
    figure, axes = plt.subplots(figsize=(6, 6))
    axes.scatter(measured, [run["planned"] / GIB for run in runs], label="planned", s=18)
    for name, marker in zip(PEERS, "x+", strict=True):
        answered = [run for run in runs if name in run]
        sizes = [[run[which] / GIB for run in answered] for which in ("measured", name)]
        axes.scatter(*sizes, label=PEERS[name], s=22, marker=marker, linewidth=1)
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
    tokenizer = arguments.tokenizer.resolve()
    done = measure_all(arguments.output / "memory_plan.jsonl", tokenizer, arguments.ram_gib)
    measured = [run for run in done if run["exit_code"] == 0]
    peers = ask_peers(arguments.output / "memory_peers.jsonl", tokenizer, [run["chosen"] for run in measured])
    runs = [join(run, peers) for run in measured]
    print("\n".join(sorted(map(as_line, [*runs, *(run for run in done if run["exit_code"])]))))
    print(summary(runs, "planned", "the plan"))
    for name, said in PEERS.items():
        print(summary(runs, name, said))
    with_adamw = [run for run in runs if run["chosen"]["optimizer"] == "adamw"]
    print(summary(with_adamw, "accelerate", f"{PEERS['accelerate']}, of AdamW"))
    print("\n".join(what_it_took(peers)))
    plot(runs, arguments.output / "memory_plan.png")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
