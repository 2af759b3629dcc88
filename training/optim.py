"""What moves the weights: parameter groups, the learning rate as a function of the step, and the terms' weights.

In    a model, a TrainConfig, a step.
Out   an optimizer over its groups; a learning rate; TermWeights.
Run   through TrainLoop.

Of AdamW a rate is a step's size, and weights decay by rate times weight_decay, apart from the gradient. The other two
want rates of their own:

`sgd` moves a weight by rate times gradient, which `max_grad_norm` has cut: what all weights move together is no more
than the rate times that norm. Decay is added to the cut gradient and goes through the momentum with it; without
momentum it is AdamW's.

`adafactor` is torch's: a matrix's second moments are known by their means over rows and over columns, and there is no
first moment. In a parameter's step t its movement has a root mean square of at most max(0.001, that of its weights)
times min(rate, 1 / sqrt(t)): a rate is a share of the weights, and 0.01 is the paper's most (Shazeer and Stern 2018,
arXiv 1804.04235). Weights decay as AdamW's.
"""

import math
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from redheart_hf import RedHeartConfig
from redheart_hf.losses import ROUTER_TERM, TERMS, multi_task_loss
from redheart_hf.modeling_head_ethics import RedHeartEthicsHead
from redheart_hf.modeling_projections import AnswerLinear
from training.adamw_8bit import AdamW8bit
from training.collator import Batch
from training.config import TrainConfig

if TYPE_CHECKING:
    from training.loop import TrainLoop


def learning_rate_at(step: int, peak: float, minimum: float, warmup_steps: int, total_steps: int) -> float:
    """Rate of the update that leads from `step` to `step` + 1: linear to `peak`, then half a cosine to `minimum`.

    The first of W warm-up updates has peak / W; the last update of the run has `minimum`. Before step 0 there is none.
    """
    if step < 0:
        return 0.0
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, total_steps: int) -> float:
    """Each parameter group's rate for the update that leads on from `step`; gives back that of a group without one of
    its own."""
    least, warmup = config.min_learning_rate, config.warmup_steps
    for group in optimizer.param_groups:
        start = group["start"]
        group["lr"] = learning_rate_at(step - start, group["peak"], least, warmup, total_steps - start)
    return learning_rate_at(step, config.learning_rate, least, warmup, total_steps)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of `config`. Matrices decay, vectors do not; the text encoder and the answers have peak rates of
    their own.

    Answers are AnswerLinear layers, and the ethics head's own numbers: how utility becomes acceptance and preference.
    Each group keeps its peak rate under `peak` and the step it begins with under `start`. Raises RuntimeError when
    nothing can be trained.
    """
    answers = {
        f"{name}.{inner}"
        for name, module in model.named_modules()
        if isinstance(module, (AnswerLinear, RedHeartEthicsHead)) and config.answer_learning_rate
        for inner, _ in module.named_parameters(recurse=False)
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "answers" if name in answers else "text_encoder" if ".encoder." in name else "backbone"
            decays = parameter.ndim >= 2 and "ia3_" not in name  # scales, which are neutral at one
            groups.setdefault((part, decays), []).append(parameter)
    if not groups:
        raise RuntimeError("the model has no parameter that requires a gradient")
    peaks = {"answers": config.answer_learning_rate, "text_encoder": config.text_encoder_learning_rate}
    settings = [
        {
            "params": parameters,
            "peak": peaks.get(part) or config.learning_rate,
            "start": config.text_encoder_start if part == "text_encoder" else 0,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (part, decays), parameters in sorted(groups.items(), key=itemgetter(0))
    ]
    return make_optimizer(settings, config)


def make_optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """Each in the form that needs no second copy of anything: fused, or one parameter after another."""
    rate = config.learning_rate
    if config.optimizer == "adamw_8bit":
        return AdamW8bit(groups, lr=rate, betas=config.betas, seed=config.seed)
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=rate, foreach=False)
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=config.momentum, fused=True)
        if config.momentum:
            optimizer.register_step_pre_hook(begin_momentum)
        return optimizer
    return torch.optim.AdamW(groups, lr=rate, betas=config.betas, fused=True)


def begin_momentum(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """A buffer of zeros before a parameter's first step, which is then as torch's own: fused, torch takes no step in
    which some have a buffer and some, of a task that had no labels before, have none (2.13)."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and not optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


class TermWeights:
    """A factor for each term of the loss.

    `uncertainty` (Kendall et al. 2018, arXiv 1705.07115): term t weighs exp(-s_t), and s_t descends on
    exp(-s_t) L_t + s_t, whose gradient 1 - exp(-s_t) L_t needs only the loss of the whole step. It is therefore taken
    here, outside of autograd, from losses summed over all micro-batches and processes. A term without labels keeps
    s_t; so do `vad` and `turn_vad`, likelihoods that weigh themselves by their variance, and the router's, no task.
    """

    learns = frozenset(TERMS) - {"vad", "turn_vad", ROUTER_TERM}

    rate = 0.01  # one step moves s by at most this
    bounds = (-4.0, 4.0)  # no term counts for more than e^4 of another's share, nor vanishes

    def __init__(self, config: TrainConfig):
        self.learned = config.loss_weighting == "uncertainty"
        self.fixed = {term: config.loss_weights.get(term, 1.0) for term in TERMS}
        self.log_variances = dict.fromkeys(TERMS, 0.0)

    def begin(self, loop: "TrainLoop", group: list[Batch], counts: Mapping[str, float]) -> None:
        """Before a step's first forward pass."""

    def factors_of(self, loop: "TrainLoop", sums: Mapping[str, Tensor], counts, batch: Batch) -> dict[str, float]:
        """Those that the loss of a micro-batch is made with; `sums` are what its terms come to."""
        return self.factors()

    def end(self, loop: "TrainLoop", group: list[Batch], counts: Mapping[str, float]) -> None:
        """After the weights have moved."""

    def factors(self) -> dict[str, float]:
        return {term: self.fixed[term] * math.exp(-self.log_variances[term]) for term in TERMS}

    def cost(self, terms: Iterable[str]) -> float:
        """The sum of s_t over `terms`: what keeps their factors from vanishing."""
        return sum(self.log_variances[term] for term in terms)

    def objective(self, losses: Mapping[str, float], config: RedHeartConfig) -> float:
        """What all weights descend on together: the weighted sum, and what the terms' weights themselves cost."""
        tensors, ones = {term: torch.tensor(loss) for term, loss in losses.items()}, dict.fromkeys(losses, 1)
        weighted, _ = multi_task_loss(tensors, ones, self.factors(), config)
        return float(weighted) + self.cost(losses)

    def update(self, losses: Mapping[str, float]) -> None:
        """Move s_t along its gradient, cut to [-1, 1], for each term in `losses`."""
        if not self.learned:
            return
        low, high = self.bounds
        for term, loss in losses.items():
            if term not in self.learns:
                continue
            gradient = 1 - math.exp(-self.log_variances[term]) * loss
            moved = self.log_variances[term] - self.rate * max(-1.0, min(1.0, gradient))
            self.log_variances[term] = max(low, min(high, moved))

    def state_dict(self) -> dict[str, Any]:
        return dict(self.log_variances)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.log_variances = {term: float(state[term]) for term in TERMS}
