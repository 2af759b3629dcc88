"""What a run keeps of its checkpoints, and what metadata.json says of them.

In    runs of the tiny model, saved after each step or epoch; folders with scores written by hand.
Out   which checkpoints are left, complete or as weights alone; the list, beside the folders and the guide's code.
Run   `pytest tests/test_train_checkpoint_keep.py`
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_train_checkpoint import write_two
from tiny_run import build_loop, tiny_config

from preprocessing import folders
from preprocessing.errors import UserError
from preprocessing.folders import verify, write_folder
from redheart_hf import RedHeartForMultiTask
from training.checkpoint import FOLDER, checkpoint_at, checkpoints, epoch_of, name_of, step_of
from training.checkpoint_choice import find_checkpoint
from training.checkpoint_keep import SWEET_SPOTS, keep, remove
from training.checkpoint_metadata import METADATA, entries, write_metadata
from training.creation import LEAST_NUMBERS
from training.loading import load_model
from training.run_state import load_run


@pytest.fixture(scope="module")
def run(tokenizer, scenarios, tmp_path_factory) -> Path:
    """Six epochs of two steps, each saved: the newest two and the best complete, five at most."""
    output_dir = tmp_path_factory.mktemp("runs") / "run"
    fields = {"epochs": 6, "save_epochs": 1, "save_total_limit": 5, "log_steps": 1}
    build_loop(tokenizer, tiny_config(output_dir, **fields), scenarios[:8]).train()
    return output_dir


def scored(output_dir: Path, scores: dict[int, float | None]) -> Path:
    """Folders of no use but for their facts."""
    for step, score in scores.items():
        place = output_dir / FOLDER / name_of(step, step, 1e-4)
        metrics = {"loss": 1.0} | ({} if score is None else {"score": score})
        write_folder(place, write_two, {"step": step, "metrics": metrics})
    return output_dir


def steps_in(output_dir: Path) -> list[int]:
    return [step_of(folder) for folder in checkpoints(output_dir)]


def test_epochs_between_checkpoints_and_the_end(tokenizer, scenarios, tmp_path: Path):
    """Eight records in batches of four: an epoch has two steps. The last step is no end of an epoch."""
    config = tiny_config(tmp_path / "run", max_steps=9, save_epochs=2, save_steps=1)
    build_loop(tokenizer, config, scenarios[:8]).train()
    assert [(step_of(one), epoch_of(one)) for one in checkpoints(tmp_path / "run")] == [(4, 2), (8, 4), (9, 4)]


def test_the_guides_code_reads_the_list(run: Path, capsys):
    with open(run / FOLDER / METADATA) as f:
        metadata = json.load(f)
        for checkpoint in metadata:
            print(f"Epoch {checkpoint['epoch']}: Loss={checkpoint['metrics']['loss']:.4f}")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("Epoch 6: Loss=")


def test_the_list_says_what_the_log_and_the_names_say(run: Path):
    found = json.loads((run / FOLDER / METADATA).read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"]["total"] for line in lines if "loss" in line}
    rates = {line["step"]: line["learning_rate"] for line in lines if "loss" in line}
    scores = {line["step"]: line["score"] for line in lines if "score" in line}
    assert [one["name"] for one in found] == [folder.name for folder in checkpoints(run)]
    for one in found:
        step = one["step"]
        assert one["name"] == name_of(step, step // 2, rates[step])
        assert (one["epoch"], one["learning_rate"]) == (step // 2, rates[step])
        assert one["metrics"] == {"loss": losses[step], "score": scores[step]["choosing"]["score"]}
        assert one["score"] == scores[step]
    assert all(later["parent"] == one["name"] for one, later in zip(found, found[1:], strict=False) if one["step"] > 4)
    assert len({json.dumps(one["identity"], sort_keys=True) for one in found}) == 1
    assert set(found[0]["identity"]) == {"run", "model", "data", "tokenizer"}


def test_the_newest_two_and_the_best_are_complete_and_the_others_weights(run: Path):
    found = entries(run)
    best = max((one for one in found), key=lambda one: one["metrics"]["score"])
    expected = {one["name"] for one in found[-2:]} | {best["name"]}
    assert {one["name"] for one in found if one["kept"] == "complete"} == expected
    for folder in checkpoints(run):
        verify(folder)
        assert (folder / "optimizer.safetensors").is_file() == (folder.name in expected)
        assert (folder / "state.json").is_file() == (folder.name in expected)


def test_weights_alone_are_the_checkpoints_own_rounded(run: Path, tokenizer, scenarios, tmp_path: Path):
    """Beside the same run with nothing thinned; matrices are rounded to the nearest, all else is as it was."""
    fields = {"epochs": 6, "save_epochs": 1, "save_total_limit": 6, "keep_complete": 6}
    build_loop(tokenizer, tiny_config(tmp_path / "run", **fields), scenarios[:8]).train()
    assert {one["kept"] for one in entries(tmp_path / "run")} == {"complete"}
    thin = next(folder for folder in checkpoints(run) if not (folder / "state.json").exists())
    whole = checkpoint_at(tmp_path / "run", step_of(thin))
    saved = load_file(whole / "model.safetensors")
    with safe_open(thin / "model.safetensors", "pt") as found:
        assert found.metadata() == {"format": "pt"}
        assert set(found.keys()) == set(saved)
        for name, value in saved.items():
            halved = value.ndim > 1 and value.numel() >= LEAST_NUMBERS
            assert torch.equal(found.get_tensor(name), value.bfloat16() if halved else value), name
    loaded = RedHeartForMultiTask.from_pretrained(thin).state_dict()
    assert {value.dtype for value in loaded.values() if value.is_floating_point()} == {torch.float32}
    for name, value in saved.items():
        torch.testing.assert_close(loaded[name], value, rtol=2**-8, atol=0)
    model, _ = load_model(thin)
    assert model.config.hidden_size == 32


def test_a_run_cannot_go_on_from_weights_alone(run: Path, tokenizer, scenarios, tmp_path: Path):
    thin, *_, newest = checkpoints(run)
    said = rf"{thin} has kept its weights alone.*--start_from.*Complete ones are: .*{newest.name}"
    with pytest.raises(UserError, match=said):
        find_checkpoint(tmp_path / "elsewhere", str(thin))
    with pytest.raises(UserError, match=said):
        load_run(build_loop(tokenizer, tiny_config(tmp_path / "run"), scenarios[:8]), thin)


@pytest.mark.parametrize("flush", range(1, 20, 3))
def test_a_kill_while_one_is_thinned_leaves_the_old_or_the_new(flush: int, run: Path, tmp_path: Path):
    """Killed at that flush of a file, by a real signal in a process of its own; the next save does the rest."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = {folder.name: verify(folder) for folder in checkpoints(copy)}
    process = os.fork()
    if process == 0:
        calls, own = [0], folders.flush_to_disk

        def flush_or_die(path: Path) -> None:
            calls[0] += 1
            if calls[0] == flush:
                os.kill(os.getpid(), 9)
            own(path)

        folders.flush_to_disk = flush_or_die
        keep(copy, limit=5, complete=1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert status == 9 or flush > 10
    for folder in checkpoints(copy):
        assert verify(folder) | {"kept": None} == before[folder.name] | {"kept": None}
    keep(copy, limit=5, complete=1)
    write_metadata(copy)
    assert sorted(path.name for path in (copy / FOLDER).iterdir()) == sorted([*before, METADATA])
    best = max(entries(run), key=lambda one: one["metrics"]["score"])["name"]
    kept = {one["name"] for one in entries(copy) if one["kept"] == "complete"}
    assert kept == {checkpoints(copy)[-1].name, best}


def test_the_best_and_the_sweet_spots_are_never_deleted(tmp_path: Path):
    scored(tmp_path, {1: 0.2, 2: 0.9, 3: 0.1, 4: 0.9, 5: None, 6: 0.3})
    (tmp_path / SWEET_SPOTS).parent.mkdir()
    (tmp_path / SWEET_SPOTS).write_text(json.dumps({"checkpoints": [name_of(3, 3, 1e-4)]}))
    remove(tmp_path, 4)
    assert steps_in(tmp_path) == [2, 3, 5, 6]  # of equal scores the first is the best
    remove(tmp_path, 1)
    assert steps_in(tmp_path) == [2, 3, 6]
    (tmp_path / SWEET_SPOTS).write_text("{}")
    with pytest.raises(UserError, match=r"sweet_spot_analysis.json is damaged: KeyError: 'checkpoints'"):
        remove(tmp_path, 1)


@pytest.mark.parametrize("harm", [lambda path: path.write_text("[{"), lambda path: path.unlink()])
def test_the_list_is_made_again_from_the_folders(harm, run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / FOLDER / METADATA
    before = path.read_bytes()
    harm(path)
    write_metadata(tmp_path / "run")
    assert path.read_bytes() == before
