"""Files that are no text, rows made to stall, and paths that would cost a user their data.

In    files written here.
Out   nothing.
Run   `pytest tests/test_prep_hostile.py`
"""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import sys
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run_command
from prep_rows import read_text

from preprocessing import readers
from preprocessing.errors import UserError
from preprocessing.files import write_lines
from preprocessing.readers import parse_source, read, write_rejected
from preprocessing.sources import refuse_repeated
from preprocessing.text import MAX_CHARACTERS, MAX_MARKS, _marks, clean, normalise, text_fault

ROWS = "fine\t3\tx\nonly text\n"


def zipped(content: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("rows", content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (gzip.compress(gzip.compress(ROWS.encode())), "is a gzip file within a gzip file; decompress it first"),
        (zipped(ROWS.encode()), "is a zip file or a spreadsheet; decompress it first"),
        (bz2.compress(ROWS.encode()), "is a bzip2 file; decompress it first"),
        (lzma.compress(ROWS.encode()), "is an xz file; decompress it first"),
        (ROWS.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"\xfe\xff" + ROWS.encode("utf-16-be"), "is UTF-16; save it as UTF-8"),
        (ROWS.encode("utf-16-le"), "is no text in UTF-8: .* NUL"),
    ],
)
def test_a_file_that_is_no_utf8_is_told_the_remedy(tmp_path: Path, content: bytes, remedy: str) -> None:
    with pytest.raises(UserError, match=f"rows {remedy}"):
        read_text(tmp_path, "goemotions", content)


def test_a_file_of_an_old_mac_is_told_the_remedy(tmp_path: Path) -> None:
    for reader, rows in (
        ("goemotions", "one\t3\tx\rtwo\t3\tx\r"),
        ("ethics_justice", "label,scenario\r1,one\r0,two\r"),
    ):
        with pytest.raises(UserError, match="rows.*carriage return.*save the file with lines that end in LF or CR LF"):
            read_text(tmp_path, reader, rows)


def test_a_carriage_return_within_quotes_belongs_to_the_text(tmp_path: Path) -> None:
    result = read_text(tmp_path, "goemotions", '"one\rtwo"\t3\tx\n"un\rclosed\t3\tx\n')
    assert [record.text for record in result.records] == ["one\rtwo"]
    assert list(result.reasons) == ["stray-quote"]


def test_a_long_run_of_marks_is_never_put_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the square of their number: minutes, for a row of 400 KB."""
    marks = "\u0301\u0323" * 100_000
    _marks()  # which is kept, and asks the real one
    given: list[str] = []
    monkeypatch.setattr(unicodedata, "normalize", lambda form, text: given.append(text) or text)
    # Beyond what could be short enough in NFC, just below that, and as long as a text may be.
    lengths = (200_000, 4 * MAX_CHARACTERS - 1, MAX_CHARACTERS - 1)
    rows = [f"a{marks[:length]}\t3\tx\n" for length in lengths]
    result = read_text(tmp_path, "goemotions", "fine\t3\tx\n" + "".join(rows) + "b" * 1_000_000 + "\t3\tx\n")
    assert result.reasons == {"too-long": 3, "too-many-marks": 1}
    assert "fine" in given
    assert max(map(len, given)) < 100


def test_marks_within_the_limit_and_decomposed_korean_are_read(tmp_path: Path) -> None:
    stacked = "a" + "\u0323" * MAX_MARKS
    decomposed = unicodedata.normalize("NFD", "각" * MAX_CHARACTERS)
    assert len(decomposed) == 3 * MAX_CHARACTERS
    result = read_text(tmp_path, "goemotions", f"{stacked}\t3\tx\n{decomposed}\t3\tx\n{decomposed}각\t3\tx\n")
    assert [record.text for record in result.records] == [clean(stacked), "각" * MAX_CHARACTERS]
    assert list(result.reasons) == ["too-long"]
    # Halfwidth sound marks are letters to NFC and marks to NFKC, by which texts are compared.
    assert text_fault("text", "ｶ" + "\uff9e\u0301" * 16)
    assert normalise("ｶ\uff9e") == "ガ"


def test_every_mark_of_unicode_is_known() -> None:
    """Marks, and letters that NFKC makes marks of: whatever it would put in order."""
    every = map(chr, range(sys.maxunicode + 1))
    assert _marks()[0] == {
        letter for letter in every if unicodedata.combining(unicodedata.normalize("NFKD", letter)[0])
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "train.tsv"
    path.write_text(ROWS, encoding="utf-8")
    return path


@pytest.mark.parametrize("spelling", ["train.tsv", "./train.tsv", "linked.tsv", "hard.tsv", "labels.txt"])
def test_what_is_read_is_never_written_over(source: Path, spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    Path("linked.tsv").symlink_to("train.tsv")
    os.link("train.tsv", "hard.tsv")
    labels = "anger\ndisgust\nfear\njoy\nneutral\nsadness\nsurprise\n"
    Path("labels.txt").write_text(labels, encoding="utf-8")
    code, out, told = run_command(readers, f"goemotions={source}", "--rejected", spelling)
    assert (code, out) == (2, "")
    assert told == f"error: --rejected {Path(spelling)} is one of the files to be read; name another\n"
    assert (source.read_text(encoding="utf-8"), Path("labels.txt").read_text(encoding="utf-8")) == (ROWS, labels)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("folder", "is a folder; name a file"),
        ("train.tsv/rejected.jsonl", "cannot be written: .*train.tsv: Not a directory; a file is in the way"),
        ("y" * 300, "File name too long: '.*yyy'; a file name holds 255 bytes"),
        (os.fsdecode(b"\xff.jsonl"), r"'.*\\udcff.jsonl' is not UTF-8; rename"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_reading(source: Path, place: str, told: str) -> None:
    (source.parent / "folder").mkdir()
    code, out, said = run_command(readers, f"goemotions={source}", "--rejected", source.parent / place)
    assert (code, out) == (2, "")
    assert re.search(told, said), said


def test_a_source_whose_name_is_too_long_or_no_utf8_is_refused(source: Path) -> None:
    code, _, told = run_command(readers, f"goemotions={'x' * 300}")
    assert (code, told.count("\n")) == (2, 1)
    assert f"File name too long: '{'x' * 300}'; " in told
    strange = source.rename(source.parent / os.fsdecode(b"train\xff.tsv"))
    code, _, told = run_command(readers, f"goemotions={strange}")
    assert (code, told.count("\n")) == (2, 1)
    assert r"train\udcff.tsv' is not UTF-8; rename the file" in told


def test_a_name_as_long_as_may_be_is_read(source: Path) -> None:
    long = source.rename(source.parent / ("x" * 251 + ".tsv"))
    assert len(read(parse_source(f"goemotions={long}")).records) == 1


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rejected.jsonl"
    write_lines(path, ["before"])

    def lines() -> Iterator[str]:
        yield "x" * 100_000
        assert path.read_text() == "before\n"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lines(path, lines())
    assert path.read_text() == "before\n"
    assert [file.name for file in tmp_path.iterdir()] == ["rejected.jsonl"]


def test_a_report_follows_a_link_and_goes_into_a_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_lines(tmp_path / "link", ["one"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "one\n"
    reading, writing = os.pipe()
    write_lines(Path(f"/dev/fd/{writing}"), ["two"])
    assert os.read(reading, 10) == b"two\n"
    os.close(reading)
    os.close(writing)


def test_rejected_surrogates_are_written_and_read_back(tmp_path: Path) -> None:
    good = {"id": "a", "reader": "r", "language": "en", "text": "t", "source": "f", "row": 1}
    rows = "".join(json.dumps(good | change) + "\n" for change in ({}, {"\ud800k": 1}, {"source": "\ud800"}))
    result = read_text(tmp_path, "records", rows)
    write_rejected(tmp_path / "rejected.jsonl", result.rejected)
    written = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [item["reason"] for item in written] == ["unknown-key", "invalid-utf8"]
    assert r"'\ud800k'" in written[0]["detail"]
    write_lines(tmp_path / "raw.jsonl", [json.dumps({"file": "\udcff"}, ensure_ascii=False)])
    assert json.loads((tmp_path / "raw.jsonl").read_text(encoding="utf-8")) == {"file": "\udcff"}


def test_many_or_long_unknown_keys_give_a_short_reason(tmp_path: Path) -> None:
    good = {"id": "a", "reader": "r", "language": "en", "text": "t", "source": "f", "row": 1}
    many = good | {f"{number}" + "k" * 10_000: 1 for number in range(1000)}
    result = read_text(tmp_path, "records", json.dumps(good) + "\n" + json.dumps(many) + "\n")
    (rejected,) = result.rejected
    assert "and 995 more" in rejected.detail
    assert len(rejected.detail) < 1000


def test_rows_without_a_comment_id_are_not_one_text(tmp_path: Path) -> None:
    result = read_text(tmp_path, "goemotions", "one\t3\t\ntwo\t3\t\nthree\t3\tx\n")
    assert [record.same_as for record in result.records] == [[], [], ["goemotions:x"]]


@pytest.mark.parametrize("other", ["train.tsv", "./train.tsv", "../{folder}/train.tsv", "linked.tsv", "hard.tsv"])
def test_a_source_given_twice_is_refused(source: Path, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    Path("linked.tsv").symlink_to("train.tsv")
    os.link("train.tsv", "hard.tsv")
    again = f"goemotions={other.format(folder=source.parent.name)}"
    code, out, told = run_command(readers, f"goemotions={source}", again)
    assert (code, out) == (2, "")
    assert f"{parse_source(f'goemotions={source}')} and {parse_source(again)} name the same rows" in told


def test_only_sources_that_share_rows_are_refused(source: Path) -> None:
    bank = source.with_name("bank.csv")
    bank.write_text("id,split,V,A,D,text\na,train,3,3,3,One\nb,dev,4,3,3,Two\n", encoding="utf-8")
    whole, train, dev = (parse_source(f"emobank={bank}{split}") for split in ("", "@train", "@dev"))
    refuse_repeated(
        [train, dev, *(parse_source(f"{reader}={source}") for reader in ("goemotions", "goemotions_fine"))]
    )
    for pair in ([dev, dev], [whole, dev], [train, dev, whole]):
        with pytest.raises(UserError, match="name the same rows"):
            refuse_repeated(pair)
