"""Our Kalman filter over a batch beside a Python loop over pykalman: same model, same observations, same run.

In    nothing; observations are drawn from the model itself (an Ornstein-Uhlenbeck process of valence, arousal and
      dominance, seen with noise), seeded.
Out   seconds of both, their ratio, and the largest difference between the means and covariances they found.
Run   python benchmarks/kalman.py                    (10,000 steps, 64 sequences)
      python benchmarks/kalman.py --steps 500 --sequences 8

Needs pykalman (`pip install -e ".[test]"`). Both work in float64 on --threads threads. pykalman filters one sequence
at a time, so that its time is measured on --measured of them and multiplied up; ours filters all of them.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from pykalman import KalmanFilter
from tqdm.auto import tqdm

from preprocessing.errors import run
from redheart_hf.kalman import Filtered, LinearGaussian, kalman_filter, ornstein_uhlenbeck


def build_model() -> LinearGaussian:
    """Valence, arousal and dominance that return to their home base, and are seen with correlated errors."""
    noise = torch.tensor([[0.04, 0.01, 0.0], [0.01, 0.05, 0.01], [0.0, 0.01, 0.06]], dtype=torch.float64)
    theta, mu, sigma = torch.tensor([[0.5, 0.8, 0.3], [0.2, -0.1, 0.0], [0.4, 0.5, 0.3]], dtype=torch.float64)
    return ornstein_uhlenbeck(theta, mu, sigma, dt=0.5, observation_noise=noise)


def draw(model: LinearGaussian, sequences: int, steps: int, seed: int = 0) -> torch.Tensor:
    """Observations (B, T, 3) of processes that start in their stationary state."""
    generator = torch.Generator().manual_seed(seed)

    def noise(covariance: torch.Tensor) -> torch.Tensor:
        white = torch.randn(sequences, 3, dtype=torch.float64, generator=generator)
        return white @ torch.linalg.cholesky(covariance).mT

    state, seen = model.initial_mean + noise(model.initial_covariance), []
    for _ in range(steps):
        seen.append(state + noise(model.observation_noise))
        state = state @ model.transition.mT + model.transition_offset + noise(model.transition_noise)
    return torch.stack(seen, dim=1)


def peer(model: LinearGaussian) -> KalmanFilter:
    return KalmanFilter(
        transition_matrices=model.transition.numpy(),
        observation_matrices=model.observation.numpy(),
        transition_covariance=model.transition_noise.numpy(),
        observation_covariance=model.observation_noise.numpy(),
        transition_offsets=model.transition_offset.numpy(),
        initial_state_mean=model.initial_mean.numpy(),
        initial_state_covariance=model.initial_covariance.numpy(),
    )


def largest_difference(ours: Filtered, theirs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    pairs = [(ours.means[row], means) for row, (means, _) in enumerate(theirs)]
    pairs += [(ours.covariances[row], covariances) for row, (_, covariances) in enumerate(theirs)]
    return max(float(np.abs(mine.numpy() - other).max()) for mine, other in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000, help="length of each sequence (%(default)s)")
    parser.add_argument("--sequences", type=int, default=64, help="sequences in the batch (%(default)s)")
    parser.add_argument("--measured", type=int, default=4, help="sequences that pykalman filters (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build_model()
    observations, filter_of_one = draw(model, arguments.sequences, arguments.steps), peer(model)
    measured = min(arguments.measured, arguments.sequences)

    started = time.perf_counter()
    ours = kalman_filter(model, observations)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    theirs = [filter_of_one.filter(row.numpy()) for row in tqdm(observations[:measured], desc="pykalman")]
    per_sequence = (time.perf_counter() - started) / measured

    print(f"{arguments.steps} steps, {arguments.sequences} sequences, 3 dimensions, float64")
    print(f"ours                   {seconds:8.2f} s")
    print(f"pykalman, in a loop    {per_sequence * arguments.sequences:8.2f} s   ({per_sequence:.2f} s a sequence)")
    print(f"ratio                  {per_sequence * arguments.sequences / seconds:8.1f}")
    print(f"largest difference     {largest_difference(ours, theirs):8.1e}")


if __name__ == "__main__":
    run(main)
