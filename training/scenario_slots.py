"""Keeps the scenario memory full of what training has read: the slots that are looked at least give way.

In    each step's pooled vectors, every `memory_refresh_steps` steps.
Out   slots of the model's memory that hold texts of that step, with the optimizer's moments of these slots at zero.
Run   through TrainLoop, when the model has a scenario memory.

Which slots give way follows from the weights and the step's texts alone, so that a resumed run does the same. Between
refreshes, slots learn like any weight.
"""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from redheart_hf import RedHeartForMultiTask
from redheart_hf.outputs import RedHeartOutput
from training.sharding import put, put_together, whole

LARGEST_SHARE = 0.25  # of all slots, in one refresh: what was found useful is not swept out at once


class ScenarioSlots:
    """A step calls `see` for each of its micro-batches, and `follow` after it; without a memory both do nothing."""

    def __init__(self, model: RedHeartForMultiTask, optimizer: torch.optim.Optimizer, every: int):
        self.memory, self.optimizer, self.every = model.model.scenario_memory, optimizer, every
        self.of_step: list[torch.Tensor] = []

    def see(self, outputs: RedHeartOutput, batch: Mapping[str, Any], step: int) -> None:
        """Keep the vectors (Q, D) of each record's own text, if the step that ends with `step` refreshes."""
        if self.memory is not None and self.every and step % self.every == 0:
            texts = torch.as_tensor(batch["first_row"], device=outputs.pooled_states.device)
            self.of_step.append(outputs.pooled_states.detach()[texts].flatten(0, 1))

    def follow(self) -> torch.Tensor | None:
        """Write what was kept over the slots that it looks at least, and say which; of several processes, the first
        one's texts."""
        if not self.of_step:
            return None
        states = torch.cat(self.of_step)[: max(1, int(LARGEST_SHARE * len(self.memory.keys)))]
        self.of_step = []
        sent = [states.float().cpu()]
        broadcast_object_list(sent, from_process=0)
        states = sent[0].to(self.memory.keys)
        with put_together(self.memory):
            slots = self.memory.least_used(states, len(states))
            self.memory.fill(states, slots)
        for parameter in (self.memory.keys, self.memory.values):
            state = self.optimizer.state.get(parameter, {})
            for name in ("exp_avg", "exp_avg_sq", "momentum_buffer"):  # Adafactor's are of all slots
                if name in state:
                    moments = whole(state[name])
                    moments[slots] = 0
                    put(state[name], moments)
        return slots
