"""Changes config, card and manifest of a model folder together, so that a kill leaves the old state or the new one.

In    a model folder; what says, from what is there, the new texts of its config.json and README.md.
Out   the folder with all of them, and with their digests in its manifest if it has one; weights are not touched.
Run   through training/calibrate.py and `training.evaluate --choose-thresholds`.

All texts are first written into one hidden file. From then on the change is made, whatever happens: each text takes
its place, and the hidden file goes last. Where a kill left it, the next command that opens the folder does the rest.
Two commands change a folder one after the other, by a lock that ends with the process that holds it.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.files import write_lines
from preprocessing.folders import MANIFEST, free_mib, read_manifest

PENDING = ".rewrite.json"
CHANGED = ("config.json", "README.md", MANIFEST)  # what such a file may name: it may come from somebody else


def rewrite_files(folder: Path, change: Callable[[], Mapping[str, str]]) -> None:
    """Write files among `CHANGED` anew, all of them or none; raises UserError when they cannot be written.

    `change` reads what it needs of the folder and gives the new texts; nobody else changes the folder meanwhile.
    """
    with alone(folder):
        _finish(folder)
        texts = {name: text.removesuffix("\n") + "\n" for name, text in change().items()}
        if (folder / MANIFEST).is_file():
            manifest = read_manifest(folder)
            for name, text in texts.items():
                data = text.encode("utf-8", "backslashreplace")
                manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            texts[MANIFEST] = json.dumps(manifest, indent=2) + "\n"
        write_whole(folder / PENDING, json.dumps(texts) + "\n")
        _finish(folder)


def finish_rewrite(folder: Path) -> None:
    """Do what is left of a change that was killed; nothing where none was. Raises UserError when that is not ours."""
    if (folder / PENDING).is_file():
        with alone(folder):
            _finish(folder)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other command changes the folder, and keeps others waiting."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(f"{folder} cannot be locked: {error.strerror}; move it to a local disk") from error
        yield
    finally:
        os.close(handle)


def _finish(folder: Path) -> None:
    pending = folder / PENDING
    if not pending.is_file():
        return
    try:
        texts = json.loads(pending.read_text(encoding="utf-8"))
        ours = isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())
    except (ValueError, RecursionError):
        ours = False
    if not ours or not set(texts) <= set(CHANGED):
        raise UserError(f"{pending} is not what a killed change of this folder leaves; remove it")
    for name, text in texts.items():
        write_whole(folder / name, text)
    pending.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write `path` whole, `text` ending in its own line end, or leave it as it was; raises UserError."""
    try:
        write_lines(path, [text.removesuffix("\n")])
    except OSError as error:
        raise UserError(f"could not write {path}: {error} ({free_mib(path.parent)} MiB are free there)") from error
