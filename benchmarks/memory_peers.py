"""What other estimators say a training step takes, of the very runs whose memory benchmarks/memory_plan.py measures.

In    from standard input fields of TrainConfigs as JSON, a line each, with the data and tokenizer that they name.
Out   for each a line of JSON: of each estimator `tensors`, the bytes of tensors it predicts, and `seconds`, the
      processor's for the estimate alone (imports and data left out); or `why` there is none.
Run   python benchmarks/memory_peers.py plan accelerate memtracker < configs.jsonl

`plan` is this project's own, for its seconds. `accelerate` is what `accelerate estimate-memory` computes, on our
model: the greatest of estimate_training_usage's numbers for float32, or for float16, which stands for all mixed
precision there. It knows the weights alone, and Adam. `memtracker` is the peak of PyTorch's MemTracker
(torch.distributed._tools) over two steps of the same model, optimizer and batch: forward, loss, backward, clipping,
update, on fake tensors of the CPU. Neither counts an interpreter, nor what kernels take.

Fake tensors alone stop at the first value that the model asks for (`memtracker_alone`: DataDependentOutputException),
so the ledger of this project's plan answers such questions here too; what is counted is MemTracker's.
"""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from preprocessing.errors import UserError, run
from redheart_hf import RedHeartForMultiTask
from redheart_hf.losses import label_counts, loss_sums, multi_task_loss
from training.adamw_8bit import AdamW8bit
from training.batch_plan import BatchPlan
from training.build import build_accelerator, read_architecture
from training.collator import MODEL_INPUTS, Batch, Collator
from training.config import TrainConfig
from training.creation import create_model
from training.data import prepare_data
from training.inference import autocast
from training.memory_ledger import Ledger
from training.memory_plan import heaviest_groups
from training.memory_run import plan_with
from training.optim import TermWeights, build_optimizer

LIMIT = 600
STEPS = 2  # the first makes the optimizer's states


class CannotFollow(Exception):
    """What an estimator has no way to see."""


class Run:
    """A run's config, model config and data, read as training/train.py reads them."""

    def __init__(self, config: TrainConfig):
        self.config = config
        build_accelerator(config)
        tokenizer, self.model_config = read_architecture(config)
        self.data = prepare_data(config, self.model_config, tokenizer, write=False)
        self.collator = Collator(tokenizer)

    def heaviest_batch(self) -> Batch:
        config, train = self.config, self.data.train
        plan = BatchPlan(train["length"], train["reader"], config.batch_size, config.seed)
        return heaviest_groups(plan, config.max_steps or 1, train, self.collator)[0][0]


def by_plan(asked: Run) -> int:
    found = plan_with(asked.data, asked.collator, asked.model_config, asked.config)
    return found.peak - found.process


def by_accelerate(asked: Run) -> int:
    """Of a float32 model on the meta device, as accelerate.commands.estimate.gather_data makes it."""
    from accelerate import init_empty_weights
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes

    with init_empty_weights():
        model = RedHeartForMultiTask(asked.model_config)
    total, _ = calculate_maximum_sizes(model)
    dtype = "float32" if asked.config.mixed_precision == "no" else "float16"
    return max(estimate_training_usage(total, dtype).values())


def by_memtracker_alone(asked: Run) -> int:
    return track(asked, FakeTensorMode(allow_non_fake_inputs=True))


def by_memtracker(asked: Run) -> int:
    return track(asked, Ledger())


def track(asked: Run, pretence: Any) -> int:
    """Raises CannotFollow, or what MemTracker and fake tensors raise."""
    from torch.distributed._tools.mem_tracker import MemTracker

    config, batch = asked.config, asked.heaviest_batch()
    tracker, cpu = MemTracker(), torch.device("cpu")
    with pretence:
        model = create_model(asked.model_config, config.weight_precision)
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable()
        optimizer = build_optimizer(model, config)
        if isinstance(optimizer, AdamW8bit):  # tried: it writes to the address of a fake tensor, and the process ends
            raise CannotFollow("a compiled kernel, and so no update in the backward pass")
        tracker.track_external(model, optimizer)
        model.train()
        pretence.computes = True
        with tracker:
            for _ in range(STEPS):
                tracker.reset_mod_stats()
                pretence.answer = False
                with autocast(cpu, config.mixed_precision):
                    outputs = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
                loss_of(outputs, batch, model, config).backward()
                pretence.answer = True
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                del outputs
    return tracker.get_tracker_snapshot("peak")[cpu]["Total"]


def loss_of(outputs: Any, batch: Batch, model: RedHeartForMultiTask, config: TrainConfig) -> torch.Tensor:
    sums = loss_sums(outputs, batch["labels"], model.config)
    counts = {name: float(count) for name, count in label_counts(batch["labels"], len(batch["input_ids"])).items()}
    return multi_task_loss(sums, counts, TermWeights(config).factors(), model.config)[0]


ESTIMATORS = {
    "plan": by_plan,
    "accelerate": by_accelerate,
    "memtracker": by_memtracker,
    "memtracker_alone": by_memtracker_alone,
}


def estimate(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own, which is ended after `LIMIT` seconds of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        process = os.fork()
        if process == 0:
            signal.setitimer(signal.ITIMER_PROF, LIMIT)  # a busy machine takes nobody's answer away
            found: dict[str, Any] = {}
            try:
                asked = Run(TrainConfig(output_dir=folder, **config))
                started = time.process_time()
                found |= {"tensors": ESTIMATORS[name](asked), "seconds": time.process_time() - started}
            except Exception as error:  # whatever it is, it is why there is no answer
                found |= {"why": f"{type(error).__name__}: {error}"}
            answer.write_text(json.dumps(found))
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if answer.exists():
            return json.loads(answer.read_text())
        why = signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else status
        return {"why": f"time limit of {LIMIT} s" if why == signal.SIGPROF else f"ended by {why!s}"}


def main() -> None:
    names = sys.argv[1:]
    if not names or set(names) - set(ESTIMATORS):
        raise UserError(f"name estimators, of {', '.join(ESTIMATORS)}; got {names}")
    for line in sys.stdin.read().splitlines():  # at once: a fork shares its place in the file
        print(json.dumps({name: estimate(name, json.loads(line)) for name in names}), flush=True)


if __name__ == "__main__":
    run(main)
