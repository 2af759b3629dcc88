"""The emotion head: three levels of emotion, VAD with its variance, and culture.

In    task_BC, the emotion task's vector.
Out   EmotionOutput.
Run   through `RedHeartForMultiTask`.

    trunk -> mixture of experts -> culture -> attention over the three -> polarity -> basic -> fine

Letters: B sequences, C task size, E experts, S slots (trunk, mixture, culture).
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_redheart import RedHeartConfig
from .labels import (
    BASIC_EMOTIONS,
    BASIC_TO_POLARITY,
    CULTURE,
    FINE_EMOTIONS,
    FINE_TO_BASIC,
    KOREAN_EMOTIONS,
    KOREAN_TO_BASIC,
    POLARITIES,
    VAD,
)
from .modeling_projections import AnswerLinear, FeedForward, output_linear
from .outputs import EmotionOutput

PARENT_OF_BASIC = torch.tensor([POLARITIES.index(BASIC_TO_POLARITY[name]) for name in BASIC_EMOTIONS])
PARENT_OF_FINE = torch.tensor([BASIC_EMOTIONS.index(FINE_TO_BASIC[name]) for name in FINE_EMOTIONS])
PARENT_OF_KOREAN = torch.tensor([BASIC_EMOTIONS.index(KOREAN_TO_BASIC[name]) for name in KOREAN_EMOTIONS])

# Variances below e^-6 (a standard deviation of .05 on [-1, 1]) are finer than any rater; above e^1 is past the scale.
LOG_VARIANCE_RANGE = (-6.0, 1.0)


class MixtureOfExperts(nn.Module):
    """A router over E experts, the best `num_experts_per_tok` of which answer.

    A bias that only the choice sees keeps the load even without an auxiliary loss (Wang et al. 2024, arXiv
    2408.15664); `update_router_bias` moves it, outside `forward`. Gates of the chosen are their scores over the sum of
    these. Scores are a softmax over all experts, or (`router_scores: sigmoid`, as in that paper) a sigmoid each, of a
    router that sees the states without their length: no expert's score then depends on the others', and none drowns.
    """

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.top_k, self.independent = config.num_experts_per_tok, config.router_scores == "sigmoid"
        # No two experts may have the same claim to every text.
        self.router = output_linear(config.task_size, config.num_experts, bias=False, may_be_silent=False)
        self.router_bias = nn.Buffer(torch.zeros(config.num_experts))
        sizes = (config.task_size, config.moe_intermediate_size, config.task_size)
        self.experts = nn.ModuleList(FeedForward(config, *sizes) for _ in range(config.num_experts))

    def forward(self, states_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mixed states (B, C), router logits (B, E) and load (E,)."""
        routed_BC = F.layer_norm(states_BC, states_BC.shape[-1:]) if self.independent else states_BC
        logits_BE = self.router(routed_BC).float()
        chosen = (self.scores(logits_BE) + self.router_bias).topk(self.top_k, dim=-1).indices
        selected_BE = torch.zeros_like(logits_BE).scatter(1, chosen, 1.0)
        gates_BE = self.gates(logits_BE, selected_BE)
        # Every expert sees every text and unchosen ones get a gate of zero: texts are single vectors here, so that
        # this costs little, and each expert has a gradient (of zero), as DistributedDataParallel asks.
        answers_BEC = torch.stack([expert(states_BC) for expert in self.experts], dim=1)
        mixed_BC = (gates_BE[:, None].to(answers_BEC.dtype) @ answers_BEC).squeeze(1)
        return mixed_BC, logits_BE, selected_BE.detach().sum(dim=0)

    def scores(self, logits_BE: torch.Tensor) -> torch.Tensor:
        """What each expert's claim to a text is, in [0, 1]; the bias is added to it for the choice."""
        return logits_BE.sigmoid() if self.independent else logits_BE.softmax(dim=-1)

    def gates(self, logits_BE: torch.Tensor, selected_BE: torch.Tensor) -> torch.Tensor:
        """Scores of the chosen over their sum (B, E), as a softmax of log scores over the chosen: the bias may choose
        experts whose scores underflow, and then the quotient has no gradient."""
        log_scores_BE = F.logsigmoid(logits_BE) if self.independent else logits_BE
        return log_scores_BE.masked_fill(selected_BE == 0, torch.finfo(log_scores_BE.dtype).min).softmax(dim=-1)

    @torch.no_grad()
    def update_router_bias(self, load_E: torch.Tensor, rate: float) -> None:
        """Raise the bias of experts below the mean load and lower it of those above, each by `rate`."""
        self.router_bias.add_(torch.sign(load_E.mean() - load_E), alpha=rate)


class SlotAttention(nn.Module):
    """The trunk's vector looks at all slots and takes from them; residual."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.task_size, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(config.task_size, config.emotion_attention_size)
        self.k_proj = nn.Linear(config.task_size, config.emotion_attention_size)
        self.v_proj = nn.Linear(config.task_size, config.emotion_attention_size)
        self.o_proj = output_linear(config.emotion_attention_size, config.task_size)

    def forward(self, slots_BSC: torch.Tensor) -> torch.Tensor:
        normed = self.norm(slots_BSC)
        query, key, value = self.q_proj(normed[:, :1]), self.k_proj(normed), self.v_proj(normed)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return (slots_BSC.sum(dim=1, keepdim=True) + self.o_proj(mixed)).squeeze(1)


def child_logits(conditional: torch.Tensor, parent_log_prob: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities and logits of P(child) = P(child | parent) P(parent), both (B, children), in float32.

    `conditional` are logits of P(child | parent); `parent_log_prob` (B, children) is each child's own parent's.
    """
    log_prob = F.logsigmoid(conditional.float()) + parent_log_prob
    # Rounding may bring log P to 0, where log(1 - P) is -inf; 1e-7 is float32's distance between 1 and its neighbour.
    log_prob = log_prob.clamp(max=-1e-7)
    return log_prob, log_prob - torch.log(-torch.expm1(log_prob))


class RedHeartEmotionHead(nn.Module):
    """Trunk, experts, culture, attention; then polarity, basic and fine emotions, each from its parent's state."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        task_size = config.task_size
        self.trunk = FeedForward(config, task_size, *config.emotion_trunk_sizes, task_size)
        self.mixture = MixtureOfExperts(config)
        self.culture = FeedForward(config, task_size, config.emotion_culture_size, task_size)
        self.attention = SlotAttention(config)
        level_sizes = (task_size, config.emotion_level_size, task_size)
        self.polarity_level = FeedForward(config, *level_sizes)
        self.basic_level = FeedForward(config, *level_sizes)
        self.fine_level = FeedForward(config, *level_sizes)
        self.output_norm = nn.LayerNorm(task_size, eps=config.layer_norm_eps)
        self.polarity_proj = AnswerLinear(task_size, len(POLARITIES))
        self.basic_proj = AnswerLinear(task_size, len(BASIC_EMOTIONS))
        self.fine_proj = AnswerLinear(task_size, len(FINE_EMOTIONS))
        self.korean_proj = AnswerLinear(task_size, len(KOREAN_EMOTIONS))
        # Nothing goes past the branch it reads: two zeros, one after the other, would never learn.
        self.culture_proj = AnswerLinear(task_size, len(CULTURE), may_be_silent=False)
        self.vad_mean_proj = AnswerLinear(task_size, len(VAD))
        self.vad_log_variance_proj = AnswerLinear(task_size, len(VAD))

    def forward(
        self, task_BC: torch.Tensor, correction: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> EmotionOutput:
        """EmotionOutput; `correction` of the analyzer: basic emotions (B, 7) and VAD (B, 3), before squashing."""
        trunk_BC = task_BC + self.trunk(task_BC)
        mixed_BC, router_logits, router_load = self.mixture(trunk_BC)
        culture_BC = self.culture(trunk_BC)
        state_BC = self.attention(torch.stack((trunk_BC, mixed_BC, culture_BC), dim=1))

        state_BC = state_BC + self.polarity_level(state_BC)
        vad_BC = self.output_norm(state_BC)
        polarity_log, polarity_logits = child_logits(self.polarity_proj(vad_BC), state_BC.new_zeros(1).float())
        state_BC = state_BC + self.basic_level(state_BC)
        basic, vad_mean = self.basic_proj(self.output_norm(state_BC)), self.vad_mean_proj(vad_BC)
        if correction is not None:
            basic, vad_mean = basic + correction[0], vad_mean + correction[1]
        basic_log, basic_logits = child_logits(basic, polarity_log[:, PARENT_OF_BASIC])
        fine_BC = self.output_norm(state_BC + self.fine_level(state_BC))
        _, fine_logits = child_logits(self.fine_proj(fine_BC), basic_log[:, PARENT_OF_FINE])
        _, korean_logits = child_logits(self.korean_proj(fine_BC), basic_log[:, PARENT_OF_KOREAN])

        low, high = LOG_VARIANCE_RANGE
        return EmotionOutput(
            polarity_logits=polarity_logits,
            basic_logits=basic_logits,
            fine_logits=fine_logits,
            korean_logits=korean_logits,
            vad_mean=torch.tanh(vad_mean.float()),
            vad_log_variance=low + (high - low) * torch.sigmoid(self.vad_log_variance_proj(vad_BC).float()),
            culture_logits=self.culture_proj(culture_BC).float(),
            router_logits=router_logits,
            router_load=router_load,
        )
