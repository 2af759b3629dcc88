"""FAMO: weights of the terms under which all of their losses fall at the same rate (Liu et al. 2023).

In    a step's losses before its update, and those of the same batch after it.
Out   a factor for each term of the loss; logits and their moments, which are in the checkpoint.
Run   `loss_weighting: famo` in a recipe, through TrainLoop

Algorithm 1 of arXiv 2306.03792, in the form of its authors' program: z = softmax(w); the gradient of the step is that
of sum_i z_i log(l_i) over sum_i z_i / l_i, so that term i has the factor (z_i / l_i) / sum_j (z_j / l_j), and all
factors together are one; then w takes a step of Adam (rate 0.025, decay 0.01) along the change of log losses, seen
through the softmax: terms that fell less gain weight. For l stands the loss less the least it can be, plus 1e-8. VAD's
likelihood, weighted by its deviation, is at least -1/e; every other loss here is at least 0.

What the paper does not speak of. A term without labels in a step has no loss: it takes no part, z is the softmax over
the others, and its logit and moments stay (Adam counts steps for each term by itself). `loss_weights` multiply the
factors, and a term of weight 0 takes no part; nor does one whose loss is at its least, which has nothing left to teach
and would have all of the weight. (One that is nearly there has most of it: that is FAMO, and labels that are few in a
step make it happen by chance.) The router's term, which is no task, and `turn_vad`, whose likelihood
has no least value, keep their fixed weights. A step that fp16's scaler leaves out says nothing of the terms.

The losses after the update are computed anew, with the same dropout as before it: the change is that of the weights.
It costs one more forward pass a step. Factors must be known before the first gradient: with several micro-batches, or
with `update_in_backward`, the losses before the update are computed in a pass of their own, which is a second one.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import set_seed
from torch import Tensor

from redheart_hf.losses import ROUTER_TERM, TERMS
from training.collator import Batch
from training.config import TrainConfig
from training.optim import TermWeights
from training.rdrop import training_sums

if TYPE_CHECKING:
    from training.loop import TrainLoop

LEAST_LOSS = {"vad": -math.exp(-1)}
TINY = 1e-8


class Famo(TermWeights):
    """Logits w of all terms, and Adam's moments of each: a few numbers, the same in every process."""

    learns = frozenset(TERMS) - {"turn_vad", ROUTER_TERM}

    rate, decay, betas = 0.025, 0.01, (0.9, 0.999)

    def __init__(self, config: TrainConfig):
        super().__init__(config)
        self.logits = dict.fromkeys(TERMS, 0.0)
        self.moments = {term: [0.0, 0.0, 0] for term in TERMS}
        """Of each term's gradient: its mean, that of its square, and how often it had one."""
        self.before: dict[str, float] = {}
        """The losses of the step in hand, of the terms that take part."""

    # ---------------------------------------------------------------- the way of a step

    def begin(self, loop: "TrainLoop", group: list[Batch], counts: Mapping[str, float]) -> None:
        self.before = {}
        if len(group) > 1 or loop.in_backward is not None:
            self.before = self.taking_part(losses_now(loop, group, counts))
            set_seed(loop.seed_of_step())

    def factors_of(self, loop: "TrainLoop", sums: Mapping[str, Tensor], counts, batch: Batch) -> dict[str, float]:
        """Of a step with one micro-batch, its losses are those that are just there."""
        if not self.before:
            step = loop.no_sums()
            step.of_terms = {term: value.detach() for term, value in sums.items()}
            self.before = self.taking_part(loop.losses_of(step, counts, [batch])[1])
        return self.factors()

    def factors(self) -> dict[str, float]:
        shares = self.shares()
        fixed = {term: factor for term, factor in self.fixed.items() if term not in self.learns}
        if not shares:
            return dict.fromkeys(TERMS, 0.0) | fixed
        rises = {term: share / distance(term, self.before[term]) for term, share in shares.items()}
        whole = sum(rises.values())
        return (
            dict.fromkeys(TERMS, 0.0) | fixed | {term: self.fixed[term] * rise / whole for term, rise in rises.items()}
        )

    def update(self, losses: Mapping[str, float]) -> None:
        """Nothing yet: what the weights have moved by is seen in `end`."""

    def end(self, loop: "TrainLoop", group: list[Batch], counts: Mapping[str, float]) -> None:
        if not loop.skipped_in_a_row:
            set_seed(loop.seed_of_step())
            self.learn(losses_now(loop, group, counts))

    # ---------------------------------------------------------------- arithmetic

    def taking_part(self, losses: Mapping[str, float]) -> dict[str, float]:
        able = {term: loss for term, loss in losses.items() if term in self.learns and self.fixed[term] > 0}
        return {term: loss for term, loss in able.items() if distance(term, loss) > 2 * TINY}

    def shares(self) -> dict[str, float]:
        """z: the softmax of the logits over the terms that take part."""
        highest = max((self.logits[term] for term in self.before), default=0.0)
        powers = {term: math.exp(self.logits[term] - highest) for term in self.before}
        return {term: power / sum(powers.values()) for term, power in powers.items()}

    def learn(self, after: Mapping[str, float]) -> None:
        """Adam's step of each logit that took part, along its share of the change of log losses."""
        shares = self.shares()
        fell = {
            term: math.log(distance(term, self.before[term])) - math.log(distance(term, after[term]))
            for term in shares
        }
        mean = sum(shares[term] * fell[term] for term in shares)
        (beta1, beta2), moments = self.betas, self.moments
        for term, share in shares.items():
            gradient = share * (fell[term] - mean) + self.decay * self.logits[term]
            first, second, steps = moments[term]
            first, second = beta1 * first + (1 - beta1) * gradient, beta2 * second + (1 - beta2) * gradient**2
            moments[term] = [first, second, steps + 1]
            known = math.sqrt(second / (1 - beta2 ** (steps + 1))) + 1e-8
            self.logits[term] -= self.rate * first / (1 - beta1 ** (steps + 1)) / known

    def state_dict(self) -> dict[str, Any]:
        return {"logits": dict(self.logits), "moments": {term: list(of) for term, of in self.moments.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.logits = {term: float(state["logits"][term]) for term in TERMS}
        self.moments = {term: list(state["moments"][term]) for term in TERMS}


def distance(term: str, loss: float) -> float:
    """How far a loss is above the least that it can be."""
    return max(0.0, loss - LEAST_LOSS.get(term, 0.0)) + TINY


@torch.no_grad()
def losses_now(loop: "TrainLoop", group: list[Batch], counts: Mapping[str, float]) -> dict[str, float]:
    """Each labelled term's mean over the step, with the weights there are; every process has to ask."""
    sums = loop.no_sums()
    for batch in group:
        outputs = loop.forward(batch)
        sums.add(training_sums(outputs, batch["labels"], loop.bare_model.config, loop.config), outputs)
    return loop.losses_of(sums, counts, group)[1]
