"""Names that a hub directory accepts: of repositories, tags and files.

In    what a user typed.
Out   the same, or a UserError that says what is wrong with it.
Run   through training/publish.py and training/hub.py

Narrower than what Hugging Face's programs take: these names become folders and files, on file systems where case, a
trailing dot or a device's name matter, and what looks like an ASCII letter must be one.
"""

import re
from pathlib import Path, PurePosixPath

from preprocessing.errors import UserError

PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
COMMIT = re.compile(r"[0-9a-f]{40}")
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(1, 10))}
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".msgpack", ".dill"}
"""What is, or may hold, a pickle or another program's objects; weights belong into safetensors."""


def check_repo_id(repo_id: str) -> str:
    """`org/name`, each part of ASCII letters, digits, `-`, `_` and `.`; raises UserError."""
    parts = repo_id.split("/")
    fault = None
    if len(parts) != 2:
        fault = "is not of the form org/name"
    elif len(repo_id) > 96:
        fault = f"has {len(repo_id)} characters; 96 are allowed"
    elif "--" in repo_id or ".." in repo_id:
        fault = "holds -- or .., which the layout of the cache uses otherwise"
    elif repo_id.lower().endswith((".git", ".lock")):
        fault = "ends in .git or .lock"
    else:
        fault = next((found for part in parts if (found := fault_of(part))), None)
    if fault is not None:
        raise UserError(f"the repository {repo_id!r} {fault}; give a name such as my-lab/red-heart-330m")
    return repo_id


def is_repo_id(repo_id: str) -> bool:
    """Whether it could have been published here."""
    try:
        return check_repo_id(repo_id) == repo_id
    except UserError:
        return False


def check_tag(tag: str) -> str:
    """A tag that can stand where a branch or a commit can; raises UserError."""
    fault = fault_of(tag)
    if fault is None and tag.lower() == "main":
        fault = "is the branch's name"
    elif fault is None and COMMIT.fullmatch(tag.lower()):
        fault = "looks like a commit"
    elif fault is None and (".." in tag or tag.endswith(".lock") or len(tag) > 96):
        fault = "holds .., ends in .lock or is longer than 96 characters"
    if fault is not None:
        raise UserError(f"the tag {tag!r} {fault}; give one such as v1")
    return tag


def fault_of(part: str) -> str | None:
    """What is wrong with one part of a name."""
    if not PART.fullmatch(part):
        return (
            f"has the part {part!r}, which is not of ASCII letters, digits, - _ and ., with a letter or digit at "
            "both ends"
        )
    if part.split(".")[0].lower() in RESERVED:
        return f"has the part {part!r}, a device's name on Windows"
    return None


def check_file(name: str) -> str:
    """A path inside a model folder, as its manifest gives it; raises UserError."""
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts and "\\" not in name and str(path) == name
    if not inside or not name.isprintable() or len(name.encode()) > 255:
        raise UserError(f"a file is named {name!r}, which is no plain path inside the folder; rename it")
    if path.suffix.lower() in PICKLES:
        raise UserError(
            f"{name} may hold a pickle, which runs code when it is opened; weights are published as safetensors "
            "(model.save_pretrained(folder) writes them), so take it out of the folder"
        )
    return name


def repo_folder(hub: Path, repo_id: str) -> Path:
    """Where Transformers looks for it when HF_HUB_CACHE is `hub`."""
    return hub / ("models--" + check_repo_id(repo_id).replace("/", "--"))
