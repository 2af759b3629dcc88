"""Readers of the Korean sources, of dilemmas and of deeds: what a row becomes, and what a row of another form is told.

In    files written here, in the original form.
Out   nothing.
Run   `pytest tests/test_prep_more_readers.py`
"""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prep_rows import read_text

from preprocessing.encode import encode
from preprocessing.errors import UserError
from preprocessing.overlap import without_overlaps
from preprocessing.packed import MAX_UNPACKED
from preprocessing.readers import files_of, parse_source, read
from preprocessing.readers_choice import RULES
from training.collator import Collator
from training.data import labels_of

NSMC = "review_id\tmovie_id\trating\ttext\n"
VA = "source,word,V,A\n"
EVENTS = "Source,Event,Xintent,Xemotion,Otheremotion,Xsent,Osent\n"
MORAL = (
    "scenario_id,ambiguity,generation_type,generation_rule,context,action1,action2,"
    + ",".join(f"{action}_{rule}" for action in ("a1", "a2") for rule in RULES)
    + "\n"
)


def moral(ambiguity: str, first: set[str], second: set[str]) -> str:
    answers = ["Yes" if rule in broken else "No" for broken in (first, second) for rule in RULES]
    return f'C_001,{ambiguity},Generated,Do not lie,"You sell cars, used.",I tell.,I lie.,{",".join(answers)}\n'


def dilemma(gold: list[int], second: list[int], label: int = 0) -> str:
    actions = [{"id": "a", "description": "lying"}, {"id": "b", "description": "singing"}]
    row = {"actions": actions, "gold_label": label, "gold_annotations": gold, "human_perf_annotations": second}
    return json.dumps(row) + "\n"


def kosbi(**changes: Any) -> dict[str, Any]:
    return {"context": "길었다.", "sentence": "그랬다.", "context_label": "safe", "sentence_label": "unsafe"} | changes


def test_a_word_has_valence_and_arousal_and_no_dominance(tmp_path: Path, tokenizer) -> None:
    records = read_text(tmp_path, "va_kor", VA + "MIN2005,가책,-1.5,0.3\nLEE2016,가구,3,-3\n").records
    assert [record.vad for record in records] == [[-0.5, pytest.approx(0.1), None], [1.0, -1.0, None]]
    rows = encode(records, tokenizer, max_length=32, cache_dir=tmp_path / "cache")
    vad = Collator(tokenizer)([rows[0], rows[1]])["labels"]["vad"]
    assert vad[:, 2].isnan().all()
    assert vad[:, :2].tolist() == [[-0.5, pytest.approx(0.1)], [1.0, -1.0]]


def test_dominance_nobody_taught_is_not_said_to_be_taught(tmp_path: Path) -> None:
    words = read_text(tmp_path, "va_kor", VA + "MIN2005,가책,-1.5,0.3\n").records
    whole = read_text(tmp_path, "emobank", "id,split,V,A,D,text\na,train,3,3,3,One\n").records
    assert labels_of(words) == []
    assert labels_of([*words, *whole]) == ["vad"]


def test_labels_that_are_none_of_ours_are_not_kept(tmp_path: Path) -> None:
    (review,) = read_text(tmp_path, "nsmc", NSMC + '1\t2\t10\t"졸작" B급\n').records
    (answer,) = read_text(tmp_path, "songys_chatbot", "Q,A,label\n떨어졌어,위로해 드립니다.,2   \n").records
    (biased,) = read_text(tmp_path, "kosbi", json.dumps([kosbi()])).records
    question = {"question": "옳은가?", "question_en": "Right?", "sensitive?": 1, "category": "ethical"}
    (asked,) = read_text(tmp_path, "square", json.dumps([question])).records
    assert review.text == '"졸작" B급'
    assert (answer.turns, answer.text) == (["떨어졌어"], "위로해 드립니다.")
    assert (biased.text, biased.text_pair) == ("길었다.", "그랬다.")
    assert asked.text == "옳은가?"
    for record in (review, answer, biased, asked):
        assert record.language == "ko"
        assert labels_of([record]) == []


def test_a_moral_choice_is_a_pair_where_one_action_breaks_more(tmp_path: Path) -> None:
    content = MORAL + moral("low", {"deceive"}, {"deceive", "pain"}) + moral("low", {"pain"}, set())
    first, second = read_text(tmp_path, "moralchoice", content).records
    assert (first.text, first.worse) == ("You sell cars, used. I tell.", "You sell cars, used. I lie.")
    assert (second.text, second.worse) == (first.worse, first.text)
    assert first.reason == "the worse breaks pain, deceive; the better deceive"
    (situation,) = read_text(tmp_path, "moralchoice", MORAL + moral("high", set(), {"pain"})).records
    assert (situation.text, situation.worse) == ("You sell cars, used.", None)
    mixed = read_text(
        tmp_path, "moralchoice", content + moral("low", {"pain"}, {"cheat"}) + moral("low", set(), set())
    )
    assert (len(mixed.records), mixed.reasons) == (2, Counter({"no-preference": 2}))


def test_a_dilemma_is_a_pair_where_all_votes_agree_with_its_label(tmp_path: Path) -> None:
    result = read_text(
        tmp_path,
        "scruples_dilemmas",
        dilemma([4, 1], [3, 2])
        + dilemma([0, 5], [0, 0], label=1)
        + dilemma([3, 2], [2, 3])
        + dilemma([3, 2], [0, 5])
        + dilemma([1, 4], [1, 4]),
    )
    assert [(record.text, record.worse) for record in result.records] == [("singing", "lying"), ("lying", "singing")]
    assert result.records[0].reason == "7 of 10 annotators called the worse less ethical"
    assert [item.reason for item in result.rejected] == ["no-preference", "no-preference", "contradicting-labels"]


def test_an_event_keeps_what_annotators_wrote(tmp_path: Path) -> None:
    event = 'ngram,PersonX helps,"[""to help"", ""none""]","[""none""]","[""glad""]",,5.0\n'
    content = gzip.compress((EVENTS + event).encode())
    (record,) = read_text(tmp_path, "event2mind", content, "dev.csv.gz").records
    assert (record.text, record.reason) == ("PersonX helps", "PersonX wants to help; others feel glad")
    assert (record.split, record.row) == ("dev", 2)


@pytest.mark.parametrize(
    ("reader", "good", "bad", "reason"),
    [
        ("nsmc", NSMC + "1\t2\t5\t글\n", "1\t2\t11\t글\n", "label-out-of-range"),
        ("nsmc", NSMC + "1\t2\t5\t글\n", "1\t2\tnan\t글\n", "wrong-type"),
        ("nsmc", NSMC + "1\t2\t5\t글\n", "1\t2\t글\t5\n", "wrong-type"),
        ("nsmc", NSMC + "1\t2\t5\t글\n", "1\t2\t5\n", "wrong-field-count"),
        ("nsmc", NSMC + "1\t2\t5\t글\n", "\n", "empty-row"),
        ("va_kor", VA + "MIN2005,낙,1,1\n", "MIN2005,낙,nan,1\n", "label-out-of-range"),
        ("va_kor", VA + "MIN2005,낙,1,1\n", "MIN2005,낙,3.1,1\n", "label-out-of-range"),
        ("va_kor", VA + "MIN2005,낙,1,1\n", "MIN2005,1,낙,1\n", "wrong-type"),
        ("va_kor", VA + "MIN2005,낙,1,1\n", 'MIN2005,"낙,1,1\n', "stray-quote"),
        ("songys_chatbot", "Q,A,label\n묻고,답해,0\n", "묻고,답해,3\n", "unknown-label"),
        ("songys_chatbot", "Q,A,label\n묻고,답해,0\n", ",답해,0\n", "empty-text"),
        ("moralchoice", MORAL + moral("low", set(), {"pain"}), moral("some", set(), set()), "unknown-label"),
        (
            "moralchoice",
            MORAL + moral("low", set(), {"pain"}),
            moral("low", set(), {"pain"})[:-4] + "\n",
            "wrong-field-count",
        ),
        ("scruples_dilemmas", dilemma([5, 0], [5, 0]), dilemma([5, 0], [5, 0], label=2), "label-out-of-range"),
        ("scruples_dilemmas", dilemma([5, 0], [5, 0]), '{"actions": []}\n', "missing-key"),
        ("scruples_dilemmas", dilemma([5, 0], [5, 0]), dilemma([5, 0], [5, 0])[:-3] + "\n", "not-json"),
        (
            "scruples_dilemmas",
            dilemma([5, 0], [5, 0]),
            dilemma([5, 0], [5, 0]).replace("5, 0", "NaN, 0"),
            "wrong-type",
        ),
        ("event2mind", EVENTS + "ngram,X,[],[],[],,\n", "ngram,X,[],[],{},,\n", "wrong-type"),
        ("event2mind", EVENTS + "ngram,X,[],[],[],,\n", "ngram,X,[],[,[],,\n", "not-json"),
        ("event2mind", EVENTS + "ngram,X,[],[],[],,\n", "ngram,X,[],[],[],9.0,\n", "label-out-of-range"),
    ],
)
@pytest.mark.parametrize("form", ["plain", "bom and crlf"])
def test_a_row_of_another_form_costs_itself(
    tmp_path: Path, reader: str, good: str, bad: str, reason: str, form: str
) -> None:
    content = good + bad + good.splitlines(keepends=True)[-1]
    if form != "plain":
        content = "\ufeff" + content.replace("\n", "\r\n")
    result = read_text(tmp_path, reader, content)
    assert len(result.records) == 2
    assert [item.reason for item in result.rejected] == [reason]


def test_an_array_says_what_is_wrong_with_a_row_and_where(tmp_path: Path) -> None:
    rows = [json.dumps(row, ensure_ascii=False) for row in (kosbi(), kosbi(context=None), kosbi(sentence_label="bad"))]
    rows += ["3", '{"context": "a", "context": "b"}', '{"context": "a"}', json.dumps(kosbi())]
    result = read_text(tmp_path, "kosbi", "\ufeff[\n" + ",\n".join(rows) + "\n]\n")
    assert [record.row for record in result.records] == [2, 8]
    assert [(item.row, item.reason) for item in result.rejected] == [
        (3, "wrong-type"),
        (4, "unknown-label"),
        (5, "wrong-type"),
        (6, "repeated-key"),
        (7, "missing-key"),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"context": 1}', "should begin with '\\['"),
        ('[{"context": 1}', "a comma or ']' is missing after the row of line 1"),
        ('[\n{"context": 1},\n{"context": 2', "no JSON from line 3 on"),
        ('[{"context": 1},]', "no JSON from line 1 on"),
        ("[{}] [{}]", "goes on after the end"),
        ("[" * 100_000, "no JSON from line 1 on"),
    ],
)
def test_an_array_that_is_none_is_refused_whole(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_text(tmp_path, "kosbi", content)


def test_gzip_that_would_fill_the_memory_or_is_damaged_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress((EVENTS + "ngram,X,[],[],[],,\n" * 50).encode())
    for content, told in (
        (packed[:-12], "damaged gzip file"),
        (packed[:30] + b"\0\0\0" + packed[33:], "damaged gzip file"),
        (gzip.compress(b"a" * (MAX_UNPACKED + 1), 1), "more than 256 MiB"),
    ):
        with pytest.raises(UserError, match=told):
            read_text(tmp_path, "event2mind", content)


def test_a_translation_never_leaks_between_train_and_dev(tmp_path: Path) -> None:
    (tmp_path / "ko").mkdir()
    original = tmp_path / "original_train.tsv"
    original.write_text("Enjoy the ride!\t17\teecwmbq\nNo.\t3,4\ted1\n", encoding="utf-8")
    translated = tmp_path / "ko" / "train.tsv"
    translated.write_text('타고 "즐기십시오!\t17\n아니.\t3,4\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"without comment ids.*@original=PATH"):
        read(parse_source(f"goemotions_ko_mt={translated}"))
    source = parse_source(f"goemotions_ko_mt={translated}@original={original}")
    records = read(source).records
    assert files_of(source) == [translated, original]
    assert [(record.language, record.same_as) for record in records] == [
        ("ko", ["goemotions:eecwmbq"]),
        ("ko", ["goemotions:ed1"]),
    ]
    assert records[0].text == '타고 "즐기십시오!'
    english = read(parse_source(f"goemotions_fine={original}")).records
    assert [record.fine_emotions for record in records] == [record.fine_emotions for record in english]
    assert without_overlaps(english, records) == ([], english)
    original.write_text("Enjoy the ride!\t17\teecwmbq\nNo.\t3\ted1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2 has labels '3,4'.* has '3'"):
        read(source)
    original.write_text("Enjoy the ride!\t17\teecwmbq\n", encoding="utf-8")
    with pytest.raises(UserError, match="has 2 lines but its original .* has 1"):
        read(source)
