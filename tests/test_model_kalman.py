"""The Kalman filter against two other libraries' numbers, and against what a filter must do.

In    tests/golden/kalman.json: three systems with the means, covariances and likelihoods of pykalman and filterpy.
Out   ours, which must be the same in float64; long runs, missing values, gradients.
Run   `pytest tests/test_model_kalman.py`
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are

from redheart_hf.kalman import LinearGaussian, kalman_filter, ornstein_uhlenbeck, smooth

CASES = json.loads((Path(__file__).parent / "golden" / "kalman.json").read_text(encoding="utf-8"))["cases"]
NAN = float("nan")


def system(case: dict, dtype: torch.dtype = torch.float64) -> tuple[LinearGaussian, torch.Tensor]:
    """The case's model, and its observations as a batch of one."""
    tensor = {name: torch.tensor(values, dtype=dtype) for name, values in case.items() if name != "log_likelihood"}
    names = ("Q", "H", "R", "x0", "P0")
    model = LinearGaussian(tensor["F"], torch.zeros_like(tensor["x0"]), *(tensor[name] for name in names))
    return model, tensor["observations"][None]


def close(ours: torch.Tensor, theirs: list, tolerance: float = 1e-10) -> None:
    assert np.abs(ours.numpy() - np.asarray(theirs)).max() <= tolerance


@pytest.mark.parametrize("name", CASES)
def test_means_covariances_and_likelihood_agree_with_other_libraries(name: str):
    case = CASES[name]
    model, observations = system(case)
    filtered = kalman_filter(model, observations)
    smoothed = smooth(model, filtered)
    close(filtered.means[0], case["filtered_mean"])
    close(filtered.covariances[0], case["filtered_cov"])
    close(smoothed.means[0], case["smoothed_mean"])
    close(smoothed.covariances[0], case["smoothed_cov"])
    assert filtered.log_likelihood.item() == pytest.approx(case["log_likelihood"], abs=1e-10)


def test_each_sequence_of_a_batch_is_filtered_as_if_alone():
    model, observations = system(CASES["vad_ou_3d"])
    batch = torch.cat([observations, observations.flip(1), 2 * observations])
    batch[1, 7] = NAN
    batch[2, 3, 1] = NAN
    together = kalman_filter(model, batch)
    for row in range(3):
        alone = kalman_filter(model, batch[row : row + 1])
        for ours, theirs in zip(together, alone, strict=True):
            close(ours[row], theirs[0].numpy(), 1e-13)


def test_a_missing_step_is_only_predicted():
    model, observations = system(CASES["vad_ou_3d"])
    observations[0, 5] = NAN
    filtered = kalman_filter(model, observations)
    before = filtered.covariances[0, 4]
    close(filtered.means[0, 5], (model.transition @ filtered.means[0, 4]).numpy(), 1e-14)
    expected = model.transition @ before @ model.transition.T + model.transition_noise
    close(filtered.covariances[0, 5], expected.numpy(), 1e-14)
    # A step of which nothing is known weighs nothing: the end may be padded.
    padded = torch.cat([observations, torch.full((1, 4, 3), NAN, dtype=torch.float64)], dim=1)
    assert kalman_filter(model, padded).log_likelihood == pytest.approx(filtered.log_likelihood.item(), abs=1e-12)


def test_a_value_missing_throughout_is_as_if_never_observed():
    model, observations = system(CASES["partial_obs_4x2"])
    reduced = model._replace(observation=model.observation[:1], observation_noise=model.observation_noise[:1, :1])
    expected = kalman_filter(reduced, observations[..., :1])
    observations[..., 1] = NAN
    for ours, theirs in zip(kalman_filter(model, observations), expected, strict=True):
        close(ours, theirs.numpy(), 1e-12)


def test_certain_observations_are_taken_and_worthless_ones_ignored():
    model, observations = system(CASES["vad_ou_3d"])
    unit = torch.eye(3, dtype=torch.float64)
    certain = kalman_filter(model._replace(observation=unit, observation_noise=1e-12 * unit), observations)
    close(certain.means, observations.numpy(), 1e-8)
    worthless = kalman_filter(model._replace(observation_noise=1e12 * unit), observations)
    close(worthless.means[0, 0], model.initial_mean.numpy(), 1e-8)


def test_noise_may_differ_from_step_to_step():
    model, observations = system(CASES["vad_ou_3d"])
    each = model.observation_noise.expand(1, 20, 3, 3).clone()
    plain, same = (
        kalman_filter(model, observations),
        kalman_filter(model._replace(observation_noise=each), observations),
    )
    close(same.means, plain.means.numpy(), 1e-14)
    each[0, 9] *= 1e12
    blind = observations.clone()
    blind[0, 9] = NAN
    noisy, missing = kalman_filter(model._replace(observation_noise=each), observations), kalman_filter(model, blind)
    close(noisy.means, missing.means.numpy(), 1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_thousand_steps_end_in_the_steady_state(dtype: torch.dtype):
    case = CASES["cv_2d"]
    model, _ = system(case, dtype)
    steps = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 10_000, 1))).to(dtype)
    filtered = kalman_filter(model, steps)
    covariances = filtered.covariances[0]
    assert torch.equal(covariances, covariances.mT)
    assert torch.linalg.eigvalsh(covariances.double()).min() > 0
    f, h, q, r = (np.asarray(case[name]) for name in "FHQR")
    steady = solve_discrete_are(f.T, h.T, q, r)
    close(torch.tensor(steady), case["steady_state_predicted_cov"], 1e-9)
    close(filtered.predicted_covariances[0, -1], steady, 1e-9 if dtype == torch.float64 else 1e-4)


def test_gradients_are_those_of_finite_differences():
    model, observations = system(CASES["vad_ou_3d"])
    observations = observations[:, :4].clone()
    observations[0, 2, 1] = NAN
    theta, mu, sigma, root = (
        torch.tensor(v, dtype=torch.float64) for v in ([0.4] * 3, [0.2] * 3, [0.3] * 3, [0.5] * 3)
    )

    def likelihood_and_states(theta, mu, sigma, root):
        process = ornstein_uhlenbeck(theta, mu, sigma, 0.5, torch.diag(root**2))
        filtered = kalman_filter(process, observations)
        smoothed = smooth(process, filtered)
        return filtered.log_likelihood, smoothed.means, smoothed.covariances

    inputs = [value.requires_grad_() for value in (theta, mu, sigma, root)]
    assert torch.autograd.gradcheck(likelihood_and_states, inputs)


def test_the_process_is_stepped_exactly():
    theta, mu, sigma, dt = 0.4, 0.2, 0.3, 0.5
    values = [torch.tensor([value], dtype=torch.float64) for value in (theta, mu, sigma)]
    process = ornstein_uhlenbeck(*values, dt)
    assert process.transition.item() == pytest.approx(0.8187307531, abs=1e-10)
    assert process.transition_noise.item() == pytest.approx(0.0370889948, abs=1e-10)
    assert process.initial_covariance.item() == pytest.approx(sigma**2 / (2 * theta))
    state = torch.tensor([1.0], dtype=torch.float64)
    for _ in range(3):
        state = process.transition @ state + process.transition_offset
    assert state.item() == pytest.approx(0.6390493089, abs=1e-10)
    assert state.item() == pytest.approx(mu + (1 - mu) * math.exp(-theta * 3 * dt))
    # Two half steps are one whole step, mean and variance.
    half = ornstein_uhlenbeck(*values, dt / 2)
    f, q = half.transition, half.transition_noise
    assert (f @ f).item() == pytest.approx(process.transition.item(), abs=1e-14)
    assert (f @ q @ f + q).item() == pytest.approx(process.transition_noise.item(), abs=1e-14)


def test_its_uncertainty_is_that_of_its_errors():
    """On simulated dialogues, the normalised squared error has the state's dimension as its mean."""
    random = np.random.default_rng(1)
    theta, mu, sigma = (
        torch.tensor(v, dtype=torch.float64) for v in ([0.4, 0.7, 0.2], [0.2, -0.1, 0.0], [0.3, 0.2, 0.4])
    )
    process = ornstein_uhlenbeck(theta, mu, sigma, 1.0, torch.diag(torch.tensor([0.05, 0.1, 0.02]).double()))
    deviation = {name: getattr(process, name).diagonal().sqrt().numpy() for name in process._fields if "noise" in name}
    state = mu.numpy() + random.normal(size=(200, 3)) * process.initial_covariance.diagonal().sqrt().numpy()
    states, seen = [], []
    for _ in range(40):
        states.append(state)
        seen.append(state + random.normal(size=state.shape) * deviation["observation_noise"])
        state = state @ process.transition.numpy().T + process.transition_offset.numpy()
        state = state + random.normal(size=state.shape) * deviation["transition_noise"]
    filtered = kalman_filter(process, torch.from_numpy(np.stack(seen, axis=1)))
    errors = torch.from_numpy(np.stack(states, axis=1)) - filtered.means
    squared = (errors.unsqueeze(-2) @ torch.linalg.solve(filtered.covariances, errors.unsqueeze(-1))).squeeze()
    assert squared.mean().item() == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_covariances_are_exactly_symmetric(dtype: torch.dtype):
    for name in CASES:
        model, observations = system(CASES[name], dtype)
        filtered = kalman_filter(model, observations)
        for covariances in (filtered.covariances, smooth(model, filtered).covariances):
            assert torch.equal(covariances, covariances.mT), name


@pytest.mark.parametrize(("rows", "times"), [(1, 1), (1, 20), (3, 1), (3, 20)])
def test_a_leading_dimension_of_one_is_the_same_for_all(rows: int, times: int):
    model, observations = system(CASES["vad_ou_3d"])
    batch = torch.cat([observations, observations.flip(1), 2 * observations])
    parts = {name: part.expand(rows, *part.shape) for name, part in model._asdict().items()}
    parts["observation_noise"] = model.observation_noise.expand(rows, times, 3, 3)
    for ours, theirs in zip(kalman_filter(LinearGaussian(**parts), batch), kalman_filter(model, batch), strict=True):
        close(ours, theirs.numpy(), 1e-13)


@pytest.mark.parametrize(
    ("changes", "shape", "said"),
    [
        ({}, (20, 3), r"\(B, T, M\).*\(20, 3\)"),
        ({}, (1, 0, 3), "at least one step"),
        ({}, (1, 5, 2), r"observation must end in \(2, 3\)"),
        ({"transition": torch.eye(2)}, (1, 5, 3), r"transition must end in \(3, 3\).*\(2, 2\)"),
        ({"initial_covariance": torch.eye(4)}, (1, 5, 3), r"initial_covariance.*\(4, 4\)"),
        ({"initial_mean": torch.tensor(0.0)}, (1, 5, 3), "initial_mean.*single number"),
        ({"initial_mean": torch.zeros(3, 3)}, (2, 5, 3), r"initial_mean must be one of \(3,\), .*got \(3, 3\)"),
        ({"transition": torch.eye(3).expand(2, 3, 3)}, (1, 5, 3), r"transition must be one of .*got \(2, 3, 3\)"),
        ({"transition_noise": torch.eye(3).expand(1, 5, 3, 3)}, (1, 5, 3), "transition_noise must be one of"),
        *(
            ({"observation_noise": torch.eye(3).expand(*leading, 3, 3)}, (2, 6, 3), rf"observation_noise.*{found}")
            for leading, found in [
                ((3,), r"got \(3, 3, 3\)"),
                ((2, 9), r"\(2, 6, 3, 3\) for 2 sequences of 6 steps, got \(2, 9, 3, 3\)"),
                ((1, 4), r"got \(1, 4, 3, 3\)"),
                ((4, 6), r"got \(4, 6, 3, 3\)"),
                ((1, 2, 6), r"got \(1, 2, 6, 3, 3\)"),
            ]
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(changes: dict, shape: tuple, said: str):
    model, _ = system(CASES["vad_ou_3d"])
    with pytest.raises(ValueError, match=said):
        kalman_filter(model._replace(**changes), torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_observation_is_refused_with_its_place(value: float):
    model, observations = system(CASES["vad_ou_3d"])
    observations[0, 5, 1] = value
    observations[0, 4, 2] = NAN
    observations[0, 9] = value
    with pytest.raises(ValueError, match=rf"4 infinite values, the first, {value}, at .*\(0, 5, 1\).*NaN"):
        kalman_filter(model, observations)


@pytest.mark.parametrize("name", LinearGaussian._fields)
@pytest.mark.parametrize("value", [math.inf, NAN])
def test_a_part_that_is_not_finite_is_named(name: str, value: float):
    model, observations = system(CASES["vad_ou_3d"])
    part = getattr(model, name).clone()
    part.view(-1)[-1] = value
    place = tuple(size - 1 for size in part.shape)
    with pytest.raises(ValueError, match=rf"^{name} must be finite, got {value} at {re.escape(str(place))}"):
        kalman_filter(model._replace(**{name: part}), observations)


UNIT = torch.eye(3, dtype=torch.float64)
WRONG = {
    "negative": -0.1 * UNIT,
    "one negative": torch.diag(torch.tensor([1.0, -1e-3, 1.0], dtype=torch.float64)),
    "not symmetric": UNIT + torch.tensor([[0, 0.3, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.float64),
    "correlated beyond one": UNIT + 1.5 * (UNIT[[1, 0, 2]] - torch.diag(UNIT[2])),
    "no negative entry, but an eigenvalue": torch.tensor([[1, 0.9, 0], [0.9, 1, 0.9], [0, 0.9, 1]]).double(),
}


@pytest.mark.parametrize("name", ["transition_noise", "observation_noise", "initial_covariance"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_covariance_is_named(name: str, wrong: str):
    model, observations = system(CASES["vad_ou_3d"])
    matrix = WRONG[wrong]
    with pytest.raises(ValueError, match=rf"^{name} must be a covariance.*got {re.escape(str(matrix.tolist()))};"):
        kalman_filter(model._replace(**{name: matrix}), observations)
    several = torch.stack([UNIT, matrix])
    with pytest.raises(ValueError, match=rf"^{name} must be a covariance.* at \(1,\)"):
        kalman_filter(model._replace(**{name: several}), observations.expand(2, -1, -1))


def test_singular_and_rounded_covariances_are_taken():
    model, observations = system(CASES["vad_ou_3d"])
    root = torch.from_numpy(np.random.default_rng(2).normal(size=(50, 3, 1)))
    for scale in (1e-12, 1.0, 1e12):
        for matrix in scale * root @ root.mT:
            kalman_filter(model._replace(transition_noise=matrix), observations)
    kalman_filter(model._replace(transition_noise=0 * UNIT), observations)
    kalman_filter(model._replace(observation_noise=0 * UNIT), observations)
    wide = torch.diag(torch.tensor([1e8, 1.0, 1e-8], dtype=torch.float64))
    kalman_filter(model._replace(initial_covariance=wide), observations)
    rounded = torch.tensor([[1.0, 0.5, 0.1], [0.5 + 1e-7, 1.0, 0.2], [0.1, 0.2, 1.0]])
    kalman_filter(
        LinearGaussian(*(part.float() for part in model))._replace(observation_noise=rounded), observations.float()
    )


def test_a_process_that_does_not_return_home_is_refused():
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"positive, got \[0.0\]"):
        ornstein_uhlenbeck(0 * one, one, one)
