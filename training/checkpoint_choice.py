"""Which checkpoint a run goes on from.

In    a run's folder; what --resume says: auto, latest, never, a folder, or a name.
Out   the checkpoint, verified and complete; None to start afresh; UserError with what there is.
Run   through training/train.py

A name may be as the first guide has it (training/checkpoints_final/checkpoint_epoch_0020.pt): it is looked for by what
it begins with, without its folder and its .pt, in the run's own folder, and for a run that lies in runs/ in the others
there, the newest first. Where several checkpoints have finished that epoch it is the first of them: the epoch's end.
"""

from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.folders import MANIFEST, verify
from training.checkpoint import EARLIER, checkpoints, refuse_thin, step_of

RUNS = "runs"
SUFFIXES = (".pt", ".pth", ".safetensors", "*")


def find_checkpoint(output_dir: Path, resume: str) -> Path | None:
    """The checkpoint to go on from, verified; None to start afresh. `resume` as in TrainConfig."""
    existing = checkpoints(output_dir)
    refuse_earlier(output_dir, resume)
    if resume == "never" and existing:
        raise UserError(f"{output_dir} holds {existing[-1].name}; use --resume auto to go on, or another output_dir")
    if resume in ("auto", "never", "latest"):
        chosen = existing[-1] if existing else None
    else:
        chosen = Path(resume) if Path(resume).is_dir() else by_name(output_dir, resume)
    if chosen is None:
        if resume == "latest":
            raise UserError(f"--resume latest: {output_dir} has no checkpoint yet; --resume auto begins where none is")
        return None
    facts = verify(chosen)
    refuse_thin(chosen, facts)
    if newer := [folder.name for folder in existing if step_of(folder) > facts.get("step", step_of(chosen))]:
        raise UserError(
            f"{output_dir} holds {', '.join(newer)}, newer than {chosen.name}: a run from there would take their "
            "place; give another output_dir, or move them away"
        )
    return chosen


def by_name(output_dir: Path, asked: str) -> Path:
    """The checkpoint that a name, with or without folder and suffix, is the beginning of."""
    stem = Path(asked).name
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    stem = stem.rstrip("_")
    places = [output_dir, *other_runs(output_dir)]
    for place in places:
        if matches := [folder for folder in checkpoints(place) if f"{folder.name}_".startswith(f"{stem}_")]:
            return matches[0]
    names = {place: ", ".join(folder.name for folder in checkpoints(place)) for place in places}
    there = [f"  {place}: {found}" for place, found in names.items() if found]
    raise UserError("\n".join([f"no checkpoint {asked}; here are:", *(there or [f"  {output_dir}: none"])]))


def other_runs(output_dir: Path) -> list[Path]:
    """Runs beside this one in runs/, that with the newest checkpoint first; none for a run that lies elsewhere."""
    if output_dir.absolute().parent.name != RUNS:
        return []
    found = [folder for folder in output_dir.parent.glob("*") if folder != output_dir and checkpoints(folder)]
    return sorted(found, key=lambda folder: (checkpoints(folder)[-1] / MANIFEST).stat().st_mtime, reverse=True)


def refuse_earlier(output_dir: Path, resume: str) -> None:
    """Raises UserError for checkpoint-STEP of earlier versions, which lack what decides a choice at the end."""
    lying = [folder for folder in output_dir.glob("checkpoint-*") if EARLIER.fullmatch(folder.name)]
    named = [Path(resume)] if EARLIER.fullmatch(Path(resume).name) else []
    there = [folder for folder in [*named, *lying] if (folder / MANIFEST).is_file()]
    if there:
        raise UserError(
            f"{there[0]} was written by an earlier version, which kept neither scores nor fingerprints with it: go "
            f"on with that version, or begin another run from its weights: --start_from {there[0]} --output_dir "
            f"{output_dir}-anew"
        )
