"""A run and its memory: held, planned before the model is made, refused where it would not fit.

In    a TrainConfig, its data, the accelerator.
Out   a MemoryPlan and its limit, or DoesNotFit (exit code 3).
Run   through training/train.py; `python -m training.memory` asks without a run.
"""

import os
from collections.abc import Callable
from functools import partial

import numpy as np
from accelerate import Accelerator

from preprocessing.errors import DoesNotFit
from redheart_hf import RedHeartConfig
from redheart_hf.losses import label_counts, terms_of
from training.batch_plan import BatchPlan
from training.collator import Collator
from training.config import TrainConfig
from training.data import RunData
from training.held_memory import hold_memory
from training.inference import BATCH_SIZE
from training.memory_kinds import KINDS, MemoryPlan
from training.memory_least import refuse_what_never_fits
from training.memory_limits import Limit, limit_of_run, most_resident
from training.memory_plan import heaviest_groups, plan_memory
from training.memory_search import search, suggestions
from training.native import has_compiler
from training.run_facts import check_memory

GIB = 2**30
JUDGED = ("acceptability", "preference")  # terms whose labels the SURD head's targets come from


def hold(config: TrainConfig, accelerator: Accelerator) -> None:
    """Holds tensors on the CPU to what they need, or says that they are not.

    And oneDNN, which multiplies in bfloat16, to the last kernels it compiled, and torch to its last ways of calling
    them: each would keep 1,024, one for each shape, so that texts of many lengths cost half a GiB and more.
    """
    if config.hold_memory == "off" or accelerator.device.type != "cpu":
        return
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # read when the first is compiled
        os.environ.setdefault(cache, "16")
    if config.hold_memory == "on" or has_compiler():
        hold_memory()
    else:
        accelerator.print(
            "memory is not held, since there is no C++ compiler here: the run may take more than its plan says"
        )


def is_planned(config: TrainConfig, accelerator: Accelerator) -> bool:
    """So far one process on the CPU is."""
    return config.plan_memory and accelerator.num_processes == 1 and accelerator.device.type == "cpu"


def refuse_at_once(config: TrainConfig, model_config: RedHeartConfig, accelerator: Accelerator) -> None:
    """Before any data is read, raises DoesNotFit for what could never fit; UserError, where nothing is planned, for a
    model whose weights alone are more than this machine holds."""
    if is_planned(config, accelerator):
        refuse_what_never_fits(config, model_config, limit_of_run(config.ram_gib, config.memory_fraction))
    else:
        check_memory(model_config)


def plan_run(
    config: TrainConfig, model_config: RedHeartConfig, data: RunData, collator: Collator, accelerator: Accelerator
) -> tuple[MemoryPlan | None, Limit | None]:
    """The plan of this very run and its limit; raises DoesNotFit above it. None where none is made."""
    if not is_planned(config, accelerator):
        return None, None
    planned = partial(plan_with, data, collator, model_config)
    found, limit = planned(config), limit_of_run(config.ram_gib, config.memory_fraction)
    if found.peak > limit.size:
        raise refusal(config, found, limit, planned, model_config.max_length)
    return found, limit


def plan_with(data: RunData, collator: Collator, model_config: RedHeartConfig, config: TrainConfig) -> MemoryPlan:
    """The plan of a run with these data and this config."""
    plan = BatchPlan(
        data.train["length"],
        data.train["reader"],
        config.batch_size,
        config.seed,
        config.passes,
        config.gradient_accumulation_steps,
        config.bucket_batches,
    )
    steps = config.max_steps or plan.first_step(config.epochs)
    groups = heaviest_groups(plan, steps, data.train, collator, config.update_in_backward)
    longest = np.argsort(data.train["length"])[-BATCH_SIZE:]
    judged = collator([data.train[int(row)] for row in longest]) if data.dev else None
    found = plan_memory(config, model_config, groups, taught_terms(plan, data, collator, model_config), judged)
    found.phases["read"] = most_resident()
    return found


def refusal(
    config: TrainConfig, plan: MemoryPlan, limit: Limit, planned: Callable[[TrainConfig], MemoryPlan], max_length: int
) -> DoesNotFit:
    """What it would take, what there is, and the settings nearest to it that fit: texts stay whole."""
    kinds = ", ".join(f"{kind} {getattr(plan, kind) / GIB:.2f}" for kind in KINDS)
    found = search(config, plan, limit.size, planned, max_length, wanted=2, shortest=max_length)
    advice = ["These settings fit, the least costly first:", *(f"  {line}" for line in suggestions(found))]
    none = ["No settings were found that fit; a smaller preset or model.max_length may"]
    return DoesNotFit(
        f"this run would take {plan.peak / GIB:.2f} GiB ({plan.peak_phase}), and may take "
        f"{limit.size / GIB:.2f} ({limit.said}): {kinds}. Nothing was begun.\n" + "\n".join(advice if found else none)
    )


def taught_terms(plan: BatchPlan, data: RunData, collator: Collator, model_config: RedHeartConfig) -> list[str]:
    """Terms of the loss that any reader's records have labels for, as its first batch of them shows."""
    taught = set()
    for rows in plan.members.values():
        batch = collator([data.train[int(row)] for row in rows[:BATCH_SIZE]])
        taught |= {term for term, count in label_counts(batch["labels"], 1).items() if count}
    if taught & set(JUDGED):
        taught.add("surd")
    return [term for term in terms_of(model_config) if term in taught]
