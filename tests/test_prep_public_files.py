"""The public files, read whole: every row arrives, with the labels that plain counting finds.

In    REDHEART_DATA_DIR, the folder of the public files (docs/data.md).
Out   nothing; skipped without the folder.
Run   `REDHEART_DATA_DIR=... pytest tests/test_prep_public_files.py`
"""

import csv
import os
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

from preprocessing.overlap import hold_out, without_overlaps
from preprocessing.readers import ReadResult, parse_source, read
from preprocessing.records import Record
from redheart_hf.labels import BASIC_EMOTIONS, FINE_EMOTIONS, KOREAN_EMOTIONS

FOLDER = Path(os.environ.get("REDHEART_DATA_DIR") or "unset")
pytestmark = pytest.mark.skipif(
    not os.environ.get("REDHEART_DATA_DIR"), reason="REDHEART_DATA_DIR, the folder of the public files, is not set"
)

FILES = {
    "goemotions=goemotions/ekman_train.tsv": 43_410,
    "goemotions=goemotions/ekman_dev.tsv": 5_426,
    "goemotions_fine=goemotions/original_train.tsv": 43_410,
    "goemotions_fine=goemotions/original_dev.tsv": 5_426,
    "emobank=emobank/emobank.csv": 9_062,
    "ethics_util=ethics/util_train.csv": 13_738,
    "ethics_deontology=ethics/deontology_train.csv": 18_164,
    "ethics_justice=ethics/justice_train.csv": 21_791,
    "ethics_virtue=ethics/virtue_train.csv": 28_245,
    "kote=kote/val.tsv": 5_000,
}


@cache
def load(source: str) -> ReadResult:
    return read(parse_source(source.replace("=", f"={FOLDER}/", 1)))


def lines_of(source: str) -> list[str]:
    """None of these files has a row of several lines, so that lines are rows."""
    return (FOLDER / source.partition("=")[2]).read_bytes().decode("utf-8").removesuffix("\n").split("\n")


@pytest.mark.parametrize(("source", "rows"), FILES.items())
def test_every_row_is_read(source: str, rows: int) -> None:
    result = load(source)
    header = source.startswith(("emobank", "ethics_d", "ethics_j", "ethics_v"))
    assert len(result.records) == rows == len(lines_of(source)) - header
    assert result.rejected == []
    assert [record.row for record in result.records] == list(range(1 + header, 1 + header + rows))


@pytest.mark.parametrize(
    ("source", "field", "column", "count"),
    [
        ("goemotions=goemotions/ekman_train.tsv", "basic_emotions", 1, len(BASIC_EMOTIONS)),
        ("goemotions_fine=goemotions/original_dev.tsv", "fine_emotions", 1, len(FINE_EMOTIONS)),
        ("kote=kote/val.tsv", "korean_emotions", 2, len(KOREAN_EMOTIONS)),
    ],
)
def test_labels_are_those_of_plain_counting(source: str, field: str, column: int, count: int) -> None:
    expected = Counter(int(label) for line in lines_of(source) for label in line.split("\t")[column].split(","))
    vectors = [getattr(record, field) for record in load(source).records]
    assert [sum(column) for column in zip(*vectors, strict=True)] == [expected[label] for label in range(count)]


def test_the_seven_derived_from_the_28_are_the_published_seven() -> None:
    for split in ("train", "dev"):
        fine = load(f"goemotions_fine=goemotions/original_{split}.tsv").records
        basic = load(f"goemotions=goemotions/ekman_{split}.tsv").records
        published = {record.same_as[0]: record.basic_emotions for record in basic}
        assert [record.basic_emotions for record in fine] == [published[record.same_as[0]] for record in fine]


def test_emobank_splits_and_scale() -> None:
    assert len(load("emobank=emobank/emobank.csv@dev").records) == 1_000
    train = load("emobank=emobank/emobank.csv@train").records
    assert len(train) == 8_062
    assert {record.split for record in train} == {"train"}
    with (FOLDER / "emobank/emobank.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    for record, row in zip(train, rows, strict=True):
        assert record.vad == pytest.approx([float(row[name]) / 2 - 1.5 for name in "VAD"])
        assert record.text == row["text"].strip()


@pytest.mark.parametrize("expert", ["deontology", "justice", "virtue"])
def test_judgements_are_those_of_plain_counting(expert: str) -> None:
    source = f"ethics_{expert}=ethics/{expert}_train.csv"
    position = ("utilitarian", "deontology", "justice", "virtue").index(expert)
    ones = sum(line.startswith("1,") for line in lines_of(source))
    vectors = [record.acceptability for record in load(source).records]
    assert sum(vector is not None and vector[position] == 1 for vector in vectors) == ones > 0
    assert all(vector is not None and sum(value is not None for value in vector) == 1 for vector in vectors)


def beginning(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text)[0].lower()


def test_util_hold_out_shares_no_text_and_no_scenario() -> None:
    records = load("ethics_util=ethics/util_train.csv").records
    rest, held = hold_out(records, 1_500, seed=0)
    assert 1_500 <= len(held) < 1_520
    sides = [
        {beginning(text) for record in side for text in (record.text, record.worse or "")} for side in (rest, held)
    ]
    assert sides[0].isdisjoint(sides[1])
    assert without_overlaps(held, rest)[1] == []


@pytest.mark.parametrize("part", ["deontology", "virtue"])
def test_a_scenario_is_not_split_by_a_hold_out(part: str) -> None:
    rest, held = hold_out(load(f"ethics_{part}=ethics/{part}_train.csv").records, 1_000, seed=0)
    assert {record.text.lower() for record in rest}.isdisjoint(record.text.lower() for record in held)


def test_variants_of_a_justice_claim_stay_together() -> None:
    """Neighbours that begin with the same six words are variants; families stay small enough to be held out."""
    records = load("ethics_justice=ethics/justice_train.csv").records
    _, held = hold_out(records, 1_000, seed=0)
    assert 1_000 <= len(held) < 1_000 + 349
    rows = {record.row for record in held}
    split_up = [
        (one.text, other.text)
        for one, other in zip(records, records[1:], strict=False)
        if one.text.split()[:6] == other.text.split()[:6] and (one.row in rows) != (other.row in rows)
    ]
    assert split_up == []


def joint_training() -> list[Record]:
    sources = [name for name in FILES if "dev" not in name and "emobank" not in name and "fine" not in name]
    return [record for name in [*sources, "emobank=emobank/emobank.csv@train"] for record in load(name).records]


def test_the_docs_say_how_many_dev_rows_training_holds() -> None:
    train = joint_training()
    dropped = {
        name: len(without_overlaps(load(name).records, train)[1])
        for name in ("goemotions=goemotions/ekman_dev.tsv", "emobank=emobank/emobank.csv@dev")
    }
    docs = (Path(__file__).parents[1] / "docs/data.md").read_text(encoding="utf-8")
    goemotions, emobank = dropped.values()
    assert 98 <= goemotions < 150
    assert f"{goemotions} of 5,426 of GoEmotions" in docs.replace("\n", " ")
    assert f"{emobank} of 1,000 of EmoBank" in docs.replace("\n", " ")


def test_the_docs_say_how_large_groups_are() -> None:
    docs = (Path(__file__).parents[1] / "docs/data.md").read_text(encoding="utf-8")
    sizes: dict[str | None, int] = defaultdict(int)
    for record in load("ethics_util=ethics/util_train.csv").records:
        sizes[record.group] += 1
    assert f"13,738 rows, {len(sizes):,} groups, the largest of {max(sizes.values())}" in docs
