"""R-Drop: a text is read twice with different dropout, and is to be answered alike (Liang et al. 2021).

In    a batch, outputs of the model for that batch laid twice in one forward pass, labels, `rdrop_alpha`.
Out   per term the sum of its losses over the labels that exist, as redheart_hf/losses.py gives it.
Run   `rdrop_alpha: 1.0` in a recipe, through TrainLoop

A term's loss is the mean of both readings' losses, plus alpha / 2 times the mean of the divergences KL(1 || 2) and
KL(2 || 1) of their answers: equation 4 of arXiv 2106.14448, divided by 2 so that losses are of the size of one
reading's. (The program that came with the paper has alpha without that half.) Divergence is summed and counted as the
term's labels are: an answer without a label adds nothing, one of half the weight half of it, and the gradient of
several micro-batches is that of one large batch. The gradient goes into both readings.

Answers that are probabilities diverge as Bernoulli variables (the choice between two texts too), VAD as Gaussians.
Terms whose answer is a number without a spread (circumstances, utility, regret, SURD) and the router's have the mean
of both losses alone. A step takes the time and the activations of two, which memory is planned for.
"""

from collections.abc import Mapping
from typing import Any

import torch

from redheart_hf import RedHeartConfig
from redheart_hf.losses import LABEL_OF_TERM, loss_sums, masked_sum, polarity_targets
from redheart_hf.outputs import RedHeartOutput
from training.config import TrainConfig

ROWS_OF = ("alternatives", "turns")  # inputs that name rows of the batch, -1 where there is none


def inputs_of(inputs: Mapping[str, torch.Tensor], config: TrainConfig) -> Mapping[str, torch.Tensor]:
    """What the model is given for a batch: the batch, or with R-Drop the batch twice, its second half behind the
    first."""
    if not config.rdrop_alpha:
        return inputs
    rows = len(inputs["input_ids"])
    return {
        name: torch.cat((value, torch.where(value >= 0, value + rows, value) if name in ROWS_OF else value))
        for name, value in inputs.items()
    }


def halves(outputs: RedHeartOutput) -> tuple[RedHeartOutput, RedHeartOutput]:
    """What the model said of each reading: as it would have said it of the batch alone. How often experts were chosen
    is left as it was, of both."""

    def half(index: int) -> RedHeartOutput:
        def cut(name: str, value: Any) -> Any:
            if name in ("router_load", "preference_scale"):
                return value
            if isinstance(value, torch.Tensor):
                return value.chunk(2)[index]
            return type(value)(**{inner: cut(inner, part) for inner, part in value.items()})

        return cut("", outputs)

    return half(0), half(1)


def first_reading(outputs: RedHeartOutput, config: TrainConfig) -> RedHeartOutput:
    """What is remembered of a step's predictions is remembered once."""
    return halves(outputs)[0] if config.rdrop_alpha else outputs


def training_sums(
    outputs: RedHeartOutput, labels: Mapping[str, torch.Tensor], model_config: RedHeartConfig, config: TrainConfig
) -> dict[str, torch.Tensor]:
    """Term -> sum of the losses that are trained on: with the run's smoothing, and R-Drop where it is on."""
    if not config.rdrop_alpha:
        return loss_sums(outputs, labels, model_config, config.label_smoothing)
    readings = halves(outputs)
    first, second = (loss_sums(reading, labels, model_config, config.label_smoothing) for reading in readings)
    apart = divergence_sums(*readings, labels)
    return {
        term: (first[term] + second[term]) / 2 + (config.rdrop_alpha / 2 * apart[term] if term in apart else 0.0)
        for term in first
    }


def divergence_sums(
    first: RedHeartOutput, second: RedHeartOutput, labels: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Term -> sum over its labels of the mean of both divergences, for the terms that have one."""
    sums = {}
    apart = {term: bernoulli_divergence(a, logits_of(second)[term]) for term, a in logits_of(first).items()}
    spreads = gaussians_of(second)
    apart |= {term: gaussian_divergence(*a, *spreads[term]) for term, a in gaussians_of(first).items()}
    for term, values in apart.items():
        name = LABEL_OF_TERM[term]
        if labels.get(name) is not None:
            targets = polarity_targets(labels[name]) if term == "polarity" else labels[name]
            sums[term] = masked_sum(lambda _, values=values: values, targets, labels.get(f"{name}_weights"))
    if (pairs := labels.get("preference")) is not None:
        chosen = [
            one.ethics.preference_scale * (one.ethics.utility[pairs[:, 0]] - one.ethics.utility[pairs[:, 1]])
            for one in (first, second)
        ]
        sums["preference"] = bernoulli_divergence(*chosen).sum()
    return sums


def logits_of(outputs: RedHeartOutput) -> dict[str, torch.Tensor]:
    """Term -> logits of the probabilities that it asks for, but for `preference`, whose are of pairs."""
    emotion = outputs.emotion
    return {
        "polarity": emotion.polarity_logits,
        "basic_emotions": emotion.basic_logits,
        "fine_emotions": emotion.fine_logits,
        "korean_emotions": emotion.korean_logits,
        "culture": emotion.culture_logits,
        "acceptability": outputs.ethics.acceptability_logits,
    }


def gaussians_of(outputs: RedHeartOutput) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Term -> mean and natural log of the variance."""
    found = {"vad": (outputs.emotion.vad_mean, outputs.emotion.vad_log_variance)}
    if outputs.dynamics is not None:
        found["turn_vad"] = (outputs.dynamics.vad_mean, outputs.dynamics.vad_log_variance)
    return found


def bernoulli_divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(KL(p || q) + KL(q || p)) / 2 of p = sigmoid(first), q = sigmoid(second), elementwise: (p - q) (log odds of p -
    log odds of q) / 2."""
    return (torch.sigmoid(first) - torch.sigmoid(second)) * (first - second) / 2


def gaussian_divergence(mean, log_variance, other_mean, other_log_variance) -> torch.Tensor:
    """(KL(p || q) + KL(q || p)) / 2 of two Gaussians, elementwise."""
    of_spread = torch.sinh((log_variance - other_log_variance) / 2) ** 2
    precision = torch.exp(-log_variance) + torch.exp(-other_log_variance)
    return of_spread + (mean - other_mean) ** 2 * precision / 4
