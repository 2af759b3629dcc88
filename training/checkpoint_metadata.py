"""metadata.json: what is to be known of each checkpoint of a run, as one list.

In    the facts in each checkpoint's manifest.
Out   OUTPUT_DIR/checkpoints_final/metadata.json, an entry a checkpoint, the oldest first.
Run   `python -c "import json; print([one['metrics']['loss'] for one in json.load(open('metadata.json'))])"`

Each folder carries its own entry, so that the list can always be made again: a kill between a save and the list leaves
a list that the next save, or the next start, puts right. An entry: `epoch` (finished), `step`, `name`,
`learning_rate` of the last update; `metrics`: `loss`, the mean last logged, and `score`, the total by which is chosen,
where that step was evaluated; `score`: both halves of dev by task (training/score.py), or null; `parent`, the
checkpoint before it, or what the run began from; `identity` of run, model, data and tokenizer; `kept`: complete, or
weights (training/checkpoint_keep.py).
"""

import math
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError
from preprocessing.folders import MANIFEST, read_manifest
from training.checkpoint import COMPLETE, FOLDER, checkpoints, epoch_of, step_of
from training.report import as_json
from training.rewrite import write_whole

METADATA = "metadata.json"


def entry_of(folder: Path) -> dict[str, Any]:
    """What a checkpoint's manifest says of it; raises UserError for a damaged one."""
    known = {"epoch": epoch_of(folder), "step": step_of(folder), "name": folder.name}
    return known | {"learning_rate": None, "metrics": {}, "score": None, "kept": COMPLETE} | facts_of(folder)


def facts_of(folder: Path) -> dict[str, Any]:
    """Of the manifest; raises UserError for facts of other types than a checkpoint's."""
    facts = read_manifest(folder)["facts"]
    metrics, step = facts.get("metrics", {}), facts.get("step", 0)
    numbers = [step, *metrics.values()] if isinstance(metrics, dict) else [metrics]
    if wrong := [value for value in numbers if not isinstance(value, int | float | None)]:
        raise UserError(f"{folder / MANIFEST} is damaged: {wrong[0]!r} is no number; remove {folder}")
    return facts


def entries(output_dir: Path) -> list[dict[str, Any]]:
    """Of every checkpoint of a run, the oldest first."""
    return [entry_of(folder) for folder in checkpoints(output_dir)]


def regular(output_dir: Path) -> list[Path]:
    """The checkpoints that were due, the oldest first; one that a run wrote because it was asked to end is left out:
    the run that was left alone does not have it, and is to end as this one."""
    return [folder for folder in checkpoints(output_dir) if not facts_of(folder).get("interim")]


def best_of(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The entry with the highest score on the choosing half, of equals the first; None where nothing was scored."""
    scored = [one for one in found if math.isfinite(one["metrics"].get("score", math.nan))]
    return max(scored, key=lambda one: one["metrics"]["score"], default=None)


def write_metadata(output_dir: Path) -> None:
    """Make the list again from the folders, and put it in place whole where it says anything else."""
    path, found = output_dir / FOLDER / METADATA, entries(output_dir)
    text = as_json(found) + "\n"
    if (found or path.exists()) and not (path.is_file() and path.read_bytes() == text.encode()):
        write_whole(path, text)
