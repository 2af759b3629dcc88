"""A run and its memory: held, planned before the model is made, refused where it would not fit.

In    a TrainConfig, its data, the accelerator.
Out   a MemoryPlan and its limit, or DoesNotFit (exit code 3).
Run   through training/train.py; `python -m training.memory` asks without a run.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from preprocessing.errors import DoesNotFit, UserError
from preprocessing.memory_room import most_resident
from redheart_hf import RedHeartConfig
from redheart_hf.losses import label_counts, terms_of
from training.batch_plan import BatchPlan
from training.collator import Collator
from training.config import TrainConfig
from training.data import RunData
from training.disk_room import saves_of
from training.held_memory import hold_memory
from training.inference import BATCH_SIZE
from training.memory_kinds import GPU_CONTEXT, KINDS, MemoryPlan
from training.memory_least import refuse_what_never_fits
from training.memory_limits import Limit, limits_of_run, sizes_of
from training.memory_plan import heaviest_groups, plan_memory
from training.memory_save import settle_saving
from training.memory_search import search, suggestions
from training.memory_search_gpu import settle_swap
from training.native import has_compiler
from training.regret_alternatives import Alternatives, alternatives_of
from training.run_facts import check_memory
from training.sharding import is_sharded
from training.weights import batches_of, steps_of

GIB = 2**30
JUDGED = ("acceptability", "preference")  # terms whose labels the SURD head's targets come from


def hold(config: TrainConfig, accelerator: Accelerator) -> None:
    """Holds tensors on the CPU to what they need, or says that they are not.

    And oneDNN, which multiplies in bfloat16, to the last kernels it compiled, and torch to its last ways of calling
    them: each would keep 1,024, one for each shape, so that texts of many lengths cost half a GiB and more.
    """
    on_gpu = accelerator.device.type != "cpu"
    if on_gpu and config.vram_gib is not None:
        _, size = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, config.vram_gib * GIB - GPU_CONTEXT) / size))
    if config.hold_memory == "off" or (on_gpu and config.swap == "off" and config.gpu_layers_ratio is None):
        return
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # read when the first is compiled
        os.environ.setdefault(cache, "16")
    if config.hold_memory == "on" or has_compiler():
        hold_memory()
    else:
        accelerator.print(
            "memory is not held, since there is no C++ compiler here: the run may take more than its plan says"
        )


def refuse_without_gpu(config: TrainConfig, accelerator: Accelerator) -> None:
    """Raises UserError for settings of a GPU where the run has none, or has several processes."""
    asked: dict[str, Any] = {"gpu_layers_ratio": config.gpu_layers_ratio, "vram_gib": config.vram_gib}
    asked["swap"] = "on" if config.swap == "on" else None  # auto is off where there is no GPU
    for name, value in asked.items():
        if value is not None and accelerator.device.type == "cpu":
            raise UserError(
                f"{name} {value} is for a run on a GPU, and none is found here: leave it out to train on the CPU; "
                "`python -m training.memory` plans for a GPU that is elsewhere"
            )
        if value is not None and (accelerator.num_processes > 1 or is_sharded(accelerator)):
            raise UserError(
                f"{name} {value} places the model of one process, and this run has {accelerator.num_processes}"
                f"{', its model cut into pieces' if is_sharded(accelerator) else ''}; leave it out and use FSDP2 "
                "(docs/memory.md), or one process"
            )


def is_planned(config: TrainConfig, accelerator: Accelerator) -> bool:
    """So far one process is, with its whole model."""
    alone = accelerator.num_processes == 1 and not is_sharded(accelerator)
    return config.plan_memory and alone and accelerator.device.type in ("cpu", "cuda")


def limits_of(config: TrainConfig, accelerator: Accelerator) -> dict[str, Limit]:
    on_gpu = accelerator.device.type == "cuda"
    return limits_of_run(config.ram_gib, config.vram_gib, config.memory_fraction, on_gpu)


def refuse_at_once(config: TrainConfig, model_config: RedHeartConfig, accelerator: Accelerator) -> None:
    """Before any data is read, raises DoesNotFit for what could never fit; UserError, where nothing is planned, for a
    model whose weights alone are more than this machine holds."""
    if is_planned(config, accelerator):
        refuse_what_never_fits(config, model_config, limits_of(config, accelerator))
    else:
        check_memory(model_config, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def plan_run(
    config: TrainConfig, model_config: RedHeartConfig, data: RunData, collator: Collator, accelerator: Accelerator
) -> tuple[TrainConfig, MemoryPlan | None, dict[str, Limit]]:
    """The run's config, with `swap` settled; its plan, None where none is made; the limits it is held to. Raises
    DoesNotFit above one of them."""
    if not is_planned(config, accelerator):
        if config.save_async == "auto":
            accelerator.print("save_async auto: off, since this run's memory is not planned")
            config = dataclasses.replace(config, save_async="off")
        if config.swap == "auto" and accelerator.device.type == "cpu":
            return dataclasses.replace(config, swap="off", swap_room_gib=0.0), None, {}
        if config.swap == "auto":
            raise UserError("swap auto goes by the run's plan, and none is made for this run; say on or off")
        return config, None, {}
    device = torch.device("cpu") if accelerator.device.type == "cpu" else accelerator.device  # torchrun says cpu:0
    planned = partial(plan_with, data, collator, model_config, device)
    limits, asked = limits_of(config, accelerator), config.swap
    config, found = settle_swap(config, planned, sizes_of(limits))
    if asked == "auto":
        taken = ", ".join(f"{plan.peak / GIB:.2f} GiB ({device.upper()})" for device, plan in found.devices.items())
        accelerator.print(f"swap auto: {config.swap}; the run is planned to take {taken}")
    if not found.fits(sizes_of(limits)):
        raise refusal(config, found, limits, planned, model_config.max_length)
    plan = batches_of(data.train, config)
    saves = saves_of(config, plan, steps_of(config, plan))
    return *settle_saving(config, found, sizes_of(limits), saves, accelerator.print), limits


def plan_with(
    data: RunData, collator: Collator, model_config: RedHeartConfig, device: torch.device, config: TrainConfig
) -> MemoryPlan:
    """The plan of a run with these data and this config."""
    plan = batches_of(data.train, config)
    steps, together = steps_of(config, plan), config.update_in_backward
    alternatives = alternatives_of(data.train, config, model_config)
    groups = heaviest_groups(plan, steps, data.train, collator, together, alternatives)
    longest = np.argsort(data.train["length"])[-BATCH_SIZE:]
    judged = collator([data.train[int(row)] for row in longest]) if data.dev else None
    taught = taught_terms(plan, data, collator, model_config, alternatives)
    found = plan_memory(config, model_config, groups, taught, judged, device)
    found.devices["cpu"].phases["read"] = most_resident()
    return found


def refusal(
    config: TrainConfig,
    plan: MemoryPlan,
    limits: Mapping[str, Limit],
    planned: Callable[[TrainConfig], MemoryPlan],
    max_length: int,
) -> DoesNotFit:
    """What it would take, what there is, and the settings nearest to it that fit: texts stay whole."""
    lines = []
    for device, limit in limits.items():
        of_device = plan.devices[device]
        kinds = ", ".join(f"{kind} {getattr(of_device, kind) / GIB:.2f}" for kind in KINDS)
        lines.append(
            f"this run would take {of_device.peak / GIB:.2f} GiB of the {device.upper()}'s memory "
            f"({of_device.peak_phase}), and may take {limit.size / GIB:.2f} ({limit.said}): {kinds}."
        )
    found = search(config, plan, sizes_of(limits), planned, max_length, wanted=2, shortest=max_length)
    advice = ["These settings fit, the least costly first:", *(f"  {line}" for line in suggestions(found))]
    none = ["No settings were found that fit; a smaller preset or model.max_length may"]
    return DoesNotFit("\n".join([*lines, "Nothing was begun.", *(advice if found else none)]))


def taught_terms(
    plan: BatchPlan, data: RunData, collator: Collator, model_config: RedHeartConfig, alternatives: Alternatives | None
) -> list[str]:
    """Terms of the loss that any reader's records have labels for, as its first batch of them shows."""
    taught = set()
    for rows in plan.members.values():
        records = [data.train[int(row)] for row in rows[:BATCH_SIZE]]
        batch = collator(alternatives.widest(records) if alternatives else records)
        taught |= {term for term, count in label_counts(batch["labels"], 1).items() if count}
    if taught & set(JUDGED):
        taught.add("surd")
    return [term for term in terms_of(model_config) if term in taught]
