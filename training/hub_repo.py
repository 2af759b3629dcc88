"""One repository of a hub directory: the layout of Hugging Face's cache, each version in it whole.

In    a hub directory, org/name; files by name.
Out   HUB/models--org--name/: blobs/SHA256, snapshots/COMMIT/file -> ../../blobs/SHA256, refs/main and refs/TAG holding
      a commit's 40 digits, commits/COMMIT.json saying what it is of; UserError where something is not as it must be.
Run   through training/publish.py and training/hub.py

A version is there from the moment its reference is renamed into place, and everything it needs was on the disk before.
Until then a kill leaves blobs and a snapshot that no reference leads to: the next publication takes them up or
`prune` removes them. Writers come one after the other, by a lock that ends with its holder; readers need none.
"""

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError
from preprocessing.folders import file_digest, flush_to_disk, free_mib
from training.hub_names import COMMIT, repo_folder

MAIN = "main"


@dataclass(frozen=True)
class Commit:
    """A version. `files`: name -> {"bytes": n, "sha256": digest}; `parent`: the version that main was at before."""

    hash: str
    parent: str | None
    time: str
    message: str
    files: dict[str, dict[str, Any]]

    @property
    def bytes(self) -> int:
        return sum(file["bytes"] for file in self.files.values())


class HubRepo:
    """`folder` need not exist; nothing is made before the first publication."""

    def __init__(self, hub: Path, repo_id: str):
        self.hub, self.repo_id, self.folder = hub, repo_id, repo_folder(hub, repo_id)
        self.blobs, self.snapshots, self.refs = (self.folder / name for name in ("blobs", "snapshots", "refs"))
        self.notes, self.staging = self.folder / "commits", self.folder / "staging"

    # ---------------------------------------------------------------- what is there

    def references(self) -> dict[str, str]:
        """main and tags -> commit; raises UserError for one that holds something else."""
        found = {path.name: said_in(path) for path in sorted(self.refs.glob("*"))}
        for name, commit in found.items():
            if not COMMIT.fullmatch(commit):
                raise UserError(f"{self.refs / name} holds {commit[:60]!r} and no commit; publish again, or remove it")
        return found

    def commit(self, commit: str) -> Commit:
        path = self.notes / f"{commit}.json"
        try:
            found = Commit(commit, **json.loads(path.read_text(encoding="utf-8")))
            if named(found) != commit:
                raise ValueError(f"what it says has the hash {named(found)[:12]}, so it was changed")
            return found
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} does not say what version {commit[:12]} is of: {error}") from error

    def history(self) -> list[Commit]:
        """Of main, the newest first."""
        found, at = [], self.references().get(MAIN)
        while at is not None:
            found.append(self.commit(at))
            at = found[-1].parent
        return found

    # ---------------------------------------------------------------- publishing

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until nobody else writes here, and keeps others waiting; what a killed writer left is cleared."""
        lock = self.hub / ".locks" / self.folder.name / "publish.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            shutil.rmtree(self.staging, ignore_errors=True)
            yield
        finally:
            os.close(handle)

    def publish(
        self, files: Mapping[str, Path], message: str, time: str, tag: str | None = None
    ) -> tuple[Commit, bool]:
        """A version of these files, at main and at `tag`, and whether it is a new one: the files of main's last
        version make none. Raises UserError for a tag that names another version, and where there is no room."""
        self.refuse_other_case(tag)
        with self.alone():
            self.staging.mkdir(parents=True)
            listed = {name: file_digest(path) for name, path in sorted(files.items())}
            references = self.references()
            last = self.commit(references[MAIN]) if MAIN in references else None
            new = last is None or last.files != listed
            commit = written_down(last, time, message, listed) if last is None or new else last
            if tag in references and self.commit(references[tag]).files != listed:
                raise UserError(
                    f"{self.repo_id} has the tag {tag} of version {references[tag][:12]}, and these files are another "
                    "one; a tag stays what it was: give another name"
                )
            if new:
                self.room_for(listed)
                for name, digest in listed.items():
                    self.add_blob(files[name], digest)
                self.add_snapshot(commit)
            if references.get(MAIN) != commit.hash:
                self.put(self.refs / MAIN, commit.hash)
            if tag is not None and tag not in references:
                self.put(self.refs / tag, commit.hash)
            return commit, new

    def refuse_other_case(self, tag: str | None) -> None:
        """Raises UserError for a name beside one that differs in case alone: one folder to some file systems."""
        for wanted in (self.folder, *([self.refs / tag] if tag else [])):
            for path in wanted.parent.glob("*"):
                if path.name != wanted.name and path.name.lower() == wanted.name.lower():
                    raise UserError(f"{path} is there, which differs from {wanted.name} in case alone: give that name")

    def room_for(self, listed: Mapping[str, Mapping[str, Any]]) -> None:
        lacking = {digest["sha256"]: digest["bytes"] for digest in listed.values()}
        needed = sum(size for name, size in lacking.items() if not (self.blobs / name).exists()) >> 20
        if needed > (free := free_mib(self.folder)):
            raise UserError(
                f"{self.hub} has {free} MiB free, and this version needs {needed}: make room and start again"
            )

    def add_blob(self, source: Path, digest: Mapping[str, Any]) -> None:
        """A file's content under its hash, once; raises UserError when it changed since it was hashed."""
        blob = self.blobs / digest["sha256"]
        if blob.exists() and blob.stat().st_size == digest["bytes"]:
            return
        self.blobs.mkdir(exist_ok=True)
        copy = self.staging / uuid.uuid4().hex
        shutil.copyfile(source, copy)
        if file_digest(copy) != digest:
            raise UserError(f"{source} changes while it is published; wait until nothing writes to it")
        move(copy, blob)

    def add_snapshot(self, commit: Commit) -> None:
        """The folder that Transformers reads, of links to blobs, and before it what the version is of."""
        self.put(self.notes / f"{commit.hash}.json", noted(commit))
        snapshot = self.staging / commit.hash
        for name, digest in commit.files.items():
            link = snapshot / name
            link.parent.mkdir(parents=True, exist_ok=True)
            up = Path(*[".."] * (len(Path(name).parts) + 1))
            link.symlink_to(up / self.blobs.name / digest["sha256"])
        self.snapshots.mkdir(exist_ok=True)
        if (self.snapshots / commit.hash).is_dir():  # of a writer that was killed after it
            shutil.rmtree(self.snapshots / commit.hash)
        snapshot.rename(self.snapshots / commit.hash)
        flush_to_disk(self.snapshots)

    def put(self, target: Path, text: str) -> None:
        """A small file, there whole or as it was."""
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = self.staging / uuid.uuid4().hex
        staged.write_text(text, encoding="utf-8")
        move(staged, target)


def move(staged: Path, target: Path) -> None:
    flush_to_disk(staged)
    os.replace(staged, target)
    flush_to_disk(target.parent)


def noted(commit: Commit) -> str:
    fields = {"parent": commit.parent, "time": commit.time, "message": commit.message, "files": commit.files}
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def written_down(last: Commit | None, time: str, message: str, files: dict[str, dict[str, Any]]) -> Commit:
    """The commit of these files after `last`; its name is a hash of all it says."""
    draft = Commit("", last.hash if last is not None else None, time, message, files)
    return Commit(named(draft), draft.parent, time, message, files)


def named(commit: Commit) -> str:
    return hashlib.sha1(noted(commit).encode()).hexdigest()


def said_in(reference: Path) -> str:
    """What a reference holds; of what is no text, and of a folder, nothing."""
    try:
        return reference.read_text(encoding="utf-8")
    except (ValueError, IsADirectoryError):
        return ""
