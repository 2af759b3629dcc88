"""Checkpoints written beside the steps: the same bytes as blocking ones, whole after any kill, their faults said.

In    the tiny run, its copy delayed on purpose; plans with and without room for the copy.
Out   every file of every checkpoint, byte by byte; what is raised, and when; how save_async is settled.
Run   `pytest tests/test_train_saving.py`
"""

import threading
import time
from pathlib import Path

import pytest
from commands import NEEDS_COMPILER
from tiny_run import SMALL_MODULES, build_loop, tiny_config

from preprocessing.errors import DoesNotFit, UserError
from preprocessing.folders import verify
from training import saving
from training.checkpoint import FOLDER, checkpoints, step_of
from training.config import TrainConfig
from training.memory_kinds import DevicePlan, MemoryPlan
from training.memory_save import settle_saving

WAYS = [
    pytest.param({}, {"modules": ["scenario_memory", "surd_head"], **SMALL_MODULES}, id="adamw, memory and SURD"),
    pytest.param({"optimizer": "sgd", "momentum": 0.9}, {}, id="sgd"),
    pytest.param(
        {"optimizer": "adamw_8bit", "update_in_backward": True, "clipping": "previous_norm"},
        {},
        marks=NEEDS_COMPILER,
        id="in the backward pass",
    ),
]
MIB = 1 << 20


def bytes_of(output_dir: Path) -> dict[str, bytes]:
    """All files of all checkpoints, but for those that name the folder and the way of saving."""
    files = [path for path in (output_dir / FOLDER).rglob("*") if path.is_file()]
    named = {str(path.relative_to(output_dir)): path.read_bytes() for path in files}
    return {name: data for name, data in named.items() if not name.endswith(("state.json", "manifest.json"))}


@pytest.mark.parametrize(("fields", "model"), WAYS)
def test_the_bytes_are_those_of_blocking_saves(fields, model, tokenizer, scenarios, tmp_path, monkeypatch):
    """The copy is begun late: whatever moves before it is done would be in the checkpoint."""
    own = saving.copies

    def late(files):
        time.sleep(0.3)
        return own(files)

    monkeypatch.setattr(saving, "copies", late)
    fields = {
        "max_steps": 6,
        "save_steps": 1,
        "save_total_limit": 9,
        "keep_complete": 9,
        "memory_refresh_steps": 2,
    } | fields
    for name, way in (("blocking", "off"), ("beside", "on")):
        config = tiny_config(tmp_path / name, save_async=way, **fields)
        build_loop(tokenizer, config, scenarios[:24], **model).train()
    expected, found = bytes_of(tmp_path / "blocking"), bytes_of(tmp_path / "beside")
    assert len(checkpoints(tmp_path / "beside")) == 6
    assert [name for name in expected | found if expected.get(name) != found.get(name)] == []


def test_steps_go_on_while_a_checkpoint_is_written(tokenizer, scenarios, tmp_path, monkeypatch):
    """The first save is held up until three more steps are taken, which a blocking one would never see."""
    config = tiny_config(tmp_path / "run", max_steps=6, save_steps=2, save_async="on")
    loop = build_loop(tokenizer, config, scenarios[:24])
    reached, own_save, own_step, seen = threading.Event(), saving.copies, loop.take_step, []

    def held_up(files):
        found = own_save(files)
        loop.saver.copied.set()
        assert reached.wait(60)
        seen.append(loop.step)
        return found

    def take_step(group):
        if loop.step == 3:
            reached.set()
        return own_step(group)

    monkeypatch.setattr(saving, "copies", held_up)
    loop.take_step = take_step
    loop.train()
    assert seen[0] >= 3
    assert [step_of(folder) for folder in checkpoints(tmp_path / "run")] == [2, 4, 6]
    for folder in checkpoints(tmp_path / "run"):
        verify(folder)


def test_a_save_that_fails_beside_the_steps_ends_the_run_as_its_own_error(tokenizer, scenarios, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=9, save_steps=2, save_async="on")
    loop = build_loop(tokenizer, config, scenarios[:24])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FOLDER).write_text("in the way")
    with pytest.raises(UserError, match=rf"could not save {tmp_path / 'run' / FOLDER}.*a file is in the way"):
        loop.train()
    assert 2 <= loop.step <= 4  # not later than the next save
    assert not any(thread.name == "saver" for thread in threading.enumerate())


def plan(peak: int) -> MemoryPlan:
    cpu = DevicePlan(200 * MIB, 0, 400 * MIB, 0, 0, 0, {"load": 100 * MIB, "forward": peak, "save": 300 * MIB})
    return MemoryPlan({"cpu": cpu})


def settled(limit: int, **fields) -> tuple[str, int, list[str]]:
    said: list[str] = []
    config = TrainConfig(output_dir="out", train=["scenarios=a.jsonl"], **fields)
    found, planned = settle_saving(config, plan(peak=1000 * MIB), {"cpu": limit}, saves=3, say=said.append)
    return found.save_async, planned.peak, said


def test_auto_copies_where_the_plan_has_room():
    """A copy of 600 MiB beside a peak of 1000."""
    assert settled(1600 * MIB) == ("on", 1600 * MIB, [])
    way, peak, said = settled(1599 * MIB)
    assert (way, peak) == ("off", 1000 * MIB)
    assert said == [
        "save_async auto: off; with a copy of weights and moments (0.59 GiB) the run would take 1.56 GiB (forward), "
        "and may take 1.56"
    ]
    assert settled(1600 * MIB, save_async="off") == ("off", 1000 * MIB, [])
    with pytest.raises(DoesNotFit, match=r"save_async on: .*this fits: --save_async off"):
        settled(1599 * MIB, save_async="on")


def test_a_run_that_saves_once_makes_no_copy():
    config = TrainConfig(output_dir="out", train=["scenarios=a.jsonl"])
    found, planned = settle_saving(config, plan(MIB), {"cpu": 1 << 40}, saves=1, say=pytest.fail)
    assert (found.save_async, planned.devices["cpu"].snapshot) == ("off", 0)
