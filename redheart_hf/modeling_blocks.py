"""The backbone's blocks: attention with rotary positions, and two kinds of block that differ in norm and MLP.

In    hidden_states (B, T, D), attention_mask as Transformers' mask builder makes it, (cos, sin) (B, T, head_dim).
Out   hidden_states (B, T, D).
Run   through `RedHeartModel`; `BLOCKS[config.block_type](config)` builds one alone.

Pre-LN + GELU: x + f(norm(x)). Post-LN + SwiGLU: norm(x + f(x)) (Vaswani et al. 2017; Shazeer 2020, arXiv 2002.05202).
Both name their parts alike, so that only the MLP's gate distinguishes their state dicts.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_redheart import RedHeartConfig
from .modeling_projections import output_linear


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(query key^T * scaling + mask) value; query, key, value (B, heads, T, head_dim)."""
    scores = query @ key.transpose(-2, -1) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def rotate_pairs(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn value i with value i + head_dim/2 by the angle of their position (Su et al. 2021, arXiv 2104.09864)."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def rotary_angles(hidden_states: torch.Tensor, config: RedHeartConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin), each (1, 1, T, head_dim); computed in float32 each time, so that no buffer has to be stored."""
    head_dim = config.hidden_size // config.num_attention_heads
    positions = torch.arange(hidden_states.shape[1], device=hidden_states.device, dtype=torch.float32)
    exponents = torch.arange(0, head_dim, 2, device=hidden_states.device, dtype=torch.float32) / head_dim
    angles = positions[:, None] * config.rope_theta**-exponents
    angles = torch.cat((angles, angles), dim=-1)[None, None]
    return angles.cos().to(hidden_states.dtype), angles.sin().to(hidden_states.dtype)


class RedHeartAttention(nn.Module):
    """Multi-head self-attention over tokens in both directions."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = output_linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States (B, T, D), and the weights (B, heads, T, T) where the implementation has them: eager alone."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = rotate_pairs(self.q_proj(hidden_states).view(shape).transpose(1, 2), *position_embeddings)
        key = rotate_pairs(self.k_proj(hidden_states).view(shape).transpose(1, 2), *position_embeddings)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.head_dim**-0.5,
            **kwargs,
        )
        return self.o_proj(mixed.reshape(hidden_states.shape)), weights


class GeluMLP(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = output_linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.gelu(self.up_proj(hidden_states)))


class SwiGluMLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = output_linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class PreNormBlock(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)); what leaves the last one still needs a norm."""

    mlp_class: type[nn.Module] = GeluMLP

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = RedHeartAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = self.mlp_class(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor, attention_mask, position_embeddings, **kwargs) -> torch.Tensor:
        attended, _ = self.attention(self.attention_norm(hidden_states), attention_mask, position_embeddings, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class PostNormBlock(PreNormBlock):
    """norm(x + attention(x)), then norm(x + mlp(x)); what leaves it is normalised."""

    mlp_class = SwiGluMLP

    def forward(self, hidden_states: torch.Tensor, attention_mask, position_embeddings, **kwargs) -> torch.Tensor:
        attended, _ = self.attention(hidden_states, attention_mask, position_embeddings, **kwargs)
        hidden_states = self.attention_norm(hidden_states + self.dropout(attended))
        return self.mlp_norm(hidden_states + self.dropout(self.mlp(hidden_states)))


BLOCKS: dict[str, type[PreNormBlock]] = {"pre_ln_gelu": PreNormBlock, "post_ln_swiglu": PostNormBlock}
FINAL_NORMS: dict[str, type[nn.Module]] = {"pre_ln_gelu": nn.LayerNorm, "post_ln_swiglu": nn.Identity}
