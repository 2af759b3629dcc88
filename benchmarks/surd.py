"""How long SURD takes: a decomposition of a table of probabilities, and one of a million rows of samples.

In    nothing; probabilities and samples are drawn, seeded.
Out   median and least milliseconds of both, and of numpy.histogramdd on the same samples, which only counts them.
Run   OMP_NUM_THREADS=1 python benchmarks/surd.py
      OMP_NUM_THREADS=1 python benchmarks/surd.py --rows 100000 --repeats 5

Both the time on the clock and that of the processor are told: beside other programs only the second says much. The
decomposition is that of 4 agents in 10 bins each and a target in 10, 100,000 cells; the samples have 3 agents.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from preprocessing.errors import UserError, run
from redheart_hf.surd import surd_from_probabilities, surd_from_samples

BINS = 10


def table_of_probabilities(agents: int = 4) -> np.ndarray:
    """p(target, agents), random."""
    counts = np.random.default_rng(0).random((BINS,) * (agents + 1))
    return counts / counts.sum()


def samples(rows: int, agents: int = 3) -> tuple[np.ndarray, list[np.ndarray]]:
    """A target that follows the product of two agents and a third one, with noise."""
    generator = np.random.default_rng(0)
    drawn = list(generator.normal(size=(agents, rows)))
    return drawn[0] * drawn[1] + drawn[2] + generator.normal(size=rows), drawn


def milliseconds(work: Callable[[], object], repeats: int) -> tuple[str, float]:
    """What to print of `repeats` runs after a first one, and the median of the processor's time."""
    work()
    clock, processor = [], []
    for _ in range(repeats):
        started = time.perf_counter(), time.process_time()
        work()
        clock.append(1000 * (time.perf_counter() - started[0]))
        processor.append(1000 * (time.process_time() - started[1]))
    shown = f"{np.median(processor):9.2f} {min(processor):9.2f}   {np.median(clock):9.2f} {min(clock):9.2f}"
    return shown, float(np.median(processor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="samples (%(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="runs of each (%(default)s)")
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.rows < BINS**4:
        raise UserError(
            f"--repeats must be at least 1 and --rows at least {BINS**4}, one for each cell; got {arguments}"
        )
    probabilities = table_of_probabilities()
    target, agents = samples(arguments.rows)
    stacked = np.stack([target, *agents], axis=1)
    print(f"{'milliseconds':<44} {'processor':>9} {'least':>9}   {'clock':>9} {'least':>9}")
    work: dict[str, Callable[[], object]] = {
        "SURD of 4 agents, 10 bins each": lambda: surd_from_probabilities(probabilities),
        f"SURD of {arguments.rows:,} rows, 3 agents": lambda: surd_from_samples(target, agents, BINS),
        "numpy.histogramdd of these rows": lambda: np.histogramdd(stacked, BINS),
    }
    medians = []
    for name, one in work.items():
        shown, median = milliseconds(one, arguments.repeats)
        medians.append(median)
        print(f"{name:<44} {shown}")
    print(f"SURD from samples over numpy's count alone: {medians[1] / medians[2]:.2f} of its time")


if __name__ == "__main__":
    run(main)
