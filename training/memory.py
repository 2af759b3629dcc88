"""What a training run will take of memory, and whether there is so much: before anything is allocated.

In    a recipe and fields of it, as training/train.py takes them (--batch-size or --batch_size); no data is read.
Out   a table, or one JSON object with --json: bytes by kind and by phase, the peak, and whether it fits.
Run   python -m training.memory --preset redheart-330m --batch-size 8 --max-length 64
      python -m training.memory training/recipes/main.yaml --ram-gib 4 --json
      python -m training.memory --preset redheart-6.8b --explain

Every sequence is taken to be --max-length tokens long and to have every label, so that real texts take no more. A run
itself plans with its own data (training/train.py), and refuses to start above its limit: --ram-gib, which may be used
whole, else --memory-fraction of what is free. So far plans are for one process on the CPU.

Exit codes: 0 it fits, 1 a fault of the program, 2 something you can mend, 3 it does not fit.
"""

import argparse
import json
import sys
from typing import Any

import torch

from preprocessing.errors import UserError, run
from redheart_hf.losses import terms_of
from training.build import model_config_of
from training.collator import DEED_LABELS, TEXT_LABELS, Batch
from training.command_line import parse_config
from training.config import TrainConfig
from training.inference import BATCH_SIZE
from training.memory_limits import Limit, limit_of_run
from training.memory_plan import KINDS, MemoryPlan, plan_memory

GIB = 2**30
SHORT = {"--max-length": "--model.max_length", "--precision": "--mixed_precision"}
PRECISIONS = {"fp32": "no"}
EXPLAINED = {
    "weights": "parameters and buffers of the model, in float32",
    "gradients": "one for each parameter that is taught, until the update",
    "optimizer": "AdamW's two moments of what is taught; a byte each in matrices with adamw_8bit",
    "activations": "what the forward pass keeps for the backward pass",
    "buffers": "what comes and goes within a phase, and what kernels take for themselves",
    "process": "the interpreter with its libraries, measured in this process",
}


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, TrainConfig]:
    parser = argparse.ArgumentParser(
        prog="python -m training.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--alternatives", type=int, default=0, metavar="N", help="actions a record has (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object, bytes")
    parser.add_argument("--explain", action="store_true", help="say what each line of the table is")
    asked, rest = parser.parse_known_args(arguments)
    if not 0 <= asked.alternatives <= 100:
        raise UserError(f"--alternatives must lie in 0..100, got {asked.alternatives}")
    given = ["--output_dir", "outputs/planned", "--train", '["planned"]', *map(as_field, rest)]
    recipe = [rest[0]] if rest and not rest[0].startswith("-") else []
    return asked, parse_config(recipe + given[:4] + given[4 + len(recipe) :])


def as_field(argument: str) -> str:
    """--batch-size as --batch_size, values as they are."""
    if not argument.startswith("--"):
        return PRECISIONS.get(argument, argument)
    name, equals, value = argument.partition("=")
    return SHORT.get(name, name.replace("-", "_").replace("__", "--", 1)) + equals + value


def widest_batch(records: int, length: int, actions: int) -> Batch:
    """A batch of the longest records there could be, all labels given; a token is padding, so that there is a mask."""
    sequences = records * (1 + actions)
    mask = torch.ones(sequences, length, dtype=torch.long)
    mask[0, -1] = 0
    first_row = list(range(0, sequences, 1 + actions))
    labels = {name: torch.zeros(sequences, size) for name, size in (TEXT_LABELS | DEED_LABELS).items()}
    labels["utility_views"] = torch.zeros(sequences, 3)
    labels["preference"] = torch.arange(sequences // 2 * 2).reshape(-1, 2)
    batch: Batch = {"input_ids": torch.ones_like(mask), "attention_mask": mask, "labels": labels}
    batch |= {"ids": [], "first_row": first_row}
    if actions:
        batch["alternatives"] = torch.tensor([list(range(row + 1, row + 1 + actions)) for row in first_row])
        batch["chosen"] = torch.zeros(records, dtype=torch.long)
        labels["alternatives_regret"] = torch.zeros(records, 3)
    return batch


def plan_of(config: TrainConfig, actions: int) -> MemoryPlan:
    model_config = model_config_of(config)
    length = model_config.max_length
    batches = config.gradient_accumulation_steps if config.update_in_backward else 2  # else a third is like the second
    group = [widest_batch(config.batch_size, length, actions)] * min(batches, config.gradient_accumulation_steps)
    judged = widest_batch(BATCH_SIZE, length, actions)
    return plan_memory(config, model_config, [group], terms_of(model_config), judged)


def as_text(plan: MemoryPlan, limit: Limit, explain: bool) -> str:
    lines = [f"{'':<14}{'GiB':>9}"]
    for kind in KINDS:
        said = f"   {EXPLAINED[kind]}" if explain else ""
        lines.append(f"{kind:<14}{getattr(plan, kind) / GIB:9.3f}{said}")
    lines.append(f"{'total':<14}{plan.total / GIB:9.3f}")
    lines += ["", "the most of everything at one time, by phase"]
    for phase, most in plan.phases.items():
        lines.append(f"{phase:<14}{most / GIB:9.3f}{'   the peak' if phase == plan.peak_phase else ''}")
    verdict = "fits" if plan.peak <= limit.size else "does NOT fit"
    return "\n".join([*lines, "", f"{plan.peak / GIB:.2f} GiB {verdict} in {limit.size / GIB:.2f} GiB ({limit.said})"])


def main() -> None:
    asked, config = parse_arguments(sys.argv[1:])
    limit = limit_of_run(config.ram_gib, config.memory_fraction)
    plan = plan_of(config, asked.alternatives)
    fits = plan.peak <= limit.size
    result: dict[str, Any] = plan.to_dict() | {"limit": limit.size, "fits": fits}
    print(json.dumps(result, indent=2) if asked.json else as_text(plan, limit, asked.explain))
    sys.exit(0 if fits else 3)


if __name__ == "__main__":
    run(main)
