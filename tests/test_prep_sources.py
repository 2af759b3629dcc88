"""Naming a source: what READER=PATH@split means, and what a wrong one is told.

In    files written here.
Out   nothing.
Run   `pytest tests/test_prep_sources.py`
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing.errors import UserError
from preprocessing.readers import parse_source, read
from preprocessing.sources import Source

ROOT = Path(__file__).parents[1]


@pytest.fixture
def emobank(tmp_path: Path) -> Path:
    path = tmp_path / "emobank.csv"
    path.write_text("id,split,V,A,D,text\na,train,3,3,3,One\nb,dev,4,3,9,Two\nc,dev,4,3,3,Three\n", encoding="utf-8")
    return path


def test_reader_path_and_split(emobank: Path) -> None:
    assert parse_source(f"emobank={emobank}") == Source("emobank", emobank, None)
    assert parse_source(f"emobank={emobank}@dev") == Source("emobank", emobank, "dev")


def test_an_at_sign_may_belong_to_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "me@home"
    folder.mkdir()
    for name in ("rows.tsv", "rows@dev"):
        (folder / name).write_text("fine\t3\tx\n", encoding="utf-8")
        assert parse_source(f"goemotions={folder / name}") == Source("goemotions", folder / name, None)


def test_variables_in_paths(emobank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RED_HEART_TEST_FOLDER", str(emobank.parent))
    assert parse_source("emobank=${RED_HEART_TEST_FOLDER}/emobank.csv@dev").path == emobank
    monkeypatch.delenv("RED_HEART_TEST_FOLDER")
    with pytest.raises(UserError, match="RED_HEART_TEST_FOLDER, which is not set"):
        parse_source("emobank=${RED_HEART_TEST_FOLDER}/emobank.csv")


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("emobnk={path}", r"no reader 'emobnk', did you mean 'emobank'\? .*ethics_util.*kote"),
        ("zzz={path}", r"no reader 'zzz'\. Known readers: csv, dataset, emobank, "),
        ("emobank", "write READER=PATH"),
        ("emobank=", "write READER=PATH"),
        ("emobank={path}.gz", r"no file .*emobank.csv.gz \(looked from"),
        ("emobank={folder}", "is a folder; name one file"),
        ("emobank={path}@tset", "split 'tset' of reader 'emobank', but its splits are train, dev, test"),
        ("goemotions={path}@dev", "its files hold no splits"),
    ],
)
def test_a_wrong_source_is_told_what_is_wrong(emobank: Path, argument: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse_source(argument.format(path=emobank, folder=emobank.parent))


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "rows").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="is empty"):
        read(parse_source(f"goemotions={tmp_path / 'rows'}"))


def test_a_header_alone_and_a_wrong_header_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("label,scenario\n", encoding="utf-8")
    with pytest.raises(UserError, match="a header and no rows"):
        read(parse_source(f"ethics_justice={path}"))
    with pytest.raises(UserError, match="should be 'label,scenario,excuse' but is 'label,scenario'"):
        read(parse_source(f"ethics_deontology={path}"))


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-m", "preprocessing.readers", *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False, env=environment)


def test_the_command_prints_what_files_hold(emobank: Path, tmp_path: Path) -> None:
    (tmp_path / "ekman_dev.tsv").write_text("one!\t3\tx\n", encoding="utf-8")
    rejected = tmp_path / "rejected.jsonl"
    sources = [f"emobank={emobank}", f"goemotions={tmp_path / 'ekman_dev.tsv'}"]
    done = command(*sources, "--rejected", str(rejected))
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "2 records in 2 groups, 1 rejected",
        "vad              on 2",
        "rejected: label-out-of-range: 1",
        "emobank/emobank.csv@train and goemotions/ekman_dev.tsv@dev share 1 texts",
    ):
        assert line in done.stdout
    (written,) = map(json.loads, rejected.read_text(encoding="utf-8").splitlines())
    assert (written["row"], written["excerpt"]) == (3, "b,dev,4,3,9,Two")


def test_the_command_ends_with_two_for_a_users_mistake(tmp_path: Path) -> None:
    done = command(f"goemotions={tmp_path / 'missing.tsv'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no file")
    assert done.stderr.count("\n") == 1


def test_help_teaches_the_readers() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert "ethics_virtue" in done.stdout
    assert "example: python -m preprocessing.readers" in done.stdout
