"""What a repository of a hub directory must hold, looked at; and what nothing needs any more, removed.

In    a HubRepo (training/hub_repo.py).
Out   sentences, one for each thing that is not as published; bytes that were freed.
Run   through training/hub.py
"""

import os
import shutil
from pathlib import Path

from tqdm.auto import tqdm

from preprocessing.errors import UserError
from preprocessing.folders import file_digest
from training.hub_names import COMMIT
from training.hub_repo import HubRepo


def problems_of(repo: HubRepo, progress: bool = True) -> list[str]:
    """Nothing where every version that a reference leads to, and every other that is there, is whole."""
    try:
        references = repo.references()
    except UserError as error:
        return [str(error)]
    found = [
        f"{name} is version {commit[:12]}, and there is no such snapshot"
        for name, commit in references.items()
        if not (repo.snapshots / commit).is_dir()
    ]
    try:
        repo.history()
    except UserError as error:
        found.append(str(error))
    blobs: set[str] = set()
    for snapshot in sorted(repo.snapshots.glob("*")):
        found += problems_of_snapshot(repo, snapshot, blobs)
    for name in tqdm(sorted(blobs), desc=repo.repo_id, unit="blob", disable=not progress, leave=False):
        path = repo.blobs / name
        if path.is_file() and (digest := file_digest(path)["sha256"]) != name:
            found.append(f"blobs/{name} holds something else than its name says: SHA-256 {digest[:12]}…")
    return list(dict.fromkeys(found))


def problems_of_snapshot(repo: HubRepo, snapshot: Path, blobs: set[str]) -> list[str]:
    """Of one version's links; the blobs that they must lead to are added to `blobs`."""
    if not COMMIT.fullmatch(snapshot.name):
        return [f"snapshots/{snapshot.name} is no version"]
    try:
        files = repo.commit(snapshot.name).files
    except UserError as error:
        return [str(error)]
    there = {str(path.relative_to(snapshot)): path for path in snapshot.rglob("*") if not path.is_dir()}
    found = [f"version {snapshot.name[:12]} lacks {name}" for name in sorted(set(files) - set(there))]
    found += [f"version {snapshot.name[:12]} was published without {name}" for name in sorted(set(there) - set(files))]
    for name in sorted(set(files) & set(there)):
        blobs.add(files[name]["sha256"])
        target = (
            Path(os.path.abspath(there[name].parent / os.readlink(there[name]))) if there[name].is_symlink() else None
        )
        if target != Path(os.path.abspath(repo.blobs / files[name]["sha256"])):
            found.append(f"version {snapshot.name[:12]}: {name} does not lead to its blob")
        elif not target.is_file():
            found.append(f"version {snapshot.name[:12]}: {name} has lost its blob {target.name[:12]}…")
    return found


def prune(repo: HubRepo, keep: int) -> tuple[list[str], int]:
    """Removes all versions but those of tags and the newest `keep` of main, and blobs that none of them has. Gives
    back the versions that went and the bytes of the disk."""
    if keep < 1:
        raise UserError(f"--keep must be at least 1, got {keep}: main's own version stays")
    with repo.alone():
        references, history = repo.references(), [commit.hash for commit in repo.history()]
        kept = {*references.values(), *history[:keep]}
        gone = sorted(path.name for path in repo.snapshots.glob("*") if path.name not in kept)
        needed = {digest["sha256"] for commit in kept for digest in repo.commit(commit).files.values()}
        for name in gone:
            shutil.rmtree(repo.snapshots / name)
        for note in repo.notes.glob("*.json"):  # of what was published, all is remembered
            if note.stem not in {*kept, *history}:
                note.unlink()
        freed = 0
        for blob in [path for path in repo.blobs.glob("*") if path.name not in needed]:
            freed += blob.stat().st_size
            blob.unlink()
    return gone, freed
