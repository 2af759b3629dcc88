"""Look after a hub directory: list what is published there, verify it, prune old versions.

In    --hub DIR; maybe --repo-id org/name, else all that were published there.
Out   list: a line a version. verify: nothing, or a line for each thing that is not as published, and exit code 2.
      prune: what went. With --json the same for programs.
Run   python -m training.hub list --hub ~/hub
      python -m training.hub verify --hub ~/hub --repo-id my-lab/red-heart-tiny
      python -m training.hub prune --hub ~/hub --repo-id my-lab/red-heart-tiny --keep 3

`prune` keeps tagged versions and the newest --keep of main; a program that has just begun to load another one may find
it gone. Repositories that other programs downloaded into the same directory are left alone.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError, run
from training.hub_check import problems_of, prune
from training.hub_names import is_repo_id, repo_folder
from training.hub_repo import HubRepo


def repos_in(hub: Path, repo_id: str | None) -> list[HubRepo]:
    """Those asked for; raises UserError where nothing was published."""
    if repo_id is not None:
        if not (repo_folder(hub, repo_id) / "commits").is_dir():
            raise UserError(f"{hub} has no {repo_id} that was published there; `list` says what it has")
        return [HubRepo(hub, repo_id)]
    if not hub.is_dir():
        raise UserError(f"no hub directory at {hub}")
    names = [path.parent.name for path in sorted(hub.glob("models--*--*/commits"))]
    found = [name.removeprefix("models--").replace("--", "/", 1) for name in names]
    return [HubRepo(hub, name) for name in found if is_repo_id(name)]


def listed(repo: HubRepo) -> list[dict[str, Any]]:
    """A version each, the newest first; those of tags that main has left behind are at the end."""
    references, history = repo.references(), repo.history()
    known = {commit.hash for commit in history}
    others = [repo.commit(commit) for commit in sorted(set(references.values()) - known)]
    return [
        {
            "repo_id": repo.repo_id,
            "commit": commit.hash,
            "time": commit.time,
            "references": [name for name, at in references.items() if at == commit.hash],
            "files": len(commit.files),
            "bytes": commit.bytes,
            "there": (repo.snapshots / commit.hash).is_dir(),
            "message": commit.message,
        }
        for commit in [*history, *others]
    ]


def as_line(version: dict[str, Any]) -> str:
    size = f"{version['bytes'] / 2**20:,.1f} MiB" if version["there"] else "pruned"
    names = ", ".join(version["references"])
    which = f"{version['repo_id']}  {version['commit'][:12]}  {version['time']}"
    return f"{which}  {size:>12}  {names:12}  {version['message']}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.hub", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("list", "verify", "prune"), help="what to do")
    parser.add_argument("--hub", type=Path, required=True, metavar="DIR", help="the hub directory")
    parser.add_argument("--repo-id", metavar="ORG/NAME", help="this repository alone")
    parser.add_argument("--keep", type=int, default=3, help="prune: versions of main that stay (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    repos = repos_in(arguments.hub, arguments.repo_id)
    if arguments.command == "list":
        versions = [version for repo in repos for version in listed(repo)]
        print(json.dumps(versions, ensure_ascii=False) if arguments.json else "\n".join(map(as_line, versions)))
    elif arguments.command == "verify":
        found = {repo.repo_id: problems_of(repo, not arguments.json) for repo in repos}
        if not repos:
            raise UserError(f"{arguments.hub} has nothing that was published there, so nothing was verified")
        lines = [f"{name}: {problem}" for name, problems in found.items() for problem in problems]
        if lines:
            raise UserError(f"{len(lines)} things are not as published:\n" + "\n".join(lines))
        print(json.dumps(found) if arguments.json else f"{len(repos)} repositories are as they were published")
    else:
        for repo in repos:
            gone, freed = prune(repo, arguments.keep)
            print(f"{repo.repo_id}: {len(gone)} versions went, {freed / 2**20:,.1f} MiB are free again")


if __name__ == "__main__":
    run(main)
