"""The Kalman filter and its smoother, batched and differentiable, and the Ornstein-Uhlenbeck process to filter with.

In    observations (B, T, M), NaN where one is missing; a `LinearGaussian` model of N-dimensional states.
Out   `Filtered`: means (B, T, N), covariances (B, T, N, N), log-likelihood (B,); `smooth` looks back from the end.
Run   python -c "import torch; from redheart_hf.kalman import *; \
          model = ornstein_uhlenbeck(torch.tensor([.4]), torch.tensor([.2]), torch.tensor([.3])); \
          print(kalman_filter(model, torch.tensor([[[.5], [float('nan')], [.1]]])).means)"

    state        x_(t+1) = F x_t + b + noise(Q)         x_1 ~ (initial_mean, initial_covariance)
    observation  y_t     = H x_t + noise(R)

The initial state is that at the first observation. Covariances are updated in Joseph's form, (I - KH) P (I - KH)^T
+ K R K^T, which stays symmetric and positive however many steps are taken (Bucy and Joseph 1968); the smoother is that
of Rauch, Tung and Striebel (1965). A missing value takes no part, also when others of the same step are there.

The Ornstein-Uhlenbeck process dx = theta (mu - x) dt + sigma dW is the model of emotion in time of DynAffect (Kuppens,
Oravecz and Tuerlinckx 2010): a home base mu, which is returned to at rate theta (inertia, half of the way in ln 2 /
theta), and a variability sigma. Its step over dt is exact, not Euler's.

Letters: B sequences, T steps, N state, M observation.
"""

import math
from typing import NamedTuple

import torch

ROUNDING = 1e-5  # of its variances, by which a covariance may be off: it may have been computed in float32
COVARIANCES = ("transition_noise", "observation_noise", "initial_covariance")


class LinearGaussian(NamedTuple):
    """Shapes without a batch; each may have a leading dimension of B, and `observation_noise` two, of B and T.

    A leading dimension may also be 1: the same for all. Covariances are symmetric and have no negative eigenvalue.
    """

    transition: torch.Tensor  # (N, N)
    transition_offset: torch.Tensor  # (N,)
    transition_noise: torch.Tensor  # (N, N)
    observation: torch.Tensor  # (M, N)
    observation_noise: torch.Tensor  # (M, M)
    initial_mean: torch.Tensor  # (N,)
    initial_covariance: torch.Tensor  # (N, N)


class Filtered(NamedTuple):
    """Of each state given the observations up to its own, `predicted_` up to the one before."""

    means: torch.Tensor  # (B, T, N)
    covariances: torch.Tensor  # (B, T, N, N)
    predicted_means: torch.Tensor  # (B, T, N)
    predicted_covariances: torch.Tensor  # (B, T, N, N)
    log_likelihood: torch.Tensor  # (B,)


class Smoothed(NamedTuple):
    """Of each state given all observations."""

    means: torch.Tensor  # (B, T, N)
    covariances: torch.Tensor  # (B, T, N, N)


def ornstein_uhlenbeck(
    theta: torch.Tensor,
    mu: torch.Tensor,
    sigma: torch.Tensor,
    dt: float = 1.0,
    observation_noise: torch.Tensor | None = None,
) -> LinearGaussian:
    """N independent processes seen every `dt`, each directly; theta, mu, sigma (N,). R defaults to zero.

    F = exp(-theta dt), Q = sigma^2 / (2 theta) (1 - F^2), both diagonal. The initial state is the stationary one: mean
    mu, variance sigma^2 / (2 theta). Raises ValueError when theta, sigma or dt is not positive.
    """
    if not (dt > 0 and bool((theta > 0).all()) and bool((sigma > 0).all())):
        raise ValueError(f"theta, sigma and dt must be positive, got {theta.tolist()}, {sigma.tolist()}, {dt}")
    decay = torch.exp(-theta * dt)
    stationary = sigma**2 / (2 * theta)
    identity = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
    return LinearGaussian(
        transition=torch.diag(decay),
        transition_offset=-torch.expm1(-theta * dt) * mu,
        transition_noise=torch.diag(-torch.expm1(-2 * theta * dt) * stationary),
        observation=identity,
        observation_noise=torch.zeros_like(identity) if observation_noise is None else observation_noise,
        initial_mean=mu,
        initial_covariance=torch.diag(stationary),
    )


def kalman_filter(model: LinearGaussian, observations: torch.Tensor) -> Filtered:
    """Filter every sequence of `observations` (B, T, M); a padded end is filled with NaN, and only predicted.

    Raises ValueError, naming the part, when shapes do not fit together, an observation is infinite, a part of the
    model is not finite, or one of its covariances is none.
    """
    check_shapes(model, observations)
    check_values(model, observations)
    noise = model.observation_noise
    per_step = noise.ndim == 4
    if per_step:
        noise = noise.expand(-1, observations.shape[1], -1, -1)
    seen = ~torch.isnan(observations)
    values = torch.where(seen, observations, torch.zeros_like(observations))
    complete = bool(seen.all())  # then covariances are the same for all sequences, and are computed once
    mean, covariance = model.initial_mean, model.initial_covariance
    identity = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
    steps: list[tuple[torch.Tensor, ...]] = []
    for t in range(observations.shape[1]):
        if t:
            mean = (model.transition @ mean.unsqueeze(-1)).squeeze(-1) + model.transition_offset
            covariance = model.transition @ covariance @ model.transition.mT + model.transition_noise
        predicted = (mean, covariance)
        projection, error = model.observation, noise[:, t] if per_step else noise
        if not complete:
            projection, error = without_missing(projection, error, seen[:, t])
        innovation = values[:, t] - (projection @ mean.unsqueeze(-1)).squeeze(-1)
        mean, covariance, fit = update(mean, covariance, innovation, projection, error, identity)
        steps.append((mean, covariance, *predicted, fit))
    batch, length = observations.shape[:2]
    sizes = [(-1,), (-1, -1), (-1,), (-1, -1), ()]
    means, covariances, predicted_means, predicted_covariances, fits = (
        torch.stack([step[index].expand(batch, *size) for step in steps], dim=1) for index, size in enumerate(sizes)
    )
    constant = seen.sum(dim=(1, 2)).to(values.dtype) * math.log(2 * math.pi)
    likelihood = -0.5 * (fits.sum(dim=1) + constant)
    return Filtered(means, covariances, predicted_means, predicted_covariances, likelihood)


def without_missing(
    projection: torch.Tensor, error: torch.Tensor, seen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """H and R in which a missing value is a zero that says nothing: H's row zero, R's row and column the unit's."""
    weight = seen.to(error.dtype)
    error = error * weight.unsqueeze(-1) * weight.unsqueeze(-2) + torch.diag_embed(1 - weight)
    return projection * weight.unsqueeze(-1), error


def update(mean, covariance, innovation, projection, error, identity):
    """Mean and covariance after an observation, and innovation^T S^-1 innovation + log det S."""
    spread = projection @ covariance
    factor = torch.linalg.cholesky(spread @ projection.mT + error)
    gain = torch.cholesky_solve(spread, factor).mT
    kept = identity - gain @ projection
    mean = mean + (gain @ innovation.unsqueeze(-1)).squeeze(-1)
    covariance = kept @ covariance @ kept.mT + gain @ error @ gain.mT
    white = torch.linalg.solve_triangular(factor, innovation.unsqueeze(-1), upper=False)
    fit = white.square().sum(dim=(-2, -1)) + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    return mean, symmetric(covariance), fit


def symmetric(matrix: torch.Tensor) -> torch.Tensor:
    """(..., N, N) without what rounding has made of one half of it and not of the other."""
    return 0.5 * (matrix + matrix.mT)


def smooth(model: LinearGaussian, filtered: Filtered) -> Smoothed:
    """Means and covariances given all observations of each sequence, from what `kalman_filter` found with `model`."""
    means, covariances = [filtered.means[:, -1]], [filtered.covariances[:, -1]]
    for t in range(filtered.means.shape[1] - 2, -1, -1):
        predicted_mean, predicted = filtered.predicted_means[:, t + 1], filtered.predicted_covariances[:, t + 1]
        factor = torch.linalg.cholesky(predicted)
        gain = torch.cholesky_solve(model.transition @ filtered.covariances[:, t], factor).mT
        change = (means[-1] - predicted_mean).unsqueeze(-1)
        means.append(filtered.means[:, t] + (gain @ change).squeeze(-1))
        covariances.append(symmetric(filtered.covariances[:, t] + gain @ (covariances[-1] - predicted) @ gain.mT))
    return Smoothed(torch.stack(means[::-1], dim=1), torch.stack(covariances[::-1], dim=1))


def check_shapes(model: LinearGaussian, observations: torch.Tensor) -> None:
    """Raises ValueError naming the part whose shape does not fit, its shape and the right one."""
    if observations.ndim != 3 or not observations.shape[1]:
        raise ValueError(f"observations must be (B, T, M) with at least one step, got {tuple(observations.shape)}")
    if not model.initial_mean.ndim:
        raise ValueError("initial_mean must be (N,) or (B, N), got a single number; states of one are (1,)")
    batch, steps, seen = observations.shape
    state = model.initial_mean.shape[-1]
    expected = {
        "transition": (state, state),
        "transition_offset": (state,),
        "transition_noise": (state, state),
        "observation": (seen, state),
        "observation_noise": (seen, seen),
        "initial_mean": (state,),
        "initial_covariance": (state, state),
    }
    for name, shape in expected.items():
        found = tuple(getattr(model, name).shape)
        if found[-len(shape) :] != shape:
            raise ValueError(
                f"{name} must end in {shape} for states of {state} and observations of {seen}, got {found}"
            )
        leading = [(), (1,), (batch,)]
        if name == "observation_noise":
            leading += [(rows, times) for rows in (1, batch) for times in (1, steps)]
        if found[: -len(shape)] not in leading:
            fitting = ", ".join(str(before + shape) for before in dict.fromkeys(leading))
            raise ValueError(f"{name} must be one of {fitting} for {batch} sequences of {steps} steps, got {found}")


def check_values(model: LinearGaussian, observations: torch.Tensor) -> None:
    """Raises ValueError naming the first infinite observation, or the part that is not finite or no covariance."""
    parts = {name: part.detach() for name, part in model._asdict().items()}
    covariances = [parts[name] for name in COVARIANCES]
    good = [~torch.isinf(observations).any(), *(torch.isfinite(part).all() for part in parts.values())]
    good += [(matrix == matrix.mT).all() for matrix in covariances]
    good += [(torch.linalg.cholesky_ex(matrix).info == 0).all() for matrix in covariances]
    # What passes this is in order, at one question to the device; what does not may be singular or rounded still.
    if torch.stack(good).all():
        return
    if infinite := torch.nonzero(torch.isinf(observations)).tolist():
        first = tuple(infinite[0])
        raise ValueError(
            f"observations hold {len(infinite)} infinite values, the first, {observations[first].item()}, at "
            f"(sequence, step, value) {first}; a missing value is NaN"
        )
    for name, part in parts.items():
        if broken := torch.nonzero(~torch.isfinite(part)).tolist():
            raise ValueError(f"{name} must be finite, got {part[tuple(broken[0])].item()} at {tuple(broken[0])}")
    for name in COVARIANCES:
        if broken := torch.nonzero(~are_covariances(parts[name])).tolist():
            place = f" at {tuple(broken[0])}" if broken[0] else ""
            raise ValueError(
                f"{name} must be a covariance, symmetric and without negative eigenvalues, got "
                f"{parts[name][tuple(broken[0])].tolist()}{place}; A @ A.mT is one for any matrix A"
            )


def are_covariances(matrices: torch.Tensor) -> torch.Tensor:
    """Booleans (...) for matrices (..., N, N): symmetric, and with no eigenvalue below zero, but for ROUNDING."""
    diagonal, kind = matrices.diagonal(dim1=-2, dim2=-1).abs(), torch.finfo(matrices.dtype)
    least = 10 * kind.eps * matrices.abs().amax(dim=(-2, -1)) + kind.tiny
    deviations = diagonal.sqrt()
    allowed = ROUNDING * deviations.unsqueeze(-1) * deviations.unsqueeze(-2) + least[..., None, None]
    mirrored = ((matrices - matrices.mT).abs() <= allowed).flatten(-2).all(dim=-1)
    # A triangular root exists only for positive matrices; this much on the diagonal admits those with zeros in them.
    margin = torch.diag_embed(ROUNDING * diagonal + least.unsqueeze(-1))
    return mirrored & (torch.linalg.cholesky_ex(symmetric(matrices) + margin).info == 0)
