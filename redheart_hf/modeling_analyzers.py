"""Four analyzers: each asks its own questions of the tokens and corrects what its head says.

In    hidden_BTD and attention_mask (B, T), or the task vectors; the task's own vector task_BC.
Out   corrections (B, ...), added to what the head gives before it is squashed. They are zero at initialisation, so
      that a model with an analyzer starts as the one without it.
Run   through `RedHeartForMultiTask`; `config.modules` says which exist.

Letters: B sequences, T tokens, D hidden size, C task size, N queries, S analyzer size, K keys, A actions of a choice.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_redheart import RedHeartConfig
from .labels import BASIC_EMOTIONS, CIRCUMSTANCES, ETHICS_EXPERTS, SURD_TERMS, TASKS, VAD, VIEWS
from .modeling_projections import AnswerLinear


class QueryAttention(nn.Module):
    """Multi-head attention of queries over a context; over their own, when none is given."""

    def __init__(self, config: RedHeartConfig, context_size: int):
        super().__init__()
        size, self.num_heads = config.analyzer_size, config.num_analyzer_heads
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(context_size, size)
        self.v_proj = nn.Linear(context_size, size)
        self.o_proj = nn.Linear(size, size)

    def forward(self, queries_BNS, context_BKD, mask_BK=None, rivals=None) -> torch.Tensor:
        """(B, N, S). With `rivals`, the context of a row's rivals follows its own."""
        key, value = self.k_proj(context_BKD), self.v_proj(context_BKD)
        if rivals is not None:
            # As if `rivals.role` had been added to a rival's context before; but each row is projected once only.
            key = with_rivals(key, rivals.rows, F.linear(rivals.role, self.k_proj.weight))
            value = with_rivals(value, rivals.rows, F.linear(rivals.role, self.v_proj.weight))
        query, key, value = (
            states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for states in (self.q_proj(queries_BNS), key, value)
        )
        mask = None if mask_BK is None else mask_BK[:, None, None].bool()
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Rivals(NamedTuple):
    """For each row the rows (B, A) of the other actions of its choice, padded with -1; what marks them (D,)."""

    rows: torch.Tensor
    role: torch.Tensor


def with_rivals(states_BKS: torch.Tensor, rows_BA: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """(B, K + A K, S): each row's own states, then those of its rivals, moved by `offset`."""
    return torch.cat((states_BKS, states_BKS[rows_BA.clamp(min=0)].flatten(1, 2) + offset), dim=1)


class AnalyzerLayer(GradientCheckpointingLayer):
    """Queries look at each other, then at the context, then an MLP of inner size `width`; Pre-LN, residual."""

    def __init__(self, config: RedHeartConfig, context_size: int, width: int):
        super().__init__()
        size, eps = config.analyzer_size, config.layer_norm_eps
        self.query_norm = nn.LayerNorm(size, eps=eps)
        self.query_attention = QueryAttention(config, size)
        self.context_norm = nn.LayerNorm(size, eps=eps)
        self.context_attention = QueryAttention(config, context_size)
        self.mlp_norm = nn.LayerNorm(size, eps=eps)
        self.up_proj = nn.Linear(size, width)
        self.down_proj = nn.Linear(width, size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, queries: torch.Tensor, context: torch.Tensor, mask=None, rivals=None) -> torch.Tensor:
        normed = self.query_norm(queries)
        queries = queries + self.dropout(self.query_attention(normed, normed))
        queries = queries + self.dropout(self.context_attention(self.context_norm(queries), context, mask, rivals))
        return queries + self.dropout(self.down_proj(F.gelu(self.up_proj(self.mlp_norm(queries)))))


class Analyzer(nn.Module):
    """`num_queries` questions, each answered by `num_answers` numbers; asked in the light of the task's vector."""

    def __init__(
        self,
        config: RedHeartConfig,
        num_queries: int,
        num_answers: int,
        context_size: int,
        num_layers: int,
        width: int,
    ):
        super().__init__()
        size = config.analyzer_size
        self.queries = nn.Parameter(torch.empty(num_queries, size))
        self.condition = nn.Linear(config.task_size, size)
        self.context_norm = nn.LayerNorm(context_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(AnalyzerLayer(config, context_size, width) for _ in range(num_layers))
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.answer = AnswerLinear(size, num_answers)

    def init_own_weights(self, deviation: float) -> None:
        init.normal_(self.queries, std=deviation)
        init.zeros_(self.answer.weight)
        init.zeros_(self.answer.bias)

    def ask(self, task_BC: torch.Tensor, context: torch.Tensor, mask=None, rivals=None) -> torch.Tensor:
        """Answers (B, N, num_answers)."""
        queries = self.queries + self.condition(task_BC)[:, None]
        context = self.context_norm(context)
        for layer in self.layers:
            queries = layer(queries, context, mask, rivals)
        return self.answer(self.norm(queries)).float()


class EmotionAnalyzer(Analyzer):
    """One question for each basic emotion and each dimension of VAD, asked of the tokens."""

    def __init__(self, config: RedHeartConfig):
        layers, width = config.num_emotion_analyzer_layers, config.emotion_analyzer_intermediate_size
        super().__init__(config, len(BASIC_EMOTIONS) + len(VAD), 1, config.hidden_size, layers, width)

    def forward(self, task_BC, hidden_BTD, attention_mask) -> tuple[torch.Tensor, torch.Tensor]:
        """Corrections of the basic emotions' conditional logits (B, 7) and of VAD before squashing (B, 3)."""
        answers = self.ask(task_BC, hidden_BTD, attention_mask).squeeze(-1)
        return answers[:, : len(BASIC_EMOTIONS)], answers[:, len(BASIC_EMOTIONS) :]


class EthicsAnalyzer(Analyzer):
    """One question for each pair of circumstance and expert: what it weighs, and what the expert makes of it."""

    def __init__(self, config: RedHeartConfig):
        layers, width = config.num_ethics_analyzer_layers, config.ethics_analyzer_intermediate_size
        super().__init__(config, len(CIRCUMSTANCES) * len(ETHICS_EXPERTS), 2, config.hidden_size, layers, width)

    def forward(self, task_BC, hidden_BTD, attention_mask) -> tuple[torch.Tensor, torch.Tensor]:
        """Corrections of the raw circumstances (B, 7), the experts' mean, and of acceptability (B, 4), their sums."""
        answers = self.ask(task_BC, hidden_BTD, attention_mask)
        answers_B74A = answers.unflatten(1, (len(CIRCUMSTANCES), len(ETHICS_EXPERTS)))
        return answers_B74A[..., 0].mean(dim=2), answers_B74A[..., 1].sum(dim=1)


class RegretAnalyzer(Analyzer):
    """One question for each view, asked of the action's tokens and of those of the other actions of its choice."""

    def __init__(self, config: RedHeartConfig):
        layers, width = config.num_regret_analyzer_layers, config.regret_analyzer_intermediate_size
        super().__init__(config, len(VIEWS), 2, config.hidden_size, layers, width)
        self.rival = nn.Parameter(torch.empty(config.hidden_size))

    def init_own_weights(self, deviation: float) -> None:
        super().init_own_weights(deviation)
        init.normal_(self.rival, std=deviation)

    def forward(self, task_BC, hidden_BTD, attention_mask, alternatives=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Corrections (B, 3), before squashing, of the regret read from the text and of the views' distances."""
        if alternatives is None:
            answers = self.ask(task_BC, hidden_BTD, attention_mask)
            return answers[..., 0], answers[..., 1]
        rows_BA = rivals_of(alternatives, len(task_BC))
        rivals_mask_BAT = attention_mask[rows_BA.clamp(min=0)] * (rows_BA >= 0)[..., None]
        mask = torch.cat((attention_mask, rivals_mask_BAT.flatten(1)), dim=1)
        answers = self.ask(task_BC, hidden_BTD, mask, Rivals(rows_BA, self.rival))
        return answers[..., 0], answers[..., 1]


def rivals_of(alternatives_GA: torch.Tensor, num_rows: int) -> torch.Tensor:
    """For each of the batch's rows the other actions of its choice, (B, A), padded with -1; none for other rows."""
    groups, actions = alternatives_GA.shape
    rivals = alternatives_GA.new_full((num_rows, actions), -1)
    own = torch.eye(actions, dtype=torch.bool, device=alternatives_GA.device)
    others_GAA = alternatives_GA[:, None].expand(groups, actions, actions).masked_fill(own, -1)
    held = alternatives_GA >= 0
    rivals[alternatives_GA[held]] = others_GAA[held]
    return rivals


class SurdAnalyzer(Analyzer):
    """One question for each term of the decomposition, asked of the four tasks' vectors."""

    def __init__(self, config: RedHeartConfig):
        layers, width = config.num_surd_analyzer_layers, config.surd_analyzer_intermediate_size
        super().__init__(config, len(SURD_TERMS), 1, config.task_size, layers, width)

    def forward(self, task_BQC: torch.Tensor) -> torch.Tensor:
        """Correction of the terms' logits, (B, 12)."""
        return self.ask(task_BQC[:, TASKS.index("surd")], task_BQC).squeeze(-1)
