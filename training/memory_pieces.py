"""What each process takes of a run whose model is cut into pieces over many GPUs (FSDP2), and each machine beside.

In    a recipe and fields of it, as training/memory.py takes them; --processes of all machines, --per-machine.
Out   a table, or one JSON object with --json: bytes of one process's device by kind and the most of each phase, of a
      machine's main memory, and what travels to and from each process in a step; whether a GPU of --vram-gib holds it.
Run   python -m training.memory_pieces --preset redheart-6.8b --batch-size 8 --processes 8 --vram-gib 80
      python -m training.memory_pieces --preset redheart-6.8b --processes 1000 --per-machine 8 --vram-gib 80 --json

The plan of one process (training/memory_plan.py) says what a step keeps and makes; what rests is divided by the
processes, and to that comes what is gathered while it computes (training/sharding.py says where cuts are). Upper
bounds, by arithmetic: in the backward pass two units are whole at a time, one in use and one on its way, each with its
weights, the buffer they came in, its gradients and the buffer they leave in; what is not cut (heads) is whole from
the beginning of a step to its end. With --offload, as in training/launch/fsdp2_offload.yaml, what rests lies in main
memory. Without --vram-gib the processes are on CPUs.

Exit codes: 0 it fits or no GPU was named, 2 something you can mend, 3 it does not fit.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any

import torch

from preprocessing.errors import DoesNotFit, UserError, run
from redheart_hf import RedHeartForMultiTask
from redheart_hf.configuration_redheart import RedHeartConfig
from training.build import model_config_of
from training.config import TrainConfig
from training.memory import GIB, parse_arguments, plan_of
from training.memory_kinds import GPU_CONTEXT, KERNELS, DevicePlan
from training.sharding import wrong_with_pieces

FLOAT = 4
"""Bytes of a number that rests or travels: float32 (training/sharding.py)."""


@dataclass(frozen=True)
class Pieces:
    """Bytes. `resting` to `process`: of one process's device, by kind; `phases`: the most of everything in each."""

    resting: int
    gathered: int
    activations: int
    process: int
    phases: dict[str, int]
    main_memory: dict[str, int]
    """Of a machine: while its processes make the model, each the whole of it, and while the first one saves."""
    travels: int
    """Bytes that each process receives a step, and as many that it sends, with one micro-batch."""

    @property
    def peak(self) -> int:
        return max(self.phases.values())


def cut_of(model_config: RedHeartConfig) -> tuple[int, int, int]:
    """Numbers of all parameters, of the largest part that is cut out, and of what is not cut."""
    with torch.device("meta"):
        model = RedHeartForMultiTask(model_config)
    kinds = {name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    cut = [part for part in model.modules() if type(part).__name__ in kinds]
    cut.append(model.get_input_embeddings())
    sizes = [sum(parameter.numel() for parameter in part.parameters()) for part in cut]
    numbers = sum(parameter.numel() for parameter in model.parameters())
    return numbers, max(sizes), numbers - sum(sizes)


def pieces_of(
    plan: DevicePlan, context: int, numbers: tuple[int, int, int], processes: int, per_machine: int, offload: bool
) -> Pieces:
    """`plan`: of one process that does the whole on the device in question; `context`: what of it is no tensor."""
    every, unit, uncut = (FLOAT * size for size in numbers)
    held = plan.weights + plan.gradients + plan.optimizer
    resting = -(-held // processes)
    in_forward, in_backward = uncut + 3 * unit, 2 * uncut + 6 * unit
    updating = max(0, plan.phases["update"] - held - context) // processes
    here = 0 if offload else resting
    phases = {
        "forward": here + plan.activations + in_forward + context,
        "backward": here + plan.activations + in_backward + context,
        "update": here + (0 if offload else updating) + uncut + context,
    }
    beside = per_machine * resting if offload else 0
    main_memory = {
        "load": per_machine * every,
        "step": beside + (per_machine * updating if offload else 0),
        "save": beside + plan.weights + plan.optimizer,
    }
    travels = (3 * every) * (processes - 1) // processes  # weights to the forward and the backward pass, gradients out
    return Pieces(here, in_backward, plan.activations, context, phases, main_memory, travels)


def as_text(pieces: Pieces, config: TrainConfig, processes: int, per_machine: int) -> str:
    kinds = {name: getattr(pieces, name) for name in ("resting", "gathered", "activations", "process")}
    lines = ["each process", f"{'':<14}{'GiB':>9}", *(f"{name:<14}{size / GIB:9.3f}" for name, size in kinds.items())]
    lines += ["", "the most of everything at one time, by phase"]
    lines += [f"{name:<14}{size / GIB:9.3f}" for name, size in pieces.phases.items()]
    lines += ["", f"main memory of a machine with {per_machine} of them"]
    lines += [f"{name:<14}{size / GIB:9.3f}" for name, size in pieces.main_memory.items()]
    records = config.batch_size * processes * config.gradient_accumulation_steps
    lines += ["", f"{records:,} records a step; to and from each process {pieces.travels / GIB:.2f} GiB a micro-batch"]
    return "\n".join(lines)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, argparse.Namespace, TrainConfig]:
    parser = argparse.ArgumentParser(
        prog="python -m training.memory_pieces",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--processes", type=int, required=True, metavar="N", help="of all machines: one a GPU")
    parser.add_argument(
        "--per-machine", type=int, metavar="N", help="of each machine (8, or all where they are fewer)"
    )
    parser.add_argument("--offload", action="store_true", help="what rests lies in main memory")
    own, rest = parser.parse_known_args(arguments)
    own.per_machine = own.per_machine or min(8, own.processes)
    if own.processes < 1 or own.per_machine < 1 or own.processes % own.per_machine:
        raise UserError(
            f"--processes {own.processes} are to be shared out evenly over machines of --per-machine {own.per_machine}"
        )
    asked, config = parse_arguments(rest)
    return own, asked, config


def main() -> None:
    own, asked, config = parse(sys.argv[1:])
    if wrong := wrong_with_pieces(config):
        raise UserError(f"in pieces, {wrong[0]}")
    plan = plan_of(config, asked.alternatives)
    device = plan.devices.get("gpu", plan.devices["cpu"])
    context = GPU_CONTEXT if "gpu" in plan.devices else device.process + KERNELS[config.mixed_precision]
    numbers = cut_of(model_config_of(config))
    pieces = pieces_of(device, context, numbers, own.processes, own.per_machine, own.offload)
    fits = config.vram_gib is None or pieces.peak <= config.vram_gib * GIB
    if asked.json:
        result: dict[str, Any] = vars(pieces) | {"peak": pieces.peak, "fits": fits}
        print(json.dumps(result, indent=2))
    else:
        print(as_text(pieces, config, own.processes, own.per_machine))
        if config.vram_gib is not None:
            print(f"{pieces.peak / GIB:.2f} GiB {'fits' if fits else 'does NOT fit'} in {config.vram_gib:.2f} GiB")
    sys.exit(0 if fits else DoesNotFit.exit_code)


if __name__ == "__main__":
    run(main)
