"""What the SURD head learns: the exact decomposition of a verdict by the model's own predictions.

In    each step's outputs and labels; a buffer of the last predictions, in the checkpoint.
Out   targets (B, 12) for rows with a judgement, NaN for the others and until the buffer holds enough.
Run   through TrainLoop, when the model has a SURD head.

The outcome is a label of the training data, never an output of the model: which side of a preference pair a text is
on, else whether an action was found acceptable. Agents are the predicted valence, utility and neutral-view regret, in
four bins of equal counts. The terms of a state of the outcome are divided by its surprise, so that they and the leak
sum to one. They are those of thousands of predictions, never of a batch: a batch of 32 reports bits where there are
none, and calls them synergy. What chance alone finds is logged beside them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors.numpy import load_file, save

from redheart_hf.labels import SURD_TERMS, VIEWS
from redheart_hf.outputs import RedHeartOutput
from redheart_hf.surd import SURD, shuffled_baseline

if TYPE_CHECKING:
    from training.config import TrainConfig

CAPACITY, LEAST = 8192, 5000  # predictions kept, and needed before there are targets
REFRESH_STEPS = 50
BINS = 4
SHUFFLES = 20
NO_OUTCOME = -1


def teaches_surd(config: "TrainConfig", terms: Sequence[str]) -> bool:
    """Whether a run of a model with these terms of the loss keeps what the SURD head learns from."""
    return "surd" in terms and config.loss_weights.get("surd", 1.0) > 0


def outcomes_of(labels: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(B,): 1 where the deed was found acceptable or is the better of a pair, 0 where not, -1 where nobody judged."""
    verdicts = labels["acceptability"]
    judged = ~torch.isnan(verdicts)
    share = torch.nan_to_num(verdicts).sum(dim=1) / judged.sum(dim=1).clamp(min=1)
    outcomes = torch.where(judged.any(dim=1), (share >= 0.5).long(), NO_OUTCOME)
    better, worse = labels["preference"].unbind(dim=1)
    outcomes[better], outcomes[worse] = 1, 0
    return outcomes


def agents_of(outputs: RedHeartOutput) -> torch.Tensor:
    """(B, 3): predicted valence, utility and neutral-view regret, detached."""
    regret = outputs.regret.text_regret[:, VIEWS.index("neutral")]
    return torch.stack((outputs.emotion.vad_mean[:, 0], outputs.ethics.utility, regret), dim=1).detach().float()


def state_terms(found: SURD, state: int) -> np.ndarray:
    """(12,) in the order of SURD_TERMS: the shares of the state's surprise, and what is left open."""
    states = found.states
    kinds = {"R": states.redundant, "U": states.unique, "S": states.synergistic}
    shares = [kinds[name[0]][tuple(map(int, name[1:]))][state] / states.surprise[state] for name in SURD_TERMS[:-1]]
    return np.array([*shares, states.information_leak[state]])


def decompose(agents: np.ndarray, outcomes: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Terms (2, 12) of the refused and of the accepted, and in bits what was found, beside what chance finds.

    `agents` (n, 3) are predictions, `outcomes` (n,) zeros and ones; both occur.
    """
    codes = [quartiles(column) for column in agents.T]
    # Codes are whole numbers: bins of equal width take each for itself.
    found, chance = shuffled_baseline(outcomes, codes, [2, *[BINS] * len(codes)], shuffles=SHUFFLES)
    total = ("total", (1, 2, 3))
    return np.stack([state_terms(found, state) for state in (0, 1)]), {
        "information": found.total,
        "information_by_chance": chance.mean[total],
        "information_p": chance.p_value[total],
        "synergy": sum(found.synergistic.values()),
        "synergy_by_chance": sum(bits for (kind, _), bits in chance.mean.items() if kind == "synergistic"),
        "leak": found.information_leak,
    }


class SurdTargets:
    """The last predictions that have an outcome, and the terms of each outcome that they give.

    A step calls `label` before it, `see` for each of its micro-batches, and `follow` after it. For a model without a
    SURD head, or with one that is not to learn (`active` false), all three do nothing.
    """

    def __init__(self, active: bool = True):
        self.active = active
        self.agents = np.zeros((CAPACITY, 3), dtype=np.float32)
        self.outcomes = np.full(CAPACITY, NO_OUTCOME, dtype=np.int64)
        self.seen = 0
        self.terms: np.ndarray | None = None  # (2, 12): of the refused and of the accepted
        self.found: dict[str, float] | None = None  # what the log says of them
        self.taught: dict[str, float] | None = None  # the same of those that a step last learned from
        self.of_step: list[tuple[np.ndarray, np.ndarray]] = []

    def label(self, group: Sequence[Mapping[str, Any]]) -> None:
        """Put targets into the labels of each batch of a step."""
        for batch in group if self.active else ():
            batch["labels"]["surd_terms"] = self.targets(batch["labels"])

    def targets(self, labels: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, 12) of rows with an outcome."""
        outcomes = outcomes_of(labels)
        targets = torch.full((len(outcomes), len(SURD_TERMS)), float("nan"), device=outcomes.device)
        if self.terms is not None:
            known = outcomes != NO_OUTCOME
            terms = torch.from_numpy(self.terms).to(targets)
            targets[known] = terms[outcomes[known]]
            self.taught = self.found if bool(known.any()) else self.taught
        return targets

    def see(self, outputs: RedHeartOutput, labels: Mapping[str, torch.Tensor]) -> None:
        """Keep what one micro-batch predicted until the step is over."""
        if self.active:
            self.of_step.append((agents_of(outputs).cpu().numpy(), outcomes_of(labels).cpu().numpy()))

    def follow(self, step: int) -> dict[str, Any]:
        """Remember the step's predictions, of all processes in order; now and then decompose anew.

        Gives back what the last decomposition found, for the log.
        """
        if not self.active:
            return {}
        for agents, outcomes in gather_object(self.of_step):
            self.add(agents, outcomes)
        self.of_step = []
        if step % REFRESH_STEPS == 0:
            self.refresh()
        return {"surd": self.found}

    def add(self, agents: np.ndarray, outcomes: np.ndarray) -> None:
        """Remember predictions (n, 3) that have an outcome (n,); the oldest are forgotten."""
        known = outcomes != NO_OUTCOME
        places = (self.seen + np.arange(known.sum())) % CAPACITY
        self.agents[places], self.outcomes[places] = agents[known], outcomes[known]
        self.seen += int(known.sum())

    def refresh(self) -> None:
        """Decompose anew, in bits and beside what chance finds; nothing changes while there is too little to see."""
        held = self.outcomes[: min(self.seen, CAPACITY)]
        if len(held) >= LEAST and len(np.unique(held)) == 2:
            self.terms, self.found = decompose(self.agents[: len(held)], held)

    def packed(self) -> bytes | None:
        """All of it as a file of safetensors; None where nothing is kept."""
        if not self.active:
            return None
        terms = np.zeros((0, len(SURD_TERMS))) if self.terms is None else self.terms
        seen = np.array([self.seen])
        return save({"agents": self.agents, "outcomes": self.outcomes, "seen": seen, "terms": terms})

    def load(self, path: Path) -> None:
        state = load_file(path)
        self.agents, self.outcomes, self.seen = state["agents"], state["outcomes"], int(state["seen"][0])
        self.terms = state["terms"] if len(state["terms"]) else None


def quartiles(values: np.ndarray) -> np.ndarray:
    """0 to 3, about equally often; equal values share a number."""
    return np.searchsorted(np.quantile(values, np.arange(1, BINS) / BINS), values, side="right").clip(max=BINS - 1)
