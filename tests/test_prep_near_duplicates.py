"""Near-duplicates beside every pair compared, on real texts.

In    the shipped scenarios; with REDHEART_DATA_DIR also public files.
Out   nothing.
Run   `pytest tests/test_prep_near_duplicates.py`
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from test_prep_filters import make_record, parted

from preprocessing.errors import UserError
from preprocessing.near_duplicates import NearDuplicates, bands_for
from preprocessing.readers import parse_source, read
from preprocessing.records import Record
from preprocessing.text import normalise


def jaccard(texts: Sequence[str], length: int) -> np.ndarray:
    """Of every pair, by scikit-learn's letter sequences; all texts must have `length` letters or more."""
    counts = CountVectorizer(analyzer="char", ngram_range=(length, length), lowercase=False, binary=True, dtype=int)
    sets = counts.fit_transform(texts)
    both = (sets @ sets.T).toarray()
    sizes = np.asarray(sets.sum(axis=1)).ravel()
    return both / (sizes[:, None] + sizes - both)


def bare(records: Sequence[Record], least: int) -> list[Record]:
    """Text and provenance alone, of texts that are long enough."""
    return [
        make_record(record.text, record.language, row)
        for row, record in enumerate(records)
        if len(normalise(record.text)) >= least
    ]


def changed(text: str) -> str:
    """With one letter gone, or one word twice."""
    place = random.randrange(len(text))
    words = text.split()
    words.insert(random.randrange(len(words) + 1), random.choice(words))
    return random.choice([text[:place] + text[place + 1 :], " ".join(words)])


def check_against_every_pair(records: list[Record], threshold: float, tmp_path: Path, least: int) -> None:
    step = NearDuplicates(threshold, pairs=tmp_path / "pairs.jsonl")
    kept, rejected = parted(step, records)
    assert len(kept) + len(rejected) == len(records)
    place = {record.id: place for place, record in enumerate(records)}
    texts = [normalise(record.text) for record in records]
    alike = jaccard(texts, 3 if records[0].language == "ko" else 5)
    listed = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(listed) == len(rejected) >= least
    for pair in listed:
        first, second = place[pair["kept"]], place[pair["other"]]
        assert first < second
        assert alike[first, second] >= threshold
        assert pair["similarity"] == pytest.approx(alike[first, second], abs=1e-4)
    assert {pair["kept"] for pair in listed} <= {record.id for record in kept}
    # What stays is unlike all that stays, but for what chance misses.
    places = [place[record.id] for record in kept]
    missed = np.triu(alike[np.ix_(places, places)] >= threshold, k=1).sum()
    assert missed <= 0.01 * len(rejected)


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_pairs_are_those_of_every_pair_compared(
    scenarios: list[Record], language: str, threshold: float, tmp_path: Path
) -> None:
    random.seed(5)
    records = bare([record for record in scenarios if record.language == language], 10)
    copies = [replace(record, text=changed(record.text)) for record in random.choices(records, k=len(records) // 2)]
    records = bare(records + copies, 10)
    random.shuffle(records)
    check_against_every_pair(records, threshold, tmp_path, least=20)


@pytest.mark.parametrize(
    ("source", "least"),
    [
        ("event2mind=event2mind/dev.csv.gz", 500),
        ("ethics_justice=ethics/justice_train.csv", 20),
        ("songys_chatbot=songys_chatbot/ChatbotData.csv", 20),
        ("kote=kote/val.tsv", 0),
    ],
)
def test_pairs_of_public_files_are_those_of_every_pair_compared(
    data_dir: Path, source: str, least: int, tmp_path: Path
) -> None:
    reader, path = source.split("=")
    records = bare(read(parse_source(f"{reader}={data_dir / path}")).records[:4000], 6)
    check_against_every_pair(records, 0.8, tmp_path, least)


def test_any_number_of_processes_finds_the_same(scenarios: list[Record], tmp_path: Path) -> None:
    random.seed(6)
    records = [replace(record, text=changed(record.text)) for record in random.choices(scenarios, k=2500)]
    found = {}
    for num_proc in (1, 2):
        pairs = tmp_path / f"{num_proc}.jsonl"
        found[num_proc] = (list(NearDuplicates(num_proc=num_proc, pairs=pairs)(iter(records))), pairs.read_bytes())
    assert found[1] == found[2]
    assert len(found[1][1].splitlines()) > 100


def test_a_pair_that_people_judged_otherwise_stays(tmp_path: Path) -> None:
    text = "I deserve to be paid by my neighbor because I walk her dog every day of the week."
    other = "I deserve to be paid by my neighbor because I walk her cat every day of the week."
    right, wrong = [None, None, 1.0, None], [None, None, 0.0, None]
    records = [
        make_record(text, row=1, acceptability=right),
        make_record(other, row=2, acceptability=wrong),
        make_record(text.upper(), row=3, acceptability=wrong),
        make_record(other + "!", row=4, acceptability=right),
        make_record(text, row=5),
    ]
    step = NearDuplicates(pairs=tmp_path / "pairs.jsonl")
    kept, rejected = parted(step, records)
    assert [record.row for record in kept] == [1, 2]
    assert [(item.row, item.detail.split()[-1]) for item in rejected] == [(3, "a/f:2"), (4, "a/f:1"), (5, "a/f:1")]
    assert step.counts == {"kept: like an earlier text, with other labels": 1}
    listed = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [pair["outcome"] for pair in listed] == ["both kept: other labels", *["dropped"] * 3]
    kept, _ = parted(NearDuplicates(other_labels="drop"), records)
    assert [record.row for record in kept] == [1]


def test_every_part_of_a_record_counts() -> None:
    scenario = "Can you clean the whole kitchen before the guests come tonight?"
    values: list[dict[str, Any]] = [
        {"text_pair": "No because I am not tall enough to reach any of the upper shelves."},
        {"text_pair": "But I already cleaned it this morning while you were out for a run."},
        {"turns": ["Where are you, and why has nobody called me for the last three days?"]},
    ]
    records = [make_record(scenario, row=row, **value) for row, value in enumerate(values)]
    assert parted(NearDuplicates(), records) == (records, [])


def test_short_texts_are_duplicates_only_of_the_same() -> None:
    records = [make_record(text, "ko", row) for row, text in enumerate(["네", "넵", "네!", "어", "아"])]
    kept, rejected = parted(NearDuplicates(), records)
    assert [record.text for record in kept] == ["네", "넵", "어", "아"]
    assert [item.row for item in rejected] == [2]


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_bands_find_nearly_all_pairs_at_the_threshold(threshold: float) -> None:
    bands, width = bands_for(threshold)
    assert bands * width <= 128
    assert 1 - (1 - threshold**width) ** bands >= 0.99
    assert 1 - (1 - threshold ** (width + 1)) ** (128 // (width + 1)) < 0.99


@pytest.mark.parametrize("threshold", [0.0, 0.49, 1.0, 7])
def test_a_threshold_out_of_reach_is_refused(threshold: float) -> None:
    with pytest.raises(UserError, match="threshold"):
        NearDuplicates(threshold)


def test_no_records_give_none(tmp_path: Path) -> None:
    assert list(NearDuplicates(pairs=tmp_path / "pairs.jsonl")([])) == []
    assert (tmp_path / "pairs.jsonl").read_bytes() == b""


ENDLESS = """
import itertools
from preprocessing.near_duplicates import NearDuplicates
from preprocessing.records import Record

def rows():
    for row in itertools.count(1):
        text = f"The {row}th word of a long tale."
        yield Record(id=f"a/f:{row}", reader="a", language="en", text=text, source="f", row=row)

if __name__ == "__main__":
    list(NearDuplicates(num_proc=2)(rows()))
"""


@pytest.mark.timeout(120)
def test_workers_end_with_a_step_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS, encoding="utf-8")
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": str(root)})
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(workers := [int(pid) for pid in listed.read_text().split()]) < 3:  # two, and who watches their resources
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(3)  # they have begun
    process.kill()
    process.wait()
    while alive := [pid for pid in workers if is_running(pid)]:
        time.sleep(0.05)
    assert not alive


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
