"""What moments of a byte and weights of two cost in what is learned: GoEmotions with either optimizer, seed by seed.

In    REDHEART_DATA_DIR with goemotions/; MiniLM, trained along, under the small stack of real_text.yaml.
Out   OUTPUT/OPTIMIZER-SEED/, the runs; a table of macro-F1 on the reporting half of dev.
Run   REDHEART_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/optimizer_quality.py --output outputs/quality

Both multiply in bfloat16. `adamw` is torch's, with weights and moments of float32. `adamw_8bit` has moments of a byte
everywhere, and weights of two bytes, rounded by chance, in the stack (a text encoder keeps float32, as in every run
here). Same rows, same order, same start. Runs that were killed go on, runs that are done are read: call it again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
GOEMOTIONS = "goemotions=${REDHEART_DATA_DIR}/goemotions/ekman_%s.tsv"
ALONE = {"--train": [GOEMOTIONS % "train"], "--dev": [GOEMOTIONS % "dev"], "--holdout": {}, "--passes": {}}
OPTIMIZERS: dict[str, list[str]] = {
    "adamw": [],
    "adamw_8bit": ["--optimizer", "adamw_8bit", "--weight_precision", "bf16"],
}


def one_run(folder: Path, optimizer: str, seed: int, epochs: int) -> float:
    """Points of macro-F1 of a run with this seed, trained now unless it stands there."""
    command = [sys.executable, "training/train.py", "training/recipes/real_text.yaml", "--output_dir", str(folder)]
    command += [word for name, value in ALONE.items() for word in (name, json.dumps(value))]
    command += ["--mixed_precision", "bf16", "--epochs", str(epochs), "--seed", str(seed), *OPTIMIZERS[optimizer]]
    subprocess.run(command, cwd=ROOT, check=True)
    return 100 * json.loads((folder / "final" / "metrics.json").read_text())["goemotions"]["macro_f1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each optimizer (%(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the 43,410 rows (%(default)s)")
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {optimizer: [] for optimizer in OPTIMIZERS}
    for seed in range(arguments.seeds):
        for optimizer, runs in found.items():
            folder = (arguments.output / f"{optimizer}-{seed}").resolve()
            runs.append(one_run(folder, optimizer, seed, arguments.epochs))
            print(f"{optimizer}, seed {seed}: {runs[-1]:.2f} points of macro-F1", flush=True)
    less = np.array(found["adamw_8bit"]) - np.array(found["adamw"])
    spread = less.std(ddof=1) if len(less) > 1 else 0.0
    print(f"8 bits less float32: {less.mean():+.2f} ± {spread:.2f}, mean and standard deviation of {len(less)} seeds")


if __name__ == "__main__":
    main()
