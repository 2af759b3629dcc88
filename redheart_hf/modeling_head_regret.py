"""The regret head: utility in three views, and what not having done better is worth in each.

In    task_BC, the regret task's vector; utility_B of the Bentham head; alternatives (G, A) row indices padded with -1,
      chosen (G,) position of what was done among them.
Out   RegretOutput.
Run   through `RedHeartForMultiTask`.

The neutral view is the Bentham head's utility, the median; the other two open from it towards +1 and -1, so that the
order holds by construction. Regret = Q(max over the actions of U - U of the chosen one), Q(d) = d + c d^3 (Loomes and
Sugden 1982): zero when the choice was best, unchanged when all utilities move together.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_redheart import RedHeartConfig
from .labels import VIEWS
from .modeling_projections import FeedForward
from .outputs import RegretOutput


def regret_of(missed_utility: torch.Tensor, aversion: float) -> torch.Tensor:
    """Q(d) = d + c d^3, elementwise; increasing, and convex for d > 0 when c > 0."""
    return missed_utility + aversion * missed_utility**3


def check_alternatives(alternatives_GA: torch.Tensor, chosen_G: torch.Tensor | None, num_rows: int) -> None:
    """Raises ValueError, with the values, unless rows are of this batch and every choice is one of its group."""
    if alternatives_GA.ndim != 2:
        raise ValueError(f"alternatives must be groups of rows, (G, A), got the shape {tuple(alternatives_GA.shape)}")
    groups, actions = alternatives_GA.shape
    if chosen_G is None or chosen_G.shape != (groups,):
        given = "without `chosen`" if chosen_G is None else f"with `chosen` of shape {tuple(chosen_G.shape)}"
        raise ValueError(
            f"alternatives of shape {groups, actions} came {given}: give, for each of the {groups} groups, the "
            "position of the action that was taken"
        )
    strange = alternatives_GA[(alternatives_GA < -1) | (alternatives_GA >= num_rows)]
    if len(strange):
        raise ValueError(
            f"alternatives names row {int(strange[0])}; rows are 0..{num_rows - 1}, -1 where there is none"
        )
    rows, times = alternatives_GA[alternatives_GA >= 0].unique(return_counts=True)
    if (times > 1).any():
        raise ValueError(
            f"alternatives names row {int(rows[times > 1][0])} twice: an action stands in one group, once; give its "
            "text a row for each choice it is part of"
        )
    taken_G = alternatives_GA.gather(1, chosen_G.clamp(0, actions - 1)[:, None]).squeeze(1)
    nothing_G = (chosen_G < 0) | (chosen_G >= actions) | (taken_G < 0)
    if nothing_G.any():
        group = int(nothing_G.nonzero()[0])
        raise ValueError(
            f"chosen is {int(chosen_G[group])} in group {group}, whose alternatives are "
            f"{alternatives_GA[group].tolist()}: no action stands there"
        )


class RedHeartRegretHead(nn.Module):
    """Trunk and one expert per view, which gives that view's regret from the text and its distance from the median."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.config = config
        task_size = config.task_size
        self.trunk = FeedForward(config, task_size, *config.regret_trunk_sizes, task_size)
        sizes = {"optimistic": 2, "neutral": 1, "pessimistic": 2}
        self.views = nn.ModuleDict(
            {
                view: FeedForward(config, task_size, *config.regret_view_sizes, sizes[view], answers=True)
                for view in VIEWS
            }
        )

    def forward(
        self,
        task_BC: torch.Tensor,
        utility_B: torch.Tensor,
        alternatives: torch.Tensor | None = None,
        chosen: torch.Tensor | None = None,
        correction: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> RegretOutput:
        """`correction` of the analyzer, before squashing: regret read from the text and views' distances, (B, 3)."""
        state_BC = task_BC + self.trunk(task_BC)
        answers = {view: expert(state_BC).float() for view, expert in self.views.items()}
        text_regret = torch.stack([answers[view][:, 0] for view in VIEWS], dim=-1)
        above, below = answers["optimistic"][:, 1], answers["pessimistic"][:, 1]
        if correction is not None:
            text_regret = text_regret + correction[0]
            above, below = above + correction[1][:, 0], below + correction[1][:, 2]
        upward = (1 - utility_B) * torch.sigmoid(above)
        downward = (1 + utility_B) * torch.sigmoid(below)
        utility_views_B3 = torch.stack((utility_B + upward, utility_B, utility_B - downward), dim=-1)
        output = RegretOutput(
            utility_views=utility_views_B3,
            text_regret=F.softplus(text_regret),
        )
        if alternatives is not None:
            output.regret, output.best = self.compare(utility_views_B3, alternatives, chosen)
        return output

    def compare(self, utility_views_B3, alternatives, chosen) -> tuple[torch.Tensor, torch.Tensor]:
        """Regret (G, 3) of the chosen actions, and the best action's position (G,) in the neutral view."""
        utility_GA3 = utility_views_B3[alternatives.clamp(min=0)]
        absent_GA1 = (alternatives < 0)[..., None]
        utility_GA3 = utility_GA3.masked_fill(absent_GA1, torch.finfo(utility_GA3.dtype).min)
        best = utility_GA3.max(dim=1)
        done_G3 = utility_GA3.gather(1, chosen[:, None, None].expand(-1, 1, len(VIEWS))).squeeze(1)
        regret_G3 = regret_of(best.values - done_G3, self.config.regret_aversion)
        return regret_G3, best.indices[:, VIEWS.index("neutral")]
