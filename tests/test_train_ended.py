"""Runs that were ended, killed between two renames, or restarted on other files: nothing lost, nothing mistaken.

In    runs of a tiny model on the shipped scenarios, signals, files changed between two starts.
Out   failures where a run would not end as one left alone, or would take another's files for its own.
Run   pytest tests/test_train_ended.py
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import save_file
from test_train_regret_pool import squared
from tiny_run import ROOT, build_loop, tiny_config

from preprocessing import folders
from preprocessing.errors import UserError
from preprocessing.folders import verify, write_folder
from training import train as command
from training.checkpoint import FOLDER, checkpoints
from training.checkpoint_choice import find_checkpoint
from training.checkpoint_keep import keep, thin
from training.checkpoint_metadata import entries, regular
from training.regret_pool import OrderedPool
from training.run_lock import LOCK, held_run, own_record
from training.run_log import lines_logged
from training.run_state import load_run, read_state, refuse_other_data
from training.signals import Ended, Ending, ended_by_signals

SCENARIOS = ROOT / "data" / "scenarios" / "train.jsonl"


def asked_after(loop, step: int):
    """The loop, which is asked to end in its `step`-th step."""
    take_step = loop.take_step

    def asking(group):
        if loop.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(group)

    loop.take_step = asking
    return loop


def loop_of(tokenizer, records, folder: Path, **fields):
    return build_loop(tokenizer, tiny_config(folder, **({"max_steps": 6} | fields)), records)


def test_what_is_saved_because_a_run_ends_leaves_no_trace_once_it_went_on(tokenizer, scenarios, tmp_path: Path):
    alone = loop_of(tokenizer, scenarios[:24], tmp_path / "alone" / "run")
    alone.train()
    ended = asked_after(loop_of(tokenizer, scenarios[:24], tmp_path / "ended" / "run"), 3)
    with pytest.raises(Ended, match="after step 3, in order"), ended_by_signals(ended):
        ended.train()
    last = checkpoints(ended.output_dir)[-1]
    assert verify(last)["interim"]
    assert last not in regular(ended.output_dir)
    resumed = loop_of(tokenizer, scenarios[:24], ended.output_dir)
    load_run(resumed, last)
    resumed.train()
    found, expected = ([*entries(loop.output_dir)] for loop in (resumed, alone))
    assert [(one["name"], one["parent"], one["kept"]) for one in found] == [
        (one["name"], one["parent"], one["kept"]) for one in expected
    ]
    for one, other in zip(checkpoints(resumed.output_dir), checkpoints(alone.output_dir), strict=True):
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_signal_in_the_last_step_is_obeyed(tokenizer, scenarios, tmp_path: Path):
    loop = asked_after(loop_of(tokenizer, scenarios[:24], tmp_path / "run"), 6)
    with pytest.raises(Ended, match="after step 6, in order: .* 0 steps to the end"), ended_by_signals(loop):
        loop.train()
    assert not verify(checkpoints(loop.output_dir)[-1]).get("interim")


def test_a_signal_inside_a_write_does_not_write_there(monkeypatch, capfd):
    """As Python's own streams, which raise when a handler writes to one that is being written to."""

    class Stream:
        inside = False

        def write(self, text: str) -> None:
            if self.inside:
                raise RuntimeError("reentrant call")
            self.inside = True
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)  # the handler runs here
            self.inside = False

        def flush(self) -> None:
            """Nothing is held back."""

    ending = Ending()
    ending.listen()
    try:
        monkeypatch.setattr(sys, "stderr", Stream())
        print("a bar", end="", file=sys.stderr)
    finally:
        ending.stop_listening()
    assert ending.asked == signal.SIGTERM
    assert "SIGTERM: the run saves after this step and ends" in capfd.readouterr().err


def test_a_terminal_that_closes_does_not_disturb_the_workers():
    ending = Ending()
    ending.listen()  # workers are forks, and would hear as their trainer does
    try:
        pool, found = OrderedPool(squared, 2, ahead=4), []
        for number, (tensor, _) in enumerate(pool.results(range(20))):
            found.append(float(tensor[0, 0]))
            if number == 3:
                for worker in pool.workers:
                    os.kill(worker.process.pid, signal.SIGHUP)
    finally:
        ending.stop_listening()
    assert found == [float(job**2) for job in range(20)]
    assert pool.take_figures()["redone"] == 0


def written(output_dir: Path, step: int) -> Path:
    place = output_dir / FOLDER / f"checkpoint_epoch_{step:04d}_lr_0.000100_step_{step:08d}"

    def write(folder: Path) -> None:
        import torch

        save_file({"weight": torch.ones(128, 128)}, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text("{}")
        (folder / "state.json").write_text("{}")

    write_folder(place, write, {"step": step, "metrics": {}, "kept": "complete"})
    return place


def test_a_kill_between_two_renames_costs_no_checkpoint(tmp_path: Path, monkeypatch):
    """Where folders cannot change places in one act."""
    places = [written(tmp_path, step) for step in (1, 2, 3)]
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "exchange", lambda *_: False)
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            keep(tmp_path, 30, 2)
    assert not places[0].exists()
    keep(tmp_path, 30, 2)
    assert checkpoints(tmp_path) == places
    assert verify(places[0])["kept"] == "weights"


def test_what_is_damaged_is_not_sealed_as_whole(tmp_path: Path):
    place = written(tmp_path, 1)
    (place / "config.json").write_text('{"hidd')
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        thin(place)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        verify(place)


def test_another_containers_process_is_not_taken_for_dead(tmp_path: Path):
    """Its number may be anybody's here; the lock that is held counts."""
    with held_run(tmp_path):
        (tmp_path / LOCK).write_text(json.dumps(own_record() | {"pid": 2**22, "processes": "pid:[1]"}))
        with pytest.raises(UserError, match="is in use by process"), held_run(tmp_path):
            pytest.fail("it was let in")
        (tmp_path / LOCK).write_text(json.dumps(own_record() | {"boot": "of another machine of that name"}))
        with pytest.raises(UserError, match="is in use by process"), held_run(tmp_path):
            pytest.fail("it was let in")


@pytest.fixture
def small_run(tokenizer_dir: Path, tmp_path: Path, monkeypatch):
    """Starts the whole command on files that the test may change."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    lines = SCENARIOS.read_text(encoding="utf-8").splitlines()
    for name, part in (("train", lines[:32]), ("dev", lines[32:48])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    fields = {"tokenizer": str(tokenizer_dir), "preset": "redheart-tiny", "max_steps": 3, "trackers": []}
    fields |= {"dev": [f"scenarios={tmp_path / 'dev.jsonl'}"], "save_steps": 2, "save_async": "off"}

    def start(**more):
        config = tiny_config(tmp_path / "run", **(fields | more))
        config.train = [f"scenarios={tmp_path / 'train.jsonl'}"]
        return command.train(config)

    return start


@pytest.mark.parametrize(("file", "said"), [("train", "was trained on"), ("dev", "was judged by dev")])
def test_changed_rows_are_refused_before_anything_is_written(file: str, said: str, small_run, tmp_path: Path):
    small_run()
    report = (tmp_path / "run" / "data.json").read_bytes()
    lines = (tmp_path / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / f"{file}.jsonl").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=said):
        small_run()
    assert (tmp_path / "run" / "data.json").read_bytes() == report


def test_final_of_another_run_does_not_stand(small_run, tmp_path: Path, capsys):
    small_run()
    first = (tmp_path / "run" / "final" / "model.safetensors").read_bytes()
    small_run()
    assert "nothing is left to do" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "run" / "final" / "manifest.json").read_text())
    manifest["facts"]["identity"]["data"] = "another"
    (tmp_path / "run" / "final" / "manifest.json").write_text(json.dumps(manifest))
    small_run()
    assert "written after" in capsys.readouterr().out
    assert (tmp_path / "run" / "final" / "model.safetensors").read_bytes() == first


def test_a_checkpoint_says_whether_its_own_run_passed_a_preflight(small_run, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "preflight.json").write_text('{"of": "other settings", "passed": true}')
    small_run()
    assert {one["preflight"] for one in entries(tmp_path / "run")} == {"none"}


def test_a_damaged_log_and_odd_facts_are_named(tmp_path: Path):
    (tmp_path / "timings.jsonl").write_bytes(b'{"step": 1}\n\0\0\0\n')
    with pytest.raises(UserError, match=r"timings\.jsonl is damaged: .* remove it, and the run goes on"):
        lines_logged(tmp_path)
    place = written(tmp_path, 1)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["facts"]["metrics"] = {"score": "high"}
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="'high' is no number"):
        entries(tmp_path)


def test_refusals_name_both_digests(tmp_path: Path):
    state = {"identity": {"data": "one", "dev": "this"}}
    refuse_other_data(tmp_path, state, {"data": "one", "dev": "this"})
    refuse_other_data(tmp_path, {"identity": {"data": "one"}}, {"data": "one", "dev": "this"})  # of an earlier version
    with pytest.raises(UserError, match="was trained on one, this is two"):
        refuse_other_data(tmp_path, state, {"data": "two"})
    assert find_checkpoint(tmp_path, "auto") is None
    with pytest.raises(UserError, match="is a model, not a checkpoint"):
        read_state(tmp_path, tiny_config(tmp_path), 1)
