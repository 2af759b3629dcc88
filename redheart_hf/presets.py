"""Presets: names of architectures, and what each module of them weighs.

In    a preset's name, and fields to set differently.
Out   a RedHeartConfig; run as a program, a table of parameters per module, without allocating a weight.
Run   `python -m redheart_hf.presets`, `python -m redheart_hf.presets --json`

`total` leaves out what reads the text (own token embeddings or a text encoder); it stands apart as `embeddings`.
"""

import argparse
import copy
import json
from collections import Counter
from typing import Any

import torch

from .configuration_redheart import RedHeartConfig
from .preset_sizes import PRESETS


def preset_config(name: str, **changes: Any) -> RedHeartConfig:
    """The named preset's config with `changes` put over it; an unknown name or field raises ValueError."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return RedHeartConfig(**{**copy.deepcopy(PRESETS[name]), **changes})


def parameters_by_module(config: RedHeartConfig) -> dict[str, int]:
    """Parameters of each module, counted on the meta device: two levels deep inside the backbone, three in its task
    projections, whose specialisations are a part of their own."""
    from .modeling_redheart import RedHeartForMultiTask

    with torch.device("meta"):
        model = RedHeartForMultiTask(config)
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        levels = 1 if parts[0] != "model" else 3 if parts[1] == "task_projections" else 2
        counts[".".join(parts[:levels])] += parameter.numel()
    return dict(counts)


def describe(name: str) -> dict[str, Any]:
    """`total`, `embeddings`, `modules` and `dimensions` of a preset."""
    config = preset_config(name)
    modules = parameters_by_module(config)
    embeddings = modules.pop("model.embeddings")
    dimensions = {
        key: getattr(config, key)
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "block_type")
    }
    return {"total": sum(modules.values()), "embeddings": embeddings, "modules": modules, "dimensions": dimensions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print {preset: {total, embeddings, modules, dimensions}}")
    arguments = parser.parse_args()
    table = {name: describe(name) for name in PRESETS}
    if arguments.json:
        print(json.dumps(table, indent=2))
        return
    for name, row in table.items():
        print(f"{name}: {row['total']:,} parameters, {row['embeddings']:,} more in token embeddings")
        print("  " + ", ".join(f"{key} {value}" for key, value in row["dimensions"].items()))
        for module, count in row["modules"].items():
            print(f"  {module:<28}{count:>14,}")


if __name__ == "__main__":
    main()
