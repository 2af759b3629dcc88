"""Publish a model folder into a hub directory, from which any program loads it by its name, without the network.

In    --model DIR (the folder final/ of a run, or any that save_pretrained wrote with a tokenizer), --hub DIR,
      --repo-id org/name; maybe --tag v1, --message TEXT.
Out   HUB/models--org--name, in the layout of Hugging Face's own cache; what to type to load it.
Run   python -m training.publish --model outputs/main/final --hub ~/hub --repo-id my-lab/red-heart-tiny --tag v1
      HF_HUB_CACHE=~/hub HF_HUB_OFFLINE=1 python -c 'from transformers import AutoModel; ...'
      python -m training.publish --model outputs/main/final --repo-id my-lab/red-heart-tiny --push   (huggingface.co)

A version is there whole or not at all, whenever this is killed and however many publish or load at the same time.
The same files again make no new version; files that versions share lie on the disk once. A tag stays what it was.
Where the folder has a manifest, every file must be as it says, and what it does not name is left out.
`python -m training.hub` lists, verifies and prunes.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
import json
import shlex
from datetime import UTC, datetime
from pathlib import Path

from safetensors import SafetensorError, safe_open

from preprocessing.errors import UserError, run
from preprocessing.folders import MANIFEST, read_manifest, verify
from training.hub_names import check_file, check_repo_id, check_tag
from training.hub_repo import HubRepo
from training.rewrite import finish_rewrite


def files_to_publish(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Files by name, and the names of those that are left out; raises UserError where it is no whole model folder."""
    if not folder.is_dir():
        raise UserError(f"no model folder at {folder}; give the folder final/ of a training run")
    finish_rewrite(folder)
    there = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    hidden = [name for name in there if any(part.startswith(".") for part in Path(name).parts)]
    chosen = {name: path for name, path in there.items() if name not in hidden}
    if (folder / MANIFEST).is_file():
        verify(folder, what="model folder")
        listed = {MANIFEST, *read_manifest(folder, "model folder")["files"]}
        chosen = {name: path for name, path in there.items() if name in listed}
    for name, path in chosen.items():
        check_file(name)
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path} is a link to {path.resolve()}, outside the folder; put the file itself there")
        if not path.is_file():
            raise UserError(f"{path} is no plain file; take it out of the folder")
    check_model(folder, chosen)
    return chosen, sorted(set(there) - set(chosen))


def check_model(folder: Path, files: dict[str, Path]) -> None:
    """Raises UserError unless there is a config of some model and weights that can be opened."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder} is no model folder: config.json: {type(error).__name__}: {error}") from error
    weights = [path for name, path in files.items() if name.endswith(".safetensors")]
    if not weights:
        raise UserError(f"{folder} holds a {kind} without weights: it has no *.safetensors")
    for path in weights:
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise UserError(f"{path} is damaged: {error}; bring back a copy of it") from error


def push(files: dict[str, Path], repo_id: str, message: str, tag: str | None) -> str:
    """To huggingface.co, as one commit, with the account that `hf auth login` left."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    api.create_repo(repo_id, exist_ok=True)
    added = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    done = api.create_commit(repo_id, added, commit_message=message)
    if tag is not None:
        api.create_tag(repo_id, tag=tag, revision=done.oid)
    return done.commit_url


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the model folder")
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="the name it is loaded by")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--hub", type=Path, metavar="DIR", help="hub directory; it is made where it is not there")
    place.add_argument("--push", action="store_true", help="to huggingface.co instead, after `hf auth login`")
    parser.add_argument("--tag", help="a name for this version that stays, as v1")
    parser.add_argument("--message", default="", help="what is new, for the history")
    arguments = parser.parse_args()
    check_repo_id(arguments.repo_id)
    if arguments.tag is not None:
        check_tag(arguments.tag)
    if not arguments.message.isprintable() or len(arguments.message) > 1000:
        raise UserError("--message must be one line of at most 1,000 printable characters")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    files, left_out = files_to_publish(arguments.model)
    if left_out:
        print(f"left out, since the folder's manifest does not name them or they are hidden: {', '.join(left_out)}")
    if arguments.push:
        print(push(files, arguments.repo_id, arguments.message or f"Publish {arguments.model.name}", arguments.tag))
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    repo = HubRepo(arguments.hub, arguments.repo_id)
    commit, new = repo.publish(files, arguments.message, now, arguments.tag)
    said = "is published" if new else "was published already"
    size = f"{len(commit.files)} files, {commit.bytes / 2**20:,.1f} MiB"
    print(f"{arguments.repo_id} {said}: version {commit.hash}, {size}")
    revision = f', revision="{arguments.tag}"' if arguments.tag else ""
    print(
        f"load it with HF_HUB_CACHE={shlex.quote(str(arguments.hub.resolve()))} HF_HUB_OFFLINE=1:\n"
        f'  AutoModelForSequenceClassification.from_pretrained("{arguments.repo_id}"{revision})\n'
        "after `from redheart_hf import RedHeartForMultiTask`; with trust_remote_code=True where that is not installed"
    )


if __name__ == "__main__":
    run(main)
