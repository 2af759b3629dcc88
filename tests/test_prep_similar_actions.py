"""A record without actions gets those of the nearest case, and nothing that its source says is changed.

In    shipped scenarios without their labels, a tiny encoder of random weights; all-MiniLM where the extra encoders is
      installed.
Out   pass or fail.
Run   `pytest tests/test_prep_similar_actions.py`
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_prep_filters import parted
from tiny_encoder import minilm, plain_vectors

from preprocessing import text_vectors
from preprocessing.errors import UserError
from preprocessing.near_in_meaning import NearInMeaning
from preprocessing.origin_weights import ONLY_HUMAN, counted_only
from preprocessing.overlap import without_overlaps
from preprocessing.readers import parse_source, read
from preprocessing.records import Action, Record, first_fault, write_records
from preprocessing.settings import JobConfig
from preprocessing.similar_actions import SimilarActions
from preprocessing.text_vectors import encoder_folder

ROOT = Path(__file__).resolve().parents[1]
TRAIN, DEV = (ROOT / "data" / "scenarios" / f"{name}.jsonl" for name in ("train", "dev"))


def step(encoder: Path, *sources: object, least: float = 0.01) -> SimilarActions:
    return SimilarActions([str(source) for source in sources], encoder_folder(str(encoder)), least)


def bare(record: Record, **values: Any) -> Record:
    """A record of the same text in another file, with nothing said of it."""
    return Record(id="a/f:1", reader="a", language=record.language, text=record.text, source="f", row=1, **values)


def test_the_same_text_in_another_source_is_the_best_case_and_the_record_itself_is_none(
    encoder: Path, scenarios: list[Record], tmp_path: Path
) -> None:
    texts = scenarios[:40]
    kept, _ = parted(step(encoder, f"scenarios={TRAIN}", least=0.999), [bare(record) for record in texts])
    for record, original in zip(kept, texts, strict=True):
        assert (record.actions, record.chosen) == (original.actions, original.chosen)
        assert record.regret == pytest.approx(original.regret, abs=1e-3)
        assert record.confidence["actions"] == pytest.approx(1, abs=1e-5)
    # The same rows of the same file, without what was said of them.
    own = [replace(bare(record), id=record.id) for record in texts]
    write_records(tmp_path / "twice.jsonl", scenarios)
    sources = (f"scenarios={TRAIN}", f"records={tmp_path / 'twice.jsonl'}")
    kept, _ = parted(step(encoder, *sources), own)
    vectors = plain_vectors(encoder, [record.text for record in scenarios])
    for number, record in enumerate(kept):
        cosines = vectors[number] @ vectors.T
        others = [case.language == record.language and case.id != record.id for case in scenarios]
        assert record.confidence["actions"] == pytest.approx(cosines[others].max(), abs=1e-5)
        assert record.origins["actions"].partition("/")[2] != record.id


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({"turns": ["괜찮아?"]}, "no place for actions"),
        ({"worse": "It was no good."}, "no place for actions"),
        ({"text_pair": "No."}, "no place for actions"),
        ({"circumstances": [0.0] * 7}, "no place for actions"),
        ({"acceptability": [None, None, 1.0, None]}, "no place for actions"),
        ({"regret": [0.0, 0.0, 0.0]}, "no place for actions"),
        ({"actions": [Action(text=t, utility=[0, 0, 0]) for t in "ab"], "chosen": 0}, "have actions"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_source_says_is_never_overwritten_or_given_another_sense(
    encoder: Path, scenarios: list[Record], values: dict[str, Any], outcome: str
) -> None:
    record = bare(scenarios[0], **values)
    assert first_fault(record) is None
    one = step(encoder, f"scenarios={TRAIN}")
    assert parted(one, [record]) == ([record], [])
    assert one.counts[f"left as they were: {outcome}"] == 1
    labelled = bare(scenarios[0], vad=[0.1, None, None], origins={"vad": "llm:a@1/b@1"}, confidence={"vad": 0.9})
    ((given,), _) = parted(step(encoder, f"scenarios={TRAIN}"), [labelled])
    assert given.actions == scenarios[0].actions
    assert (given.vad, given.origins["vad"], given.confidence["vad"]) == ([0.1, None, None], "llm:a@1/b@1", 0.9)
    assert first_fault(given) is None


def test_only_what_people_said_is_taken_and_only_in_the_same_language(
    encoder: Path, scenarios: list[Record], tmp_path: Path
) -> None:
    english = [record for record in scenarios if record.language == "en"]
    machine = [replace(record, origins={"actions": "llm:a@1/alternatives@1"}) for record in english[:5]]
    write_records(tmp_path / "cases.jsonl", [*machine, *english[5:10]])
    one = step(encoder, f"records={tmp_path / 'cases.jsonl'}")
    korean = next(record for record in scenarios if record.language == "ko")
    kept, _ = parted(one, [bare(korean), *map(bare, english[:5])])
    assert kept[0] == bare(korean)
    people = [record.actions for record in english[5:10]]
    assert all(record.actions in people for record in kept[1:])
    assert one.counts["cases to take from"] == 5
    assert one.counts["left as they were: no case in their language"] == 1


def test_rows_in_a_language_that_the_encoder_is_not_to_read_pass_both_steps(
    encoder: Path, scenarios: list[Record]
) -> None:
    records = [bare(record) for record in scenarios[::9] * 2]
    english = encoder_folder(str(encoder), languages=["en"])
    korean = sum(record.language == "ko" for record in records)
    assert 0 < korean < len(records)
    one, other = SimilarActions([f"scenarios={TRAIN}"], english, 0.5), NearInMeaning(english, 0.999)
    kept, _ = parted(one, records)
    assert all((record.actions is None) == (record.language == "ko") for record in kept)
    assert one.counts["left as they were: in a language that the encoder does not read"] == korean
    kept, rejected = parted(other, records)
    assert sum(record.language == "ko" for record in kept) == korean
    assert len(rejected) == (len(records) - korean) // 2
    assert other.counts["passed: in a language that the encoder does not read"] == korean


def test_texts_longer_than_the_encoder_reads_pass_both_steps(
    encoder: Path, scenarios: list[Record], tmp_path: Path
) -> None:
    """They begin alike for more than the 512 tokens that are read, and end otherwise."""
    start = " ".join(record.text for record in scenarios[:20])
    ends = [replace(bare(scenarios[0]), text=start + end) for end in (" I forgave him.", " I never forgave him.")]
    short = bare(scenarios[1])
    # One token more than is read, and as many as are.
    tokenizer = encoder_folder(str(encoder)).open().tokenizer
    brim = next(start[:end] for end in range(len(start)) if len(tokenizer(start[:end])["input_ids"]) == 512)
    over = next(start[:end] for end in range(len(start)) if len(tokenizer(start[:end])["input_ids"]) == 513)
    assert encoder_folder(str(encoder)).whole([brim, over, short.text]) == [True, False, True]

    records = [*ends, short, short]
    other = NearInMeaning(encoder_folder(str(encoder)), 0.999)
    kept, rejected = parted(other, records)
    assert kept == [*ends, short]
    assert len(rejected) == 1
    assert other.counts["passed: longer than the encoder reads"] == 2

    case = scenarios[0]
    write_records(tmp_path / "cases.jsonl", [replace(case, text=ends[0].text), case])
    one = step(encoder, f"records={tmp_path / 'cases.jsonl'}")
    kept, _ = parted(one, records)
    assert kept[:2] == ends
    assert [record.actions for record in kept[2:]] == [case.actions] * 2
    assert one.counts["left as they were: longer than the encoder reads"] == 2
    assert one.counts["cases not taken from: longer than the encoder reads"] == 1


@pytest.mark.slow
def test_an_english_encoder_refuses_korean_instead_of_taking_unlike_texts_for_one(scenarios: list[Record]) -> None:
    korean = [bare(record) for record in scenarios if record.language == "ko"][:3]
    encoder = encoder_folder(minilm())
    for one in (SimilarActions([f"scenarios={TRAIN}"], encoder, 0.8), NearInMeaning(encoder)):
        with pytest.raises(UserError, match="does not read 'ko'.*text_encoder_languages"):
            parted(one, korean)


def test_nobody_is_judged_by_them_nor_by_the_case_they_were_taken_from(
    encoder: Path, dev: list[Record], scenarios: list[Record]
) -> None:
    kept, _ = parted(step(encoder, f"scenarios={DEV}"), [bare(scenarios[0])])
    (judged,) = counted_only(kept, ONLY_HUMAN)
    assert (judged.actions, judged.chosen, judged.regret, judged.origins) == (None, None, None, {})
    left, dropped = without_overlaps(dev, kept)
    assert [record.id for record in dropped] == [kept[0].origins["actions"].partition("/")[2]]
    assert len(left) == len(dev) - 1


def test_the_encoder_is_not_held_once_the_steps_are_done(encoder: Path, scenarios: list[Record]) -> None:
    one = step(encoder, f"scenarios={TRAIN}")
    parted(one, map(bare, scenarios[:3]))
    assert list(text_vectors._OPEN) == []


@pytest.mark.slow
def test_a_real_encoder_finds_the_case_that_is_told_in_other_words(scenarios: list[Record], dev: list[Record]) -> None:
    told = {
        "A nurse sleeping across from us on the Yamanote train was being filmed on the phone of the man beside me, "
        "who held it low between his knees. He wears a wedding ring.": "The man next to me on the Yamanote line",
        "At dinner my stepfather read aloud from the diary of my thirteen-year-old sister and imitated her voice; now "
        "I cannot swallow the food he makes.": "My stepfather reads my little sister's diary",
    }
    everything = [f"scenarios={TRAIN.with_name(name)}" for name in ("train.jsonl", "dev.jsonl", "test.jsonl")]
    one = SimilarActions(everything, encoder_folder(minilm()), 0.7)
    records = [Record(id="a/f:1", reader="a", language="en", text=t, source="f", row=1) for t in told]
    kept, _ = parted(one, records)
    cases = {record.id: record for source in everything for record in read(parse_source(source)).records}
    for record, start in zip(kept, told.values(), strict=True):
        case = cases[record.origins["actions"].partition("/")[2]]
        assert case.text.startswith(start)
        assert record.actions == case.actions
    # Scenarios of other files, none of which is told twice.
    apart = SimilarActions([f"scenarios={TRAIN}"], encoder_folder(minilm()), JobConfig.retrieve_least)
    kept, _ = parted(apart, [bare(record) for record in dev if record.language == "en"])
    assert all(record.actions is None for record in kept)
