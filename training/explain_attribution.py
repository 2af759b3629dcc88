"""Token attributions: how much of a number each token accounts for, by integrated gradients.

In    a model, a Reading (explain_words.py), a Target (explain_targets.py), the experts that the text chose.
Out   Attribution: one number a token, and all that is needed to check that they add up.
Run   through training/explain.py; needs captum (the extra `explain`).

Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365), by captum, of the word embeddings: along the
straight way from a baseline, in which every written token is the mask token (the padding token where a tokenizer has
no mask), to the text. They add up to f(text) - f(baseline) as far as the integral is exact. A trained encoder turns
from one answer to another within a short stretch of the way; where a stretch does not add up yet it is halved, while
even steps would need thousands. And a router that changes experts on the way makes jumps, which have no gradient: the
way is gone with the text's own experts, and what their choice accounts for is stated apart.

    f(text) = f(baseline) + sum of tokens + choice of experts - convergence delta

Special tokens and the model's prefix are the same in both; their share is reported, and is zero.

Letters: B points of the way, T tokens, D size of an embedding, E experts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from preprocessing.errors import UserError
from redheart_hf import RedHeartForMultiTask
from redheart_hf.modeling_embeddings import TextEncoder
from training.explain_targets import Target
from training.explain_words import Reading

POINTS = 16  # of one stretch
MOST_HALVINGS = 6
TOLERANCE = 0.01  # of the tokens' absolute sum: two digits of what is shown
ROUNDING = 1e-5  # below it sums of float32 cannot be told apart
CHOSEN_BIAS = 1e4  # router scores lie in [0, 1]: a biased expert is always chosen

Value = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Attribution:
    """`tokens` has a number for each token; `points` counts the gradients that were taken. `complete` says whether the
    convergence delta is within tolerance."""

    tokens: list[float]
    value: float
    baseline_value: float
    expert_choice: float
    convergence_delta: float
    points: int
    complete: bool


def load_captum() -> tuple[Any, str]:
    """captum's class and its version; raises UserError where it is not installed."""
    try:
        import captum
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise UserError(
            f"token attributions need captum, which cannot be imported ({error}); install it with "
            "pip install -c constraints.txt captum"
        ) from error
    return IntegratedGradients, captum.__version__


@contextmanager
def differentiable(model: RedHeartForMultiTask) -> Iterator[None]:
    """Without dropout, and with gradients down to a frozen encoder's word embeddings too; afterwards as it was."""
    reader, was_training = model.model.embeddings, model.training
    kept = (reader.mode, reader.held) if isinstance(reader, TextEncoder) else None
    model.eval()
    try:
        if kept is not None:
            reader.mode, reader.held = "trained", False
        with torch.enable_grad():
            yield
    finally:
        if kept is not None:
            reader.mode, reader.held = kept
        model.train(was_training)


@contextmanager
def experts_held(model: RedHeartForMultiTask, chosen_E: torch.Tensor) -> Iterator[None]:
    """The router's choice is the given one whatever is read; gates still follow its scores. Afterwards as it was."""
    mixture = model.emotion_head.mixture
    kept = mixture.router_bias.clone()
    try:
        with torch.no_grad():
            mixture.router_bias.copy_(CHOSEN_BIAS * chosen_E)
        yield
    finally:
        with torch.no_grad():
            mixture.router_bias.copy_(kept)


def value_of_embeddings(model: RedHeartForMultiTask, reading: Reading, target: Target) -> Value:
    """The target as a function of word embeddings (B, T, D), everything else being the reading's."""
    layer = model.get_input_embeddings()

    def value(embedded_BTD: torch.Tensor) -> torch.Tensor:
        inputs = {name: tensor.expand(len(embedded_BTD), -1) for name, tensor in reading.inputs.items()}
        hook = layer.register_forward_hook(lambda *_: embedded_BTD)
        try:
            return target.values(model(**inputs), model.config)
        finally:
            hook.remove()

    return value


def integrate(
    value: Value, start_TD: torch.Tensor, end_TD: torch.Tensor, halvings: int = MOST_HALVINGS
) -> tuple[torch.Tensor, int]:
    """Attributions (T,), float64, of the way from `start_TD` to `end_TD`, and the points it took."""
    method, _ = load_captum()
    found = method(value).attribute(end_TD[None], baselines=start_TD[None], n_steps=POINTS)
    tokens_T = found.detach().double().sum(dim=-1).squeeze(0)
    with torch.no_grad():
        first, last = value(torch.stack((start_TD, end_TD))).tolist()
    if halvings == 0 or adds_up(tokens_T, last - first):
        return tokens_T, POINTS
    middle_TD = (start_TD + end_TD) / 2
    left, left_points = integrate(value, start_TD, middle_TD, halvings - 1)
    right, right_points = integrate(value, middle_TD, end_TD, halvings - 1)
    return left + right, POINTS + left_points + right_points


def adds_up(tokens_T: torch.Tensor, difference: float) -> bool:
    return abs(float(tokens_T.sum()) - difference) <= max(TOLERANCE * float(tokens_T.abs().sum()), ROUNDING)


def attribute(model: RedHeartForMultiTask, reading: Reading, target: Target, chosen_E: torch.Tensor) -> Attribution:
    """The account of one number."""
    ids = torch.cat((reading.baseline_ids, reading.inputs["input_ids"]))
    rest = {name: tensor.expand(2, -1) for name, tensor in reading.inputs.items() if name != "input_ids"}

    def at_both_ends() -> list[float]:
        with torch.no_grad():
            return target.values(model(input_ids=ids, **rest), model.config).tolist()

    with differentiable(model):
        baseline_value, value = at_both_ends()
        with experts_held(model, chosen_E):
            start, end = at_both_ends()
            embedded_2TD = model.get_input_embeddings()(ids).detach()
            tokens_T, points = integrate(value_of_embeddings(model, reading, target), *embedded_2TD)
    return Attribution(
        tokens=tokens_T.tolist(),
        value=value,
        baseline_value=baseline_value,
        expert_choice=value - baseline_value - (end - start),
        convergence_delta=float(tokens_T.sum()) - (end - start),
        points=points,
        complete=adds_up(tokens_T, end - start),
    )
