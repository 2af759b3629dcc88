"""What each process takes of a run whose model is cut into pieces over many GPUs (FSDP2), and each machine beside.

In    a recipe and fields of it, as training/memory.py takes them; --processes of all machines, --per-machine.
Out   a table, or one JSON object with --json: bytes of one process by kind and the most of each phase, of a machine's
      main memory, and what travels to and from each process in a step; whether it fits in --vram-gib and --ram-gib.
Run   python -m training.memory_pieces --preset redheart-6.8b --batch-size 8 --processes 8 --vram-gib 80
      python -m training.memory_pieces RECIPE --processes 1000 --per-machine 8 --vram-gib 80 --ram-gib 500 --json

The plan of one process (training/memory_plan.py) says what a step keeps and makes; what rests is divided by the
processes, rows of a tensor being filled up to a multiple of them, and to it comes what is gathered while it computes
(training/sharding.py says where cuts are). Upper bounds, by arithmetic: in the backward pass weights of two units, one
in use and one on its way, the buffers they came in, gradients of two, and the buffer one of them leaves in; what is
not cut (heads) with its gradients from the beginning of a step to its end. --offload: what rests lies in main memory,
as in training/launch/fsdp2_offload.yaml. Without --vram-gib the processes are on CPUs.

Exit codes: 0 it fits, or no limit was given; 2 something you can mend; 3 it does not fit.
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import nn

from preprocessing.errors import DoesNotFit, UserError, run
from redheart_hf import RedHeartForMultiTask
from training.build import model_config_of
from training.config import TrainConfig
from training.memory import GIB, parse_arguments, plan_of
from training.memory_kinds import GPU_CONTEXT, KERNELS
from training.sharding import cut_at, wrong_with_pieces

FLOAT = 4
"""Bytes of a number that rests or travels: float32 (training/sharding.py)."""
NO_GRADIENT_STAYS: dict[str, Any] = {
    "update_in_backward": True,
    "optimizer": "adamw_8bit",
    "clipping": "previous_norm",
}
"""How one process computes with gradients that go as they come, as they do in pieces."""
IN_FORWARD, IN_BACKWARD = 4, 7
"""Units that are there whole at one time, as weights, gradients or the buffer of either."""


@dataclass(frozen=True)
class Cut:
    """Bytes of a model's weights, filled up for so many processes: all, the largest that is cut out, what is not."""

    every: int
    unit: int
    uncut: int
    filling: float
    """`every` over what it was before."""


@dataclass(frozen=True)
class Pieces:
    """Bytes of one process, but for `main_memory`, which is a machine's."""

    resting: int
    gathered: int
    working: int
    process: int
    phases: dict[str, int]
    main_memory: dict[str, int]
    travels: int
    """To it a step, and as many from it, with one micro-batch."""

    @property
    def peak(self) -> int:
        return max(self.phases.values())


def cut_of(model: RedHeartForMultiTask, processes: int) -> Cut:
    def bytes_of(part: nn.Module) -> int:
        shapes = [tuple(parameter.shape) or (1,) for parameter in part.parameters()]
        return FLOAT * sum(-(-rows // processes) * processes * prod(rest) for rows, *rest in shapes)

    kinds = cut_at(model)
    parts = [part for part in model.modules() if type(part).__name__ in kinds]
    sizes = [bytes_of(part) for part in (*parts, model.get_input_embeddings())]
    every = bytes_of(model)
    plain = FLOAT * sum(parameter.numel() for parameter in model.parameters())
    return Cut(every, max(sizes), every - sum(sizes), every / plain)


def pieces_of(config: TrainConfig, actions: int, processes: int, per_machine: int, offload: bool) -> Pieces:
    """Of a run whose records have so many `actions`, all labels given."""
    with torch.device("meta"):
        cut = cut_of(RedHeartForMultiTask(model_config_of(config)), processes)
    alone = replace(config, gradient_accumulation_steps=1, swap="off")
    whole = plan_of(alone, actions)
    step = plan_of(replace(alone, **NO_GRADIENT_STAYS), actions, torch.device("cpu")).devices["cpu"]
    device = "gpu" if "gpu" in whole.devices else "cpu"
    plan, on_cpu = whole.devices[device], step.process + KERNELS[config.mixed_precision]
    context = GPU_CONTEXT if device == "gpu" else on_cpu
    held, stays = plan.weights + plan.gradients + plan.optimizer, step.weights + step.optimizer + on_cpu
    resting = int(held * cut.filling / processes)
    updating = max(0, plan.phases["update"] - held - context) // processes
    there = 0 if offload else resting
    gathered = {"forward": cut.uncut + IN_FORWARD * cut.unit, "backward": 2 * cut.uncut + IN_BACKWARD * cut.unit}
    working = {phase: max(0, step.phases[phase] - stays) for phase in gathered}
    phases = {phase: context + there + gathered[phase] + working[phase] for phase in gathered}
    phases["update"] = context + there + cut.uncut + (0 if offload else updating)
    beside = per_machine * resting if offload else 0
    main_memory = {
        "load": per_machine * whole.devices["cpu"].phases["load"],
        "step": beside + per_machine * updating if offload else per_machine * whole.devices["cpu"].process,
        "save": beside + plan.weights + plan.optimizer,
    }
    if device == "cpu":
        main_memory["step"] = per_machine * max(phases.values())
    travels = 3 * cut.every * (processes - 1) // processes  # weights forward and backward, gradients out
    most = max(gathered, key=lambda phase: phases[phase])
    return Pieces(there, gathered[most], working[most], context, phases, main_memory, travels)


def as_text(pieces: Pieces, config: TrainConfig, processes: int, per_machine: int) -> str:
    kinds = {name: getattr(pieces, name) for name in ("resting", "gathered", "working", "process")}
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
        usage="%(prog)s [RECIPE] [--field value ...] --processes N [--per-machine N] [--offload] [--json]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--processes", type=int, required=True, metavar="N", help="of all machines: one a GPU")
    parser.add_argument("--per-machine", type=int, metavar="N", help="of each machine (8, or all if fewer)")
    parser.add_argument("--offload", action="store_true", help="what rests lies in main memory")
    own, rest = parser.parse_known_args(arguments)
    own.per_machine = min(8, own.processes) if own.per_machine is None else own.per_machine
    if own.processes < 1 or own.per_machine < 1:
        raise UserError(f"--processes and --per-machine are at least 1, got {own.processes} and {own.per_machine}")
    if own.processes % own.per_machine:
        raise UserError(
            f"--processes {own.processes} cannot be shared out evenly over machines of --per-machine {own.per_machine}"
        )
    asked, config = parse_arguments(rest)
    refuse(own, asked, config)
    return own, asked, config


def refuse(own: argparse.Namespace, asked: argparse.Namespace, config: TrainConfig) -> None:
    """Raises UserError for what a run in pieces refuses, and for options that would say nothing here."""
    places = {"gpu_layers_ratio": config.gpu_layers_ratio, "swap on": True if config.swap == "on" else None}
    reasons = [f"{name} places the model of one process; leave it out" for name, value in places.items() if value]
    for reason in [*wrong_with_pieces(config), *reasons]:
        raise UserError(f"in pieces, {reason}")
    if asked.fit or asked.explain or asked.rule != "plan":
        raise UserError("--fit, --explain and --rule are of `python -m training.memory`; leave them out")
    if own.offload and config.vram_gib is None:
        raise UserError("--offload moves what rests from GPUs to main memory: say how large they are with --vram-gib")


def main() -> None:
    own, asked, config = parse(sys.argv[1:])
    pieces = pieces_of(config, asked.alternatives, own.processes, own.per_machine, own.offload)
    taken = {"vram_gib": pieces.peak, "ram_gib": max(pieces.main_memory.values())}
    limits = {name: limit for name in taken if (limit := getattr(config, name)) is not None}
    fits = all(taken[name] <= limit * GIB for name, limit in limits.items())
    if asked.json:
        result: dict[str, Any] = vars(pieces) | {"peak": pieces.peak, "fits": fits}
        print(json.dumps(result, indent=2))
    else:
        print(as_text(pieces, config, own.processes, own.per_machine))
        for name, limit in limits.items():
            said = "fits" if taken[name] <= limit * GIB else "does NOT fit"
            print(f"{taken[name] / GIB:.2f} GiB {said} in {limit:.2f} GiB (--{name.replace('_', '-')})")
    sys.exit(0 if fits else DoesNotFit.exit_code)


if __name__ == "__main__":
    run(main)
