"""The SURD head: what of the outcome emotion, ethics and regret tell together, alone and only jointly.

In    task_BC, the SURD task's vector; a correction of the analyzer.
Out   SurdOutput: eleven terms and the leak as one distribution.
Run   through `RedHeartForMultiTask`; the exact decomposition it learns from is `surd.py`.

Twelve shares that sum to one by construction, in the order of `labels.SURD_TERMS`. Its targets are the terms of the
outcome's state over many predictions, each divided by the state's surprise: they depend on the state alone, so that
the head has to beat looking them up by the predicted state. They describe what is seen together and prove no cause.
"""

import torch
from torch import nn

from .configuration_redheart import RedHeartConfig
from .labels import SURD_TERMS
from .modeling_projections import FeedForward
from .outputs import SurdOutput


class RedHeartSurdHead(nn.Module):
    """Trunk, then one layer of logits over the terms."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        task_size = config.task_size
        self.trunk = FeedForward(config, task_size, *config.surd_trunk_sizes, task_size)
        self.terms = FeedForward(config, task_size, *config.surd_term_sizes, len(SURD_TERMS), answers=True)

    def forward(self, task_BC: torch.Tensor, correction_B12: torch.Tensor | None = None) -> SurdOutput:
        logits = self.terms(task_BC + self.trunk(task_BC)).float()
        if correction_B12 is not None:
            logits = logits + correction_B12
        return SurdOutput(term_logits=logits, terms=logits.softmax(dim=-1))
