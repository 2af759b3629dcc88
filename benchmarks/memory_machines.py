"""Which presets train on which machines, and with what settings: found by planning, on any machine.

In    nothing; presets and machines are named here. No GPU is needed, and nothing is trained.
Out   a table in Markdown: the settings that fit and cost least in predicted time; what they are planned to take.
Run   python benchmarks/memory_machines.py
      python benchmarks/memory_machines.py --presets redheart-200m redheart-330m --batch-size 16

Asked for is AdamW in float32, 8 records of 128 tokens a step, all labels given; what does not fit is changed as
`python -m training.memory --fit` changes it, texts never cut. Of a machine's RAM, some is left to others.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from preprocessing.errors import DoesNotFit, run
from training.build import model_config_of
from training.config import TrainConfig
from training.devices import planned_gpu
from training.memory import plan_of
from training.memory_kinds import MemoryPlan
from training.memory_least import refuse_what_never_fits
from training.memory_limits import limits_of_run, sizes_of
from training.memory_search import fields_of, search

GIB = 2**30
PRESETS = [f"redheart-{size}" for size in ("200m", "330m", "730m", "800m", "1.3b", "4.3b", "6.8b")]
MACHINES: dict[str, tuple[float | None, float]] = {
    "8 GB GPU, 16 GB RAM": (7.45, 13.0),
    "8 GB GPU, 32 GB RAM": (7.45, 28.0),
    "8 GB GPU, 64 GB RAM": (7.45, 58.0),
    "8 GB GPU, 128 GB RAM": (7.45, 118.0),
    "24 GB GPU, 64 GB RAM": (22.35, 58.0),
    "80 GB GPU, 128 GB RAM": (74.5, 118.0),
    "CPU, 16 GB RAM": (None, 13.0),
    "CPU, 24 GB RAM": (None, 21.0),
    "CPU, 64 GB RAM": (None, 58.0),
}
"""GiB of the GPU and of main memory that a run may take."""
PLANS: dict[str, MemoryPlan] = {}


def planned(config: TrainConfig) -> MemoryPlan:
    """One plan for all machines on which a run would be the same; a limit changes nothing in it."""
    fields = asdict(config) | {"ram_gib": 0, "vram_gib": 0 if config.vram_gib else None}
    key = json.dumps(fields, sort_keys=True, default=str)
    if key not in PLANS:
        PLANS[key] = plan_of(config, 0)
    return PLANS[key]


def cell(preset: str, machine: str, batch_size: int, max_length: int) -> str:
    """The settings that fit and what they take; "as asked" where none had to change."""
    vram, ram = MACHINES[machine]
    config = TrainConfig(
        output_dir="planned",
        train=["planned"],
        preset=preset,
        batch_size=batch_size,
        model={"max_length": max_length},
        vram_gib=vram,
        ram_gib=ram,
    )
    limits = limits_of_run(ram, vram, config.memory_fraction, vram is not None)
    asked = planned(config)
    if asked.fits(sizes_of(limits)):
        return f"as asked ({taken(asked)})"
    found = search(config, asked, sizes_of(limits), planned, max_length, wanted=1, shortest=max_length)
    if not found:
        return "no" if never(config, limits) else "none found"
    return f"`{fields_of(found[0].changes)}` ({taken(found[0].plan)}; {found[0].cost:.1f} ×)"


def never(config: TrainConfig, limits) -> bool:
    """Whether arithmetic alone says that what was asked for has no room."""
    try:
        refuse_what_never_fits(config, model_config_of(config), limits)
    except DoesNotFit:
        return True
    return False


def taken(plan: MemoryPlan) -> str:
    return " + ".join(f"{of_device.peak / GIB:.1f}" for _, of_device in sorted(plan.devices.items(), reverse=True))


def lines(presets: list[str], batch_size: int, max_length: int) -> Iterator[str]:
    yield "| | " + " | ".join(preset.removeprefix("redheart-") for preset in presets) + " |"
    yield "|---|" + "---|" * len(presets)
    for machine in MACHINES:
        yield (
            f"| {machine} | " + " | ".join(cell(preset, machine, batch_size, max_length) for preset in presets) + " |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--batch-size", type=int, default=8, help="records a step (%(default)s)")
    parser.add_argument("--max-length", type=int, default=128, help="tokens a record (%(default)s)")
    arguments = parser.parse_args()
    planned_gpu()  # before torch goes through any gradient in this process
    for line in lines(arguments.presets, arguments.batch_size, arguments.max_length):
        print(line, flush=True)


if __name__ == "__main__":
    run(main)
