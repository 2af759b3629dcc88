"""Emotion in time: a bank of learned filters over the tokens of a text, and a Kalman filter over turns.

In    hidden_BTD with attention_mask; per turn the emotion task's vector and what the head says of VAD.
Out   hidden_BTD with the filters' answer added (zero at initialisation); VAD of each turn given all turns so far.
Run   through `RedHeartForMultiTask`; `turns` (G, S) names the rows of each dialogue in order, padded with -1.
      In training, a record with `turns` is a dialogue, any other one turn.

Letters: B sequences, T tokens, D hidden size, C task size, N filters, G dialogues, S turns.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_redheart import RedHeartConfig
from .labels import VAD
from .modeling_projections import FeedForward
from .outputs import DynamicsOutput

# Half-lives of the filters at initialisation, in tokens; and the least and greatest angle they turn by each.
HALF_LIVES = (1.0, 100.0)
MAX_ANGLE = math.pi / 10
# What is seen of VAD is at best as sure as the head can be, at worst it says nothing on a scale from -1 to 1.
LOG_NOISE_RANGE = (-8.0, 4.0)


class SignalSimulator(nn.Module):
    """N damped oscillators, each driven by its own projection of the tokens: h_t = a h_(t-1) + b x_t, |a| < 1.

    A linear recurrence with complex diagonal (Orvieto et al. 2023, arXiv 2303.06349), so that all steps are computed
    at once as a convolution; carried on from `state`, a text may come in pieces and gives the same numbers.
    """

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        filters, size = config.num_filters, config.hidden_size
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.in_proj = nn.Linear(size, 2 * filters, bias=False)
        self.log_decay = nn.Parameter(torch.empty(filters))
        self.angle = nn.Parameter(torch.empty(filters))
        self.mixer = FeedForward(config, 2 * filters, config.filter_mixer_size, size, passes_on=True)
        self.out_proj = nn.Linear(size, size)

    def init_own_weights(self, deviation: float) -> None:
        """Half-lives evenly spread over the scale of logarithms, angles in another order; no answer yet."""
        filters = len(self.angle)
        shortest, longest = HALF_LIVES
        half_lives = torch.logspace(math.log10(shortest), math.log10(longest), filters)
        shuffled = torch.arange(filters) * 7919 % filters  # a prime: neighbours in half-life are not so in angle
        init.copy_(self.log_decay, (math.log(2) / half_lives).log())
        init.copy_(self.angle, torch.linspace(0, MAX_ANGLE, filters)[shuffled])
        init.zeros_(self.out_proj.weight)
        init.zeros_(self.out_proj.bias)

    def forward(
        self, hidden_BTD: torch.Tensor, attention_mask: torch.Tensor, state_BN: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden_BTD with the answer added, and the filters' state (B, N), complex, after each row's last token.

        Padding may stand at either end of a row. It moves no filter: a row of nothing else gives back its state.
        """
        decay = torch.exp(self.log_decay.float())
        driven = torch.view_as_complex(self.in_proj(self.norm(hidden_BTD)).float().unflatten(-1, (-1, 2)))
        # Without this factor slow filters would be louder than fast ones: sqrt(1 - |a|^2).
        driven = driven * torch.sqrt(-torch.expm1(-2 * decay)) * attention_mask[..., None]  # padding is silence
        length = hidden_BTD.shape[1]
        steps = torch.arange(length + 1, device=driven.device, dtype=torch.float32)[:, None]
        powers = torch.polar(torch.exp(-decay * steps), self.angle.float() * steps)  # (T + 1, N): a^0 ... a^T
        padded = 2 * length  # a shorter transform would wrap the end around to the beginning
        response = torch.fft.ifft(
            torch.fft.fft(driven, padded, dim=1) * torch.fft.fft(powers[:length], padded, dim=0), dim=1
        )[:, :length]
        if state_BN is not None:
            response = response + powers[attention_mask.long().cumsum(dim=1)] * state_BN[:, None]
        positions = torch.arange(length, device=driven.device)
        last = (attention_mask.long() * positions).argmax(dim=1)
        states = torch.view_as_real(response).flatten(-2).to(hidden_BTD.dtype)
        answer = self.out_proj(F.gelu(self.mixer(states)))
        return hidden_BTD + answer, response[torch.arange(len(last), device=last.device), last]


def check_turns(turns_GS: torch.Tensor, num_rows: int) -> None:
    """Raises ValueError, with the values, unless each row of this batch is at most one turn of one dialogue."""
    if turns_GS.ndim != 2 or ((turns_GS < -1) | (turns_GS >= num_rows)).any():
        raise ValueError(
            f"turns must be dialogues of rows, (G, S), each row one of 0..{num_rows - 1} or -1 for none; got the "
            f"shape {tuple(turns_GS.shape)} and {turns_GS.tolist()}"
        )
    rows, times = turns_GS[turns_GS >= 0].unique(return_counts=True)
    if (times > 1).any():
        raise ValueError(f"turns names row {int(rows[times > 1][0])} twice: a text is one turn of one dialogue")


class AffectFilter(nn.Module):
    """VAD over the turns of a dialogue as a noisily seen Ornstein-Uhlenbeck process; a text alone is one turn.

    The head's VAD is what is seen, moved and doubted as the observer says from the turn's vector. Home base, inertia
    and variability are parameters of the person who speaks, in the units of VAD and turns.
    """

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.observer = FeedForward(config, config.task_size, *config.affect_observer_sizes, 2 * len(VAD))
        self.home_base = nn.Parameter(torch.empty(len(VAD)))
        self.log_return_rate = nn.Parameter(torch.empty(len(VAD)))
        self.log_variability = nn.Parameter(torch.empty(len(VAD)))

    def init_own_weights(self, deviation: float) -> None:
        """Home at zero, half of the way back in one turn, a stationary deviation of .5: broad beside what is seen."""
        init.zeros_(self.home_base)
        init.constant_(self.log_return_rate, math.log(math.log(2)))
        init.constant_(self.log_variability, math.log(0.5 * math.sqrt(2 * math.log(2))))

    def forward(self, task_BC, vad_mean_B3, vad_log_variance_B3, turns: torch.Tensor | None = None) -> DynamicsOutput:
        moved, doubt = self.observer(task_BC).float().chunk(2, dim=-1)
        seen_B3, noise_B3 = vad_mean_B3 + moved, torch.exp((vad_log_variance_B3 + doubt).clamp(*LOG_NOISE_RANGE))
        alone = torch.arange(len(task_BC), device=task_BC.device)[:, None]
        mean_B3, variance_B3 = (part.squeeze(1) for part in self.follow(seen_B3, noise_B3, alone))
        if turns is not None:
            check_turns(turns, len(task_BC))
            held = turns >= 0
            means, variances = self.follow(seen_B3, noise_B3, turns)
            mean_B3 = mean_B3.index_put((turns[held],), means[held])
            variance_B3 = variance_B3.index_put((turns[held],), variances[held])
        return DynamicsOutput(vad_mean=mean_B3, vad_log_variance=variance_B3.log())

    def follow(self, seen_B3, noise_B3, turns_GS) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and variances (G, S, 3) of each turn given those up to it.

        The dimensions are independent, so that the filter of `kalman.py` is one of numbers here; elementwise and in
        float32, whatever the weights are kept in and autocast would multiply in.
        """
        rate, base = self.log_return_rate.float().exp(), self.home_base.float()
        stationary = self.log_variability.float().exp() ** 2 / (2 * rate)
        mean, variance = base.expand(len(turns_GS), -1), stationary.expand(len(turns_GS), -1)
        means, variances = [], []
        for step, rows in enumerate(turns_GS.unbind(dim=1)):
            if step:
                mean = base + (mean - base) * torch.exp(-rate)
                variance = variance * torch.exp(-2 * rate) - stationary * torch.expm1(-2 * rate)
            here, rows = (rows >= 0)[:, None], rows.clamp(min=0)
            gain = torch.where(here, variance / (variance + noise_B3[rows]), 0.0)
            mean, variance = mean + gain * (seen_B3[rows] - mean), (1 - gain) * variance
            means.append(mean)
            variances.append(variance)
        return torch.stack(means, dim=1), torch.stack(variances, dim=1)
