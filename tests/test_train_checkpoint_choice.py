"""Which checkpoint a run goes on from, as people type it; and what going on costs.

In    folders with manifests; the tiny run, taken up after few steps and after many.
Out   the folder that is found, or what is said; rows read and batches made before the first step.
Run   `pytest tests/test_train_checkpoint_choice.py`
"""

import os
from pathlib import Path

import pytest
from test_train_checkpoint import write_two
from tiny_run import build_loop, tiny_config

from preprocessing.errors import UserError
from preprocessing.folders import write_folder
from training.checkpoint import FOLDER, checkpoint_at, checkpoints, name_of
from training.checkpoint_choice import find_checkpoint
from training.collator import Collator
from training.run_state import load_run


def made(output_dir: Path, *epochs_and_steps: tuple[int, int]) -> Path:
    for epoch, step in epochs_and_steps:
        write_folder(output_dir / FOLDER / name_of(step, epoch, 9.5e-5), write_two, {"step": step})
    return output_dir


def place(output_dir: Path, epoch: int, step: int) -> Path:
    return output_dir / FOLDER / name_of(step, epoch, 9.5e-5)


@pytest.mark.parametrize(
    "asked",
    [
        "training/checkpoints_final/checkpoint_epoch_0020.pt",
        "checkpoint_epoch_0020",
        "checkpoint_epoch_0020_lr_0.000095_*.pt",
        "checkpoint_epoch_0020_lr_0.000095_step_00000200",
        "runs/other/checkpoints_final/checkpoint_epoch_0020_lr_0.000095_step_00000200/",
    ],
)
def test_a_name_is_found_by_what_it_begins_with(asked: str, tmp_path: Path):
    """As the first guide types it. Of one epoch's checkpoints it is the epoch's end that is meant."""
    run = made(tmp_path / "run", (19, 190), (20, 200))
    assert find_checkpoint(run, asked) == place(run, 20, 200)
    other = made(tmp_path / "other", (20, 200), (20, 205))
    if "step" not in asked:
        with pytest.raises(UserError, match=r"holds .*step_00000205, newer than .*step_00000200"):
            find_checkpoint(other, asked)
        assert find_checkpoint(tmp_path / "fresh", str(place(other, 20, 205))) == place(other, 20, 205)


def test_a_name_is_looked_for_in_the_newest_run_that_has_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = Path("runs")
    for number, (name, epochs) in enumerate({"older": (10, 20), "newer": (20,), "newest": (30,)}.items()):
        made(runs / name, *((epoch, 10 * epoch) for epoch in epochs))
        for folder in checkpoints(runs / name):
            os.utime(folder / "manifest.json", (1e9 + number, 1e9 + number))
    assert find_checkpoint(runs / "mine", "checkpoint_epoch_0020.pt") == place(runs / "newer", 20, 200)
    made(runs / "mine", (20, 200))
    assert find_checkpoint(runs / "mine", "checkpoint_epoch_0020.pt") == place(runs / "mine", 20, 200)
    with pytest.raises(UserError, match=r"no checkpoint checkpoint_epoch_0020.pt; here are:\n  elsewhere: none"):
        find_checkpoint(Path("elsewhere"), "checkpoint_epoch_0020.pt")


def test_a_name_that_is_not_there_gets_the_list(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(Path("runs/one"), (2, 20))
    made(Path("runs/two"), (4, 40))
    with pytest.raises(UserError) as refused:
        find_checkpoint(Path("runs/one"), "checkpoint_epoch_002.pt")
    for folder in (place(Path("runs/one"), 2, 20), place(Path("runs/two"), 4, 40)):
        assert f"  {folder.parents[1]}: {folder.name}" in str(refused.value)


def test_latest_wants_one(tmp_path: Path):
    with pytest.raises(UserError, match=r"--resume latest: .*run has no checkpoint yet; --resume auto begins"):
        find_checkpoint(tmp_path / "run", "latest")
    made(tmp_path / "run", (1, 10), (2, 20))
    assert find_checkpoint(tmp_path / "run", "latest") == place(tmp_path / "run", 2, 20)


def test_another_model_is_refused_with_both_fingerprints(tokenizer, scenarios, tmp_path: Path):
    """The same settings of the run; the model was made otherwise."""
    config = tiny_config(tmp_path / "run", max_steps=1)
    first = build_loop(tokenizer, config, scenarios[:8])
    first.train()
    other = build_loop(tokenizer, config, scenarios[:8], emotion_culture_size=24)
    with pytest.raises(UserError) as refused:
        load_run(other, checkpoint_at(tmp_path / "run", 1))
    saved, now = first.saver.identity["model"], other.saver.identity["model"]
    assert saved != now
    assert f"another model: {saved} in the checkpoint, {now} now" in str(refused.value)


class Counting:
    """A collator, and how many rows each of its batches had."""

    def __init__(self, own: Collator):
        self.own, self.rows = own, []

    def __call__(self, rows):
        self.rows.append(len(rows))
        return self.own(rows)


def test_going_on_costs_the_same_after_ten_steps_and_after_a_hundred_thousand(tokenizer, scenarios, tmp_path: Path):
    """Counted, not timed: rows that are read and batches that are made until the first step can be taken."""
    counted = []
    for step in (10, 100_000):
        config = tiny_config(tmp_path / "run", max_steps=200_000, gradient_accumulation_steps=2)
        loop = build_loop(tokenizer, config, scenarios[:24])
        loop.step = step
        loop.collator = counting = Counting(loop.collator)
        group = next(loop.groups())
        assert [batch["ids"] for batch in group] == [
            [loop.dataset[row]["id"] for row in rows] for rows in loop.plan.step(step)
        ]
        counted.append((len(counting.rows), sum(counting.rows)))
    assert counted[0] == counted[1] == (2, 8)
