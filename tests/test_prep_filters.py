"""What the filters set aside, and above all what they let pass.

In    the shipped scenarios; texts written here; with REDHEART_DATA_DIR also public files.
Out   nothing.
Run   `pytest tests/test_prep_filters.py`
"""

import os
import random
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preprocessing.errors import UserError
from preprocessing.filters import Duplicates, Language, Length
from preprocessing.readers import Rejected, parse_source, read
from preprocessing.records import Record
from preprocessing.spool import Spool
from preprocessing.steps import Step


def make_record(text: str, language: str = "en", row: int = 1, **values: Any) -> Record:
    return Record(id=f"a/f:{row}", reader="a", language=language, text=text, source="f", row=row, **values)


def parted(step: Step, records: Iterable[Record]) -> tuple[list[Record], list[Rejected]]:
    out = list(step(records))
    kept = [item for item in out if isinstance(item, Record)]
    return kept, [item for item in out if isinstance(item, Rejected)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("굿(good)", "ko"),
        ("HAPPY ENDING의 진수", "ko"),
        ("ㅋㅋㅋㅋ", "ko"),
        ("So… HAPPY 😂", "en"),
        ("To 1?", "en"),
        ("My trip to El Paso de los Lobos was the best of all", "en"),
        ("Definitely didn’t give [NAME] a huge scar", "en"),
    ],
)
def test_a_text_in_the_language_it_claims_passes(text: str, language: str) -> None:
    record = make_record(text, language)
    assert parted(Language(), [record]) == ([record], [])


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        ("I never called her back.", "ko", "another-language"),
        ("면접에서 또 떨어졌다.", "en", "another-language"),
        ("昨日は雨でした。", "ko", "another-language"),
        ("昨日は雨でした。", "en", "another-language"),
        ("Вчера шёл дождь.", "en", "another-language"),
        ("La película fue muy aburrida y no me gustó nada.", "en", "another-language"),
        ("Ich weiß nicht, was ich sagen soll, aber morgen wird alles gut.", "en", "another-language"),
        ("Je ne sais pas quoi dire, mais tout ira bien.", "en", "another-language"),
        (":((", "en", "no-letters"),
        ("2015.01.05", "ko", "no-letters"),
    ],
)
def test_a_text_in_another_language_is_set_aside(text: str, language: str, reason: str) -> None:
    kept, rejected = parted(Language(), [make_record(text, language)])
    assert (kept, [item.reason for item in rejected]) == ([], [reason])


def test_no_shipped_scenario_is_taken_for_another_language(scenarios: list[Record]) -> None:
    assert {record.language for record in scenarios} == {"en", "ko"}
    assert parted(Language(), scenarios) == (scenarios, [])
    only_korean, rejected = parted(Language(["ko"]), scenarios)
    assert {record.language for record in only_korean} == {"ko"}
    assert {item.reason for item in rejected} == {"language-not-wanted"}
    with pytest.raises(UserError, match="no rule for the language 'ja'"):
        Language(["ja"])


@pytest.mark.parametrize(
    ("source", "most"),
    [
        # Read one by one: three smileys; the eight of emobank are marks and "2/00".
        ("goemotions=goemotions/ekman_train.tsv", 3),
        ("emobank=emobank/emobank.csv", 8),
        ("ethics_virtue=ethics/virtue_train.csv", 0),
        ("event2mind=event2mind/train.csv.gz", 0),
        # All but six of these 57 are in another language than the file's, or have no letters.
        ("nsmc=nsmc_ratings/train.tsv", 57),
        ("songys_chatbot=songys_chatbot/ChatbotData.csv", 0),
    ],
)
def test_of_public_files_hardly_a_row_is_set_aside(data_dir: Path, source: str, most: int) -> None:
    reader, path = source.split("=")
    records = read(parse_source(f"{reader}={data_dir / path}")).records
    kept, rejected = parted(Language(), records)
    assert len(kept) + len(rejected) == len(records)
    assert len(rejected) <= most


def test_length_is_told_in_characters_and_in_tokens_of_all_parts(tokenizer: Any) -> None:
    records = [make_record("a" * length, row=length) for length in (1, 2, 9, 10, 11)]
    kept, rejected = parted(Length(least=2, most=10), records)
    assert [record.row for record in kept] == [2, 9, 10]
    assert [item.reason for item in rejected] == ["too-short", "too-long"]

    def count(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    text, turn = "면접에서 또 떨어졌다.", "무슨 일 있어?"
    plain, dialogue = make_record(text, "ko"), make_record(text, "ko", turns=[turn])
    step = Length(most_tokens=count(text) + count(turn) - 1, count_tokens=count)
    kept, rejected = parted(step, [plain, dialogue])
    assert kept == [plain]
    assert [item.reason for item in rejected] == ["too-many-tokens"]


@pytest.mark.parametrize("wrong", [{"least": 5, "most": 4}, {"most_tokens": 3}, {"count_tokens": len}])
def test_a_length_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="length"):
        Length(**wrong)


def test_a_duplicate_goes_only_if_it_says_nothing_new() -> None:
    anger, joy = [1.0] + [0.0] * 6, [0.0] * 3 + [1.0] + [0.0] * 3
    first = make_record("So… HAPPY!", row=1, basic_emotions=joy)
    records = [
        first,
        make_record("so happy", row=2, basic_emotions=joy),
        make_record("So happy", row=3),
        make_record("So happy", row=4, basic_emotions=anger),
        make_record("So happy", row=5, vad=[0.5, None, None]),
        make_record("So happy", row=6, vad=[0.5, 0.1, None]),
        make_record("So happy", row=7, vad=[None, 0.1, None], basic_emotions=anger),
        make_record("So happy", row=8, text_pair="because I won"),
        make_record("So happy", row=9, turns=["How are you?"]),
        make_record("So happy", row=10, worse="So sad"),
        make_record("So sad", row=11, worse="So happy"),
        make_record("so HAPPY", row=12, worse="so SAD"),
    ]
    step = Duplicates()
    kept, rejected = parted(step, records)
    assert [record.row for record in kept] == [1, 4, 5, 6, 8, 9, 10, 11]
    assert [item.row for item in rejected] == [2, 3, 7, 12]
    assert {item.reason for item in rejected} == {"duplicate"}
    assert step.counts == {"kept: the same texts with other labels": 3}


def test_nothing_that_people_said_of_a_text_is_lost(scenarios: list[Record]) -> None:
    random.seed(3)
    records = [replace(record, row=row) for row, record in enumerate(random.choices(scenarios, k=900))]
    for record in records[::3]:
        record.vad = [0.5, 0.5, random.choice([0.0, 0.5])]

    def said(rows: list[Record]) -> set[tuple[str, str]]:
        values = {(row.text, f"vad {place} {value}") for row in rows for place, value in enumerate(row.vad or [])}
        return values | {(row.text, str(row.basic_emotions)) for row in rows}

    kept, rejected = parted(Duplicates(), records)
    assert said(kept) == said(records)
    assert len(kept) + len(rejected) == 900
    assert len(rejected) > 200
    # A second round finds nothing more.
    assert parted(Duplicates(), kept) == (kept, [])


def test_a_disk_without_room_is_told_and_nothing_goes_on_without_it(tmp_path: Path) -> None:
    # The limit of a process on what it writes stands for the disk's.
    code = """
import resource
from preprocessing import filters
from preprocessing.errors import run
from preprocessing.records import Record
filters.CACHE_KIB = 64
resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))
rows = (Record(id="a", reader="a", language="en", text=f"text {n}", source="f", row=1) for n in range(10**6))
run(lambda: print(sum(1 for _ in filters.Duplicates()(rows))))
"""
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot be kept in {tmp_path}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_records_come_off_the_disk_as_they_went_there(scenarios: list[Record]) -> None:
    odd = make_record("줄\n바꿈 \u2028 \x0b \ud800", "ko", vad=[0.1, None, -1.0], same_as=["a:1"], weight=0.3)
    records = [odd, *scenarios, make_record("b", turns=["c", "d"], group="g")]
    with Spool() as spool:
        for record in records[:-1]:
            spool.append(record)
        assert spool[0] == odd
        spool.append(records[-1])
        found = iter(spool)
        assert next(found) == odd
        assert spool[len(records) - 1] == records[-1]
        assert [odd, *found] == records
        assert list(spool) == records
        assert len(spool) == len(records)
