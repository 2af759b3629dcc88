"""Checkpoints that exist whole or not at all: their names and places, and the optimizer's part of them.

In    a run's folder.
Out   OUTPUT_DIR/checkpoints_final/checkpoint_epoch_EEEE_lr_R.RRRRRR_step_SSSSSSSS, each with manifest.json (facts;
      size and SHA-256 of every file).
Run   `python -c "from pathlib import Path; from training.checkpoint import checkpoints; \
      print(checkpoints(Path('outputs/main')))"`

E are the epochs finished, R the rate of the last update, S the steps taken. Nothing else knows how a checkpoint is
called or where it lies. It is written by preprocessing/folders.py: a kill at any moment leaves either the old state or
the new one. A folder without a manifest does not exist for us; one whose files differ from its manifest is damaged and
raises. Nothing is pickled: tensors are safetensors, the rest is JSON.
"""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor

from preprocessing.errors import UserError
from preprocessing.folders import MANIFEST, read_manifest
from training.sharding import piece, put

FOLDER, PREFIX = "checkpoints_final", "checkpoint_epoch_"
NAME = re.compile(PREFIX + r"(?P<epoch>\d{4,})_lr_(?P<rate>\d+\.\d{6})_step_(?P<step>\d{8,})")
COMPLETE, WEIGHTS = "complete", "weights"
"""What is kept of a checkpoint; its manifest says which."""
EARLIER = re.compile(r"checkpoint-\d+")


def name_of(step: int, epoch: int, learning_rate: float) -> str:
    """Of the checkpoint after `step` steps, `epoch` whole epochs and an update with `learning_rate`."""
    return f"{PREFIX}{epoch:04d}_lr_{learning_rate:.6f}_step_{step:08d}"


def step_of(folder: Path) -> int:
    """The steps taken, by the folder's name; -1 where that is no checkpoint's."""
    match = NAME.fullmatch(folder.name)
    return int(match["step"]) if match else -1


def epoch_of(folder: Path) -> int:
    """The epochs finished, by the folder's name; -1 where that is no checkpoint's."""
    match = NAME.fullmatch(folder.name)
    return int(match["epoch"]) if match else -1


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint lies in."""
    return checkpoint.parent.parent if checkpoint.parent.name == FOLDER else checkpoint.parent


def checkpoints(output_dir: Path) -> list[Path]:
    """A run's checkpoints that have a manifest, oldest first, whatever is kept of each."""
    found = [folder for folder in (output_dir / FOLDER).glob(PREFIX + "*") if step_of(folder) >= 0]
    return sorted((folder for folder in found if (folder / MANIFEST).is_file()), key=step_of)


def checkpoint_at(output_dir: Path, step: int) -> Path:
    """A run's checkpoint of that step; raises UserError where there is none."""
    existing = checkpoints(output_dir)
    for folder in existing:
        if step_of(folder) == step:
            return folder
    steps = ", ".join(str(step_of(folder)) for folder in existing) or "none"
    raise UserError(f"{output_dir} has no checkpoint of step {step}; it has those of: {steps}")


def refuse_thin(folder: Path, facts: dict[str, Any]) -> None:
    """Raises UserError for a checkpoint that kept its weights alone; `facts` are its manifest's."""
    if facts.get("kept") != WEIGHTS:
        return
    complete = [other.name for other in checkpoints(run_of(folder)) if is_complete(other)]
    raise UserError(
        f"{folder} has kept its weights alone, in two bytes a number: it can be loaded, and another run can begin "
        f"from it (--start_from), but none can go on. Complete ones are: {', '.join(complete) or 'none'}"
    )


def is_complete(folder: Path) -> bool:
    return read_manifest(folder)["facts"].get("kept") != WEIGHTS


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Every tensor of the optimizer's state under "parameter index.name", step counts included."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Bring the state of `optimizer_tensors` back; the groups' settings stay those of this run.

    One tensor after another, into its place: neither a mapped file nor a second state stands in memory meanwhile.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with safe_open(path, "pt", backend="pread") as saved:
        for key in saved.offset_keys():
            index, name = key.split(".", 1)
            parameter, value = parameters[int(index)], saved.get_tensor(key)
            state = optimizer.state[parameter]
            if name in state:
                put(state[name], value)
            elif isinstance(parameter, DTensor) and value.shape == parameter.shape:
                state[name] = piece(value, parameter).to(parameter.device)
            else:
                state[name] = value.to(parameter.device, copy=True)
