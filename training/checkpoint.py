"""Checkpoints that exist whole or not at all.

In    a folder, a function that writes into it; or a folder to read.
Out   checkpoint-STEP with manifest.json (size and SHA-256 of every file); the newest valid one.
Run   `python -c "from preprocessing.folders import verify; verify('outputs/main/checkpoint-200')"`

A checkpoint is written by preprocessing/folders.py: a kill at any moment leaves either the old state or the new one.
A folder without a manifest does not exist for us; one whose files differ from its manifest is damaged and raises.
Nothing is pickled: tensors are safetensors, the rest is JSON.
"""

import re
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor

from preprocessing.errors import UserError
from preprocessing.folders import MANIFEST, verify
from training.sharding import piece, put

PREFIX = "checkpoint-"


def step_of(folder: Path) -> int:
    match = re.fullmatch(PREFIX + r"(\d+)", folder.name)
    return int(match.group(1)) if match else -1


def checkpoints(output_dir: Path) -> list[Path]:
    """Folders checkpoint-STEP that have a manifest, oldest first."""
    found = [folder for folder in output_dir.glob(PREFIX + "*") if step_of(folder) >= 0]
    return sorted((folder for folder in found if (folder / MANIFEST).is_file()), key=step_of)


def find_checkpoint(output_dir: Path, resume: str) -> Path | None:
    """The checkpoint to go on from, verified; None to start afresh. `resume` as in TrainConfig."""
    existing = checkpoints(output_dir)
    if resume == "never":
        if existing:
            raise UserError(
                f"{output_dir} holds {existing[-1].name}; use --resume auto to go on, or another output_dir"
            )
        return None
    if resume == "auto":
        chosen = existing[-1] if existing else None
    else:
        chosen = Path(resume)
        if not chosen.is_dir():
            raise UserError(f"no checkpoint at {chosen}; here are: {', '.join(p.name for p in existing) or 'none'}")
    if chosen is not None:
        verify(chosen)
        if newer := [folder.name for folder in existing if step_of(folder) > step_of(chosen)]:
            raise UserError(
                f"{output_dir} holds {', '.join(newer)}, newer than {chosen.name}: a run from there would take their "
                "place; give another output_dir, or move them away"
            )
    return chosen


def remove_oldest(output_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what killed saves left behind."""
    for folder in checkpoints(output_dir)[:-keep]:
        # Renamed first: a kill in between leaves a hidden folder, which the next call removes.
        folder.rename(output_dir / f".{folder.name}.old")
    for leftover in output_dir.glob(f".{PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


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
