"""Regret of a choice, derived from what people or a model say each action is worth.

In    the utilities of each action, (actions, 3); the position of the chosen one.
Out   regret in each view.
Run   `python -c "from preprocessing.regret import *; print(regret_of([[0.1, 0, -0.2], [0.9, 0.5, 0.1]], 0))"`
"""

from collections.abc import Sequence

import torch

from redheart_hf import RedHeartConfig
from redheart_hf.modeling_head_regret import regret_of as regret_of_missed


def regret_of(utilities: Sequence[Sequence[float]], chosen: int) -> list[float]:
    """In each view the model's own formula, of the distance from the chosen action's utility to the best one's."""
    missed = torch.tensor([max(view) - view[chosen] for view in zip(*utilities, strict=True)], dtype=torch.float64)
    return regret_of_missed(missed, RedHeartConfig.regret_aversion).tolist()
