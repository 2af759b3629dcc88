"""From tokens to one vector per task: pooling, projection, specialisation, attention across the tasks.

In    hidden_states_BTD, attention_mask (B, T).
Out   task_states_BQC, tasks in the order of `labels.TASKS`.
Run   through `RedHeartModel`.

Letters: B sequences, T tokens, D hidden size, Q tasks, C task size.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_redheart import RedHeartConfig
from .labels import TASKS


def output_linear(in_features: int, out_features: int, bias: bool = True, may_be_silent: bool = True) -> nn.Linear:
    """The last layer of a branch: it answers, or is added to what the branch was given.

    It starts small whatever the others start from, so that no answer starts saturated and no branch drowns its input;
    or at zero (`output_initializer_range: 0`), where it `may_be_silent`. A plain linear layer but for that mark:
    bitsandbytes and peft know no other kinds.
    """
    linear = nn.Linear(in_features, out_features, bias)
    linear.may_be_silent = may_be_silent  # type: ignore[assignment]
    return linear


class AnswerLinear(nn.Linear):
    """Says something of a text; it starts as `output_linear` does, and stays in full precision where others are not.
    Training may give these layers a rate of their own (`answer_learning_rate`)."""

    def __init__(self, in_features: int, out_features: int, may_be_silent: bool = True):
        super().__init__(in_features, out_features)
        self.may_be_silent = may_be_silent


class FeedForward(nn.Module):
    """norm, up, GELU, (more layers), down: the multi-layer perceptron all heads are made of.

    `sizes` are the widths from input to output; the first is normalised, the last left linear. It is a branch with a
    small output, or `answers` itself, or `passes_on`: then all that follows hears nothing but it. With
    `answer_residual` one that answers has a linear answer beside its hidden layers, which then are a branch.
    """

    def __init__(self, config: RedHeartConfig, *sizes: int, passes_on: bool = False, answers: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(sizes[0], eps=config.layer_norm_eps)
        # CODEPATH: real_text recipes answer from a pretrained encoder's states; redheart-* presets start from nothing.
        beside = answers and config.answer_residual and len(sizes) > 2
        self.linear = AnswerLinear(sizes[0], sizes[-1]) if beside else None
        last = nn.Linear if passes_on else AnswerLinear if answers and not beside else output_linear
        kinds = [nn.Linear] * (len(sizes) - 2) + [last]
        self.projections = nn.ModuleList(
            kind(size_in, size_out) for kind, size_in, size_out in zip(kinds, sizes, sizes[1:], strict=False)
        )
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        normed = states = self.norm(states)
        for projection in self.projections[:-1]:
            states = self.dropout(F.gelu(projection(states)))
        answer = self.projections[-1](states)
        return answer if self.linear is None else answer + self.linear(normed)


class AttentionPooling(nn.Module):
    """Each task weighs the tokens by its own query; at initialisation all queries are zero, which is mean pooling."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(len(TASKS), config.hidden_size))

    def forward(self, hidden_BTD: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        scores_BQT = self.queries @ hidden_BTD.transpose(1, 2) * hidden_BTD.shape[-1] ** -0.5
        scores_BQT = scores_BQT.float()
        scores_BQT = scores_BQT.masked_fill(attention_mask[:, None] == 0, torch.finfo(scores_BQT.dtype).min)
        return scores_BQT.softmax(dim=-1).to(hidden_BTD.dtype) @ hidden_BTD


class TaskProjections(nn.Module):
    """Per task: hidden size -> task_projection_size -> task size, then a residual specialisation of its own.

    With `task_residual` the pooled states go along the projection too: each head then hears the text as it was read.
    """

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        sizes = (config.hidden_size, config.task_projection_size, config.task_size)
        inner = (config.task_size, config.task_specialization_size, config.task_size)
        # CODEPATH: real_text recipes go on from a pretrained encoder; redheart-* presets start from nothing.
        self.residual = config.task_residual
        self.projections = nn.ModuleDict(
            {task: FeedForward(config, *sizes, passes_on=not self.residual) for task in TASKS}
        )
        self.specializations = nn.ModuleDict({task: FeedForward(config, *inner) for task in TASKS})

    def forward(self, pooled_BQD: torch.Tensor) -> torch.Tensor:
        states = [self.projections[task](pooled_BQD[:, index]) for index, task in enumerate(TASKS)]
        if self.residual:
            states = [state + pooled_BQD[:, index] for index, state in enumerate(states)]
        states = [state + self.specializations[task](state) for task, state in zip(TASKS, states, strict=True)]
        return torch.stack(states, dim=1)


class TaskAttention(nn.Module):
    """Residual attention across the Q task vectors of one text, so that each task may look at the others."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.num_heads = config.num_task_attention_heads
        self.norm = nn.LayerNorm(config.task_size, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(config.task_size, config.task_attention_size)
        self.k_proj = nn.Linear(config.task_size, config.task_attention_size)
        self.v_proj = nn.Linear(config.task_size, config.task_attention_size)
        self.o_proj = output_linear(config.task_attention_size, config.task_size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, states_BQC: torch.Tensor) -> torch.Tensor:
        normed = self.norm(states_BQC)
        query, key, value = (
            projection(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return states_BQC + self.dropout(self.o_proj(mixed))
