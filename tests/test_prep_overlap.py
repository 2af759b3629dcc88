"""Overlaps, hold-outs and halves: what is measured was not learnt.

In    records written here; with REDHEART_DATA_DIR also the public files.
Out   nothing.
Run   `pytest tests/test_prep_overlap.py`
"""

import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict
from typing import Any

import pytest

from preprocessing.errors import UserError
from preprocessing.overlap import find_overlaps, half_of, hold_out, without_overlaps
from preprocessing.records import Record
from preprocessing.text import normalise


def make_record(row: int, text: str, **values: Any) -> Record:
    plain = {"id": f"a/f:{row}", "reader": "a", "language": "en", "source": "f", "row": row}
    return Record(**{**plain, "text": text, **values})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("So… HAPPY!", "so happy"),
        ("ｗｉｄｅ　letters", "wide letters"),
        ("Straße, 3", "strasse 3"),
        ("정말  고마워요!!", "정말 고마워요"),
        ("정말", "\u110c\u1165\u11bc\u1106\u1161\u11af"),
    ],
)
def test_texts_that_differ_in_form_only_are_the_same(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("I ate", "I hate"), ("😀", "😢"), ("...", "?!"), ("ㅋㅋ", "ㅠㅠ")])
def test_texts_that_say_something_else_are_not(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def test_overlaps_are_counted_per_pair_of_sources() -> None:
    train = [
        make_record(1, "Thank you!", same_as=["goemotions:x"]),
        make_record(2, "Thank you"),
        make_record(3, "Better", worse="Worse", source="g", reader="b"),
    ]
    dev = [make_record(4, "worse.", split="dev"), make_record(5, "고마워", same_as=["goemotions:x"], reader="c")]
    found = {(pair.first, pair.second): (pair.texts, pair.same_as) for pair in find_overlaps(train, dev).pairs}
    assert found == {("a/f@dev", "b/g"): (1, 0), ("a/f", "c/f"): (0, 1)}
    assert find_overlaps(train[:2]).pairs == []
    assert "a/f and c/f share 0 texts, 1 same_as keys" in str(find_overlaps(train, dev))


def test_dev_loses_what_training_holds_in_any_reader() -> None:
    train = [make_record(1, "Thank you!", same_as=["goemotions:x"]), make_record(2, "Better", worse="Worse")]
    dev = [
        make_record(3, "thank you", reader="b"),
        make_record(4, "고마워", same_as=["goemotions:x"]),
        make_record(5, "worse"),
        make_record(6, "New", worse="better!"),
        make_record(7, "Something else"),
        make_record(8, "Something else", reader="b"),
    ]
    kept, dropped = without_overlaps(dev, train)
    assert [record.row for record in kept] == [7, 8]
    assert [record.row for record in dropped] == [3, 4, 5, 6]


def make_groups() -> list[Record]:
    """40 groups of 1 to 5 records; two of them share a text, and two others a key."""
    records = [make_record(10 * g + i, f"text {g} {i}", group=f"g{g}") for g in range(40) for i in range(1 + g % 5)]
    by_group = defaultdict(list)
    for record in records:
        by_group[record.group].append(record)
    by_group["g3"][0].text = by_group["g4"][0].text
    by_group["g7"][0].same_as = by_group["g8"][0].same_as = ["k:1"]
    return records


def test_hold_out_keeps_groups_texts_and_keys_together() -> None:
    records = make_groups()
    together = {"g3": "g4", "g7": "g8"}
    for seed in range(20):
        rest, held = hold_out(records, 30, seed)
        assert sorted(record.row for record in rest + held) == sorted(record.row for record in records)
        assert 30 <= len(held) < 30 + 10
        groups = [{together.get(str(record.group), record.group) for record in part} for part in (rest, held)]
        assert groups[0].isdisjoint(groups[1])
        assert without_overlaps(held, rest)[1] == []


def test_hold_out_depends_on_the_seed_and_on_nothing_else() -> None:
    records = make_groups()
    held = [record.row for record in hold_out(records, 30, 1)[1]]
    assert sorted(held) == sorted(record.row for record in hold_out(records[::-1], 30, 1)[1])
    assert held != [record.row for record in hold_out(records, 30, 2)[1]]
    larger = {record.row for record in hold_out(records, 60, 1)[1]}
    assert set(held) < larger


def test_records_without_a_group_are_held_out_one_by_one() -> None:
    rest, held = hold_out([make_record(row, f"text {row}") for row in range(50)], 10, 0)
    assert (len(rest), len(held)) == (40, 10)


@pytest.mark.parametrize("rows", [0, -1, 75, 1000])
def test_an_impossible_hold_out_is_an_error(rows: int) -> None:
    records = make_groups()[:75]
    assert len(records) == 75
    with pytest.raises(UserError, match="cannot hold out"):
        hold_out(records, rows, 0)


def test_one_group_cannot_be_held_out() -> None:
    with pytest.raises(UserError, match="leaves none"):
        hold_out([make_record(row, f"text {row}", group="g") for row in range(5)], 2, 0)


def test_halves_are_even_and_the_same_in_another_process() -> None:
    records = [make_record(row, f"text number {row}") for row in range(1000)]
    halves = [half_of(record) for record in records]
    assert 430 < halves.count("choosing") < 570
    assert set(halves) == {"choosing", "reporting"}
    # Another process salts Python's own hash() otherwise.
    code = "from preprocessing.overlap import half_of; from preprocessing.records import Record; "
    code += f"print([half_of(Record(**fields)) for fields in {[asdict(record) for record in records[:20]]}])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(halves[:20])


def test_rows_of_one_text_or_of_one_group_are_in_the_same_half() -> None:
    assert half_of(make_record(0, "Thank you!")) == half_of(make_record(1, "thank  YOU"))
    scenario = [make_record(row, f"text number {row}", group="a scenario") for row in range(20)]
    assert len({half_of(record) for record in scenario}) == 1
