"""The training loop: forward, compute, update; log, evaluate, save; in that order, on one screen.

In    an Accelerator, a model, an encoded dataset, a collator, a TrainConfig.
Out   trained weights in the model; checkpoints and metrics in output_dir.
Run   through training/train.py.

Everything that decides the next step is a function of (seed, step, process) or is in the checkpoint (run_state.py).
Random numbers (Python's, NumPy's, torch's on every device) are seeded from seed, step and process at the start of each
step, and the data's order follows from seed and epoch. A resumed run therefore repeats the uninterrupted one bit for
bit, and takes up step 1,000,000 as fast as step 10.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from torch import Tensor

from redheart_hf import RedHeartForMultiTask
from redheart_hf.losses import label_counts, multi_task_loss, terms_of
from redheart_hf.modeling_embeddings import TextEncoder
from redheart_hf.outputs import RedHeartOutput
from training.collator import MODEL_INPUTS, Batch, Collator
from training.config import TrainConfig
from training.early_stopping import EarlyStopping, judge
from training.ema import Ema, follow
from training.evaluate import Evaluation
from training.famo import Famo
from training.groups import Groups, StepSums
from training.in_backward import InBackward
from training.moving import move_weights
from training.nonfinite import anomalies_named, broken_loss
from training.optim import TermWeights, build_optimizer, set_learning_rates
from training.placement import Placed
from training.rdrop import first_reading, inputs_of, training_sums
from training.regret_alternatives import Alternatives, alternatives_of
from training.regret_pool_memory import tensors_of
from training.run_log import LossMeans, RunLog
from training.run_state import save_run, saving_is_due
from training.saving import Saver
from training.scenario_slots import ScenarioSlots
from training.sharding import is_sharded, shared
from training.signals import Ending
from training.surd_targets import SurdTargets, teaches_surd
from training.watchdog import Watchdog
from training.weights import batches_of, steps_of


class TrainLoop:
    """One run. `train` goes from the step the loop is at to the last one."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: RedHeartForMultiTask,
        dataset: Dataset,
        collator: Collator,
        config: TrainConfig,
        evaluate: Callable[[], Evaluation] | None = None,
    ):
        self.accelerator, self.config, self.dataset, self.evaluate = accelerator, config, dataset, evaluate
        self.collator, self.output_dir = collator, Path(config.output_dir)
        self.plan = batches_of(dataset, config, accelerator.process_index, accelerator.num_processes)
        self.total_steps = steps_of(config, self.plan)
        config.refuse_idle_encoder(self.total_steps)
        self.bare_model, self.terms = model, terms_of(model.config)
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable()
        self.placed = self.place(model)
        self.model, self.optimizer, self.shares = shared(accelerator, model, build_optimizer(model, config))
        if self.shares is not None:
            self.placed.cast_everywhere(model, config.mixed_precision)
        self.in_backward: InBackward | None = None
        if config.update_in_backward:
            self.in_backward = InBackward(model, self.optimizer.optimizer, config.clipping, config.max_grad_norm)
        self.ema = Ema(model, config.ema_decay) if config.ema_decay else None
        self.stopping = EarlyStopping(config.early_stopping_patience, config.early_stopping_min_delta)
        self.term_weights = Famo(config) if config.loss_weighting == "famo" else TermWeights(config)
        self.loss_means = LossMeans()
        self.surd_targets = SurdTargets(teaches_surd(config, self.terms))
        own_weights_stay = not config.update_weights or model.config.adapters is not None
        refresh_steps = 0 if own_weights_stay else config.memory_refresh_steps
        self.scenario_slots = ScenarioSlots(model, self.optimizer, refresh_steps)
        self.step, self.skipped_steps, self.skipped_in_a_row, self.metrics_bytes = 0, 0, 0, 0
        self.judged: tuple[int, Evaluation] | None = None  # what the last evaluation found, and after which step
        self.norms: dict[str, float | None] = {}  # of gradients by module, in a step that is logged
        self.watchdog: Watchdog | None = None  # set while memory is watched
        self.ending: Ending | None = None  # set while signals are listened to
        self.saver = Saver(config.save_async == "on")

    # ---------------------------------------------------------------- the way of a step

    def train(self) -> None:
        active = self.accelerator.is_main_process
        given = (self.output_dir, self.step, self.total_steps, self.metrics_bytes, active, self.config.trackers)
        with closing(RunLog(*given)) as log, closing(self.groups()) as groups, self.saver:  # type: ignore[type-var]
            self.take_steps(log, groups)

    def is_logged(self, step: int) -> bool:
        return step % self.config.log_steps == 0 or step == self.total_steps

    def take_steps(self, log: RunLog, groups: Iterator[list[Batch]]) -> None:
        """Every step still to come; what is logged, evaluated and saved after it, in this order."""
        self.model.train()
        started = time.perf_counter()
        for group in groups:
            set_seed(self.seed_of_step())
            losses, numbers = self.take_step(group)
            self.step += 1
            log.advance(losses["total"])
            if logs := self.is_logged(self.step):
                log.write(self.step, {"loss": self.loss_means.take()} | numbers)
            if self.evaluate and (self.step == self.total_steps or self.evaluation_is_due()):
                judge(self, log)
            self.saver.raise_failure()
            if saving_is_due(self):
                save_run(self, log)
            if logs:
                seconds = time.perf_counter() - started
                started += seconds
                log.write_timings(self.step, {"seconds": seconds} | self.placed.figures() | self.loaded.take_figures())
            if self.ending is not None:
                self.ending.obey(self, log)
            if self.is_over:
                break
            if self.watchdog is not None:
                self.watchdog.obey(self, log)

    def take_step(self, group: list[Batch]) -> tuple[dict[str, float], dict[str, Any]]:
        """One optimizer step over the micro-batches of `group`: the gradient of one large batch."""
        self.surd_targets.label(group)
        counts = self.count_labels(group)
        self.term_weights.begin(self, group, counts)
        way = self.go_through if self.in_backward is None else partial(self.in_backward.go_through, self)
        with anomalies_named(self.step, group):
            sums = way(group, counts)
        losses, numbers = self.update(sums, counts, group)
        self.term_weights.end(self, group, counts)
        follow(self, self.scenario_slots.follow())
        return losses, numbers | self.surd_targets.follow(self.step + 1)

    def go_through(self, group: list[Batch], counts: dict[str, float]) -> StepSums:
        """The losses and gradients of one micro-batch after another."""
        sums = self.no_sums()
        for index, batch in enumerate(group):
            last = index == len(group) - 1
            with nullcontext() if last or self.shares is not None else self.accelerator.no_sync(self.model):
                outputs = self.forward(batch)
                loss, terms = self.compute(outputs, batch, counts)
                self.backward(loss)
            sums.add(terms, outputs)
            self.see(outputs, batch)
        if self.shares is not None:
            self.shares.drop_unused()
        return sums

    def forward(self, batch: Batch) -> RedHeartOutput:
        embeddings = self.bare_model.model.embeddings
        if isinstance(embeddings, TextEncoder):
            embeddings.held = self.step < self.config.text_encoder_start
        return self.model(**inputs_of({name: batch[name] for name in MODEL_INPUTS if name in batch}, self.config))

    def compute(self, outputs, batch: Batch, counts: dict[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one micro-batch, and the sum of each of its terms."""
        sums = training_sums(outputs, batch["labels"], self.bare_model.config, self.config)
        factors = self.term_weights.factors_of(self, sums, counts, batch)
        loss, _ = multi_task_loss(sums, counts, factors, self.bare_model.config)
        return loss, sums

    def backward(self, loss: Tensor) -> None:
        """DistributedDataParallel averages gradients over processes, where we want their sum: hence the factor."""
        self.accelerator.backward(loss * self.accelerator.num_processes)

    def see(self, outputs: RedHeartOutput, batch: Batch) -> None:
        """What is remembered of a micro-batch until the step is over."""
        outputs = first_reading(outputs, self.config)
        self.surd_targets.see(outputs, batch["labels"])
        self.scenario_slots.see(outputs, batch, self.step + 1)

    def update(self, step_sums: StepSums, counts, group) -> tuple[dict[str, float], dict[str, Any]]:
        """Check, clip, move: optimizer, then the terms' weights and the router's bias."""
        sums, losses = self.losses_of(step_sums, counts, group)
        factors, config = self.term_weights.factors(), self.bare_model.config
        total = self.term_weights.objective(losses, config)
        learning_rate = set_learning_rates(self.optimizer, self.config, self.step, self.total_steps)
        norm = move_weights(self, group) if self.in_backward is None else self.in_backward.end()
        self.loss_means.add(sums | {"total": total}, counts | {"total": 1.0})
        load = self.accelerator.reduce(step_sums.router_load, reduction="sum")
        if self.config.update_weights:
            self.term_weights.update(losses)
            self.bare_model.update_router_bias(load)
            self.placed.weights_moved()
        by_module = self.norms if self.in_backward is None else self.in_backward.norms_by_module()
        numbers = {
            "learning_rate": learning_rate,
            "gradient_norm": norm if math.isfinite(norm) else None,
            "gradient_norms": by_module,
            "skipped_steps": self.skipped_steps,
            "weights": {term: factor for term, factor in factors.items() if term in losses},
            "router_load": (load / load.sum()).tolist(),
        }
        return losses | {"total": total}, numbers

    # ---------------------------------------------------------------- what a step needs

    @property
    def is_over(self) -> bool:
        return self.step >= self.total_steps or self.stopping.stopped

    def no_sums(self) -> StepSums:
        return StepSums(torch.zeros(self.bare_model.config.num_experts, device=self.placed.last))

    def place(self, model: RedHeartForMultiTask) -> Placed:
        device = self.accelerator.device
        if device.type == "cuda" and device.index is None:  # as tensors that are there say it
            device = torch.device("cuda", torch.cuda.current_device())
        return Placed(model, self.config, device, stays=is_sharded(self.accelerator))

    def groups(self) -> Iterator[list[Batch]]:
        """Micro-batches of the steps still to come, in their places."""
        apart = partial(tensors_of, self.bare_model, self.optimizer)
        given = (self.dataset, self.plan, self.collator, self.config, self.placed, self.alternatives(), apart)
        self.loaded = Groups(*given)
        return self.loaded.load_groups(range(self.step, self.step if self.is_over else self.total_steps))

    def alternatives(self) -> Alternatives | None:
        return alternatives_of(self.dataset, self.config, self.bare_model.config)

    def evaluation_is_due(self) -> bool:
        every = self.config.eval_steps
        return self.step % every == 0 if every else self.plan.ends_epoch(self.step)

    def seed_of_step(self) -> int:
        """A number below 2^31, different for each (seed, step, process) in reach."""
        seed = (self.config.seed * 1_000_003 + self.step) * 1_009 + self.accelerator.process_index
        return seed % (2**31 - 1)

    def count_labels(self, group: list[Batch]) -> dict[str, float]:
        """Labels per term in the whole group, over all processes: known before the first forward."""
        of_batches = [label_counts(batch["labels"], len(batch["input_ids"])) for batch in group]
        local = torch.tensor([sum(counts[term] for counts in of_batches) for term in self.terms], dtype=torch.float32)
        reduced = self.accelerator.reduce(local.to(self.accelerator.device), reduction="sum")
        return dict(zip(self.terms, reduced.tolist(), strict=True))

    def losses_of(self, sums: StepSums, counts, group) -> tuple[dict[str, float], dict[str, float]]:
        """Each labelled term's sum and mean over the whole group and all processes; raises for one not finite."""
        zero = torch.zeros((), device=self.placed.last)
        stacked = torch.stack([sums.of_terms.get(term, zero).float() for term in self.terms])
        reduced = self.accelerator.reduce(stacked, reduction="sum").tolist()
        found = {term: value for term, value in zip(self.terms, reduced, strict=True) if counts[term]}
        losses = {term: value / counts[term] for term, value in found.items()}
        if broken := {term: loss for term, loss in losses.items() if not math.isfinite(loss)}:
            raise broken_loss(self.step, broken, group)
        return found, losses
