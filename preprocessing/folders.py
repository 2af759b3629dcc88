"""Folders that exist whole or not at all: written beside their place, flushed, sealed by a manifest, then moved in.

In    a place, and a function that writes into an empty folder.
Out   the folder with manifest.json (facts; size and SHA-256 of every file), or everything as it was.
Run   through training/checkpoint.py and preprocessing/pipeline.py

A kill at any moment leaves either the old state or the new one. Where the system can, the new folder changes places
with the old one in one act of the file system; elsewhere two renames do it, and a kill between them leaves the old
state hidden until the next save finds it.
"""

import ctypes
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from preprocessing.errors import REMEDIES, UserError

MANIFEST = "manifest.json"
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def file_digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_folder(target: Path, write: Callable[[Path], None], facts: dict[str, Any] | None = None) -> None:
    """Make `target` hold what `write` puts into an empty folder, and a manifest, or leave everything as it was.

    Raises UserError when the disk is full or the place cannot be written.
    """
    staging = target.parent / f".{target.name}.partial"
    retired = target.parent / f".{target.name}.old"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if retired.exists() and not target.exists():  # a kill came between the two renames of `put_in_place`
            retired.rename(target)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        write(staging)
        seal(staging, facts or {})
    except Exception as error:
        shutil.rmtree(staging, ignore_errors=True)
        # Tokenizers reports a full disk as a plain Exception that ends in "(os error 28)".
        if not isinstance(error, (OSError, SafetensorError)) and "os error" not in str(error):
            raise
        remedy = REMEDIES.get(getattr(error, "errno", None) or 0, "make room or name another place, and start again")
        raise UserError(
            f"could not save {target}: {error} ({free_mib(target.parent)} MiB are free there). What was saved before "
            f"is untouched; {remedy}"
        ) from error
    put_in_place(staging, target, retired)


def check_place(target: Path, kind: str) -> None:
    """Raises UserError where `write_folder` would put its folder in the place of something else than such a one."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    facts = read_manifest(target, kind)["facts"] if (target / MANIFEST).is_file() else {}
    if facts.get("kind") != kind:
        raise UserError(f"{target} is there already and is no {kind}; name another place, or move it away")


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of what is in `folder`, and have all of it on the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {"facts": facts, "files": {str(path.relative_to(folder)): file_digest(path) for path in files}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    readable = (folder / MANIFEST).stat().st_mode  # safetensors writes for the owner alone, unlike all others
    for path in files:
        path.chmod(readable)
    for path in [*files, folder / MANIFEST, folder]:
        flush_to_disk(path)


def put_in_place(staging: Path, target: Path, retired: Path) -> None:
    """Let `staging` become `target`; what was there goes, by way of `retired` where it cannot go in one act."""
    if target.exists() and exchange(staging, target):
        flush_to_disk(target.parent)
        shutil.rmtree(staging, ignore_errors=True)
        return
    if target.exists():
        shutil.rmtree(retired, ignore_errors=True)
        target.rename(retired)
    staging.rename(target)
    flush_to_disk(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one act (renameat2 of Linux); False where that is not known, and nothing done.

    Raises OSError for all other reasons why it cannot be.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):  # an old kernel, or a file system without it
        return False
    raise OSError(code, os.strerror(code), str(other))


def free_mib(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free // 2**20


def read_manifest(folder: Path, what: str = "checkpoint") -> dict[str, Any]:
    """`facts` and `files` of a folder's manifest; raises UserError when it has none, or a damaged one."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} is not a whole {what}: it has no {MANIFEST}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        facts, files = manifest["facts"], manifest["files"]
        if not isinstance(facts, dict) or not files:
            raise ValueError("it lists no files" if not files else f"its facts are {facts!r}")
        for name, digest in files.items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"it names {name!r}, outside the folder")
            if not isinstance(digest, dict) or set(digest) != {"bytes", "sha256"}:
                raise ValueError(f"of {name!r} it says {digest!r}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged: {type(error).__name__}: {error}; remove {folder}, or bring back a copy of it"
        ) from error
    return manifest


def verify(folder: Path | str, suffix: str = "", what: str = "checkpoint") -> dict[str, Any]:
    """The facts of a folder's manifest; raises UserError naming the first file (ending in `suffix`) that differs."""
    folder = Path(folder)
    manifest = read_manifest(folder, what)
    for name, digest in manifest["files"].items():
        if not name.endswith(suffix):
            continue
        path = folder / name
        actual: dict[str, Any] = file_digest(path) if path.is_file() else {"bytes": 0, "sha256": "missing"}
        if actual != digest:
            raise UserError(
                f"{path} is damaged: {actual['bytes']} bytes, SHA-256 {actual['sha256'][:12]}; the manifest says "
                f"{digest['bytes']}, {str(digest['sha256'])[:12]}. Remove {folder} to go on from an older {what}, "
                "or bring back a copy of it"
            )
    return manifest["facts"]
