"""Readers on small files in the original form: what a row becomes.

In    files written here.
Out   nothing.
Run   `pytest tests/test_prep_readers.py`
"""

import json
import unicodedata
from pathlib import Path

import pytest
from prep_rows import EMOBANK, SCENARIO, read_text

from preprocessing.errors import UserError
from preprocessing.readers import READERS, parse_source, read
from preprocessing.records import write_records
from preprocessing.text import MAX_CHARACTERS
from redheart_hf.labels import BASIC_EMOTIONS, FINE_EMOTIONS, KOREAN_EMOTIONS

ROOT = Path(__file__).parents[1]


def held(names: tuple[str, ...], values: list[float] | None) -> set[str]:
    assert values is not None
    return {name for name, value in zip(names, values, strict=True) if value}


def test_goemotions_row(tmp_path: Path) -> None:
    (record,) = read_text(tmp_path, "goemotions", "So sorry, but haha!\t3,5\ted1\n", "ekman_dev.tsv").records
    assert (record.id, record.split, record.language) == ("goemotions/ekman_dev.tsv:1", "dev", "en")
    assert held(BASIC_EMOTIONS, record.basic_emotions) == {"joy", "sadness"}
    assert record.same_as == ["goemotions:ed1"]
    assert record.vad is None
    assert record.acceptability is None


def test_goemotions_fine_row_fills_the_parents(tmp_path: Path) -> None:
    (record,) = read_text(tmp_path, "goemotions_fine", "Good luck with your nerves\t5,19\tx\n").records
    assert held(FINE_EMOTIONS, record.fine_emotions) == {"caring", "nervousness"}
    assert held(BASIC_EMOTIONS, record.basic_emotions) == {"joy", "fear"}


def test_goemotions_quotes_as_csv_does(tmp_path: Path) -> None:
    (record,) = read_text(tmp_path, "goemotions", '"He said ""no"", ok"\t4\tx\n').records
    assert record.text == 'He said "no", ok'


def test_kote_row_fills_the_seven(tmp_path: Path) -> None:
    (record,) = read_text(tmp_path, "kote", "5954\t참 어이없네요\t0,23,39\n").records
    assert record.language == "ko"
    assert held(KOREAN_EMOTIONS, record.korean_emotions) == {"불평/불만", "어이없음", "놀람"}
    assert held(BASIC_EMOTIONS, record.basic_emotions) == {"anger", "surprise"}


def test_emobank_scale_and_split(tmp_path: Path) -> None:
    content = EMOBANK + 'a,train,1.0,3.0,5.0,"One, two"\nb,dev,3.5,2.0,3.0,Three\n'
    everything = read_text(tmp_path, "emobank", content)
    assert [(record.vad, record.split) for record in everything.records] == [
        ([-1.0, 0.0, 1.0], "train"),
        ([0.25, -0.5, 0.0], "dev"),
    ]
    (record,) = read_text(tmp_path, "emobank", content, split="@dev").records
    assert record.id == "emobank/rows:3"
    with pytest.raises(UserError, match="no row of split 'test'; it holds train: 1, dev: 1"):
        read_text(tmp_path, "emobank", content, split="@test")


def test_ethics_rows(tmp_path: Path) -> None:
    (pair,) = read_text(tmp_path, "ethics_util", '"I ate, twice.",I ate.\n').records
    assert (pair.text, pair.worse) == ("I ate, twice.", "I ate.")
    (excuse,) = read_text(tmp_path, "ethics_deontology", "label,scenario,excuse\n0,Go?, No.\n").records
    assert (excuse.text, excuse.text_pair, excuse.acceptability) == ("Go?", "No.", [None, 0.0, None, None])
    (claim,) = read_text(tmp_path, "ethics_justice", "label,scenario\n1,I deserve it.\n").records
    assert claim.acceptability == [None, None, 1.0, None]
    (trait,) = read_text(tmp_path, "ethics_virtue", "label,scenario\n1,He lied. [SEP] false\n").records
    assert (trait.text, trait.text_pair, trait.acceptability) == ("He lied.", "false", [None, None, None, 1.0])


def test_scenario_row_and_its_way_through_a_records_file(tmp_path: Path) -> None:
    result = read_text(tmp_path, "scenarios", json.dumps(SCENARIO), "train.jsonl")
    (record,) = result.records
    assert (record.language, record.split, record.chosen, record.reason) == ("ko", "train", 1, SCENARIO["reason"])
    assert record.basic_emotions == list(SCENARIO["emotions"].values())
    assert record.regret == [0.56, 0.5, 0.1]
    assert record.actions is not None
    assert record.actions[1].utility == [0.1, -0.2, -0.5]
    write_records(tmp_path / "held.jsonl", result.records)
    again = read(parse_source(f"records={tmp_path / 'held.jsonl'}"))
    assert again.records == result.records


def test_bom_crlf_and_decomposed_hangul(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "정말 고마워요")
    assert decomposed != "정말 고마워요"
    content = b"\xef\xbb\xbf" + f"1\t{decomposed}\t4\r\n2\t둘\t24\r\n".encode()
    result = read_text(tmp_path, "kote", content)
    assert [record.text for record in result.records] == ["정말 고마워요", "둘"]
    assert not result.rejected


def test_rows_are_numbered_by_the_line_they_start_on(tmp_path: Path) -> None:
    content = EMOBANK + 'a,train,3,3,3,"two\nlines"\nb,train,9,3,3,bad\nc,train,3,3,3,last\n'
    result = read_text(tmp_path, "emobank", content)
    assert [(record.row, record.text) for record in result.records] == [(2, "two\nlines"), (5, "last")]
    assert [rejected.row for rejected in result.rejected] == [4]


def test_a_text_of_the_longest_length_is_read(tmp_path: Path) -> None:
    (record,) = read_text(tmp_path, "goemotions", "a" * MAX_CHARACTERS + "\t3\tx\n").records
    assert len(record.text) == MAX_CHARACTERS


@pytest.mark.parametrize(("reader", "names"), [("goemotions", BASIC_EMOTIONS), ("kote", KOREAN_EMOTIONS)])
def test_a_labels_file_in_another_order_is_refused(tmp_path: Path, reader: str, names: tuple[str, ...]) -> None:
    row = {"goemotions": "fine\t3\tx\n", "kote": "1\t좋다\t42\n"}[reader]
    (tmp_path / "labels.txt").write_text("\n".join(names), encoding="utf-8")
    assert read_text(tmp_path, reader, row, "train.tsv").records
    (tmp_path / "labels.txt").write_text("\n".join((names[1], names[0], *names[2:])), encoding="utf-8")
    with pytest.raises(UserError, match="names label 0"):
        read_text(tmp_path, reader, row, "train.tsv")


def test_every_reader_is_described_in_the_docs() -> None:
    docs = (ROOT / "docs/data.md").read_text()
    assert [name for name in READERS if f"`{name}`" not in docs] == []


def groups(folder: Path, reader: str, *rows: str) -> list[str | None]:
    header = "" if reader == "ethics_util" else "label,scenario\n"
    return [record.group for record in read_text(folder, reader, header + "".join(f"{row}\n" for row in rows)).records]


def test_pairs_that_share_a_scenario_are_one_group(tmp_path: Path) -> None:
    one, two, three, other = groups(
        tmp_path,
        "ethics_util",
        "I ran. I won.,I ran.",
        "I ran. I fell.,I ran. I lost.",
        "I swam.,I ran. I lost!",
        "I slept.,I woke.",
    )
    assert one == two == three != other


def test_variants_of_a_claim_are_one_group(tmp_path: Path) -> None:
    claim, variant, reason, other = groups(
        tmp_path,
        "ethics_justice",
        "1,I deserve to be paid by my boss because I keep her house clean.",
        "0,I deserve a car from my boss because I keep her house clean.",
        "1,I usually feed Al at noon but I stopped because he died.",
        "0,My neighbour ought to lend me his drill since I lent him mine.",
    )
    assert claim == variant
    assert len({claim, reason, other}) == 3


def test_an_excuse_stays_with_its_scenario(tmp_path: Path) -> None:
    one, two, other = groups(
        tmp_path, "ethics_virtue", "1,He lied. [SEP] false", "0,He lied! [SEP] kind", "0,Hm [SEP] kind"
    )
    assert one == two != other
