"""What a training run will take of memory, and whether there is so much: before anything is allocated.

In    a recipe and fields of it, as training/train.py takes them (--batch-size or --batch_size); no data is read.
Out   a table, or one JSON object with --json: bytes by kind and by phase, the peak, and whether it fits.
Run   python -m training.memory --preset redheart-330m --batch-size 8 --max-length 64
      python -m training.memory training/recipes/main.yaml --ram-gib 4 --json
      python -m training.memory --preset redheart-730m --vram-gib 8 --ram-gib 16 --gpu-layers-ratio 0.5
      python -m training.memory --preset redheart-6.8b --explain
      python -m training.memory --preset redheart-1.3b --ram-gib 8 --fit > recipe.yaml
      python -m training.memory --preset redheart-6.8b --batch-size 8 --max-length 32 --rule seed

Every sequence is taken to be --max-length tokens long and to have every label, so that real texts take no more; dev is
evaluated if the recipe names one. What could never fit is refused by arithmetic, in a moment, but with --json. A run
itself plans with its own data (training/train.py), and refuses to start above its limits: --ram-gib and --vram-gib,
which may be used whole, else --memory-fraction of what is free. A run is planned on this machine's GPU, or with
--vram-gib on one of that size, whether it is there or not; else on the CPU. Plans are for one process.

Exit codes: 0 it fits, 1 a fault of the program, 2 something you can mend, 3 it does not fit.
"""

import gc

if __name__ == "__main__":  # imports make no garbage, and to look for it takes a fifth of their time
    gc.disable()

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import yaml

from preprocessing.errors import DoesNotFit, UserError, run
from redheart_hf.losses import terms_of
from redheart_hf.presets import parameters_by_module
from training.build import model_config_of
from training.command_line import parse_config
from training.config import TrainConfig
from training.devices import planned_gpu
from training.memory_choices import with_changes
from training.memory_kinds import KINDS, MemoryPlan
from training.memory_least import refuse_what_never_fits
from training.memory_limits import Limit, limits_of_run, sizes_of
from training.memory_search import search, suggestions
from training.memory_search_gpu import settle_swap

if TYPE_CHECKING:
    from training.collator import Batch

GIB = 2**30
SHORT = {"--max-length": "--model.max_length", "--precision": "--mixed_precision"}
PRECISIONS = {"fp32": "no"}
EXPLAINED = {
    "weights": "parameters and buffers of the model; matrices of two bytes a number with weight_precision bf16",
    "gradients": "one for each parameter that is taught, until the update; the largest with update_in_backward",
    "optimizer": "AdamW's two moments of what is taught; a byte each in matrices with adamw_8bit, others less",
    "averages": "of the weights that are trained, with ema_decay: four bytes a number",
    "activations": "what the forward pass keeps for the backward pass",
    "buffers": "what comes and goes within a phase, and what kernels take for themselves",
    "process": "the interpreter with its libraries, measured in this process",
    "snapshot": "a copy of weights and moments, from which a checkpoint is written, with save_async on",
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
    parser.add_argument(
        "--fit",
        action="store_true",
        help="print a recipe that fits and costs least time: what was asked, if that does, else the nearest to it",
    )
    parser.add_argument(
        "--rule",
        choices=("plan", "seed"),
        default="plan",
        help="plan: the program itself is gone through (%(default)s); seed: the rule of thumb of this project's first "
        "documents, 16 bytes a parameter and batch x tokens x width x layers x 4 bytes, for comparison",
    )
    asked, rest = parser.parse_known_args(arguments)
    if not 0 <= asked.alternatives <= 100:
        raise UserError(f"--alternatives must lie in 0..100, got {asked.alternatives}")
    before = ["", *rest]
    given = ["--output_dir", "outputs/planned", "--train", '["planned"]', *map(as_field, rest, before)]
    recipe = [rest[0]] if rest and not rest[0].startswith("-") else []
    return asked, parse_config(recipe + given[:4] + given[4 + len(recipe) :])


def as_field(argument: str, before: str) -> str:
    """--batch-size as --batch_size; values as they are, but that --precision takes fp32 for no."""
    if not argument.startswith("--"):
        return PRECISIONS.get(argument, argument) if before == "--precision" else argument
    name, equals, value = argument.partition("=")
    value = PRECISIONS.get(value, value) if name == "--precision" else value
    return SHORT.get(name, name.replace("-", "_").replace("__", "--", 1)) + equals + value


def widest_batch(records: int, length: int, actions: int) -> "Batch":
    """A batch of the longest records there could be, all labels given; a token is padding, so that there is a mask."""
    from training.collator import DEED_LABELS, TEXT_LABELS

    sequences = records * (1 + actions)
    mask = torch.ones(sequences, length, dtype=torch.long)
    mask[0, -1] = 0
    first_row = list(range(0, sequences, 1 + actions))
    labels = {name: torch.zeros(sequences, size) for name, size in (TEXT_LABELS | DEED_LABELS).items()}
    labels["utility_views"] = torch.zeros(sequences, 3)
    labels["preference"] = torch.arange(sequences // 2 * 2).reshape(-1, 2)
    batch: dict[str, Any] = {"input_ids": torch.ones_like(mask), "attention_mask": mask, "labels": labels}
    batch |= {"ids": [], "first_row": first_row}
    if actions:
        batch["alternatives"] = torch.tensor([list(range(row + 1, row + 1 + actions)) for row in first_row])
        batch["chosen"] = torch.zeros(records, dtype=torch.long)
        labels["alternatives_regret"] = torch.zeros(records, 3)
    return batch


def plan_of(config: TrainConfig, actions: int, device: torch.device | None = None) -> MemoryPlan:
    """On the `device` that the settings speak of, if none is given."""
    from training.inference import BATCH_SIZE  # these bring all of training with them: a refusal does without
    from training.memory_plan import plan_memory

    model_config = model_config_of(config)
    length = model_config.max_length
    batches = config.gradient_accumulation_steps if config.update_in_backward else 2  # else a third is like the second
    group = [widest_batch(config.batch_size, length, actions)] * min(batches, config.gradient_accumulation_steps)
    judged = widest_batch(BATCH_SIZE, length, actions) if config.dev or config.holdout else None
    found = plan_memory(config, model_config, [group], terms_of(model_config), judged, device or device_of(config))
    return found.beside_a_save() if config.save_async == "on" else found


def uses_gpu(config: TrainConfig) -> bool:
    """Whether the run is planned on a GPU: on the one at hand, or on one that a setting speaks of."""
    asked = config.vram_gib is not None or config.gpu_layers_ratio is not None or config.swap == "on"
    return asked or torch.cuda.is_available()


def device_of(config: TrainConfig) -> torch.device:
    return planned_gpu() if uses_gpu(config) else torch.device("cpu")


def seed_rule(config: TrainConfig) -> dict[str, int]:
    """Bytes by the first documents' rule: weights and gradients of 4 bytes, AdamW's of 8, hidden states of 4 a layer.

    Token embeddings are left out of the parameters, as the presets' names leave them out.
    """
    model = model_config_of(config)
    modules = parameters_by_module(model)
    parameters = sum(modules.values()) - modules["model.embeddings"]
    activations = 4 * config.batch_size * model.max_length * model.hidden_size * model.num_hidden_layers
    kinds = {"weights": 4 * parameters, "gradients": 4 * parameters, "optimizer": 8 * parameters}
    kinds |= {"activations": activations, "buffers": 0, "process": 0, "snapshot": 0}
    return kinds | {"total": sum(kinds.values()), "peak": sum(kinds.values())}


def as_text(plan: MemoryPlan, limits: Mapping[str, Limit], explain: bool) -> str:
    lines = []
    for device, of_device in plan.devices.items():
        lines += [
            f"{device.upper()}",
            *kinds_table({kind: getattr(of_device, kind) for kind in (*KINDS, "total")}, explain),
        ]
        lines += ["", "the most of everything at one time, by phase"]
        for phase, most in of_device.phases.items():
            lines.append(f"{phase:<14}{most / GIB:9.3f}{'   the peak' if phase == of_device.peak_phase else ''}")
        lines += ["", verdict(of_device.peak, limits[device]), ""]
    return "\n".join([*lines, *plan.notes]).rstrip()


def kinds_table(kinds: dict[str, int], explain: bool) -> list[str]:
    said = {kind: f"   {EXPLAINED[kind]}" if explain and kind in EXPLAINED else "" for kind in kinds}
    return [f"{'':<14}{'GiB':>9}"] + [f"{kind:<14}{size / GIB:9.3f}{said[kind]}" for kind, size in kinds.items()]


def verdict(peak: int, limit: Limit) -> str:
    fits = "fits" if peak <= limit.size else "does NOT fit"
    return f"{peak / GIB:.2f} GiB {fits} in {limit.size / GIB:.2f} GiB ({limit.said})"


def as_recipe(config: TrainConfig, changes: dict[str, Any]) -> str:
    """YAML with the preset and every field that is not its default; above it, what was changed so that it fits."""
    changed = with_changes(config, changes)
    planned = {"train", "output_dir"} if list(config.train) == ["planned"] else set()
    fields = {
        item.name: getattr(changed, item.name)
        for item in dataclasses.fields(TrainConfig)
        if item.name == "preset" or (item.name not in planned and getattr(changed, item.name) != default_of(item))
    }
    said = f"# Changed so that it fits: {', '.join(changes)}.\n" if changes else "# It fits as it was asked.\n"
    return said + yaml.safe_dump(fields, allow_unicode=True, sort_keys=False)


def default_of(item: dataclasses.Field) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def print_fit(config: TrainConfig, plan: MemoryPlan, limits: Mapping[str, Limit], actions: int) -> None:
    """A recipe on standard output, what it costs on standard error; raises DoesNotFit when none was found."""
    changes: dict[str, Any] = {}
    if not plan.fits(sizes_of(limits)):
        length = model_config_of(config).max_length
        found = search(config, plan, sizes_of(limits), partial(plan_of, actions=actions), length, wanted=1)
        if not found:
            verdicts = "; ".join(verdict(plan.devices[device].peak, limit) for device, limit in limits.items())
            raise DoesNotFit(f"{verdicts}, and no settings were found that would")
        print("\n".join(suggestions(found)), file=sys.stderr)
        changes = found[0].changes
    print(as_recipe(config, changes), end="")


def print_seed_rule(asked: argparse.Namespace, config: TrainConfig, limit: Limit) -> bool:
    """The first documents' arithmetic; whether it fits."""
    kinds = seed_rule(config)
    fits = kinds["peak"] <= limit.size
    text = "\n".join([*kinds_table(kinds, asked.explain), "", verdict(kinds["peak"], limit)])
    print(json.dumps(kinds | {"limit": limit.size, "fits": fits}, indent=2) if asked.json else text)
    return fits


def main() -> None:
    gc.freeze()
    gc.enable()
    asked, config = parse_arguments(sys.argv[1:])
    limits = limits_of_run(config.ram_gib, config.vram_gib, config.memory_fraction, uses_gpu(config))
    if asked.rule == "seed":
        sys.exit(0 if print_seed_rule(asked, config, limits["cpu"]) else 3)
    if not (asked.json or asked.fit):
        refuse_what_never_fits(config, model_config_of(config), limits)
    config, plan = settle_swap(config, partial(plan_of, actions=asked.alternatives), sizes_of(limits))
    if asked.fit:
        print_fit(config, plan, limits, asked.alternatives)
        return
    fits = plan.fits(sizes_of(limits))
    result: dict[str, Any] = plan.to_dict() | {"limit": limits["cpu"].size, "limits": sizes_of(limits), "fits": fits}
    print(json.dumps(result, indent=2) if asked.json else as_text(plan, limits, asked.explain))
    sys.exit(0 if fits else 3)


if __name__ == "__main__":
    run(main)
