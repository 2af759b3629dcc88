"""Encoding: what a record becomes in token ids, and when an earlier encoding may be used again.

In    records written here and one shipped scenario file; a WordPiece tokenizer trained on these very texts.
Out   sequences compared with the tokenizer called by hand, one text at a time.
Run   `pytest tests/test_prep_encode.py`
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from preprocessing import encode as module
from preprocessing.encode import encode
from preprocessing.errors import UserError
from preprocessing.readers import parse_source, read
from preprocessing.records import Action, Record

SCENARIOS = Path(__file__).parent.parent / "data" / "scenarios" / "dev.jsonl"
TEXTS = [
    "I promised to water her plants, and then I forgot.",
    "But the plants were made of silk.",
    "약속을 잊고 말았다. 미안하다고 말할까, 모른 척할까?",
    "Tell her the truth.",
    "Say nothing, and buy new ones!",
]


def make_tokenizer(texts: list[str] = TEXTS, inputs: tuple[str, ...] = ("token_type_ids",)) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    core.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", *inputs, "attention_mask"],
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def make_record(row: int, **values: Any) -> Record:
    return Record(**{"id": f"t/f:{row}", "reader": "t", "language": "en", "source": "f", "row": row, **values})


def make_records() -> list[Record]:
    actions = [Action(text=TEXTS[3], utility=[0.5, 0.25, -0.5]), Action(text=TEXTS[4], utility=[0.0, -0.5, -1.0])]
    return [
        make_record(1, text=TEXTS[0], vad=[0.5, -0.25, 0.0]),
        make_record(2, text=TEXTS[0], text_pair=TEXTS[1], acceptability=[None, 1.0, None, None]),
        make_record(3, text=TEXTS[3], worse=TEXTS[4]),
        make_record(4, text=TEXTS[2], language="ko", actions=actions, chosen=1, regret=[0.5, 1.0, 0.5]),
    ]


def test_sequences_are_those_of_the_tokenizer_called_by_hand(tokenizer: Any, tmp_path: Path) -> None:
    rows = list(encode(make_records(), tokenizer, 64, cache_dir=tmp_path))
    by_hand = [
        [(TEXTS[0],)],
        [(TEXTS[0], TEXTS[1])],
        [(TEXTS[3],), (TEXTS[4],)],
        [(TEXTS[2],), (TEXTS[2], TEXTS[3]), (TEXTS[2], TEXTS[4])],
    ]
    for row, parts in zip(rows, by_hand, strict=True):
        expected = [tokenizer(*part) for part in parts]
        assert row["sequences"] == [item["input_ids"] for item in expected]
        assert row["segments"] == [item["token_type_ids"] for item in expected]
        assert row["length"] == max(map(len, row["sequences"]))
        assert row["truncated"] == 0
    assert [row["id"] for row in rows] == ["t/f:1", "t/f:2", "t/f:3", "t/f:4"]
    assert [row["is_pair"] for row in rows] == [False, False, True, False]
    assert tokenizer.unk_token_id not in rows[3]["sequences"][0]


def test_labels_arrive_and_absent_ones_stay_absent(tokenizer: Any, tmp_path: Path) -> None:
    first, second, third, fourth = encode(make_records(), tokenizer, 64, cache_dir=tmp_path)
    assert first["vad"] == [0.5, -0.25, 0.0]
    assert second["acceptability"] == [None, 1.0, None, None]
    assert (fourth["chosen"], fourth["regret"]) == (1, [0.5, 1.0, 0.5])
    assert fourth["utilities"] == [[0.5, 0.25, -0.5], [0.0, -0.5, -1.0]]
    absent = {"basic_emotions", "fine_emotions", "korean_emotions", "vad", "culture", "circumstances", "acceptability"}
    assert {name: third[name] for name in absent | {"regret", "utilities", "chosen"} if third[name] is not None} == {}


def test_prefix_goes_before_the_text_alone(tokenizer: Any, tmp_path: Path) -> None:
    rows = encode(make_records(), tokenizer, 64, text_prefix="Tell: ", cache_dir=tmp_path)
    assert rows[1]["sequences"] == [tokenizer("Tell: " + TEXTS[0], TEXTS[1])["input_ids"]]
    assert rows[2]["sequences"] == [tokenizer("Tell: " + text)["input_ids"] for text in TEXTS[3:]]


def test_what_is_too_long_is_cut_and_counted(tokenizer: Any, tmp_path: Path) -> None:
    records = [make_record(1, text=TEXTS[3]), make_record(2, text=" ".join(TEXTS) * 20, worse=TEXTS[3])]
    short, long = encode(records, tokenizer, 16, cache_dir=tmp_path)
    assert (short["truncated"], long["truncated"]) == (0, 1)
    assert [len(ids) for ids in long["sequences"]] == [16, short["length"]]
    whole = tokenizer(records[1].text)["input_ids"]
    assert long["sequences"][0] == [*whole[:15], tokenizer.sep_token_id]


def test_without_token_types_segments_are_null(tmp_path: Path) -> None:
    rows = encode(make_records(), make_tokenizer(inputs=()), 64, cache_dir=tmp_path)
    assert rows["segments"] == [None] * 4


def test_several_processes_give_what_one_gives(tokenizer: Any, tmp_path: Path) -> None:
    records = read(parse_source(f"scenarios={SCENARIOS}")).records
    one = encode(records, tokenizer, 48, num_proc=1, cache_dir=tmp_path / "one")
    two = encode(records, tokenizer, 48, num_proc=2, cache_dir=tmp_path / "two")
    assert one.to_list() == two.to_list()
    assert one["id"] == [record.id for record in records]


def _refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("encoded again")


def test_second_call_reads_the_file_of_the_first(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode(make_records(), tokenizer, 64, cache_dir=tmp_path)
    monkeypatch.setattr(module, "_encode_batch", _refuse)
    tokenizer.save_pretrained(tmp_path / "saved")
    used = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    # A call with truncation and padding leaves both set in the tokenizer; ids do not depend on it.
    used(TEXTS, truncation=True, padding=True, max_length=8)
    assert encode(make_records(), used, 64, num_proc=2, cache_dir=tmp_path).to_list() == first.to_list()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:200])])
def test_what_a_cleaner_left_of_the_cache_is_made_anew(damage, tokenizer: Any, tmp_path: Path, capsys) -> None:
    first = encode(make_records(), tokenizer, 64, cache_dir=tmp_path).to_list()
    for file in tmp_path.rglob("*.arrow"):
        damage(file)
    assert encode(make_records(), tokenizer, 64, cache_dir=tmp_path).to_list() == first
    assert "is damaged and is made anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda call: call["records"].__setitem__(0, replace(call["records"][0], text="Another text.")),
        lambda call: call["records"].__setitem__(0, replace(call["records"][0], vad=[0.5, -0.25, 0.1])),
        lambda call: call["records"].reverse(),
        lambda call: call.update(max_length=32),
        lambda call: call.update(text_prefix="query: "),
        lambda call: call.update(tokenizer=make_tokenizer(TEXTS[:3])),
        lambda call: setattr(call["tokenizer"], "model_input_names", ["input_ids"]),
    ],
    ids=["text", "label", "order", "max_length", "prefix", "vocabulary", "inputs"],
)
def test_whatever_decides_a_row_makes_the_cache_miss(
    change: Callable[[dict[str, Any]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call: dict[str, Any] = {"records": make_records(), "tokenizer": make_tokenizer(), "max_length": 64}
    first = encode(**call, cache_dir=tmp_path)
    assert encode(**call, cache_dir=tmp_path).cache_files == first.cache_files
    change(call)
    monkeypatch.setattr(module, "_encode_batch", _refuse)
    with pytest.raises(AssertionError, match="encoded again"):
        encode(**call, cache_dir=tmp_path)


def test_a_disk_that_fills_leaves_nothing_that_looks_encoded(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(self: Dataset, path: str) -> None:
        (Path(path) / "data-00000-of-00001.arrow").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "save_to_disk", fill)
        with pytest.raises(UserError, match="No space left on device; free some space"):
            encode(make_records(), tokenizer, 64, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(encode(make_records(), tokenizer, 64, cache_dir=tmp_path)) == 4


def test_nothing_to_encode_and_too_little_room_are_the_users_mistakes(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no records"):
        encode([], tokenizer, 64, cache_dir=tmp_path)
    with pytest.raises(UserError, match="max_length is 3"):
        encode(make_records(), tokenizer, 3, cache_dir=tmp_path)
