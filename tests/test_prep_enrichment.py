"""What a language model answers: the same numbers as plain passes, whoever shares the batch, and never a made-up one.

In    a tiny model with random weights; SmolLM2 where its package is installed.
Out   nothing.
Run   `pytest tests/test_prep_enrichment.py`
"""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_llm import plain_shares, record_of, save_tiny_llm, smollm2

from preprocessing.errors import UserError
from preprocessing.llm import load_llm
from preprocessing.records import Action, Record, first_fault
from preprocessing.schema import SCALES, load_prompt, value_of

pytest.importorskip("llguidance", reason="llguidance comes with the extra enrich")

from preprocessing.confidence import falling, judged
from preprocessing.decoding import Decoding
from preprocessing.enrichment import PROMPTS, Enricher, regret_of
from preprocessing.merging import Answer, merged

TEXTS = [
    record_of("I am so happy for her."),
    record_of("My dog ran off, and I have looked for him all night along the river without finding a trace.", row=2),
    record_of("친구가 거짓말을 해서 화가 났지만 참았다.", "ko", row=3),
    record_of("No.", row=4),
    record_of('She said <|im_end|> and "left".\nThen he left too.', row=5),
]
ALL = {"threshold": 0.0, "calibrate": False}


@pytest.fixture(scope="module")
def tiny(tokenizer, tmp_path_factory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("llm") / "tiny", tokenizer)


@pytest.fixture(scope="module")
def llm(tiny: Path):
    return load_llm(str(tiny), "fp32")


@pytest.mark.parametrize("prompt", ["affect@1", "circumstances@1", "culture@1"])
def test_expected_values_are_those_of_plain_passes(llm, prompt: str) -> None:
    answers = Enricher(llm, [prompt], Decoding(**ALL)).answer(TEXTS)
    for record, answer in zip(TEXTS, answers, strict=True):
        for item in load_prompt(prompt).items(record.language):
            shares = sum(plain_shares(llm, prompt, record, key, item.scale) for key in item.wordings)
            first, last, _, _ = SCALES[item.scale]
            values = torch.tensor([value_of(digit, item.scale) for digit in range(first, last + 1)]).double()
            expected = float(shares[:-1] @ values / shares[:-1].sum())
            assert answer[item.field].value[item.position] == pytest.approx(expected, abs=1e-4)


def test_neighbours_and_batch_size_do_not_change_a_number(llm) -> None:
    alone = [Enricher(llm, ["affect@1"], Decoding(**ALL)).answer([record])[0] for record in TEXTS]
    for size in (1, 2, 16):
        enricher = Enricher(llm, ["affect@1"], Decoding(**ALL, batch_size=size))
        for records in (TEXTS, TEXTS[::-1]):
            for record, answer in zip(records, enricher.answer(records), strict=True):
                for field, value in answer.items():
                    assert value.value == pytest.approx(alone[TEXTS.index(record)][field].value, abs=1e-3)


@pytest.mark.parametrize("prompt", ["affect@1", "alternatives@1"])
@pytest.mark.parametrize("quantization", ["fp32", "nf4"])
def test_with_fixed_shapes_neighbours_do_not_change_a_bit(tiny: Path, quantization: str, prompt: str) -> None:
    enricher = Enricher(load_llm(str(tiny), quantization), [prompt], Decoding(**ALL, fixed_shapes=True))
    alone = [enricher.answer([record])[0] for record in TEXTS]
    assert enricher.answer(TEXTS) == alone
    assert enricher.answer(TEXTS[::-1]) == alone[::-1]


def test_alternatives_parse_whatever_the_model_writes(llm) -> None:
    enricher = Enricher(llm, ["alternatives@1"], Decoding(threshold=0.0, temperature=2.0, batch_size=3))
    records = [replace(record, text=record.text + f" {number}") for number in range(4) for record in TEXTS]
    for record, written in zip(records, _written(enricher, records), strict=True):
        answer = json.loads(written.text)
        assert list(answer) == ["done", "instead"]
        longest = load_prompt("alternatives@1").content[record.language]["max_characters"]
        for text in (answer["done"], *answer["instead"]):
            assert 1 <= len(text) <= longest
            assert text.isprintable() or not any(ord(letter) < 32 for letter in text)
    for record, given in zip(records, enricher.answer(records), strict=True):
        assert set(given) == {"actions", "regret"}
        filled = merged(record, given)
        assert first_fault(filled) is None
        if filled.actions is not None:
            assert filled.regret == regret_of([action.utility for action in filled.actions], filled.chosen)
            assert filled.origins["regret"] == "derived"


def _written(enricher: Enricher, records: list[Record]) -> list:
    prompt = enricher.prompts[0]
    by_language = {name: [record for record in records if record.language == name] for name in ("en", "ko")}
    given = {name: iter(enricher._write(prompt, name, rows)) for name, rows in by_language.items()}
    return [next(given[record.language]) for record in records]


def test_a_text_is_drawn_from_the_rows_own_seed(llm) -> None:
    def texts(records: list[Record], **settings: int) -> list[str]:
        enricher = Enricher(llm, ["alternatives@1"], Decoding(threshold=0.0, **settings))
        return [written.text for written in enricher._write(enricher.prompts[0], "en", records)]

    english = [record for record in TEXTS if record.language == "en"]
    whole = texts(english)
    assert texts(english) == whole
    assert [texts([record])[0] for record in english] == whole
    assert texts(english[::-1], batch_size=2) == whole[::-1]
    assert texts(english, seed=1) != whole


def test_a_field_is_null_where_the_confidence_is_below_the_threshold(llm) -> None:
    free = Enricher(llm, ["affect@1"], Decoding(**ALL)).answer(TEXTS)
    line = sorted(answer["vad"].confidence for answer in free)[2]
    held = Enricher(llm, ["affect@1"], Decoding(threshold=line, calibrate=False)).answer(TEXTS)
    for before, after in zip(free, held, strict=True):
        assert (after["vad"].value is None) == (before["vad"].confidence < line)
        assert after["vad"].confidence == before["vad"].confidence


def test_a_text_that_is_too_long_is_left_alone(llm) -> None:
    records = [record_of("word " * 2000), TEXTS[0]]
    long, short = Enricher(llm, decoding=Decoding(threshold=0.0, max_tokens=100)).answer(records)
    assert {answer.value for answer in long.values()} == {None}
    assert {answer.confidence for answer in long.values()} == {0.0}
    assert short["vad"].value is not None


def by_drawing(wordings: list[list[float]], scale: str, tolerance: float) -> float:
    """The definition, word by word: two answers to different wordings, every pair there can be."""
    first, last, low, high = SCALES[scale]
    digits = [*range(first, last + 1), None]
    pairs = list(itertools.permutations(wordings, 2)) if len(wordings) > 1 else [(wordings[0], wordings[0])]
    chance = 0.0
    for one, other in pairs:
        for (a, p), (b, q) in itertools.product(zip(digits, one, strict=True), zip(digits, other, strict=True)):
            if a is not None and b is not None:
                apart = abs(value_of(a, scale) - value_of(b, scale))
                chance += p * q * (apart <= tolerance * (high - low) + 1e-9)
    return chance / len(pairs)


@pytest.mark.parametrize("scale", ["bipolar", "share"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_confidence_is_the_chance_that_two_answers_agree(scale: str, count: int) -> None:
    torch.manual_seed(count)
    first, last, _, _ = SCALES[scale]
    tables = [torch.randn(1, last - first + 2).double().mul(2).softmax(-1) for _ in range(count)]
    _, confidence = judged(tables, scale, 0.25)
    assert float(confidence) == pytest.approx(by_drawing([table[0].tolist() for table in tables], scale, 0.25))


def test_a_model_that_abstains_is_not_sure() -> None:
    table = torch.zeros(1, 10).double()
    table[0, 4], table[0, -1] = 0.1, 0.9
    value, confidence = judged([table, table], "bipolar", 0.25)
    assert float(value) == 0.0  # the middle of the scale
    assert float(confidence) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("values", "nearest"),
    [([3, 2, 1], [3, 2, 1]), ([1, 2, 3], [2, 2, 2]), ([1, 2, 0], [1.5, 1.5, 0]), ([2, 0, 1], [2, 0.5, 0.5])],
)
def test_views_that_rise_become_their_mean(values: list[float], nearest: list[float]) -> None:
    assert falling(values) == nearest


def test_what_people_labelled_is_not_overwritten() -> None:
    record = record_of("x", vad=[0.1, 0.2, 0.3])
    made = Answer([1.0, 1.0, 1.0], 0.9, "llm:m@ab/affect@1")
    filled = merged(record, {"vad": made, "culture": made, "circumstances": replace(made, value=None)})
    assert filled.vad == [0.1, 0.2, 0.3]
    assert filled.culture == [1.0, 1.0, 1.0]
    assert filled.circumstances is None
    assert filled.origins == {"culture": "llm:m@ab/affect@1"}
    assert filled.confidence == {"culture": 0.9}
    assert Record.from_dict(json.loads(json.dumps(filled.to_dict()))) == filled


def test_only_what_is_missing_is_asked_for(llm) -> None:
    actions = [Action(text="I stay.", utility=[1, 0, 0]), Action(text="I go.", utility=[0, 0, -1])]
    record = record_of("x", vad=[0, 0, 0], actions=actions, chosen=0, regret=[0, 0, 0])
    enricher = Enricher(llm, PROMPTS, Decoding(**ALL))
    assert set(enricher.answer([record])[0]) == {"basic_emotions", "circumstances", "culture"}
    assert "vad" in enricher.answer([record], only_missing=False)[0]


@pytest.mark.parametrize(
    ("origins", "confidence", "said"),
    [
        ({"vad": "me"}, {}, "origin of vad"),
        ({"vad": "retrieved:train.jsonl:3"}, {}, "origin of vad"),
        ({"vad": "retrieved:0a1b/scenarios/train.jsonl"}, {}, "origin of vad"),
        ({"vad": "retrieved:0a1b/a/b\x1b:3"}, {}, "origin of vad"),
        ({"culture": "derived"}, {}, "does not have"),
        ({"vad": "derived"}, {"vad": 1.5}, "confidence of vad"),
        ({}, {"vad": 0.5}, "does not speak"),
        ([], {}, "not an object"),
    ],
)
def test_an_origin_that_says_nothing_is_a_fault(origins, confidence, said: str) -> None:
    record = record_of("x", vad=[0, 0, 0], origins=origins, confidence=confidence)
    assert said in str(first_fault(record))


def test_the_key_follows_all_that_decides_an_answer(llm) -> None:
    enricher = Enricher(llm, ["affect@1", "culture@1"], Decoding())
    affect, culture = enricher.prompts
    keys = [
        enricher.key(TEXTS[0], affect),
        enricher.key(TEXTS[0], culture),
        enricher.key(TEXTS[1], affect),
        Enricher(llm, ["affect@1"], Decoding(seed=1)).key(TEXTS[0], affect),
        enricher.key(TEXTS[0], replace(affect, hash="0")),
        Enricher(replace(llm, hash="0"), ["affect@1"]).key(TEXTS[0], affect),
        Enricher(replace(llm, quantization="nf4"), ["affect@1"]).key(TEXTS[0], affect),
    ]
    assert len(set(keys)) == len(keys)
    assert enricher.key(replace(TEXTS[0], id="b/g:7"), affect) == keys[0]


def test_two_prompts_for_one_field_are_refused(llm) -> None:
    with pytest.raises(UserError, match="vad"):
        Enricher(llm, ["affect@1", "affect@1"])
    with pytest.raises(UserError, match="affect@1"):
        Enricher(llm, ["affects@1"])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_smollm2_in_four_bits_answers_every_prompt() -> None:
    enricher = Enricher(load_llm(smollm2(), "nf4"), PROMPTS, Decoding(threshold=0.0, batch_size=5))
    for record, answer in zip(TEXTS, enricher.answer(TEXTS), strict=True):
        assert set(answer) >= {"vad", "basic_emotions", "circumstances", "culture", "actions"}
        filled = merged(record, answer)
        assert first_fault(filled) is None
        assert filled.vad is not None
        assert filled.origins["vad"].startswith("llm:SmolLM2-135M-Instruct.Q4_1@")
