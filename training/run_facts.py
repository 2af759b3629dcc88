"""This machine: the precision it is made for, what it has room for, and what a run's bits depend on beyond its config.

In    a device; a model's config.
Out   the precision for `auto`; a dictionary for the checkpoint; a warning when a resumed run's bits may differ; an
      error for a model that is too large.
Run   `python -c "import torch; from training.run_facts import numerics; print(numerics(torch.device('cpu')))"`
"""

import os
import warnings
from typing import Any, Literal

import torch
import transformers

from preprocessing.errors import UserError
from redheart_hf import RedHeartConfig
from redheart_hf.presets import parameters_by_module

PREFLIGHT = "preflight.json"


def native_precision() -> Literal["bf16", "no"]:
    """bf16 where the device at hand multiplies in it, no (float32) elsewhere."""
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = any(has and name.endswith("bf16") for name, has in torch.cpu.get_capabilities().items())
    return "bf16" if native else "no"


def numerics(device: torch.device) -> dict[str, Any]:
    """What must be equal for two runs to agree bit for bit."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:  # two processors with AVX512 may still sum in another order: their names tell them apart
        name = f"{torch.cpu.get_capabilities().get('cpu_name')} {torch.backends.cpu.get_cpu_capability()}"
    return {
        "device": device.type,
        "processor": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def check_memory(config: RedHeartConfig, processes: int = 1) -> None:
    """Raises UserError when the weights alone, in float32, are more than this machine's memory holds: each of its
    processes makes the model."""
    parameters = sum(parameters_by_module(config).values())
    needed, there = (
        processes * 4 * parameters / 2**30,
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
    )
    if needed > there:
        raise UserError(
            f"a model of {parameters:,} parameters takes {needed:.1f} GiB in float32"
            f"{f' in {processes} processes' if processes > 1 else ''}, and this machine has {there:.1f} GiB; make it "
            "smaller"
        )


def warn_when_bits_may_differ(saved: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [f"{name} {saved.get(name)} -> {now[name]}" for name in now if saved.get(name) != now[name]]
    if changed:
        warnings.warn(
            f"resuming with other arithmetic than the checkpoint's ({', '.join(changed)}): the run is as good, but "
            "its bits may differ from an uninterrupted one",
            stacklevel=2,
        )
