"""Whether checkpoints are written beside the steps: where the plan of the run's memory has room for the copy.

In    save_async, the run's plan and its limits, how often it saves.
Out   the config with save_async settled, the plan with the copy in it; DoesNotFit where it is asked for without room.
Run   through training/memory_run.py
"""

import dataclasses
from collections.abc import Callable, Mapping

from preprocessing.errors import DoesNotFit
from training.config import TrainConfig
from training.memory_kinds import MemoryPlan

GIB = 2**30


def settle_saving(
    config: TrainConfig, plan: MemoryPlan, limits: Mapping[str, int], saves: int, say: Callable[[str], None]
) -> tuple[TrainConfig, MemoryPlan]:
    """`plan`, which fits, is without the copy; the last save of a run has no steps beside it, and makes none."""
    if config.save_async == "off" or saves < 2:
        return dataclasses.replace(config, save_async="off"), plan
    beside = plan.beside_a_save()
    if beside.fits(dict(limits)):
        return dataclasses.replace(config, save_async="on"), beside
    cpu, limit = beside.devices["cpu"], limits["cpu"]
    said = (
        f"with a copy of weights and moments ({cpu.snapshot / GIB:.2f} GiB) the run would take {cpu.peak / GIB:.2f} "
        f"GiB ({cpu.peak_phase}), and may take {limit / GIB:.2f}"
    )
    if config.save_async == "on":
        raise DoesNotFit(f"save_async on: {said}. Nothing was begun; this fits: --save_async off")
    say(f"save_async auto: off; {said}")
    return dataclasses.replace(config, save_async="off"), plan
