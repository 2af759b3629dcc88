"""The tokenizer of our own: nothing is unknown, nothing is lost, and the same texts give the same file.

In    the shipped scenarios; texts written here.
Out   token ids turned back into text.
Run   `pytest tests/test_train_tokenizer.py`
"""

import re
import sys
import unicodedata
from pathlib import Path

import pytest
from commands import run_command
from transformers import AutoTokenizer

from preprocessing.errors import run
from training import train_tokenizer as module
from training.train_tokenizer import LEAST_VOCABULARY, texts_of, train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [
    "I'm fine.  Really -- fine!\n\tAsk me tomorrow.",
    "할머니께서 '괜찮다'고 하셨지만, 괜찮지 않았다.",
    "ㅋㅋㅋ 진짜?? 뷁쉙",
    "👩‍👩‍👧‍👦 🇰🇷 ❤️‍🔥",
    "naïve façade, Übermut, 東京, Привет, \u200bzero width",
    "𓂀 \U0010fffd \x01",
    " leading and trailing ",
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_and_nothing_is_unknown(tokenizer, text: str):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == unicodedata.normalize("NFC", text)


def test_scenarios_come_back_whole(tokenizer, scenarios):
    for record in scenarios:
        assert tokenizer.decode(tokenizer(record.text)["input_ids"], skip_special_tokens=True) == record.text


def test_decomposed_korean_gives_the_same_tokens(tokenizer):
    text = "고마워, 오늘도 수고했어."
    decomposed = unicodedata.normalize("NFD", text)
    assert decomposed != text
    assert tokenizer(decomposed)["input_ids"] == tokenizer(text)["input_ids"]


def test_korean_and_english_are_learned(tokenizer, scenarios):
    """Bytes alone would take 3 tokens a Korean syllable and 1 a letter."""
    for language, most in (("ko", 1.4), ("en", 0.5)):
        texts = [record.text for record in scenarios if record.language == language]
        tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
        assert tokens / sum(map(len, texts)) < most


def test_a_pair_has_two_segments(tokenizer):
    text, action = "It rained.", "Stay in."
    pair = tokenizer(text, action)
    first = tokenizer(text, add_special_tokens=False)["input_ids"]
    second = tokenizer(action, add_special_tokens=False)["input_ids"]
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert pair["input_ids"] == [start, *first, end, *second, end]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert tokenizer(text)["token_type_ids"] == [0] * (len(first) + 2)


def test_padding_is_masked(tokenizer):
    batch = tokenizer(["Yes.", "A much longer answer than that."], padding=True)
    short = len(tokenizer("Yes.")["input_ids"])
    assert batch["attention_mask"][0][:short] == [1] * short
    assert set(batch["input_ids"][0][short:]) == {tokenizer.pad_token_id}
    assert set(batch["attention_mask"][0][short:]) == {0}


def command(monkeypatch, *arguments: str) -> None:
    data = f"scenarios={ROOT / 'data' / 'scenarios' / 'dev.jsonl'}"
    monkeypatch.setattr(sys, "argv", ["train_tokenizer", "--data", data, *arguments])
    run(module.main)


def test_the_command_writes_the_same_files_twice_and_they_load(monkeypatch, tmp_path: Path):
    for name in ("one", "two"):
        command(monkeypatch, "--vocab-size", "500", "--max-length", "64", "--output", str(tmp_path / name))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    loaded = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert len(loaded) == 500
    assert loaded.model_max_length == 64
    assert loaded.decode(loaded(TEXTS[1])["input_ids"], skip_special_tokens=True) == TEXTS[1]
    assert loaded("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]


def test_a_vocabulary_smaller_than_the_bytes_ends_with_exit_code_2(monkeypatch, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, "--vocab-size", str(LEAST_VOCABULARY - 1), "--output", str(tmp_path / "out"))
    assert stopped.value.code == 2
    assert "at least 260" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_smallest_vocabulary_is_bytes_alone_and_loses_nothing(scenarios):
    smallest = train_tokenizer(texts_of(scenarios[:3]), LEAST_VOCABULARY, 64)
    assert len(smallest) == LEAST_VOCABULARY
    assert len(smallest("가", add_special_tokens=False)["input_ids"]) == 3
    assert smallest.decode(smallest("가나")["input_ids"], skip_special_tokens=True) == "가나"


def test_every_text_of_a_record_is_learned_from(scenarios):
    texts = list(texts_of(scenarios[:1]))
    assert texts == [scenarios[0].text, *(action.text for action in scenarios[0].actions)]


def test_a_file_in_the_place_of_the_folder_ends_with_exit_code_2(tmp_path: Path):
    place = tmp_path / "taken"
    place.write_text("mine")
    source = f"scenarios={ROOT / 'data' / 'scenarios' / 'dev.jsonl'}"
    code, _, said = run_command(module, "--data", source, "--vocab-size", LEAST_VOCABULARY, "--output", place)
    assert (code, place.read_text()) == (2, "mine")
    assert "taken" in said
    assert "a file is in the way" in said


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--max-length", -5, "max_length must be from 4 to 1,000,000 tokens, got -5"),
        ("--max-length", 3, "max_length must be from 4"),
        ("--max-length", 10**20, "max_length must be from 4 to 1,000,000"),
        ("--vocab-size", 10**20 - 1, "at least 260 .* and at most 1,000,000, got 99999999999999999999"),
        ("--vocab-size", -1, "at least 260"),
    ],
)
def test_sizes_that_no_tokenizer_has_are_refused_before_reading(tmp_path: Path, option: str, value: int, told: str):
    (tmp_path / "rows").write_bytes(b"\x1f\x8b")
    code, _, said = run_command(
        module, "--data", f"goemotions={tmp_path / 'rows'}", option, value, "--output", tmp_path / "out"
    )
    assert code == 2
    assert re.search(told, said), said
    assert not (tmp_path / "out").exists()


def test_rows_that_were_set_aside_are_counted(tmp_path: Path):
    rows = tmp_path / "rows"
    rows.write_text("one\t3\tx\ntwo\t9\tx\nonly text\nthree\t9\tx\n", encoding="utf-8")
    source = f"goemotions={rows}"
    code, out, _ = run_command(module, "--data", source, "--vocab-size", 260, "--output", tmp_path / "out")
    assert code == 0
    assert f"{source}: 3 rows were set aside" in out
    assert "  rejected: unknown-label: 2\n  rejected: wrong-field-count: 1\n" in out
    assert "260 entries from 1 records" in out


def test_data_given_twice_is_refused(tmp_path: Path):
    source = f"scenarios={ROOT / 'data' / 'scenarios' / 'dev.jsonl'}"
    code, _, said = run_command(module, "--data", source, "--data", source, "--output", tmp_path / "out")
    assert code == 2
    assert "name the same rows" in said
