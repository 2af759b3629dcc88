"""The scenario memory: slots that a text's pooled vectors look up; they learn, and scenarios can be put into them.

In    pooled_BQD, one vector a task.
Out   the same, each with what its nearest slots hold added, through a gate that is zero at initialisation.
Run   through `RedHeartForMultiTask`; training fills it, see `training/scenario_slots.py`.

Letters: B sequences, Q tasks, D hidden size, M slots.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_redheart import RedHeartConfig


class ScenarioMemory(nn.Module):
    """M pairs of key and value, read by attention; they learn like any weight and can be filled and pruned."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        size = config.hidden_size
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.keys = nn.Parameter(torch.empty(config.memory_slots, size))
        self.values = nn.Parameter(torch.empty(config.memory_slots, size))
        self.gate = nn.Parameter(torch.empty(size))
        self.sharpness = config.memory_sharpness

    def init_own_weights(self, deviation: float) -> None:
        init.normal_(self.keys, std=deviation)
        init.normal_(self.values, std=deviation)
        init.zeros_(self.gate)

    def attention(self, states: torch.Tensor) -> torch.Tensor:
        """Weights (..., M) of the slots for each state; cosine similarity, so that a slot's length does not matter."""
        similarity = F.normalize(self.norm(states), dim=-1) @ F.normalize(self.keys, dim=-1).T
        return (self.sharpness * similarity.float()).softmax(dim=-1)

    def forward(self, pooled_BQD: torch.Tensor) -> torch.Tensor:
        weights = self.attention(pooled_BQD).to(pooled_BQD.dtype)
        return pooled_BQD + self.gate * (weights @ self.values)

    @torch.no_grad()
    def fill(self, states_ND: torch.Tensor, slots: torch.Tensor | None = None) -> None:
        """Write states (N, D) into `slots` (N,), the first N by default, as key and value.

        Raises ValueError for too many, for slots that are none or named twice, and for states that are not finite.
        """
        if slots is None:
            slots = torch.arange(len(states_ND), device=self.keys.device)
        if len(states_ND) > len(self.keys) or len(slots) != len(states_ND):
            raise ValueError(f"{len(states_ND)} states do not fit {len(slots)} slots of a memory of {len(self.keys)}")
        if len(slots.unique()) < len(slots) or ((slots < 0) | (slots >= len(self.keys))).any():
            raise ValueError(f"slots must be different ones of 0..{len(self.keys) - 1}, got {slots.tolist()}")
        if not torch.isfinite(states_ND).all():
            raise ValueError(f"{int((~torch.isfinite(states_ND)).any(dim=1).sum())} of the states are not finite")
        self.keys[slots] = self.norm(states_ND)
        self.values[slots] = states_ND

    @torch.no_grad()
    def least_used(self, states_ND: torch.Tensor, count: int) -> torch.Tensor:
        """The `count` slots that these states look at least: what may be pruned."""
        return self.attention(states_ND).mean(dim=0).topk(count, largest=False).indices
