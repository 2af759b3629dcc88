"""The further public files, read whole: what is read and set aside adds up to what the csv and json modules find.

In    REDHEART_DATA_DIR, the folder of the public files (docs/data.md).
Out   nothing; skipped without the folder.
Run   `REDHEART_DATA_DIR=... pytest tests/test_prep_more_public_files.py`
"""

import csv
import gzip
import io
import json
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from preprocessing.overlap import hold_out, without_overlaps
from preprocessing.readers import ReadResult, parse_source, read

FOLDER = Path(os.environ.get("REDHEART_DATA_DIR") or "unset")
pytestmark = pytest.mark.skipif(
    not os.environ.get("REDHEART_DATA_DIR"), reason="REDHEART_DATA_DIR, the folder of the public files, is not set"
)
LOW, HIGH = (f"moralchoice=moralchoice/moralchoice_{level}_ambiguity.csv" for level in ("low", "high"))
DILEMMAS = "scruples_dilemmas=scruples_dilemmas/dev.scruples-dilemmas.jsonl"
WORDS = "va_kor=va_kor/va_kor_clean.csv"

# Source -> the column that `text` comes from, rows, rejected.
FILES: dict[str, tuple[Any, int, dict[str, int]]] = {
    "nsmc=nsmc_ratings/train.tsv": ("text", 20_000, {}),
    "nsmc=nsmc_ratings/dev.tsv": ("text", 2_000, {}),
    WORDS: ("word", 1_408, {}),
    "songys_chatbot=songys_chatbot/ChatbotData.csv": ("A", 11_823, {}),
    "kosbi=korean_safety/kosbi_valid.json.gz": ("context", 3_421, {}),
    "square=korean_safety/square_question_valid.json.gz": ("question", 6_882, {}),
    "goemotions_ko_mt=goemotions_ko_mt/train.tsv": (0, 43_410, {}),
    "goemotions_ko_mt=goemotions_ko_mt/dev.tsv": (0, 5_426, {}),
    LOW: ("context", 687, {"no-preference": 18}),
    HIGH: ("context", 680, {}),
    DILEMMAS: (None, 2_340, {"no-preference": 330}),
    "event2mind=event2mind/train.csv.gz": ("Event", 46_472, {}),
    "event2mind=event2mind/dev.csv.gz": ("Event", 5_401, {}),
}


@cache
def load(source: str) -> ReadResult:
    return read(parse_source(source.replace("=", f"={FOLDER}/", 1)))


@cache
def rows_of(source: str) -> list[Any]:
    """The rows as the modules of the standard library find them."""
    path = FOLDER / source.partition("=")[2]
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    if ".json.gz" in path.name:
        return json.loads(text)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    if path.suffix == ".tsv":  # where a quote is a character like any other
        form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        plain = source.startswith("goemotions")
        return list((csv.reader if plain else csv.DictReader)(io.StringIO(text, newline=""), **form))  # type: ignore[operator]
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize(("source", "expected"), FILES.items())
def test_every_row_is_read_or_set_aside(source: str, expected: tuple[Any, int, dict[str, int]]) -> None:
    column, count, rejected = expected
    result, rows = load(source), rows_of(source)
    assert len(result.records) + len(result.rejected) == len(rows) == count
    assert result.reasons == Counter(rejected)
    assert len({record.id for record in result.records}) == len(result.records)
    if column is not None and not rejected:
        assert [record.text for record in result.records] == [normalize("NFC", row[column].strip()) for row in rows]


def test_norms_of_words_are_scaled_alone() -> None:
    for record, row in zip(load(WORDS).records, rows_of(WORDS), strict=True):
        assert record.vad == [pytest.approx(float(row["V"]) / 3), pytest.approx(float(row["A"]) / 3), None]


def test_translations_have_the_key_and_the_labels_of_their_comment() -> None:
    for split in ("train", "dev"):
        korean = load(f"goemotions_ko_mt=goemotions_ko_mt/{split}.tsv").records
        english = load(f"goemotions_fine=goemotions/original_{split}.tsv").records
        for one, other in zip(korean, english, strict=True):
            assert one.same_as == other.same_as != []
            assert (one.fine_emotions, one.basic_emotions) == (other.fine_emotions, other.basic_emotions)
        assert without_overlaps(korean, english)[0] == []


def test_moral_choices_are_those_of_plain_counting() -> None:
    """The publishers built the first action of low ambiguity as the one to be preferred."""
    better = {f"{row['context']} {row['action1']}" for row in rows_of(LOW)}
    assert {record.text for record in load(LOW).records} <= better
    assert all(record.worse is None for record in load(HIGH).records)


def test_dilemmas_follow_their_label_and_the_votes() -> None:
    published = {}
    ties = 0
    for row in rows_of(DILEMMAS):
        descriptions = [action["description"].strip() for action in row["actions"]]
        votes = [
            one + other for one, other in zip(row["gold_annotations"], row["human_perf_annotations"], strict=True)
        ]
        ties += votes[0] == votes[1]
        published[tuple(descriptions)] = (descriptions[row["gold_label"]], descriptions[votes[1] > votes[0]])
    records = load(DILEMMAS).records
    for record in records:
        pair = next(pair for pair in ((record.text, record.worse), (record.worse, record.text)) if pair in published)
        assert published[pair] == (record.worse, record.worse)
    assert ties == 198
    _, held = hold_out(records, 200, seed=0)
    assert 200 <= len(held) < 200 + 41


def test_no_text_of_a_source_without_labels_has_one() -> None:
    for source in FILES:
        if source.startswith(("nsmc", "songys", "kosbi", "square", "event2mind")):
            for record in load(source).records:
                assert (record.vad, record.basic_emotions, record.acceptability, record.worse) == (None,) * 4
