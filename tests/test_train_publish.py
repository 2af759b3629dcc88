"""A published model: found by its name in any program, whole or not there; nothing is published that may be a pickle.

In    the tiny model; a hub directory; programs of their own that know Transformers alone.
Out   nothing.
Run   `pytest tests/test_train_publish.py`; the rounds of kills are in tests/test_train_publish_killed.py
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import run_command
from huggingface_hub import scan_cache_dir

from preprocessing.folders import write_folder
from training import hub, publish
from training.hub_check import problems_of
from training.hub_names import check_repo_id, check_tag
from training.hub_repo import HubRepo
from training.loading import load_model

NAME = "lab/red-heart"
TEXTS = ["할머니 김치를 마지막으로 꺼내 먹었다.", "They cancelled my leave again."]
ELSEWHERE = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
name, revision, texts = json.loads(sys.argv[1])
given = {"revision": revision, "trust_remote_code": True}
model = AutoModelForSequenceClassification.from_pretrained(name, **given).eval()
tokenizer = AutoTokenizer.from_pretrained(name, **given)
out = model(**tokenizer(texts, padding=True, return_tensors="pt"))
print(json.dumps(out.emotion.basic_logits.tolist()))
"""


@pytest.fixture
def model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A folder as training leaves it, with its manifest; to be changed at will."""
    write_folder(
        tmp_path / "final", lambda folder: shutil.copytree(tiny_model_dir, folder, dirs_exist_ok=True) and None
    )
    return tmp_path / "final"


def published(model_dir: Path, place: Path, *more: str, name: str = NAME) -> tuple[int, str, str]:
    return run_command(publish, "--model", model_dir, "--hub", place, "--repo-id", name, *more)


def changed(model_dir: Path, said: str) -> None:
    """The same weights with another card, its manifest right."""

    def write(folder: Path) -> None:
        shutil.copytree(model_dir, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        (folder / "README.md").write_text(said, encoding="utf-8")

    write_folder(model_dir.parent / "changed", write)
    shutil.rmtree(model_dir)
    (model_dir.parent / "changed").rename(model_dir)


def repo_of(place: Path) -> HubRepo:
    return HubRepo(place, NAME)


@pytest.mark.timeout(600)  # three programs of their own import Transformers: minutes on a busy machine
def test_another_program_loads_it_by_name_and_tag_and_answers_the_same(model_dir: Path, tmp_path: Path):
    place = tmp_path / "hub"
    code, out, err = published(model_dir, place, "--tag", "v1")
    assert code == 0, err
    assert f"{NAME} is published" in out
    changed(model_dir, "another card")
    published(model_dir, place)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    environment |= {"HF_HUB_CACHE": str(place), "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    for revision in ("main", "v1", repo_of(place).references()["v1"]):
        given = [sys.executable, "-c", ELSEWHERE, json.dumps([NAME, revision, TEXTS])]
        ended = subprocess.run(given, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr[-3000:]
        model, tokenizer = load_model(model_dir)
        with torch.no_grad():
            expected = model.eval()(**tokenizer(TEXTS, padding=True, return_tensors="pt")).emotion.basic_logits
        assert json.loads(ended.stdout) == expected.tolist()


def test_the_same_files_make_no_new_version_and_shared_ones_lie_there_once(model_dir: Path, tmp_path: Path):
    place = tmp_path / "hub"
    published(model_dir, place, "--tag", "v1", "--message", "the first")
    first = repo_of(place).references()
    _, out, _ = published(model_dir, place, "--tag", "also")
    assert "was published already" in out
    assert repo_of(place).references() == first | {"also": first["v1"]}
    changed(model_dir, "another card")
    published(model_dir, place, "--message", "둘째")
    commits = repo_of(place).history()
    assert [commit.message for commit in commits] == ["둘째", "the first"]
    assert commits[0].parent == commits[1].hash == first["v1"]
    of_weights = {commit.files["model.safetensors"]["sha256"] for commit in commits}
    shared = [place / "models--lab--red-heart/snapshots" / commit.hash / "model.safetensors" for commit in commits]
    assert len(of_weights) == 1
    assert shared[0].samefile(shared[1])
    code, _, err = published(model_dir, place, "--tag", "v1")
    assert code == 2
    assert "has the tag v1" in err
    assert repo_of(place).references()["v1"] == first["v1"]


def test_hugging_faces_own_tools_find_nothing_wrong(model_dir: Path, tmp_path: Path):
    published(model_dir, tmp_path / "hub", "--tag", "v1")
    found = scan_cache_dir(tmp_path / "hub")
    assert not found.warnings
    (repo,) = found.repos
    (version,) = repo.revisions
    assert (repo.repo_id, version.refs) == (NAME, {"main", "v1"})
    assert {file.file_name for file in version.files} >= {"config.json", "model.safetensors", "tokenizer.json"}


@pytest.mark.parametrize(
    "name",
    [
        *("model", "a/b/c", "../escaped", "/etc/passwd", "lab/..", "lab/.hidden", "lab/-x", "lab/x--y", "lab/x.git"),
        *(
            "lab/con",
            "lab/NUL.txt",
            "com1/x",
            "lab/x y",
            "lab/x\u200b",
            "lab/ｘ",
            "lab/х",
            "연구실/모델",
            "lab/",
            "/x",
        ),
        *("lab/x\n", "lab\\x/y", "lab/" + "x" * 100, "", "lab/x.", "~/x", "lab/x\0"),
    ],
)
def test_names_that_would_lead_elsewhere_or_mislead_are_refused(name: str, model_dir: Path, tmp_path: Path):
    code, _, err = published(model_dir, tmp_path / "hub", name=name)
    assert code == 2
    assert repr(name) in err
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("tag", ["main", "MAIN", "a/b", "..", "0" * 40, "v 1", "v1.lock", "-v", "태그", "nul"])
def test_tags_that_could_be_something_else_are_refused(tag: str, model_dir: Path, tmp_path: Path):
    code, _, err = published(model_dir, tmp_path / "hub", f"--tag={tag}")
    assert code == 2
    assert repr(tag) in err


def test_usual_names_are_accepted():
    for name in ("lab/x", "my-lab/red_heart-330m.v2", "A1/b2"):
        assert check_repo_id(name) == name
    assert [check_tag(tag) for tag in ("v1", "2026-11-23", "v1.0.2_rc")] == ["v1", "2026-11-23", "v1.0.2_rc"]


def test_an_altered_file_a_pickle_and_a_link_to_elsewhere_are_refused(model_dir: Path, tmp_path: Path):
    place = tmp_path / "hub"
    card = model_dir / "config.json"
    before = card.read_text(encoding="utf-8")
    card.write_text(before.replace("0", "1"), encoding="utf-8")
    code, _, err = published(model_dir, place)
    assert code == 2
    assert f"{card} is damaged" in err
    card.write_text(before, encoding="utf-8")
    (model_dir / "manifest.json").unlink()
    (model_dir / "extra.pt").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    code, _, err = published(model_dir, place)
    assert code == 2
    assert "extra.pt may hold a pickle" in err
    (model_dir / "extra.pt").unlink()
    (model_dir / "notes.txt").symlink_to("/etc/hostname")
    code, _, err = published(model_dir, place)
    assert code == 2
    assert "outside the folder" in err
    assert not place.exists()


def test_what_the_manifest_does_not_name_is_left_out_and_told(model_dir: Path, tmp_path: Path):
    (model_dir / "secret.txt").write_text("mine", encoding="utf-8")
    code, out, _ = published(model_dir, tmp_path / "hub")
    assert code == 0
    assert "left out" in out
    assert "secret.txt" in out
    assert "secret.txt" not in repo_of(tmp_path / "hub").history()[0].files


def said_otherwise(repo: HubRepo, **fields: object) -> None:
    (note,) = repo.notes.glob("*")
    note.write_text(json.dumps(json.loads(note.read_text()) | fields))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda repo, blob: blob.write_bytes(b"x"), "holds something else than its name says"),
        (lambda repo, blob: blob.unlink(), "has lost its blob"),
        (lambda repo, blob: (repo.refs / "main").write_text("1" * 40), "there is no such snapshot"),
        (lambda repo, blob: (repo.refs / "main").write_text("v1"), "and no commit"),
        (lambda repo, blob: next(repo.snapshots.glob("*/config.json")).unlink(), "lacks config.json"),
        (lambda repo, blob: (next(repo.snapshots.glob("*")) / "x.txt").touch(), "was published without x.txt"),
        (lambda repo, blob: next(repo.notes.glob("*")).write_text("{"), "does not say what version"),
        (lambda repo, blob: said_otherwise(repo, message="\x1b[2J"), "so it was changed"),
        (lambda repo, blob: said_otherwise(repo, files={}), "so it was changed"),
        (lambda repo, blob: said_otherwise(repo, parent=repo.references()["main"]), "so it was changed"),
        (lambda repo, blob: (repo.refs / "main").write_bytes(b"\xff" * 40), "and no commit"),
        (lambda repo, blob: (repo.refs / "v2").mkdir(), "and no commit"),
        (lambda repo, blob: shutil.rmtree(repo.notes), "has no lab/red-heart"),
    ],
)
def test_verify_names_what_is_not_as_published(harm, said: str, model_dir: Path, tmp_path: Path):
    place = tmp_path / "hub"
    published(model_dir, place)
    assert run_command(hub, "verify", "--hub", place)[0] == 0
    repo = repo_of(place)
    harm(repo, repo.blobs / repo.history()[0].files["model.safetensors"]["sha256"])
    code, _, err = run_command(hub, "verify", "--hub", place, "--repo-id", NAME)
    assert code == 2
    assert said in err
    if "it was changed" in said:  # nothing goes by what such a note says
        assert run_command(hub, "prune", "--hub", place)[0] == 2
        assert run_command(hub, "list", "--hub", place)[0] == 2
        assert len(list(repo.blobs.glob("*"))) > 5


def test_what_others_keep_there_is_left_alone(model_dir: Path, tmp_path: Path):
    (tmp_path / "hub" / "models--a--b--c" / "commits").mkdir(parents=True)
    code, _, err = run_command(hub, "verify", "--hub", tmp_path / "hub")
    assert (code, "nothing was verified" in err) == (2, True)
    published(model_dir, tmp_path / "hub")
    assert run_command(hub, "verify", "--hub", tmp_path / "hub")[0] == 0


def test_a_tag_is_of_its_files_whatever_came_between(model_dir: Path, tmp_path: Path):
    place = tmp_path / "hub"
    changed(model_dir, "one card")
    published(model_dir, place, "--tag", "v1")
    first = repo_of(place).references()
    changed(model_dir, "another card")
    published(model_dir, place)
    changed(model_dir, "one card")
    code, _, err = published(model_dir, place, "--tag", "v1")
    assert code == 0, err
    assert repo_of(place).references()["v1"] == first["v1"] != repo_of(place).references()["main"]
    assert problems_of(repo_of(place)) == []


def test_names_that_differ_in_case_alone_are_refused(model_dir: Path, tmp_path: Path):
    published(model_dir, tmp_path / "hub", "--tag", "v1")
    for given in ({"name": NAME.upper()}, {"tag": "V1"}):
        options = [f"--tag={given['tag']}"] if "tag" in given else []
        code, _, err = published(model_dir, tmp_path / "hub", *options, name=given.get("name", NAME))
        assert code == 2
        assert "in case alone" in err


def test_pruning_keeps_tags_and_the_newest_and_no_blob_of_theirs_goes(model_dir: Path, tmp_path: Path):
    place = tmp_path / "hub"
    for number in range(4):
        published(model_dir, place, *(["--tag", "v0"] if number == 0 else []))
        changed(model_dir, f"card {number}")
    repo = repo_of(place)
    before = repo.history()
    code, out, err = run_command(hub, "prune", "--hub", place, "--repo-id", NAME, "--keep", "1")
    assert code == 0, err
    assert "2 versions went" in out
    assert {path.name for path in repo.snapshots.iterdir()} == {before[0].hash, before[-1].hash}
    assert problems_of(repo) == []
    assert [commit.hash for commit in repo.history()] == [commit.hash for commit in before]  # it is remembered
    listed = json.loads(run_command(hub, "list", "--hub", place, "--json")[1])
    assert [version["there"] for version in listed] == [True, False, False, True]
    assert listed[-1]["references"] == ["v0"]


def test_what_a_killed_writer_left_is_cleared_and_no_version(model_dir: Path, tmp_path: Path):
    place = tmp_path / "hub"
    published(model_dir, place)
    repo = repo_of(place)
    (repo.staging / "half").mkdir(parents=True)
    (repo.blobs / ("a" * 64)).write_bytes(b"of nobody")
    changed(model_dir, "next")
    assert published(model_dir, place)[0] == 0
    assert not (repo.staging / "half").exists()
    run_command(hub, "prune", "--hub", place, "--repo-id", NAME)
    assert not (repo.blobs / ("a" * 64)).exists()
    assert problems_of(repo) == []
