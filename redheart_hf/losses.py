"""One pure function per kind of loss, and their masked, count-normalised sum.

In    a RedHeartOutput and labels: float tensors in which NaN means "no label", see LABEL_OF_TERM.
Out   per term the sum of its losses over the labels that exist, and how many there are.
Run   `sums = loss_sums(outputs, labels, config); counts = label_counts(labels, batch_size)`

A term's loss is its sum divided by its count. Counting is apart from summing, so that the counts may be those of a
whole accumulation group and of all processes: then several small batches give the gradient of one large one. An absent
label adds exactly zero to sum, count and gradient.

A label may be weighed: `NAME_weights` (rows, 1) beside the label NAME enters sum and count alike, so that a term's
loss is the weighted mean. Where there are none, every label counts one.

Labels may be smoothed (`smoothing`, of training alone: no config of a model holds it, and no evaluation does it). A
target t of a sigmoid answer becomes t (1 - e) + e / 2, in SMOOTHED; of a pair the given order holds with probability
1 - e / 2. Targets of squared and Huber errors, of VAD's likelihoods and of SURD are measurements, which stay.

Sources: focal, Lin et al. 2017 (arXiv 1708.02002), in the form for soft labels of Li et al. 2020 (arXiv 2006.04388);
beta-NLL, Seitzer et al. 2022 (arXiv 2203.09168); quantile Huber, Dabney et al. 2018 (arXiv 1710.10044); choice between
two utilities, Bradley and Terry 1952; router z-loss, Zoph et al. 2022 (arXiv 2202.08906);
smoothing, Szegedy et al. 2016 (arXiv 1512.00567).
"""

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as F

from .configuration_redheart import RedHeartConfig
from .labels import BASIC_EMOTIONS, BASIC_TO_POLARITY, POLARITIES
from .outputs import EthicsOutput, RedHeartOutput

# term -> label it is made of; every label is (rows, values) with NaN where absent, except `preference` (pairs, 2).
LABEL_OF_TERM = {
    "polarity": "basic_emotions",
    "basic_emotions": "basic_emotions",
    "fine_emotions": "fine_emotions",
    "korean_emotions": "korean_emotions",
    "vad": "vad",
    "culture": "culture",
    "circumstances": "circumstances",
    "preference": "preference",
    "acceptability": "acceptability",
    "utility_views": "utility_views",
    "text_regret": "regret",
    "alternatives_regret": "alternatives_regret",
    "surd": "surd_terms",
    "turn_vad": "vad",
}
MODULE_OF_TERM = {"surd": "surd_head", "turn_vad": "affect_filter"}
ROUTER_TERM = "router_z"
TERMS = (*LABEL_OF_TERM, ROUTER_TERM)
TASK_OF_TERM = (
    dict.fromkeys(("polarity", "basic_emotions", "fine_emotions", "korean_emotions", "vad", "culture"), "emotion")
    | {ROUTER_TERM: "emotion", "turn_vad": "emotion", "surd": "surd"}
    | dict.fromkeys(("circumstances", "preference", "acceptability"), "ethics")
    | dict.fromkeys(("utility_views", "text_regret", "alternatives_regret"), "regret")
)
SMOOTHED = frozenset(("polarity", "basic_emotions", "fine_emotions", "korean_emotions", "acceptability", "preference"))
QUANTILES = (0.9, 0.5, 0.1)  # of the optimistic, neutral and pessimistic view


def focal(logits: torch.Tensor, targets: torch.Tensor, gamma: float) -> torch.Tensor:
    """|t - p|^gamma times the cross-entropy of p = sigmoid(logits) and t in [0, 1], elementwise."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (targets - torch.sigmoid(logits)).abs() ** gamma * cross_entropy


def gaussian_nll(mean: torch.Tensor, log_variance: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log N(target; mean, variance) without its constant, elementwise."""
    return 0.5 * (log_variance + (targets - mean) ** 2 * torch.exp(-log_variance))


def beta_nll(mean: torch.Tensor, log_variance: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Gaussian negative log-likelihood, weighted by the standard deviation as a constant (beta = 0.5), elementwise."""
    return torch.exp(0.5 * log_variance).detach() * gaussian_nll(mean, log_variance, targets)


def bounded_squared_error(raw, values, targets, margin: float, penalty: float) -> torch.Tensor:
    """(values - targets)^2 plus penalty * (|raw| - margin)^2 where raw lies beyond +-margin, elementwise."""
    return (values - targets) ** 2 + penalty * F.relu(raw.abs() - margin) ** 2


def quantile_huber(predicted, targets, quantiles, delta: float) -> torch.Tensor:
    """|q - 1[u < 0]| Huber(u) / delta with u = target - predicted, elementwise."""
    error = targets - predicted
    weight = (quantiles - (error.detach() < 0).to(error.dtype)).abs()
    return weight * F.huber_loss(predicted, targets, reduction="none", delta=delta) / delta


def bradley_terry(utility_better, utility_worse, scale, smoothing: float = 0.0) -> torch.Tensor:
    """-log sigmoid(scale (better - worse)), elementwise: the surprise at the choice that was made. With `smoothing` e
    the expected surprise, where that choice has probability 1 - e / 2 and the other one e / 2."""
    ahead = scale * (utility_better - utility_worse)
    surprise = -F.logsigmoid(ahead)
    return surprise + smoothing / 2 * ahead if smoothing else surprise


def smoothed(targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Probabilities drawn towards one half, elementwise; NaN stays NaN."""
    return targets * (1 - smoothing) + smoothing / 2 if smoothing else targets


def polarity_targets(basic_emotions: torch.Tensor) -> torch.Tensor:
    """(B, 4) from (B, 7): a polarity is present as far as the strongest of its emotions is; NaN stays NaN."""
    of_polarity = [
        [index for index, name in enumerate(BASIC_EMOTIONS) if BASIC_TO_POLARITY[name] == polarity]
        for polarity in POLARITIES
    ]
    return torch.stack([basic_emotions[:, indices].amax(dim=-1) for indices in of_polarity], dim=-1)


def masked_sum(loss_of, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Sum of `loss_of(targets)` where targets are not NaN, by weights (rows, 1) if given; zero loss and zero gradient
    where they are."""
    present = ~torch.isnan(targets)
    losses = loss_of(torch.where(present, targets, torch.zeros_like(targets)))
    losses = torch.where(present, losses, torch.zeros_like(losses))
    return losses.sum() if weights is None else (losses * weights).sum()


def terms_of(config: RedHeartConfig) -> tuple[str, ...]:
    """The terms that a model with these modules can be judged by; logits of a sigmoid router need no z-loss, which
    holds a softmax's sum in bounds."""
    terms = tuple(term for term in TERMS if MODULE_OF_TERM.get(term) in (None, *config.modules))
    return terms if config.router_scores == "softmax" else tuple(term for term in terms if term != ROUTER_TERM)


def label_counts(labels: Mapping[str, torch.Tensor], num_sequences: int) -> dict[str, float]:
    """How many labels each term has in one batch, by their weights; the router's count is the number of sequences."""
    counts: dict[str, float] = {ROUTER_TERM: num_sequences}
    for term, name in LABEL_OF_TERM.items():
        label = labels.get(name)
        if label is None:
            counts[term] = 0
        elif term == "preference":
            counts[term] = len(label)
        else:
            present = ~torch.isnan(polarity_targets(label) if term == "polarity" else label)
            weights = labels.get(f"{name}_weights")
            counts[term] = int(present.sum()) if weights is None else float((present * weights).sum())
    return counts


def emotions_loss(field: str, logits: torch.Tensor, targets: torch.Tensor, config: RedHeartConfig) -> torch.Tensor:
    """Focal loss of each label, weighed as the config says."""
    weights = (config.label_weights or {}).get(field, 1.0)
    return torch.tensor(weights).to(targets) * focal(logits, targets, config.focal_gamma)


def circumstances_loss(ethics: EthicsOutput, targets: torch.Tensor, config: RedHeartConfig) -> torch.Tensor:
    margin, penalty = config.extreme_margin, config.extreme_penalty
    return bounded_squared_error(ethics.raw_circumstances, ethics.circumstances, targets, margin, penalty)


def views_loss(views: torch.Tensor, targets: torch.Tensor, config: RedHeartConfig) -> torch.Tensor:
    return quantile_huber(views, targets, torch.tensor(QUANTILES).to(views), config.quantile_huber_delta)


def huber_loss(predicted: torch.Tensor, targets: torch.Tensor, config: RedHeartConfig) -> torch.Tensor:
    return F.huber_loss(predicted, targets, reduction="none", delta=config.huber_delta)


# Term -> its losses, elementwise, from (outputs, targets, config); NaN where the target is. `preference` and the
# router's are of another kind, below.
LOSS_OF_TERM: dict[str, Callable[[RedHeartOutput, torch.Tensor, RedHeartConfig], torch.Tensor]] = {
    "polarity": lambda out, targets, config: focal(out.emotion.polarity_logits, targets, config.focal_gamma),
    "basic_emotions": lambda out, *of: emotions_loss("basic_emotions", out.emotion.basic_logits, *of),
    "fine_emotions": lambda out, *of: emotions_loss("fine_emotions", out.emotion.fine_logits, *of),
    "korean_emotions": lambda out, *of: emotions_loss("korean_emotions", out.emotion.korean_logits, *of),
    "vad": lambda out, targets, _: beta_nll(out.emotion.vad_mean, out.emotion.vad_log_variance, targets),
    "culture": lambda out, targets, _: (torch.sigmoid(out.emotion.culture_logits) - targets) ** 2,
    "circumstances": lambda out, *of: circumstances_loss(out.ethics, *of),
    "acceptability": lambda out, targets, _: F.binary_cross_entropy_with_logits(
        out.ethics.acceptability_logits, targets, reduction="none"
    ),
    "utility_views": lambda out, *of: views_loss(out.regret.utility_views, *of),
    "text_regret": lambda out, *of: huber_loss(out.regret.text_regret, *of),
    "alternatives_regret": lambda out, *of: huber_loss(out.regret.regret, *of),
    "surd": lambda out, targets, _: (out.surd.terms - targets) ** 2,
    "turn_vad": lambda out, targets, _: gaussian_nll(out.dynamics.vad_mean, out.dynamics.vad_log_variance, targets),
}


def loss_sums(
    outputs: RedHeartOutput, labels: Mapping[str, torch.Tensor], config: RedHeartConfig, smoothing: float = 0.0
) -> dict[str, torch.Tensor]:
    """Term -> sum of its losses over this batch: the terms whose label is in `labels`, and the router's. `smoothing`
    in [0, 1) draws the targets of the terms in SMOOTHED towards one half."""
    present = terms_of(config)
    sums = {}
    if ROUTER_TERM in present:
        sums[ROUTER_TERM] = (torch.logsumexp(outputs.emotion.router_logits, dim=-1) ** 2).sum()
    for term, name in LABEL_OF_TERM.items():
        if labels.get(name) is None or term not in present:
            continue
        if term == "preference":
            better, worse = outputs.ethics.utility[labels[name]].unbind(dim=-1)
            sums[term] = bradley_terry(better, worse, outputs.ethics.preference_scale, smoothing).sum()
        else:
            targets = polarity_targets(labels[name]) if term == "polarity" else labels[name]
            targets = smoothed(targets, smoothing) if term in SMOOTHED else targets
            loss_of = LOSS_OF_TERM[term]
            weights = labels.get(f"{name}_weights")
            sums[term] = masked_sum(
                lambda present, loss_of=loss_of: loss_of(outputs, present, config), targets, weights
            )
    return sums


def multi_task_loss(
    sums: Mapping[str, torch.Tensor],
    counts: Mapping[str, float],
    weights: Mapping[str, float | torch.Tensor],
    config: RedHeartConfig,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weighted sum over terms of sum / count, and each term's share before weighting.

    `weights` holds a factor per term and defaults to one; the router's is `config.router_z_loss_weight` besides. A
    term without labels (count zero) adds nothing.
    """
    losses = {term: sums[term] / counts[term] for term in sums if counts[term]}
    factors = {term: weights.get(term, 1.0) for term in losses}
    if ROUTER_TERM in factors:
        factors[ROUTER_TERM] = factors[ROUTER_TERM] * config.router_z_loss_weight
    return torch.stack([factors[term] * loss for term, loss in losses.items()]).sum(), losses
