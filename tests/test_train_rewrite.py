"""Config, card and manifest of a model folder change together, wherever a kill falls.

In    a folder with a manifest; a process that SIGKILLs itself at its n-th replacement of a file.
Out   what the folder holds after the next command has opened it.
Run   `pytest tests/test_train_rewrite.py`
"""

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_run import ROOT

from preprocessing.errors import UserError
from preprocessing.folders import MANIFEST, verify, write_folder
from training.report import store_in_config, store_thresholds
from training.rewrite import PENDING, finish_rewrite, rewrite_files

OLD, NEW = {"config.json": "{}\n", "README.md": "old\n"}, {"config.json": '{"a": 1}\n', "README.md": "new\n"}
KILLED = """
import os, signal, sys
from pathlib import Path
from training.rewrite import rewrite_files

left, replace = int(sys.argv[2]), os.replace

def replace_or_die(*args):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*args)

os.replace = replace_or_die
rewrite_files(Path(sys.argv[1]), lambda: {"config.json": '{"a": 1}', "README.md": "new"})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(staging: Path) -> None:
        for name, text in {**OLD, "tokenizer.json": "{}"}.items():
            (staging / name).write_text(text)
        (staging / "checkpoint-2").mkdir()
        (staging / "checkpoint-2" / MANIFEST).write_text("its own")

    write_folder(tmp_path / "final", write, {"step": 3})
    return tmp_path / "final"


def texts_in(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in OLD}


def test_files_and_their_digests_change_and_nothing_else(folder: Path):
    inode = (folder / "tokenizer.json").stat().st_ino
    rewrite_files(folder, lambda: NEW)
    assert texts_in(folder) == NEW
    assert verify(folder) == {"step": 3}
    assert (folder / "tokenizer.json").stat().st_ino == inode
    assert (folder / "checkpoint-2" / MANIFEST).read_text() == "its own"
    assert not (folder / PENDING).exists()


@pytest.mark.parametrize("replacement", [1, 2, 3, 4])
def test_a_kill_leaves_the_old_state_or_the_new_one(folder: Path, replacement: int):
    """The first replacement is that of the hidden file: before it nothing has changed, after it everything will."""
    command = [sys.executable, "-c", KILLED, str(folder), str(replacement)]
    assert subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode == -signal.SIGKILL
    finish_rewrite(folder)
    assert texts_in(folder) == (OLD if replacement == 1 else NEW)
    assert verify(folder) == {"step": 3}
    assert not (folder / PENDING).exists()


def test_two_commands_change_a_folder_one_after_the_other(folder: Path):
    """Each thread stores thresholds of its own fields, and opens the folder as other commands do."""

    def store(field: str) -> None:
        store_thresholds(folder, {field: [0.5]})
        finish_rewrite(folder)

    fields = [f"field_{number}" for number in range(64)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(store, fields))
    assert json.loads((folder / "config.json").read_text())["thresholds"] == {field: [0.5] for field in fields}
    assert verify(folder) == {"step": 3}


def test_damage_elsewhere_is_still_found(folder: Path):
    (folder / "tokenizer.json").write_text("{")
    rewrite_files(folder, lambda: NEW)
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        verify(folder)


def test_a_folder_without_a_manifest_stays_without_and_one_without_a_card_too(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"b": 2}')
    store_in_config(tmp_path, lambda config: {"a": 1}, "## Calibration")
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 1, "b": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("text", ['{"../other.json": ""}', '{"tokenizer.json": ""}', "[1]", "{", '{"README.md": 3}'])
def test_a_hidden_file_that_no_change_left_is_refused(folder: Path, text: str):
    (folder / PENDING).write_text(text)
    with pytest.raises(UserError, match=rf"{PENDING} is not what a killed change"):
        finish_rewrite(folder)
    assert texts_in(folder) == OLD
    assert not (folder.parent / "other.json").exists()
