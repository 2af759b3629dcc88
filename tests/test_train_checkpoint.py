"""Checkpoints exist whole or not at all, and only the run they belong to goes on from them.

In    folders written here, and those of the tiny run.
Out   what is found, refused and kept.
Run   `pytest tests/test_train_checkpoint.py`
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import run_command
from safetensors.torch import save_file
from tiny_run import ROOT, build_loop, tiny_config

from preprocessing.errors import UserError
from preprocessing.folders import exchange, verify, write_folder
from training import train
from training.checkpoint import FOLDER, checkpoint_at, checkpoints, epoch_of, name_of, step_of
from training.checkpoint_choice import find_checkpoint
from training.checkpoint_keep import keep
from training.run_state import load_run


def write_two(folder: Path) -> None:
    (folder / "a.txt").write_text("alpha")
    (folder / "inner").mkdir()
    (folder / "inner" / "b.txt").write_text("beta")


def made(output_dir: Path, *steps: int) -> Path:
    for step in steps:
        write_folder(place(output_dir, step), write_two, {"step": step})
    return output_dir


def place(output_dir: Path, step: int) -> Path:
    return output_dir / FOLDER / name_of(step, 0, 1e-4)


def steps_in(output_dir: Path) -> list[int]:
    return [step_of(folder) for folder in checkpoints(output_dir)]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_manifest_tells_size_and_digest_of_every_file(tmp_path: Path):
    folder = place(made(tmp_path, 3), 3)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(b"beta").hexdigest()
    assert manifest["files"]["inner/b.txt"] == {"bytes": 4, "sha256": digest}
    assert set(manifest["files"]) == {"a.txt", "inner/b.txt"}
    assert verify(folder) == {"step": 3}


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text("alp"),
        lambda file: file.write_text("alphb"),
        lambda file: file.unlink(),
    ],
    ids=["cut short", "one byte changed", "missing"],
)
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, damage):
    folder = place(made(tmp_path, 1, 2), 2)
    damage(folder / "a.txt")
    with pytest.raises(UserError, match=rf"{folder / 'a.txt'} is damaged.*Remove {folder} to go on from an older"):
        find_checkpoint(tmp_path, "auto")


def test_a_damaged_manifest_is_named_with_the_remedy(tmp_path: Path):
    manifest = place(made(tmp_path, 1), 1) / "manifest.json"
    manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(UserError, match=rf"{manifest} is damaged"):
        find_checkpoint(tmp_path, "auto")


def test_the_newest_is_taken_by_number_and_a_folder_without_manifest_does_not_exist(tmp_path: Path):
    made(tmp_path, 9, 10)
    place(tmp_path, 11).mkdir()
    (place(tmp_path, 11) / "a.txt").write_text("alpha")
    (tmp_path / FOLDER / "checkpoint_epoch_best").mkdir()
    assert find_checkpoint(tmp_path, "auto") == place(tmp_path, 10)
    assert checkpoints(tmp_path) == [place(tmp_path, 9), place(tmp_path, 10)]


def test_a_name_tells_epochs_rate_and_steps():
    """As the first guide has them, and in the order of a listing."""
    name = name_of(400, 2, 9.5e-5)
    assert name == "checkpoint_epoch_0002_lr_0.000095_step_00000400"
    assert (step_of(Path(name)), epoch_of(Path(name))) == (400, 2)
    assert step_of(Path(name_of(123456789, 10000, 12.5))) == 123456789
    assert (step_of(Path("final")), epoch_of(Path("checkpoint_epoch_0020"))) == (-1, -1)


def test_a_checkpoint_of_an_earlier_version_is_refused_with_what_to_do(tmp_path: Path):
    write_folder(tmp_path / "checkpoint-200", write_two, {"step": 200})
    for resume in ("auto", "never", str(tmp_path / "checkpoint-200")):
        with pytest.raises(UserError, match=r"checkpoint-200 was written by an earlier .*--start_from .*-200"):
            find_checkpoint(tmp_path, resume)


def test_resume_never_refuses_to_start_over_a_run(tmp_path: Path):
    assert find_checkpoint(tmp_path, "never") is None
    made(tmp_path, 4)
    with pytest.raises(UserError, match=r"step_00000004.*--resume auto"):
        find_checkpoint(tmp_path, "never")


def test_a_folder_to_resume_from_must_be_there_and_whole(tmp_path: Path):
    made(tmp_path, 4, 5)
    assert find_checkpoint(tmp_path, str(place(tmp_path, 5))) == place(tmp_path, 5)
    with pytest.raises(UserError, match=r"step_00000006; here are:\n.*step_00000004, .*step_00000005"):
        find_checkpoint(tmp_path, str(place(tmp_path, 6)))
    (place(tmp_path, 5) / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"step_00000005 is not a whole checkpoint"):
        find_checkpoint(tmp_path, str(place(tmp_path, 5)))


def test_going_on_from_an_older_one_does_not_cost_the_newer_ones(tmp_path: Path):
    """Its next save would be older than they are, and be the first to go."""
    folder = made(tmp_path, 100, 300, 400)
    with pytest.raises(UserError, match=r"holds .*0300, .*0400, newer than .*0100"):
        find_checkpoint(folder, str(place(folder, 100)))
    assert find_checkpoint(tmp_path / "elsewhere", str(place(folder, 100))) == place(folder, 100)


def test_changed_data_is_another_run(run: Path, tokenizer, scenarios, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    newest = checkpoints(tmp_path / "run")[-1]
    loop = build_loop(tokenizer, tiny_config(tmp_path / "run", max_steps=3), scenarios[1:25])
    with pytest.raises(UserError, match=r"was trained on encoded-.*a training file, the tokenizer or max_length"):
        load_run(loop, newest)


def test_the_oldest_go_and_what_killed_saves_left_behind(tmp_path: Path):
    made(tmp_path, 2, 4, 10)
    (tmp_path / FOLDER / f".{place(tmp_path, 12).name}.partial").mkdir()
    (tmp_path / FOLDER / "metadata.json").write_text("kept")
    keep(tmp_path, limit=2, complete=2)
    assert names_in(tmp_path / FOLDER) == [place(tmp_path, 4).name, place(tmp_path, 10).name, "metadata.json"]


def test_a_save_that_fails_leaves_everything_as_it_was(tmp_path: Path):
    folder = place(made(tmp_path, 2), 2)

    def run_out_of_space(staging: Path) -> None:
        (staging / "a.txt").write_text("half")
        with Path("/dev/full").open("w") as full:  # a real "no space left on device"
            full.write("x" * 100_000)

    for target in (folder, place(tmp_path, 4)):
        with pytest.raises(UserError, match=rf"could not save {target}: .*No space left.*make room"):
            write_folder(target, run_out_of_space)
    assert names_in(tmp_path / FOLDER) == [folder.name]
    assert verify(folder) == {"step": 2}


def test_a_folder_is_never_away_while_it_is_replaced(tmp_path: Path, monkeypatch):
    """Old and new change places in one act: no rename takes the old one away first."""
    folder = place(made(tmp_path, 2), 2)
    monkeypatch.setattr(Path, "rename", lambda self, target: pytest.fail(f"{self} was renamed to {target}"))
    write_folder(folder, write_two, {"step": 3})
    assert verify(folder) == {"step": 3}
    assert names_in(tmp_path / FOLDER) == [folder.name]


def test_two_folders_change_places(tmp_path: Path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").touch()
    assert exchange(tmp_path / "one", tmp_path / "other")
    assert (names_in(tmp_path / "one"), names_in(tmp_path / "other")) == (["other.txt"], ["one.txt"])
    with pytest.raises(FileNotFoundError, match="missing"):
        exchange(tmp_path / "one", tmp_path / "missing")


def test_two_renames_do_where_folders_cannot_change_places(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("preprocessing.folders.exchange", lambda one, other: False)
    folder = place(made(tmp_path, 2), 2)
    write_folder(folder, write_two, {"step": 3})
    folder.rename(folder.parent / f".{folder.name}.old")  # as a kill between the two leaves it
    write_folder(folder, write_two, {"step": 4})
    assert verify(folder) == {"step": 4}
    assert names_in(tmp_path / FOLDER) == [folder.name]


def test_a_folder_is_replaced_whole(tmp_path: Path):
    folder = place(made(tmp_path, 2), 2)
    write_folder(folder, lambda staging: (staging / "c.txt").write_text("gamma"))
    assert names_in(folder) == ["c.txt", "manifest.json"]
    assert names_in(tmp_path / FOLDER) == [folder.name]


# ---------------------------------------------------------------- of a run


@pytest.fixture(scope="module")
def run(tokenizer, scenarios, tmp_path_factory) -> Path:
    """Three steps, saved after each, the newest two kept."""
    output_dir = tmp_path_factory.mktemp("runs") / "first"
    config = tiny_config(output_dir, max_steps=3, save_steps=1, save_total_limit=2)
    build_loop(tokenizer, config, scenarios[:8]).train()
    return output_dir


def test_a_run_keeps_the_newest_and_pickles_nothing(run: Path):
    assert steps_in(run) == [2, 3]
    files = names_in(checkpoint_at(run, 3))
    assert {"model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json", "config.json"} <= set(files)
    assert {Path(name).suffix for name in files} == {".json", ".py", ".safetensors"}


def test_another_config_is_refused_with_its_fields(run: Path, tokenizer, scenarios):
    config = tiny_config(run, max_steps=4, seed=1, learning_rate=0.5)
    loop = build_loop(tokenizer, config, scenarios[:8])
    with pytest.raises(UserError) as refused:
        load_run(loop, checkpoint_at(run, 2))
    message = str(refused.value)
    for part in ("step_00000002", "max_steps: 3 in the checkpoint, 4 now", "seed: 0 in", "learning_rate: 0.01 in"):
        assert part in message
    assert "save_steps" not in message
    assert loop.step == 0


def test_a_run_goes_on_in_another_folder(run: Path, tokenizer, scenarios, tmp_path: Path):
    """metrics.jsonl begins there with the steps still to come, and the weights end the same."""
    copy = tmp_path / "taken along"
    shutil.copytree(checkpoint_at(run, 2), copy)
    config = tiny_config(tmp_path / "second", max_steps=3, save_steps=5)
    loop = build_loop(tokenizer, config, scenarios[:8])
    load_run(loop, find_checkpoint(tmp_path / "second", str(copy)) or copy)
    loop.train()
    lines = [json.loads(line) for line in (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [3]
    for name in ("model.safetensors", "optimizer.safetensors"):
        first, second = checkpoint_at(run, 3) / name, checkpoint_at(tmp_path / "second", 3) / name
        assert first.read_bytes() == second.read_bytes()


def test_a_model_is_not_a_checkpoint(run: Path, tokenizer, scenarios, tmp_path: Path):
    loop = build_loop(tokenizer, tiny_config(tmp_path / "run"), scenarios[:8])
    write_folder(tmp_path / "final", loop.bare_model.save_pretrained)
    with pytest.raises(UserError, match=r"final is a model, not a checkpoint"):
        load_run(loop, tmp_path / "final")


def test_other_arithmetic_is_said(run: Path, tokenizer, scenarios, monkeypatch):
    loop = build_loop(tokenizer, tiny_config(run, max_steps=3), scenarios[:8])
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 7)
    with pytest.warns(UserWarning, match=rf"threads {threads} -> {threads + 7}.*bits may differ"):
        load_run(loop, checkpoint_at(run, 3))
    assert loop.step == 3


def test_a_refused_start_leaves_the_other_runs_files(run: Path, tokenizer_dir: Path, tmp_path: Path):
    """holdout_READER.jsonl says what a model never saw: a second run with other settings must not write over it."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    source = f"scenarios={ROOT / 'data' / 'scenarios' / 'dev.jsonl'}"
    command = ["--output_dir", folder, "--tokenizer", tokenizer_dir, "--train", f"[{source}]"]
    code, _, said = run_command(train, *command, "--holdout.scenarios", 5)
    assert code == 2
    assert "belongs to another run" in said
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == before


def test_weights_may_be_read_by_whoever_may_read_the_rest(tmp_path: Path):
    """safetensors writes files for their owner alone; a shared final/ was of no use to colleagues."""
    write_folder(tmp_path / "final", lambda folder: save_file({"a": torch.ones(2)}, folder / "model.safetensors"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "final").iterdir()}
    assert modes["model.safetensors"] == modes["manifest.json"]
