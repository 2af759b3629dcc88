"""Rows that cannot be read: each is set aside with its reason, and costs no other row.

In    files written here, each with one bad row among good ones, or with bad rows alone.
Out   nothing.
Run   `pytest tests/test_prep_rejected.py`
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prep_rows import EMOBANK, SCENARIO, read_text

from preprocessing.errors import UserError
from preprocessing.readers import write_rejected
from redheart_hf.labels import BASIC_EMOTIONS

ROOT = Path(__file__).parents[1]


def changed(**changes: Any) -> str:
    return json.dumps({**SCENARIO, **changes}, ensure_ascii=False)


def record(**changes: Any) -> str:
    """A record in JSON, where "\\ud800" is a lone surrogate: no text at all, though JSON can write it."""
    return json.dumps({"id": "a", "reader": "r", "language": "en", "text": "t", "source": "f", "row": 1} | changes)


DILEMMA = json.dumps(
    {
        "actions": [{"description": "lying"}, {"description": "singing"}],
        "gold_label": 0,
        "gold_annotations": [5, 0],
        "human_perf_annotations": [4, 1],
    }
)
VAD = {"valence": 0.1, "arousal": 0.1, "dominance": 0.1}
STRINGS = ("id", "reader", "source", "split", "group", "text", "text_pair", "worse", "reason")
BAD_ROWS: list[tuple[str, str, str | bytes]] = [
    ("wrong-field-count", "goemotions", "only text\n"),
    ("wrong-field-count", "ethics_virtue", "0,no separator\n"),
    ("unexpected-separator", "ethics_justice", "1,He lied. [SEP] false\n"),
    ("stray-quote", "ethics_util", '"never closed,worse\n'),
    ("carriage-return", "goemotions", "one\rtwo\t3\tx\n"),
    ("carriage-return", "goemotions", "one\t3\tx\rtwo\t3\tx\r\n"),
    ("carriage-return", "ethics_justice", "1,one\r0,two\n"),
    ("carriage-return", "records", record() + "\r" + record()),
    ("empty-row", "goemotions", "\n"),
    ("empty-row", "scenarios", "\n"),
    ("not-json", "scenarios", '{"id": \n'),
    ("repeated-key", "records", record().replace('"text"', '"text": "other", "text"')),
    ("repeated-key", "scenarios", changed().replace('"valence"', '"valence": 0.9, "valence"')),
    ("wrong-type", "scenarios", "[1, 2]\n"),
    ("wrong-type", "scenarios", changed(vad={**VAD, "valence": True})),
    ("wrong-type", "scenarios", changed(vad={**VAD, "valence": "0.1"})),
    ("wrong-type", "scenarios", changed(id=None)),
    ("wrong-type", "scenarios", changed(text=3)),
    ("label-out-of-range", "scenarios", changed(vad={**VAD, "valence": 10**400})),
    ("label-out-of-range", "scenarios", changed(emotions={**SCENARIO["emotions"], "joy": 10**400})),
    ("wrong-type", "scenarios", changed(actions=3)),
    ("wrong-type", "emobank", "a,train,x,3,3,text\n"),
    ("wrong-type", "emobank", "a,train,0_3,3,3,text\n"),
    ("unknown-key", "scenarios", changed(mood="good")),
    ("missing-key", "scenarios", json.dumps({key: value for key, value in SCENARIO.items() if key != "vad"})),
    ("missing-key", "records", '{"text": "alone"}'),
    ("unknown-key", "scenarios", changed(vad={**VAD, "mood": 0.1})),
    ("unknown-key", "records", record(**{"\ud800k": 1})),
    ("unknown-label", "goemotions", "text\t7\tx\n"),
    ("unknown-label", "kote", "1\t글\t-1\n"),
    ("unknown-label", "ethics_justice", "2,text\n"),
    ("unknown-label", "scenarios", changed(language="fr")),
    ("unknown-split", "emobank", "a,other,3,3,3,text\n"),
    ("no-preference", "scruples_dilemmas", DILEMMA.replace("[4, 1]", "[0, 5]")),
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
    ("invalid-utf8", "goemotions", b"no\xe9l\t3\tx\n"),
    *(("invalid-utf8", "records", record(**{name: "a\ud800"})) for name in STRINGS),
    ("invalid-utf8", "records", record(same_as=["a\ud800"])),
    ("invalid-utf8", "records", record(turns=["a\ud800"])),
    ("invalid-utf8", "scenarios", changed(text="x").encode().replace(b'"x"', b'"\\ud800"')),
    ("nul-character", "goemotions", "a\0b\t3\tx\n"),
    ("nul-character", "goemotions", "ab\t3\tx\0\n"),
    *(("nul-character", "records", record(**{name: "a\0"})) for name in STRINGS),
    ("control-character", "records", record(source="\x1b]0;title\x07")),
    ("control-character", "records", record(group="a\tb")),
    ("too-many-marks", "goemotions", "a" + "\u0301\u0323" * 16 + "\t3\tx\n"),
    ("too-many-marks", "ethics_util", "better,a" + "\u0301" * 31 + "\n"),
]
GOOD_ROWS = {
    "scenarios": ("", changed(text="Another text.") + "\n"),
    "records": ("", '{"id":"a","reader":"r","language":"en","text":"t","source":"f","row":1}\n'),
    "goemotions": ("", "fine\t3\tx\n"),
    "kote": ("", "1\t좋다\t42\n"),
    "emobank": (EMOBANK, "a,train,3,3,3,fine\n"),
    "ethics_util": ("", "better,worse\n"),
    "scruples_dilemmas": ("", DILEMMA + "\n"),
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
    assert 0 < len(rejected.detail) < 400
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
    result = read_text(tmp_path, "goemotions", b"fine\t3\tx\nno\xe9l\t3\tx\n")
    write_rejected(tmp_path / "out" / "rejected.jsonl", result.rejected)
    (line,) = (tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    written = json.loads(line)
    assert (written["row"], written["reason"]) == (2, "invalid-utf8")
    assert written["excerpt"].startswith("no\\xe9l")
