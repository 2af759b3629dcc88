"""Readers on small files in the original form: what a row becomes, and what a bad row becomes.

In    files written here. Out: nothing. Run: pytest tests/test_prep_readers.py
"""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from preprocessing.errors import UserError
from preprocessing.readers import READERS, ReadResult, parse_source, read, write_rejected
from preprocessing.records import MAX_CHARACTERS, write_records
from redheart_hf.labels import BASIC_EMOTIONS, FINE_EMOTIONS, KOREAN_EMOTIONS

ROOT = Path(__file__).parents[1]
EMOBANK = "id,split,V,A,D,text\n"
SCENARIO: dict[str, Any] = {
    "id": "s1",
    "language": "ko",
    "domain": "work",
    "text": "상사가 회의에서 내 이름을 뺐다.",
    "actions": [
        {"text": "말한다", "utility": {"optimistic": 0.6, "neutral": 0.25, "pessimistic": -0.4}},
        {"text": "참는다", "utility": {"optimistic": 0.1, "neutral": -0.2, "pessimistic": -0.5}},
    ],
    "chosen": 1,
    "emotions": dict(zip(BASIC_EMOTIONS, [0.6, 0.1, 0.0, 0.0, 0.1, 0.2, 0.0], strict=True)),
    "vad": {"valence": -0.6, "arousal": 0.4, "dominance": -0.5},
    "culture": {"jeong": 0.1, "han": 0.7, "chemyeon": 0.8},
    "circumstances": {
        "intensity": -0.3,
        "duration": 0.4,
        "certainty": 0.6,
        "propinquity": 0.8,
        "fecundity": 0.3,
        "purity": 0.2,
        "extent": 0.2,
    },
    "acceptability": {"utilitarian": 0.4, "deontology": 0.6, "justice": 0.3, "virtue": 0.5},
    "regret": {"optimistic": 0.56, "neutral": 0.5, "pessimistic": 0.1},
    "reason": "참으면 억울함이 남는다.",
}


def read_text(folder: Path, reader: str, content: str | bytes, name: str = "rows", split: str = "") -> ReadResult:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(parse_source(f"{reader}={path}{split}"))


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


def changed(**changes: Any) -> str:
    return json.dumps({**SCENARIO, **changes}, ensure_ascii=False)


VAD = {"valence": 0.1, "arousal": 0.1, "dominance": 0.1}
BAD_ROWS: list[tuple[str, str, str | bytes]] = [
    ("wrong-field-count", "goemotions", "only text\n"),
    ("wrong-field-count", "ethics_virtue", "0,no separator\n"),
    ("unexpected-separator", "ethics_justice", "1,He lied. [SEP] false\n"),
    ("stray-quote", "ethics_util", '"never closed,worse\n'),
    ("empty-row", "goemotions", "\n"),
    ("empty-row", "scenarios", "\n"),
    ("not-json", "scenarios", '{"id": \n'),
    ("wrong-type", "scenarios", "[1, 2]\n"),
    ("wrong-type", "scenarios", changed(vad={**VAD, "valence": True})),
    ("wrong-type", "scenarios", changed(vad={**VAD, "valence": "0.1"})),
    ("wrong-type", "scenarios", changed(text=3)),
    ("wrong-type", "scenarios", changed(actions=3)),
    ("wrong-type", "emobank", "a,train,x,3,3,text\n"),
    ("unknown-key", "scenarios", changed(mood="good")),
    ("missing-key", "scenarios", json.dumps({key: value for key, value in SCENARIO.items() if key != "vad"})),
    ("missing-key", "records", '{"text": "alone"}'),
    ("unknown-key", "scenarios", changed(vad={**VAD, "mood": 0.1})),
    ("unknown-label", "goemotions", "text\t7\tx\n"),
    ("unknown-label", "kote", "1\t글\t-1\n"),
    ("unknown-label", "ethics_justice", "2,text\n"),
    ("unknown-label", "scenarios", changed(language="fr")),
    ("unknown-split", "emobank", "a,other,3,3,3,text\n"),
    ("label-out-of-range", "emobank", "a,train,5.5,3,3,text\n"),
    ("label-out-of-range", "emobank", "a,train,nan,3,3,text\n"),
    ("label-out-of-range", "scenarios", changed(vad={**VAD, "valence": float("nan")})),
    ("label-out-of-range", "scenarios", changed(chosen=2)),
    ("label-out-of-range", "scenarios", changed(chosen=True)),
    ("label-out-of-range", "scenarios", changed(emotions=dict.fromkeys(BASIC_EMOTIONS, 0.5))),
    ("label-out-of-range", "scenarios", changed(circumstances={**SCENARIO["circumstances"], "extent": -0.1})),
    ("wrong-label-count", "scenarios", changed(actions=SCENARIO["actions"][:1], chosen=0)),
    (
        "contradicting-labels",
        "scenarios",
        changed(actions=[{"text": "x", "utility": {"optimistic": 0, "neutral": 0.1, "pessimistic": 0}}] * 2),
    ),
    ("empty-text", "goemotions", " \t3\tx\n"),
    ("empty-text", "ethics_util", "better,\n"),
    ("too-long", "goemotions", "a" * 100_000 + "\t3\tx\n"),
    ("invalid-utf8", "goemotions", b"caf\xe9 au lait\t3\tx\n"),
    ("invalid-utf8", "scenarios", changed(text="x").encode().replace(b'"x"', b'"\\ud800"')),
    ("nul-character", "goemotions", "a\0b\t3\tx\n"),
]
GOOD_ROWS = {
    "scenarios": ("", changed(text="Another text.") + "\n"),
    "records": ("", '{"id":"a","reader":"r","language":"en","text":"t","source":"f","row":1}\n'),
    "goemotions": ("", "fine\t3\tx\n"),
    "kote": ("", "1\t좋다\t42\n"),
    "emobank": (EMOBANK, "a,train,3,3,3,fine\n"),
    "ethics_util": ("", "better,worse\n"),
    "ethics_justice": ("label,scenario\n", "1,fine\n"),
    "ethics_virtue": ("label,scenario\n", "1,fine [SEP] good\n"),
}


@pytest.mark.parametrize(("reason", "reader", "row"), BAD_ROWS)
def test_a_bad_row_is_set_aside_between_good_ones(tmp_path: Path, reason: str, reader: str, row: str | bytes) -> None:
    header, good = GOOD_ROWS[reader]
    bad = (row if isinstance(row, bytes) else row.encode()).removesuffix(b"\n") + b"\n"
    result = read_text(tmp_path, reader, (header + good).encode() + bad + good.encode())
    assert len(result.records) == 2
    (rejected,) = result.rejected
    assert (rejected.reason, rejected.row) == (reason, 3 if header else 2)
    assert rejected.detail
    assert str(tmp_path / "rows") == rejected.file


# A file of blank lines alone is an empty file.
@pytest.mark.parametrize(("reason", "reader", "row"), [row for row in BAD_ROWS if row[0] != "empty-row"])
def test_a_file_of_bad_rows_alone_is_an_error_with_counts(
    tmp_path: Path, reason: str, reader: str, row: str | bytes
) -> None:
    bad = (row if isinstance(row, bytes) else row.encode()).removesuffix(b"\n") + b"\n"
    with pytest.raises(UserError, match=f"{reason}: 2"):
        read_text(tmp_path, reader, GOOD_ROWS[reader][0].encode() + bad * 2)


def test_every_reason_has_its_row_here_and_its_line_in_the_docs() -> None:
    reasons = {reason for reason, _, _ in BAD_ROWS}
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "preprocessing").glob("*.py"))
    assert set(re.findall(r"[\"']([a-z0-9]+(?:-[a-z0-9]+)+): ", code)) == reasons
    table = (ROOT / "docs/data.md").read_text(encoding="utf-8").partition("| Reason |")[2].partition("\n\n")[0]
    assert {
        name
        for line in table.splitlines()
        for name in re.findall("`([a-z0-9-]+)`", line.removeprefix("|").partition("|")[0])
    } == reasons


def test_rows_are_numbered_by_the_line_they_start_on(tmp_path: Path) -> None:
    content = EMOBANK + 'a,train,3,3,3,"two\nlines"\nb,train,9,3,3,bad\nc,train,3,3,3,last\n'
    result = read_text(tmp_path, "emobank", content)
    assert [(record.row, record.text) for record in result.records] == [(2, "two\nlines"), (5, "last")]
    assert [rejected.row for rejected in result.rejected] == [4]


@pytest.mark.parametrize("stray", [10, 100, 199])
def test_a_stray_quote_costs_one_row(tmp_path: Path, stray: int) -> None:
    for reader, header, form in (
        ("emobank", EMOBANK, "x{0},train,3,3,3,{1}text {0}, no quotes after\n"),
        ("ethics_deontology", "label,scenario,excuse\n", "1,scenario {0},{1}excuse {0}\n"),
        ("goemotions", "", "{1}text {0}\t3\tx\n"),
    ):
        lines = [form.format(number, '"' if number == stray else "") for number in range(200)]
        lines = [line.replace(", no quotes after", "") for line in lines]
        result = read_text(tmp_path, reader, header + "".join(lines))
        assert len(result.records) == 199
        assert [(item.reason, item.row) for item in result.rejected] == [("stray-quote", stray + 1 + bool(header))]


def test_rejected_rows_are_written(tmp_path: Path) -> None:
    result = read_text(tmp_path, "goemotions", b"fine\t3\tx\ncaf\xe9\t3\tx\n")
    write_rejected(tmp_path / "out" / "rejected.jsonl", result.rejected)
    (line,) = (tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    written = json.loads(line)
    assert (written["row"], written["reason"]) == (2, "invalid-utf8")
    assert written["excerpt"].startswith("caf\\xe9")


def test_a_text_of_the_longest_length_is_read(tmp_path: Path) -> None:
    (record,) = read_text(tmp_path, "goemotions", "a" * MAX_CHARACTERS + "\t3\tx\n").records
    assert len(record.text) == MAX_CHARACTERS


@pytest.mark.parametrize(("reader", "names"), [("goemotions", BASIC_EMOTIONS), ("kote", KOREAN_EMOTIONS)])
def test_a_labels_file_in_another_order_is_refused(tmp_path: Path, reader: str, names: tuple[str, ...]) -> None:
    row = GOOD_ROWS[reader][1]
    (tmp_path / "labels.txt").write_text("\n".join(names), encoding="utf-8")
    assert read_text(tmp_path, reader, row, "train.tsv").records
    (tmp_path / "labels.txt").write_text("\n".join((names[1], names[0], *names[2:])), encoding="utf-8")
    with pytest.raises(UserError, match="names label 0"):
        read_text(tmp_path, reader, row, "train.tsv")


def test_every_reader_is_described_in_the_docs() -> None:
    docs = (ROOT / "docs/data.md").read_text()
    assert [name for name in READERS if f"`{name}`" not in docs] == []
