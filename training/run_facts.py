"""The arithmetic of this machine: which precision it is made for, and on what a run's bits depend beyond its config.

In    a device.
Out   the precision for `auto`; a dictionary for the checkpoint; a warning when a resumed run's bits may differ.
Run   `python -c "import torch; from training.run_facts import numerics; print(numerics(torch.device('cpu')))"`
"""

import warnings
from typing import Any, Literal

import torch
import transformers


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


def warn_when_bits_may_differ(saved: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [f"{name} {saved.get(name)} -> {now[name]}" for name in now if saved.get(name) != now[name]]
    if changed:
        warnings.warn(
            f"resuming with other arithmetic than the checkpoint's ({', '.join(changed)}): the run is as good, but "
            "its bits may differ from an uninterrupted one",
            stacklevel=2,
        )
