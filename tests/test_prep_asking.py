"""What a job asks a language model: only what is missing, each question once, and every answer with its origin.

In    rows of shipped scenarios, a tiny language model with random weights.
Out   pass or fail.
Run   `pytest tests/test_prep_asking.py`
"""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from tiny_llm import save_tiny_llm

pytest.importorskip("llguidance", reason="llguidance comes with the extra enrich")

from preprocessing import pipeline
from preprocessing.answers import AnswerCache
from preprocessing.claims import Claims
from preprocessing.errors import UserError
from preprocessing.readers import parse_source, read
from preprocessing.records import Record

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ROOT / "data" / "scenarios" / "train.jsonl"


@pytest.fixture(scope="module")
def llm(tokenizer, tmp_path_factory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("llm") / "tiny", tokenizer)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Twelve situations, Korean and English; the first four with the VAD of their authors."""
    lines = []
    for number, line in enumerate(SCENARIOS.read_text(encoding="utf-8").splitlines()[:12]):
        row = json.loads(line)
        vad = {"vad": list(row["vad"].values())} if number < 4 else {}
        lines.append(json.dumps({"text": row["text"], "language": row["language"]} | vad, ensure_ascii=False))
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def enriched(output: Path, rows: Path, llm: Path, prompts: str, *more: object) -> list[Record]:
    code, _, err = run_command(
        pipeline,
        *("--data", f"jsonl={rows}", "--output", output, "--enrich", llm, "--quantization", "fp32"),
        *("--prompts", prompts, "--threshold", "0", "--steps", "[]", *more),
    )
    assert code == 0, err
    return read(parse_source(f"enriched={output}")).records


def answers_in(path: Path) -> dict[bytes, str]:
    cache = AnswerCache(path)
    found = dict(cache._base.execute("SELECT key, given FROM answers"))
    cache.close()
    return found


def facts_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "manifest.json").read_text(encoding="utf-8"))["facts"]


def test_what_the_source_gave_stays_and_the_rest_says_where_it_comes_from(rows: Path, llm: Path, tmp_path: Path):
    before = read(parse_source(f"jsonl={rows}")).records
    after = enriched(tmp_path / "out", rows, llm, "[affect@1]")
    for old, new in zip(before, after, strict=True):
        assert (new.id, new.text, new.group) == (old.id, old.text, old.group)
        assert new.basic_emotions is not None
        assert new.origins["basic_emotions"].startswith("llm:tiny@")
        assert new.origins["basic_emotions"].endswith("/affect@1")
        assert ("vad" in new.origins) == (old.vad is None)
        assert old.vad in (None, new.vad)
        assert set(new.confidence) == set(new.origins)
    counts = facts_of(tmp_path / "out")["labels"]["vad"]
    assert counts == {"human": 4, after[0].origins["basic_emotions"]: 8}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| `vad` | 4 | 8 | 0 |" in card
    assert "Confidence is not accuracy" in card


def test_a_changed_job_asks_only_what_was_not_asked_before(rows: Path, llm: Path, tmp_path: Path):
    kept = tmp_path / "kept.answers"
    first = enriched(tmp_path / "one", rows, llm, "[culture@1]", "--answers", kept)
    asked = answers_in(kept)
    assert len(asked) == 12
    both = enriched(tmp_path / "two", rows, llm, "[culture@1, affect@1]", "--answers", kept)
    more = answers_in(kept)
    assert len(more) == 24
    assert asked.items() <= more.items()
    assert [record.culture for record in both] == [record.culture for record in first]
    enriched(tmp_path / "three", rows, llm, "[affect@1]", "--answers", kept, "--rows-per-shard", 5)
    assert answers_in(kept) == more


def test_labels_marked_as_unreliable_are_not_read_unless_asked_for(rows: Path, llm: Path, tmp_path: Path):
    output = tmp_path / "out"
    records = enriched(output, rows, llm, "[affect@1]", "--unreliable", "[vad]")
    assert [record.vad is not None for record in records] == [True] * 4 + [False] * 8  # the source's own stay
    assert all("vad" not in record.origins and record.basic_emotions for record in records)
    kept = read(parse_source(f"enriched={output}@unreliable=keep")).records
    assert all(record.vad is not None for record in kept)
    assert "`vad` (unreliable)" in (output / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompts", "[mood@1]"], "there is no prompt 'mood@1'"),
        (["--prompts", "[culture@1, culture@1]"], "more than one prompt fills in culture"),
        (["--threshold", "2"], "must lie in [0, 1]"),
        (["--enrich", "nowhere"], "neither config.json nor a GGUF file"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_read(
    arguments: list[str], said: str, rows: Path, llm: Path, tmp_path: Path
):
    output = tmp_path / "out"
    code, _, err = run_command(
        pipeline, "--data", f"jsonl={rows}", "--output", output, "--enrich", llm, "--quantization", "fp32", *arguments
    )
    assert code == 2
    assert said in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_of_answers_is_named(tmp_path: Path):
    path = tmp_path / "a.answers"
    path.write_bytes(b"no data base at all, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match=r"a\.answers cannot be used.*remove it"):
        AnswerCache(path)


def test_a_place_without_a_write_ahead_log_is_refused():
    """SQLite keeps none of a file in memory, and says so instead of failing; so it does where a disk cannot."""
    with pytest.raises(UserError, match="write-ahead log \\(SQLite says 'memory'\\).*--answers"):
        AnswerCache(Path(":memory:"))


def test_answers_come_back_as_they_were_given(tmp_path: Path):
    record = read(parse_source(f"scenarios={SCENARIOS}")).records[0]
    given = {"actions": (record.actions, 0.5, "llm:a@0/b@1"), "vad": (None, 0.1, "llm:a@0/b@1")}
    cache = AnswerCache(tmp_path / "answers")
    cache.put({"ab" * 32: given})
    cache.put({"ab" * 32: {}})  # the first one stays
    assert cache.get("ab" * 32) == given
    assert cache.get("cd" * 32) is None
    cache.close()


def test_a_claim_ends_with_its_process(tmp_path: Path):
    import os
    import signal

    path = tmp_path / "claims"
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        Claims(path).take(3)
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    with Claims(path) as claims:
        assert claims.take(2)
        assert not claims.take(3)
        os.kill(process, signal.SIGKILL)
        assert claims.take(3, wait=True)
    os.waitpid(process, 0)
