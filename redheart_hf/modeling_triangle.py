"""The triangle: emotion moves ethics, ethics moves regret, regret moves emotion.

In    the task vectors as the backbone gives them; what the heads said in the round before.
Out   task vectors for the next round.
Run   through `RedHeartForMultiTask`, `config.feedback_steps` times in one forward pass.

Each round starts from the backbone's vectors, so that rounds refine an answer and do not pile up; what is fed back is
zero at initialisation. Letters: B sequences, Q tasks, C task size.
"""

import torch
from torch import nn
from transformers import initialization as init

from .configuration_redheart import RedHeartConfig
from .labels import TASKS, VAD, VIEWS
from .outputs import EmotionOutput, EthicsOutput, RegretOutput


class Triangle(nn.Module):
    """Three linear maps, as matrices (in, C): VAD -> ethics, utility -> regret, regret in three views -> emotion."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.vad_to_ethics = nn.Parameter(torch.empty(len(VAD), config.task_size))
        self.utility_to_regret = nn.Parameter(torch.empty(1, config.task_size))
        self.regret_to_emotion = nn.Parameter(torch.empty(len(VIEWS), config.task_size))

    def init_own_weights(self, deviation: float) -> None:
        for weight in self.parameters():
            init.zeros_(weight)

    def forward(
        self, task_BQC: torch.Tensor, emotion: EmotionOutput, ethics: EthicsOutput, regret: RegretOutput
    ) -> torch.Tensor:
        dtype = task_BQC.dtype
        fed = {
            "emotion": regret.text_regret.to(dtype) @ self.regret_to_emotion,
            "ethics": emotion.vad_mean.to(dtype) @ self.vad_to_ethics,
            "regret": ethics.utility[:, None].to(dtype) @ self.utility_to_regret,
        }
        nothing = torch.zeros_like(task_BQC[:, 0])
        return task_BQC + torch.stack([fed.get(task, nothing) for task in TASKS], dim=1)
