"""The Bentham head: seven circumstances, the utility they add up to, and four ethics experts.

In    task_BC, the ethics task's vector.
Out   EthicsOutput.
Run   through `RedHeartForMultiTask`.

Utility is a weighted sum of signed circumstances. Duration, certainty and the rest have no sign of their own: they
lengthen or assure whatever is felt, so that each enters as intensity times itself, and intensity as itself:

    U = i (w_1 + w_2 duration + w_3 certainty + ... + w_7 extent),   i in [-1, 1], w_k >= 0, sum of w = 1

(after Bentham 1789, chapter IV). No pleasure and no pain is then no utility, and |U| <= 1.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_redheart import RedHeartConfig
from .labels import CIRCUMSTANCES, ETHICS_EXPERTS
from .modeling_projections import FeedForward
from .outputs import EthicsOutput


class RedHeartEthicsHead(nn.Module):
    """Trunk, then one expert per school. The utilitarian one speaks through circumstances and utility alone."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.config = config
        task_size = config.task_size
        self.trunk = FeedForward(config, task_size, *config.ethics_trunk_sizes, task_size)
        sizes = dict.fromkeys(ETHICS_EXPERTS, 1) | {"utilitarian": len(CIRCUMSTANCES)}
        self.experts = nn.ModuleDict(
            {
                name: FeedForward(config, task_size, *config.ethics_expert_sizes, sizes[name], answers=True)
                for name in ETHICS_EXPERTS
            }
        )
        self.acceptance = nn.Parameter(torch.empty(2))
        self.log_preference_scale = nn.Parameter(torch.empty(1))

    def forward(
        self, task_BC: torch.Tensor, correction: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> EthicsOutput:
        """EthicsOutput; `correction` of the analyzer: raw circumstances (B, 7) and acceptability logits (B, 4)."""
        state_BC = task_BC + self.trunk(task_BC)
        answers = {name: expert(state_BC).float() for name, expert in self.experts.items()}
        raw_B7 = answers["utilitarian"]
        if correction is not None:
            raw_B7 = raw_B7 + correction[0]
        intensity, others = torch.tanh(raw_B7[:, :1]), torch.sigmoid(raw_B7[:, 1:])
        signed_B7 = torch.cat((intensity, intensity * others), dim=-1)
        contributions_B7 = signed_B7 * torch.tensor(self.config.circumstance_weights).to(signed_B7)
        utility_B = contributions_B7.sum(dim=-1)
        steepness, offset = F.softplus(self.acceptance[0]), self.acceptance[1]
        answers["utilitarian"] = (steepness * utility_B + offset)[:, None]
        acceptability_logits = torch.cat([answers[name] for name in ETHICS_EXPERTS], dim=-1)
        if correction is not None:
            acceptability_logits = acceptability_logits + correction[1]
        return EthicsOutput(
            circumstances=torch.cat((intensity, others), dim=-1),
            contributions=contributions_B7,
            utility=utility_B,
            acceptability_logits=acceptability_logits,
            raw_circumstances=raw_B7,
            preference_scale=self.log_preference_scale[0].exp(),
        )
