"""A preprocessing job without a language model: what goes in is what comes out, or is accounted for.

In    shipped scenarios, rows written here, the command as a user types it.
Out   pass or fail.
Run   `pytest tests/test_prep_pipeline.py`
"""

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import yaml
from commands import run_command

from preprocessing import pipeline
from preprocessing.errors import UserError
from preprocessing.readers import parse_source, read
from preprocessing.settings import JobConfig, build_parser, parse_config
from preprocessing.workplace import Workplace

ROOT = Path(__file__).resolve().parents[1]
DEV = ROOT / "data" / "scenarios" / "dev.jsonl"
SOURCE = f"scenarios={DEV}"
FROM, BY = ["--retrieve-from", SOURCE], ["--text-encoder", "nowhere"]


def run_job(*arguments: object) -> tuple[int, str, str]:
    return run_command(pipeline, *arguments)


def done(output: Path, *arguments: object) -> Path:
    code, _, err = run_job(*arguments, "--output", output)
    assert code == 0, err
    return output


def facts_of(output: Path) -> dict:
    return json.loads((output / "manifest.json").read_text(encoding="utf-8"))["facts"]


def rejected_in(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Ten rows of which five are to go: no JSON, empty, too short, another language, a repeated text."""
    rows = [
        {"text": "I was glad that she came to see us.", "language": "en"},
        {"text": "어제 친구를 만나서 무척 기뻤다.", "language": "ko"},
        "{",
        {"text": "  ", "language": "en"},
        {"text": "x", "language": "en"},
        {"text": "어제 친구를 만나서 무척 기뻤다.", "language": "ko"},
        {"text": "그는 아무 말도 하지 않고 떠났다.", "language": "en"},
        {"text": "Nobody knew what to say to him then.", "language": "en"},
        {"text": "전화는 010-1234-5678 로 해 주세요, 기다릴게요.", "language": "ko"},
        {"text": "He left, and the house was quiet.", "language": "en"},
    ]
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_records_come_back_as_they_were_read(tmp_path: Path):
    output = done(tmp_path / "out", "--data", SOURCE, "--rows-per-shard", 20)
    expected = read(parse_source(SOURCE)).records
    assert read(parse_source(f"enriched={output}")).records == expected
    loaded = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"]["text"] == [record.text for record in expected]
    assert loaded["train"]["vad"] == [record.vad for record in expected]
    shards = sorted(path.name for path in (output / "data").iterdir())
    assert shards == [f"train-{n:05d}-of-00003.parquet" for n in range(3)]


def test_every_row_is_written_or_rejected_with_a_reason(mixed: Path, tmp_path: Path):
    pytest.importorskip("rensa", reason="near-duplicates need the extra prepare")
    output = done(tmp_path / "out", "--data", f"jsonl={mixed}", SOURCE)
    rejected = {(row["row"], row["reason"]) for row in rejected_in(output) if row["file"].endswith("mixed.jsonl")}
    assert rejected == {
        (3, "not-json"),
        (4, "empty-text"),
        (5, "length: too-short"),
        (6, "duplicates: duplicate"),
        (7, "language: another-language"),
    }
    facts = facts_of(output)
    kept = [record for record in read(parse_source(f"enriched={output}")).records if record.reader == "jsonl"]
    assert [record.row for record in kept] == [1, 2, 8, 9, 10]
    assert "[PHONE]" in kept[3].text
    rows = len(DEV.read_text(encoding="utf-8").splitlines()) + 10
    assert facts["rows_read"] == rows == facts["rows"] + facts["rows_rejected"]
    assert len(rejected_in(output)) == facts["rows_rejected"]


def test_the_manifest_has_the_size_and_hash_of_every_file(tmp_path: Path):
    output = done(tmp_path / "out", "--data", SOURCE)
    files = json.loads((output / "manifest.json").read_text())["files"]
    assert set(files) == set(bytes_of(output)) - {"manifest.json"}
    for name, said in files.items():
        content = (output / name).read_bytes()
        assert said == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("processes", [2, 3])
def test_the_bytes_are_the_same_for_every_number_of_processes(processes: int, mixed: Path, tmp_path: Path):
    pytest.importorskip("rensa", reason="near-duplicates need the extra prepare")
    outputs = [
        done(tmp_path / f"{number}", "--data", f"jsonl={mixed}", SOURCE, "--num-proc", number)
        for number in (1, processes)
    ]
    assert bytes_of(outputs[0]) == bytes_of(outputs[1])


def test_the_card_says_what_the_rows_are_and_on_what_terms(mixed: Path, tmp_path: Path):
    emobank = tmp_path / "emobank.csv"
    emobank.write_text("id,split,V,A,D,text\na,train,3,3,3,He sat down by the door.\n", encoding="utf-8")
    output = done(tmp_path / "out", "--data", f"emobank={emobank}", "--steps", "[]")
    card = (output / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["language"], front["size_categories"]) == ("cc-by-sa-4.0", ["en"], ["n<1K"])
    assert "**Share-alike.**" in card
    output = done(tmp_path / "other", "--data", f"jsonl={mixed}", "--steps", "[]")
    card = (output / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "unknown"
    assert "**Licence unknown.** What `jsonl` read" in card
    assert "10 rows read = 8 written + 2 rejected." in card
    assert re.search(r"−1 \| not-json", card)


def test_a_finished_data_set_is_never_overwritten_unless_asked(tmp_path: Path):
    output = done(tmp_path / "out", "--data", SOURCE)
    before = bytes_of(output)
    code, out, _ = run_job("--data", SOURCE, "--output", output)
    assert code == 0
    assert "finished" in out
    code, _, err = run_job("--data", SOURCE, "--output", output, "--rows-per-shard", 7)
    assert code == 2
    assert "--overwrite" in err
    assert bytes_of(output) == before
    done(output, "--data", SOURCE, "--rows-per-shard", 7, "--overwrite")
    assert len(list((output / "data").iterdir())) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_folder_of_something_else_is_left_alone(overwrite: list[str], tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all of it")
    code, _, err = run_job("--data", SOURCE, "--output", tmp_path / "out", *overwrite)
    assert code == 2
    assert "no finished data set" in err
    assert (tmp_path / "out" / "thesis.txt").read_text() == "all of it"


def test_a_damaged_data_set_is_not_trained_on(tmp_path: Path):
    output = done(tmp_path / "out", "--data", SOURCE)
    shard = output / "data" / "train-00000-of-00001.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="train-00000-of-00001.parquet is damaged"):
        read(parse_source(f"enriched={output}"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "scenarios=nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["--data", SOURCE, SOURCE], "name the same rows"),
        (["--data"], "--data names no source"),
        (["--data", SOURCE, "--steps", "[lengths]"], "there is no step 'lengths'; did you mean 'length'?"),
        (["--data", SOURCE, "--sample-rows", "0"], "sample_rows must be at least 1"),
        (["--data", SOURCE, "--most-characters", "1"], "the first must not be above the second"),
        (["--data", SOURCE, "--languages", "[ko]", "--least-characters", "4000"], "no row is left"),
        (["--data", SOURCE, "--unreliable", "[vad]"], "nothing is asked without enrich"),
        (["--data", SOURCE, "--shares", "{kote: 0.5}"], "of which there are no records"),
        (["--data", SOURCE, "--num-proc", "0"], "num_proc must be at least 1, got 0"),
        (["--data", SOURCE, "--steps", "[retrieve]", *FROM], "step retrieve needs text_encoder"),
        (["--data", SOURCE, "--steps", "[near-in-meaning]"], "step near-in-meaning needs text_encoder"),
        (["--data", SOURCE, "--steps", "[retrieve]", *BY], "needs retrieve_from: give sources with actions"),
        (["--data", SOURCE, *FROM], "retrieve_from is set, but steps does not name retrieve"),
        (["--data", SOURCE, *BY], "steps names none of near-in-meaning, retrieve"),
        (["--data", SOURCE, "--steps", "[retrieve]", *FROM, *BY], "there is no folder nowhere"),
        (["--data", SOURCE, "--steps", "[retrieve]", *FROM, *BY, "--text-encoder-languages", "[fr]"], "names ['fr']"),
        (["--data", SOURCE, "--steps", "[retrieve]", "--retrieve-from"], "--retrieve_from names no source"),
        (["--data", SOURCE, "--steps", "[retrieve, duplicates]", *FROM, *BY], "steps has retrieve before duplicates"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(arguments: list[str], said: str, tmp_path: Path):
    steps = [] if "--steps" in arguments else ["--steps", "[language, length]"]
    code, _, err = run_job(*arguments, *steps, "--output", tmp_path / "out")
    assert code == 2
    assert said in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_two_jobs_of_other_settings_do_not_share_a_place(tmp_path: Path):
    with Workplace(tmp_path / "out") as one, Workplace(tmp_path / "out") as other:
        with one.alone("waiting"):
            one.join("settings")
        with other.alone("waiting"):
            other.join("settings")
        refused = pytest.raises(UserError, match=r"another process is making .* with other settings")
        with Workplace(tmp_path / "out") as third, third.alone("waiting"), refused:
            third.join("others")
    with Workplace(tmp_path / "out") as third, third.alone("waiting"):
        third.join("others")


def test_who_waited_while_another_finished_reads_nothing(mixed: Path, tmp_path: Path):
    arguments = ["--data", f"jsonl={mixed}", "--steps", "[]"]
    finished, output = done(tmp_path / "first", *arguments), tmp_path / "out"
    command = [sys.executable, "-m", "preprocessing.pipeline", *arguments, "--output", str(output)]
    pipe = subprocess.PIPE
    with Workplace(output).alone("waiting"):
        second = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)
        assert second.stderr is not None
        assert "another process reads the sources" in second.stderr.readline()
        shutil.copytree(finished, output)
        mixed.unlink()  # to be read it would have to be there
    out, err = second.communicate()
    assert (second.returncode, err) == (0, "")
    assert "is finished, and was made with these settings" in out
    assert not Workplace(output).folder.exists()
    assert bytes_of(output) == bytes_of(finished)


def test_what_a_kill_left_behind_a_whole_data_set_is_cleared_away(mixed: Path, tmp_path: Path):
    """Killed while it removed its work: what was there first may be gone, and the locks are still there."""
    arguments = ["--data", f"jsonl={mixed}", "--steps", "[]"]
    output = done(tmp_path / "out", *arguments)
    before, folder = bytes_of(output), Workplace(output).folder
    folder.mkdir()
    for name in ("claims", "workers"):
        (folder / name).touch()
    done(tmp_path / "out", *arguments)
    assert not folder.exists()
    assert bytes_of(output) == before


def test_an_unknown_field_of_a_recipe_is_named(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: [{SOURCE}]\noutput: out\nthreshhold: 1\n", encoding="utf-8")
    with pytest.raises(UserError, match="unknown field 'threshhold'; did you mean threshold"):
        parse_config([str(recipe)])


def test_every_field_is_an_option_that_explains_itself():
    shown = build_parser().format_help()
    for name in JobConfig.__dataclass_fields__:
        assert f"--{name}" in shown
    assert all(action.help for action in build_parser()._actions)


@pytest.mark.parametrize("recipe", sorted((ROOT / "preprocessing" / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_can_be_read(recipe: Path):
    assert parse_config([str(recipe)]).data


def test_a_full_disk_leaves_what_was_there(tmp_path: Path):
    output = done(tmp_path / "out", "--data", SOURCE)
    before = bytes_of(output)
    command = [sys.executable, "-m", "preprocessing.pipeline", "--data", SOURCE, "--output", str(output)]
    limit = max(len(content) for content in before.values()) // 2  # writing fails there, as on a full disk
    ended = subprocess.run(
        [*command, "--rows-per-shard", "100", "--overwrite"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert bytes_of(output) == before
