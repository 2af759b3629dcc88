"""What each stage of the model gives back, with shapes.

In    nothing; plain dataclasses.
Out   ModelOutput classes: fields by name; what was not computed is None and left out when iterated.
Run   `out = model(**batch); out.emotion.basic_logits.sigmoid()`

Letters: B sequences, T tokens, D hidden size, Q tasks, C task size, E experts, G groups of alternatives,
A alternatives in the largest group.
"""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class RedHeartModelOutput(ModelOutput):
    """Of the backbone. `last_hidden_state` (B, T, D); `pooled_states` (B, Q, D), what each task takes from it, before
    the scenario memory; `task_states` (B, Q, C), in the order of `labels.TASKS`.

    With `output_hidden_states=True` `hidden_states`: what goes into the first block and comes out of each, (B, T, D),
    the last of them `last_hidden_state`; empty in a model without blocks. With `output_attentions=True` and eager
    attention `attentions`: each block's weights (B, heads, T, T)."""

    last_hidden_state: torch.Tensor = None
    pooled_states: torch.Tensor = None
    task_states: torch.Tensor = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class EmotionOutput(ModelOutput):
    """Of the emotion head; the sigmoid of a logit is a probability, and no child's exceeds its parent's.

    `polarity_logits` (B, 4), `basic_logits` (B, 7), `fine_logits` (B, 28), `korean_logits` (B, 44);
    `vad_mean` (B, 3) in [-1, 1] and `vad_log_variance` (B, 3), natural log; `culture_logits` (B, 3);
    `router_logits` (B, E); `router_load` (E,), how many sequences each expert answered for.
    """

    polarity_logits: torch.Tensor = None
    basic_logits: torch.Tensor = None
    fine_logits: torch.Tensor = None
    korean_logits: torch.Tensor = None
    vad_mean: torch.Tensor = None
    vad_log_variance: torch.Tensor = None
    culture_logits: torch.Tensor = None
    router_logits: torch.Tensor = None
    router_load: torch.Tensor = None


@dataclass
class EthicsOutput(ModelOutput):
    """Of the Bentham head.

    `circumstances` (B, 7): intensity in [-1, 1], the other six in [0, 1]; `contributions` (B, 7), whose sum is
    `utility` (B,) in [-1, 1]; `acceptability_logits` (B, 4), one per expert; `raw_circumstances` (B, 7) before
    squashing; `preference_scale` (), the steepness of the choice between two utilities.
    """

    circumstances: torch.Tensor = None
    contributions: torch.Tensor = None
    utility: torch.Tensor = None
    acceptability_logits: torch.Tensor = None
    raw_circumstances: torch.Tensor = None
    preference_scale: torch.Tensor = None


@dataclass
class RegretOutput(ModelOutput):
    """Of the regret head; the last axis is the view: optimistic, neutral, pessimistic.

    `utility_views` (B, 3), quantiles .9, .5, .1 of utility, ordered; `text_regret` (B, 3) >= 0, from the text alone.
    With alternatives: `regret` (G, 3) >= 0 of the chosen action against the best, and `best` (G,), the position of the
    best action in the neutral view.
    """

    utility_views: torch.Tensor = None
    text_regret: torch.Tensor = None
    regret: torch.Tensor = None
    best: torch.Tensor = None


@dataclass
class SurdOutput(ModelOutput):
    """Of the SURD head. `term_logits` (B, 12); `terms` (B, 12), their softmax, in the order of `labels.SURD_TERMS`."""

    term_logits: torch.Tensor = None
    terms: torch.Tensor = None


@dataclass
class DynamicsOutput(ModelOutput):
    """VAD of every sequence given all turns of its dialogue so far: `vad_mean` and `vad_log_variance` (B, 3), natural
    log. A sequence that is in no dialogue is one of a single turn."""

    vad_mean: torch.Tensor = None
    vad_log_variance: torch.Tensor = None


@dataclass
class RedHeartOutput(ModelOutput):
    """Of the whole model. `loss` () and `losses` (term -> ()) when labels were given; one output per head, `surd` and
    `dynamics` where the model has them; `last_hidden_state` (B, T, D), `pooled_states` (B, Q, D), `task_states`
    (B, Q, C), and, where they were asked for, `hidden_states` and `attentions` of the backbone."""

    loss: torch.Tensor = None
    losses: dict[str, torch.Tensor] | None = None
    emotion: EmotionOutput = None
    ethics: EthicsOutput = None
    regret: RegretOutput = None
    surd: SurdOutput = None
    dynamics: DynamicsOutput = None
    last_hidden_state: torch.Tensor = None
    pooled_states: torch.Tensor = None
    task_states: torch.Tensor = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
