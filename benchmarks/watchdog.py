"""What it costs to watch the memory: a look at the machine and its control groups, and four of them a second.

In    the machine it runs on.
Out   microseconds a look takes (median and 95th percentile), beside psutil's way to ask the same of the machine alone;
      the share of one core at the slowest and at the fastest pace; a loop of multiplications with and without the
      thread.
Run   OMP_NUM_THREADS=1 python benchmarks/watchdog.py
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from preprocessing.memory_room import numbers_in
from training.watchdog import LEAST_SECONDS, SECONDS, Lines, pause

try:
    import psutil
except ImportError:  # no part of training
    psutil = None


def microseconds(look: Callable[[], object], looks: int) -> tuple[float, float]:
    """Median and 95th percentile of processor time."""
    times = []
    for _ in range(looks):
        started = time.thread_time()
        look()
        times.append((time.thread_time() - started) * 1e6)
    return statistics.median(times), sorted(times)[int(0.95 * looks)]


def multiply(seconds: float) -> int:
    """How many products of matrices this thread gets done."""
    matrix, done, ends = torch.rand(256, 256), 0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        matrix @ matrix
        done += 1
    return done


def look_until(ended: threading.Event, lines: Lines, wait: float | None) -> None:
    seconds = SECONDS
    while not ended.wait(seconds):
        seconds = wait or pause(lines.look())


def beside(lines: Lines, wait: float | None, rounds: int, seconds: float) -> float:
    """Products done beside the thread over those done without it, in turns."""
    alone = watched = 0
    for _ in range(rounds):
        alone += multiply(seconds)
        ended = threading.Event()
        thread = threading.Thread(target=look_until, args=(ended, lines, wait))
        thread.start()
        watched += multiply(seconds)
        ended.set()
        thread.join()
    return watched / alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lines = Lines(0)
    middle, high = microseconds(lines.look, asked.looks)
    print(f"a look              {middle:8.0f} us, 95th percentile {high:.0f}")
    if psutil is not None:
        own = psutil.Process()
        peer, peer_high = microseconds(lambda: (psutil.virtual_memory(), own.memory_info()), asked.looks)
        print(f"psutil, no groups   {peer:8.0f} us, 95th percentile {peer_high:.0f}")
    print(f"of one core         {middle / 1e4 / SECONDS:8.3f} % at {1 / SECONDS:.0f} looks a second")
    print(f"                    {middle / 1e4 / LEAST_SECONDS:8.3f} % at {1 / LEAST_SECONDS:.0f} looks a second")
    print(f"products beside it  {beside(lines, None, asked.rounds, 1.0):8.3f} of those without it")
    print(f"memory of a machine {numbers_in(lines.proc / 'meminfo')['MemTotal'] / 2**30:8.1f} GiB")


if __name__ == "__main__":
    main()
