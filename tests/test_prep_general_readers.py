"""Files of any origin: which column is what, and what is told to who asks for a column that is not there.

In    files written here, data sets saved by the `datasets` library.
Out   nothing.
Run   `pytest tests/test_prep_general_readers.py`
"""

import json
from pathlib import Path

import datasets
import pytest
from commands import run_command
from prep_rows import read_text

from preprocessing import readers
from preprocessing.errors import UserError
from preprocessing.readers import ReadResult, parse_source, read
from preprocessing.sources import Source, refuse_repeated
from redheart_hf.labels import BASIC_EMOTIONS

JOY = [float(name == "joy") for name in BASIC_EMOTIONS]


def test_plain_text_is_a_text_a_line(tmp_path: Path) -> None:
    content = '\ufeffOne.\r\n\r\n  \r\nTwo, "quoted.\r\n'.encode() + b"bad \xff byte\n" + "셋.\n".encode()
    result = read_text(tmp_path, "text", content, split="@language=ko")
    assert [(record.row, record.text) for record in result.records] == [(1, "One."), (4, 'Two, "quoted.'), (6, "셋.")]
    assert [(item.row, item.reason) for item in result.rejected] == [(5, "invalid-utf8")]
    with pytest.raises(UserError, match="does not say its language; add @language=en or @language=ko"):
        read_text(tmp_path, "text", content)


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_a_table_says_which_column_is_what(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ["no", "review", "lang", "mood", "vad.arousal", "feels"],
        ["1", '"He said ""no"".\nTwice."', "en", "-0.5", "", '"joy, fear"' if delimiter == "," else "joy, fear"],
        ["2", "좋다.", "ko", "", "", ""],
        ["3", "또.", "ko", "nan", "0.1", ""],
        ["4", "또.", "fr", "0.1", "0.1", ""],
        ["5", "또.", "ko", "0.1", "0.1", "glee"],
        ["6", " ", "ko", "0.1", "0.1", ""],
        ["7", "short"],
    ]
    content = "\n".join(delimiter.join(row) for row in rows) + "\n"
    options = "@text=review@language=lang@vad.valence=mood@basic_emotions=feels@group=no"
    result = read_text(tmp_path, "csv", content, split=options)
    first, second = result.records
    assert (first.text, first.language, first.row, first.group) == ('He said "no".\nTwice.', "en", 2, "1")
    assert first.vad == [-0.5, None, None]
    assert first.basic_emotions == [float(name in ("joy", "fear")) for name in BASIC_EMOTIONS]
    assert (second.text, second.vad, second.basic_emotions) == ("좋다.", None, None)
    reasons = ["label-out-of-range", "unknown-label", "unknown-label", "empty-text", "wrong-field-count"]
    assert [item.reason for item in result.rejected] == reasons


def test_a_quote_never_closed_costs_its_own_row(tmp_path: Path) -> None:
    lines = ["text,n", *(f"text {number},{number}" for number in range(20))]
    lines[4] = '"' + lines[4]
    result = read_text(tmp_path, "csv", "\n".join(lines), split="@language=en")
    assert (len(result.records), [(item.row, item.reason) for item in result.rejected]) == (19, [(5, "stray-quote")])


def test_json_lines_take_labels_by_name_in_a_list_or_flat(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "vad": {"valence": 0.1, "dominance": None}, "basic_emotions": ["joy"], "reason": 7},
        {"text": "b", "vad": [0.1, 0.2, 0.3], "basic_emotions": JOY, "turns": ["before"]},
        {"text": "c", "vad.valence": 0.1, "acceptability.virtue": 1, "other": {"deep": []}},
        {"text": "d", "vad": {"mood": 0.1}},
        {"text": "e", "vad.mood": 0.1},
        {"text": "f", "vad": [float("nan"), 0, 0]},
        {"text": "g", "vad": [True, 0, 0]},
        {"text": "h", "culture": {"han": 0.1}},
        {"text": "i", "vad": "high"},
        {"text": "j", "vad": [0, 0, 0], "vad.valence": 0.1},
        {"text": None},
        {"texts": "k"},
    ]
    result = read_text(tmp_path, "jsonl", "\n".join(map(json.dumps, rows)) + "\n{\n", split="@language=en")
    first, second, third = result.records
    assert (first.vad, first.basic_emotions, first.reason) == ([0.1, None, None], JOY, None)
    assert (second.vad, second.basic_emotions, second.turns) == ([0.1, 0.2, 0.3], JOY, ["before"])
    assert (third.vad, third.acceptability) == ([0.1, None, None], [None, None, None, 1])
    assert [item.reason for item in result.rejected] == [
        *("unknown-key", "unknown-key", "label-out-of-range", "wrong-type", "wrong-label-count", "wrong-type"),
        *("contradicting-labels", "wrong-type", "missing-key", "not-json"),
    ]


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (
            "review,lang\na,en\n",
            "@language=lang",
            "'text'; the row has 'review', 'lang'; name others, as in @text=COLUMN",
        ),
        ("text,lang\na,en\n", "@language=tongue", "'tongue' says the language; add @language=en"),
        ("text\na\n", "", "'language' says the language; add @language=en"),
        ("text\na\n", "@language=en@vad.valence=V", "'V'; the row has 'text'"),
        ("text,vad.valance\na,1\n", "@language=en", "'vad.valance'; valence, arousal, dominance are known"),
        ("text,text\na,b\n", "@language=en", "names 'text' more than once"),
        ("text\ra\r", "@language=en", "carriage return"),
        ("text\na\n", "@language=en@vad.valance=V", "sets 'vad.valance'.*did you mean 'vad.valence'"),
        ("text\na\n", "@language=en@language=ko", "'language=ko' should be NAME=VALUE, once each"),
        ("text\na\n", "@language=en@text=", "'text=' should be NAME=VALUE"),
        ("text\na\n", "@dev@language=en", "its files hold no splits"),
    ],
)
def test_columns_that_do_not_serve_are_told_once(tmp_path: Path, content: str, options: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_text(tmp_path, "csv", content, split=options)


def test_an_at_sign_may_belong_to_the_path_of_a_source_with_options(tmp_path: Path) -> None:
    (tmp_path / "me@home").mkdir()
    path = tmp_path / "me@home" / "rows@language=ko"
    path.write_text("text,불평/불만\n글,1\n", encoding="utf-8")
    argument = f"csv={path}@korean_emotions.불평/불만=불평/불만@language=en"
    source = parse_source(argument)
    assert (source.path, source.split) == (path, None)
    assert source.options == (("korean_emotions.불평/불만", "불평/불만"), ("language", "en"))
    assert str(source) == argument
    assert parse_source("dataset=me/rows@train@config=x@language=en") == Source(
        "dataset", Path("me/rows"), "train", (("config", "x"), ("language", "en"))
    )


def test_other_readers_take_no_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing can be set for reader 'goemotions'"):
        read_text(tmp_path, "goemotions", "fine\t3\tx\n", split="@text=a")


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two splits of texts whose labels are numbers with names, as Parquet files and as the library saves them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    labels = datasets.ClassLabel(names=["sadness", "joy"])
    features = datasets.Features(
        {"review": datasets.Value("string"), "label": labels, "bytes": datasets.Value("binary")}
    )
    for split, texts in (("train", ["one", "two", "", None]), ("test", ["three"])):
        columns = {"review": texts, "label": [1, 0, 1, -1][: len(texts)], "bytes": [b"\xff"] * len(texts)}
        rows = datasets.Dataset.from_dict(columns, features=features)
        (tmp_path / "parquet").mkdir(exist_ok=True)
        rows.to_parquet(tmp_path / "parquet" / f"{split}-00000.parquet")
        rows.save_to_disk(tmp_path / "disk" / split)
    (tmp_path / "disk" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}', encoding="utf-8")
    return tmp_path


def loaded(source: str) -> ReadResult:
    return read(parse_source(f"dataset={source}"))


@pytest.mark.parametrize("folder", ["parquet", "disk"])
def test_a_folder_of_the_datasets_library(saved: Path, folder: str) -> None:
    options = "text=review@language=en@basic_emotions=label"
    result = loaded(f"{saved / folder}@train@{options}")
    assert [record.text for record in result.records] == ["one", "two"]
    assert result.records[0].basic_emotions == JOY
    assert (result.records[1].id, result.records[1].split) == (f"dataset/{folder}@train:2", "train")
    assert [(item.row, item.reason) for item in result.rejected] == [(3, "empty-text"), (4, "wrong-type")]
    with pytest.raises(UserError, match=r"several splits \(.*train: 4.*\); name one"):
        loaded(f"{saved / folder}@{options}")
    with pytest.raises(UserError, match="no split 'dev'; it holds"):
        loaded(f"{saved / folder}@dev@{options}")
    with pytest.raises(UserError, match="'text'; the row has 'review', 'label', 'bytes'"):
        loaded(f"{saved / folder}@test@language=en")


def test_a_file_and_a_split_saved_alone(saved: Path) -> None:
    (file,) = loaded(f"{saved / 'parquet' / 'test-00000.parquet'}@text=review@language=en").records
    (rows,) = loaded(f"{saved / 'disk' / 'test'}@text=review@language=en").records
    assert file.text == rows.text == "three"
    assert file.split == "test"
    with pytest.raises(UserError, match="holds no splits"):
        loaded(f"{saved / 'disk' / 'test'}@test@text=review@language=en")


def test_what_cannot_be_loaded_is_told(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (saved / "script").mkdir()
    (saved / "script" / "script.py").write_text("raise SystemExit('code of a data set was run')\n", encoding="utf-8")
    (saved / "bad.parquet").write_bytes(b"no parquet")
    (saved / "rows.csv").write_text("text\na\n", encoding="utf-8")
    for name in ("script", "bad.parquet", "empty"):
        (saved / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="datasets cannot load it"):
            loaded(f"{saved / name}@language=en")
    with pytest.raises(UserError, match="datasets cannot load it"):
        loaded("someone/some-data-set@language=en")
    with pytest.raises(UserError, match="readers csv, jsonl and text read those"):
        loaded(f"{saved / 'rows.csv'}@language=en")


def test_two_sources_of_one_data_set_are_the_same_rows(saved: Path) -> None:
    def source(said: str):
        return parse_source(f"dataset={said}")

    refuse_repeated([source("a/b@train@config=x"), source("a/b@train@config=y"), source("a/b@test@config=x")])
    with pytest.raises(UserError, match="name the same rows"):
        refuse_repeated([source("a/b@train"), source("a/b@train@language=en")])


def test_the_command_reads_a_table(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("review,vad.valence\nFine.,0.5\nBad.,2\n", encoding="utf-8")
    source = f"csv={tmp_path / 'reviews.csv'}@text=review@language=en"
    code, out, _ = run_command(readers, source)
    assert code == 0
    assert source in out
    assert "1 records in 1 groups, 1 rejected" in out
    assert "vad              on 1 (valence: 1)" in out
