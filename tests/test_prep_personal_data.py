"""Personal data is masked, and what only looks like it stays.

In    numbers made up here by the rules of those who give them out; the shipped scenarios; with REDHEART_DATA_DIR also
      public files.
Out   nothing.
Run   `pytest tests/test_prep_personal_data.py`
"""

from collections import Counter
from pathlib import Path

import pytest
from test_prep_filters import make_record, parted

from preprocessing.filters import texts_of
from preprocessing.personal_data import PersonalData, masked
from preprocessing.readers import parse_source, read
from preprocessing.records import Action, Record


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("mail kim.chul-soo+a@mail.example.co.kr.", "en", "mail [EMAIL]."),
        ("메일은kim@example.com로 주세요", "ko", "메일은[EMAIL]로 주세요"),
        ("010-1234-5678로 전화해", "ko", "[PHONE]로 전화해"),
        ("전화번호 : 02-725-1333 이곳", "ko", "전화번호 : [PHONE] 이곳"),
        ("대표번호 1588-1234", "ko", "대표번호 [PHONE]"),
        ("+82 10 1234 5678", "en", "[PHONE]"),
        ("call (317) 634-6102 now", "en", "call [PHONE] now"),
        ("call +44 20 7946 0958 now", "en", "call [PHONE] now"),
        ("제 주민번호는 900101-1234567입니다", "ko", "제 주민번호는 [RESIDENT_NUMBER]입니다"),
        ("900101-1******", "ko", "[RESIDENT_NUMBER]"),
        ("000229-3123456", "ko", "[RESIDENT_NUMBER]"),
        ("9001011234568", "ko", "[RESIDENT_NUMBER]"),
        ("my card 4111 1111 1111 1111 expired", "en", "my card [CARD] expired"),
        ("5500-0000-0000-0004", "en", "[CARD]"),
        ("378282246310005", "en", "[CARD]"),
        ("GB82 WEST 1234 5698 7654 32", "en", "[ACCOUNT]"),
        ("국민은행 123456-01-234567로 보내", "ko", "국민은행 [ACCOUNT]로 보내"),
        ("계좌번호: 110-123-456789", "ko", "계좌번호: [ACCOUNT]"),
        ("from 192.168.0.12 again", "en", "from [IP_ADDRESS] again"),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", "en", "[IP_ADDRESS]"),
        ("https://kim:secret@example.com/a", "en", "https://[USER]@example.com/a"),
        ("https://twitter.com/kim_cs/status/1", "en", "https://twitter.com/[USER]/status/1"),
        ("@kim_cs뭐가 호의인가요?", "ko", "[USER]뭐가 호의인가요?"),
        ("Thanks u/kim-cs and /u/lee!", "en", "Thanks [USER] and [USER]!"),
    ],
)
def test_what_leads_to_a_person_is_masked(text: str, language: str, expected: str) -> None:
    assert masked(text, language)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "In 1999-2001 and in 20241123 it was 2015.01.05, 10:39:41.",
        "₩1,234,567,890 or $4,111,111,111,111,111.00 or 12345678.90 won",
        "version 10.0.19.1, ver. 1.2.3.4, v1.2.3.4, 버전 1.2.3.4 and 1.2.3.4.5",
        "256.1.1.1 and 1.2.3",
        "991332-1234567 has no such month, 900231-1234567 no such day, 010229-3123456 no leap year",
        "9001011234567 fails its check",
        "4111 1111 1111 1112 fails Luhn, 0000 0000 0000 0000 is none",
        "GB82 WEST 1234 5698 7654 33 fails its check",
        "주문번호 110-123-456789 / 2024-0001-000123",
        "1588년 1592년 100000000000개",
        "10:30:45 and std::vector and a::b and 3:2",
        "3.5 3.5 3.5 3.5 3.5 and 1>2>6>7>4>3>5",
        "r/Korea and and/or w/o u/ @ 5 pm, @2",
        "https://www.example.com/a/b?c=1 and twitter.com/search?q=1",
        "ISBN 978-3-16-148410-0",
        "a score of 112-108, 7-6 6-4",
    ],
)
@pytest.mark.parametrize("language", ["en", "ko"])
def test_other_numbers_stay(text: str, language: str) -> None:
    assert masked(text, language) == (text, [])


def test_every_text_of_a_record_is_masked_and_counted() -> None:
    record = make_record(
        "write to a@example.com or b@example.com",
        text_pair="@kim_cs",
        worse="call (317) 634-6102",
        turns=["a@example.com", "no"],
        actions=[Action(text="u/kim-cs", utility=[0.0, 0.0, 0.0])],
        reason="192.168.0.12",
    )
    step = PersonalData()
    ((found,), rejected) = parted(step, [record])
    assert rejected == []
    assert list(texts_of(found)) == [
        "write to [EMAIL] or [EMAIL]",
        "[USER]",
        "call [PHONE]",
        "[EMAIL]",
        "no",
        "[USER]",
    ]
    assert found.reason == "[IP_ADDRESS]"
    assert found.id == record.id
    assert step.counts == {
        "masked: EMAIL": 3,
        "masked: USER": 2,
        "masked: PHONE": 1,
        "masked: IP_ADDRESS": 1,
    }
    assert record.text.startswith("write to a@")


def test_no_shipped_scenario_holds_any(scenarios: list[Record]) -> None:
    step = PersonalData()
    assert parted(step, scenarios) == (scenarios, [])
    assert step.counts == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # All of these were read: each is what its mask says.
        ("emobank=emobank/emobank.csv", {"EMAIL": 3, "PHONE": 11}),
        ("goemotions=goemotions/ekman_train.tsv", {"USER": 63}),
        ("kote=kote/val.tsv", {"PHONE": 1, "USER": 1}),
        ("nsmc=nsmc_ratings/train.tsv", {"USER": 1}),
        ("event2mind=event2mind/train.csv.gz", {}),
        ("ethics_justice=ethics/justice_train.csv", {}),
    ],
)
def test_masks_of_public_files_are_those_that_were_read(data_dir: Path, source: str, expected: dict[str, int]) -> None:
    reader, path = source.split("=")
    records = read(parse_source(f"{reader}={data_dir / path}")).records
    found = Counter(kind for record in records for kind in masked(record.text, record.language)[1])
    assert found == expected
