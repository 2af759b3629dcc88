"""One of many that publish to, or load from, a hub directory at the same time; each a process that may be killed.

In    publish HUB FOLDER... | load HUB SECONDS
Out   publish: each folder in turn. load: loads main again and again; exit code 1 for a version that is not one.
Run   through tests/test_train_publish_killed.py

Every version says its number in the config, in the card and in all of its weights.
"""

import sys
import time
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModel

import redheart_hf
from training.hub_repo import HubRepo
from training.publish import files_to_publish

NAME = "lab/many"
assert redheart_hf.RedHeartModel  # which registers it with the Auto classes


def publish(hub: Path, folders: list[Path]) -> None:
    for folder in folders:
        HubRepo(hub, NAME).publish(files_to_publish(folder)[0], folder.name, "2026-11-23T00:00:00+00:00")


def load(hub: Path, seconds: float) -> int:
    """How often it was loaded, each time of one version."""
    ends, times = time.monotonic() + seconds, 0
    while time.monotonic() < ends or times == 0:
        try:
            folder = Path(snapshot_download(NAME, cache_dir=hub, local_files_only=True))
        except LocalEntryNotFoundError:  # before the first version is there
            continue
        model = AutoModel.from_pretrained(NAME, cache_dir=hub, local_files_only=True)
        number = float(model.config.rope_theta)
        if {float(part) for parameter in model.parameters() for part in parameter.unique()} != {number}:
            raise SystemExit(f"the config is of version {number}, the weights are not")
        of_folder = AutoModel.from_pretrained(folder)
        card = Path(hf_hub_download(NAME, "README.md", cache_dir=hub, local_files_only=True, revision=folder.name))
        if float(of_folder.config.rope_theta) != float(card.read_text(encoding="utf-8")):
            raise SystemExit(f"{folder} is of two versions")
        times += 1
    return times


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        publish(Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
    else:
        print(load(Path(sys.argv[2]), float(sys.argv[3])))
