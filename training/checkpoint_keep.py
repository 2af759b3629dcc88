"""What is kept of a run's checkpoints: a few to go on from, of the others the weights in two bytes a number.

In    a run's folder, save_total_limit and keep_complete.
Out   the newest `keep_complete` checkpoints and the best one as they were; the others thinned; the oldest gone.
Run   through training/run_state.py, after each save

What is thinned can be loaded, judged, published and crossed over; a run cannot go on from it. Matrices are rounded to
bfloat16, vectors and small matrices stay as they are: they weigh nothing, and rounding them would be heard. It is
written beside its place and changes places with what was there in one act, one tensor in memory at a time.

The best one, and those that a sweet spot was found in, are never deleted; where they alone are more than
save_total_limit, more are kept.
"""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from preprocessing.errors import UserError
from preprocessing.folders import read_manifest, verify, write_folder
from training.checkpoint import FOLDER, PREFIX, WEIGHTS, checkpoints, is_complete
from training.checkpoint_metadata import best_of, entry_of, facts_of, regular
from training.creation import LEAST_NUMBERS, weight_files
from training.tensor_file import NAMES, aligned, write_tensors

SWEET_SPOTS = Path("sweet_spot_analysis") / "sweet_spot_analysis.json"
LEFT_OUT = ("state.json", "*.safetensors", SAFE_WEIGHTS_INDEX_NAME, "manifest.json")


def keep(output_dir: Path, limit: int, complete: int) -> None:
    """Delete and thin what is not to be kept; what killed saves left behind goes too."""
    sweep(output_dir)
    remove(output_dir, limit)
    existing = checkpoints(output_dir)
    best = best_of([entry_of(folder) for folder in existing])
    whole = {folder.name for folder in [*regular(output_dir)[-complete:], *existing[-1:]]}
    whole |= {best["name"]} if best else set()
    for folder in existing:
        if folder.name not in whole and is_complete(folder):
            thin(folder)


def sweep(output_dir: Path) -> None:
    """Where a checkpoint could not change places with its thinned copy in one act, and a kill came between the two
    renames, it is hidden, whole, under a name that ends in .old: it goes back."""
    for leftover in (output_dir / FOLDER).glob(f".{PREFIX}*"):
        place = leftover.with_name(leftover.name[1:].removesuffix(".old"))
        if leftover.suffix == ".old" and not place.exists():
            leftover.rename(place)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def remove(output_dir: Path, limit: int) -> None:
    """Delete the oldest checkpoints beyond `limit` that may go, and those that were not due once the run went on; the
    newest never goes."""
    existing = regular(output_dir)
    best = best_of([entry_of(folder) for folder in existing])
    held = protected(output_dir) | ({best["name"]} if best else set()) | {folder.name for folder in existing[-1:]}
    going = [folder for folder in existing if folder.name not in held]
    passing = [folder for folder in checkpoints(output_dir)[:-1] if folder not in existing]
    for folder in [*passing, *going[: max(0, len(existing) - limit)]]:
        # Renamed first: a kill in between leaves a hidden folder, which the next call removes.
        gone = folder.rename(folder.parent / f".{folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)


def protected(output_dir: Path) -> set[str]:
    """Names of the checkpoints that the analysis of sweet spots speaks of; raises UserError for a damaged one."""
    path = output_dir / SWEET_SPOTS
    if not path.is_file():
        return set()
    try:
        return {str(name) for name in json.loads(path.read_text(encoding="utf-8"))["checkpoints"]}
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} is damaged: {type(error).__name__}: {error}; remove it, and what it protects may be deleted"
        ) from error


def thin(folder: Path) -> None:
    """Leave of a checkpoint its weights in two bytes a number, its config, code and tokenizer; raises UserError where
    it is damaged or the disk is full, and leaves it as it was."""
    weights = {file.name for file in weight_files(folder)}
    for name in read_manifest(folder)["files"]:  # what is left out need not be read again
        if name in weights or not any(fnmatch(name, pattern) for pattern in LEFT_OUT):
            verify(folder, suffix=name)
    facts = facts_of(folder) | {"kept": WEIGHTS}

    def write(staging: Path) -> None:
        shutil.copytree(folder, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        total = 0
        for file in weight_files(folder):
            with safe_open(file, "pt", backend="pread") as weights:
                specs = aligned({name: spec_of(weights, name) for name in weights.offset_keys()})
                read = ((name, weights.get_tensor(name).to(specs[name][0])) for name in specs)
                total += write_tensors(staging / file.name, specs, read, {"format": "pt"})
        if (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
            index = json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_text(encoding="utf-8"))
            index["metadata"]["total_size"] = total
            (staging / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    write_folder(folder, write, facts)


def thin_dtype(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.dtype:
    """What a tensor of a model is kept in."""
    halved = dtype.is_floating_point and len(shape) > 1 and torch.Size(shape).numel() >= LEAST_NUMBERS
    return torch.bfloat16 if halved else dtype


def spec_of(weights: Any, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
    piece = weights.get_slice(name)
    shape = tuple(piece.get_shape())
    return thin_dtype(NAMES[piece.get_dtype()], shape), shape
