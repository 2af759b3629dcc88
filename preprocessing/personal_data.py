"""Puts a mask where a text holds what leads to a person: addresses, telephone and identity numbers, cards, accounts.

In    records, one after another.
Out   the same records, with [EMAIL], [PHONE], ... in their texts; `counts` by kind.
Run   `python -c "from preprocessing.personal_data import *; print(masked('mail kim@example.com')[0])"`

A number is masked only where a rule that few other numbers pass says what it is: years, prices, versions stay.

EMAIL             an address with a domain (WHATWG HTML, "valid e-mail address").
RESIDENT_NUMBER   Korean 주민등록번호 and 외국인등록번호 (주민등록법 시행규칙 제2조): a date of the calendar and a
                  digit for the century; without a hyphen also the check digit, which those after October 2020 lack.
CARD              13 to 19 digits that pass Luhn and begin as a card network's (ISO/IEC 7812-1).
ACCOUNT           an IBAN that passes its check (ISO 13616); 10 to 14 digits after the name of a Korean bank or 계좌:
                  no form alone tells them from other numbers.
IP_ADDRESS        of version 4 and 6 (RFC 4291, RFC 6943), not after a word for version.
PHONE             what libphonenumber (the package phonenumbers) calls valid and grouped as its country does, for Korea
                  or the United States by the language of the text, and with a + for any country.
USER              what stands before the @ of a web address, the name in the address of a profile, @name and u/name.

Names of people are not masked: no rule finds them, and a model that does takes ordinary words with them.
"""

import calendar
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import phonenumbers

from preprocessing.readers import Rejected
from preprocessing.records import Action, Record

REGIONS = {"ko": "KR", "en": "US"}
"""Where a telephone number without a country code is from, by the language of the text."""

_LETTERS = "A-Za-z0-9"
_EMAIL = re.compile(
    rf"(?<![{_LETTERS}.!#$%&'*+/=?^_`{{|}}~-])[{_LETTERS}.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}"
    rf"@(?:[{_LETTERS}](?:[{_LETTERS}-]{{0,61}}[{_LETTERS}])?\.)+[A-Za-z]{{2,24}}(?![{_LETTERS}])"
)
_RESIDENT = re.compile(r"(?<![\d-])(\d{2})(\d{2})(\d{2})(\s?[-\u2013]\s?|)([1-8])(\d{6}|\*{6}|[xX]{6})(?![\d-])")
_CARD = re.compile(r"(?<![\d.,-])\d(?:[ -]?\d){12,18}(?![\d-])")
_NETWORK = re.compile(r"4|5[1-5]|2(?:2[2-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|35|6(?:011|4[4-9]|5|2)|9\d{15}$")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_BANK = re.compile(
    r"((?:국민|신한|우리|하나|농협|기업|카카오|토스|제일|씨티|수협|신협|대구|부산|광주|전북|경남|제주|산업|새마을금고|우체국|케이)"
    r"(?:은행|뱅크)?\s?|계좌\s?(?:번호)?(?:는|은)?\s?:?\s?)(\d{2,6}-\d{2,6}-\d{2,7}(?:-\d{1,3})?|\d{10,14})(?![\d-])"
)
_IPV4 = re.compile(
    r"(?<![\w.])(?<!version )(?<!ver )(?<!ver\. )(?<!버전 )(?<!v\. )\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)"
)
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){2,7}:?(?:[0-9A-Fa-f]{1,4}:){0,5}[0-9A-Fa-f]{1,4}(?![\w:])")
_URL_USER = re.compile(r"(?<=://)[^\s/@]{1,200}(?=@)")
_PROFILE = re.compile(
    r"((?:twitter|instagram|facebook|tiktok|threads)\.(?:com|net)/@?|x\.com/|t\.me/|blog\.naver\.com/|youtube\.com/@)"
    r"(?!share|intent|search|hashtag|watch|explore|reel|p/|pages|groups|events|permalink|home)[\w.-]{2,50}",
    re.IGNORECASE,
)
_HANDLE = re.compile(r"(?<![\w@/.\]])@[A-Za-z0-9_]*[A-Za-z_][A-Za-z0-9_]{2,29}(?![A-Za-z0-9_@])")
_REDDIT = re.compile(r"(?<![\w/])/?u/[A-Za-z0-9_-]{3,20}(?![\w/])")
_DIGITS = re.compile(r"\d")

Rule = tuple[str, re.Pattern[str], Callable[[re.Match[str]], str | None]]


class PersonalData:
    """Masks every text of a record: its text, the other part or the worse one, turns, actions, and the reason."""

    name = "personal-data"

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, records: Iterable[Record]) -> Iterator[Record | Rejected]:
        for record in records:
            yield self._without(record)

    def _without(self, record: Record) -> Record:
        found: Counter[str] = Counter()

        def mask(text: str) -> str:
            text, kinds = masked(text, record.language)
            found.update(kinds)
            return text

        changes: dict[str, object] = {
            name: mask(value)
            for name in ("text", "text_pair", "worse", "reason")
            if (value := getattr(record, name)) is not None
        }
        if record.turns is not None:
            changes["turns"] = [mask(turn) for turn in record.turns]
        if record.actions is not None:
            changes["actions"] = [Action(text=mask(action.text), utility=action.utility) for action in record.actions]
        if not found:
            return record
        self.counts.update({f"masked: {kind}": times for kind, times in found.items()})
        return replace(record, **changes)  # type: ignore[arg-type]


def masked(text: str, language: str = "en") -> tuple[str, list[str]]:
    """The text with masks, and their kinds in the order in which the rules found them."""
    kinds: list[str] = []
    if "@" not in text and "/" not in text and len(_DIGITS.findall(text)) < 4:
        return text, kinds
    for kind, pattern, said in _RULES:

        def put(match: re.Match[str], kind: str = kind, said: Callable[[re.Match[str]], str | None] = said) -> str:
            if (instead := said(match)) is None:
                return match.group()
            kinds.append(kind)
            return instead

        text = pattern.sub(put, text)
    return _without_phones(text, REGIONS[language], kinds), kinds


def _without_phones(text: str, region: str, kinds: list[str]) -> str:
    if len(_DIGITS.findall(text)) < 7:
        return text
    leniency = phonenumbers.Leniency.STRICT_GROUPING
    places = [(found.start, found.end) for found in phonenumbers.PhoneNumberMatcher(text, region, leniency)]
    for start, end in reversed(places):
        text = f"{text[:start]}[PHONE]{text[end:]}"
        kinds.append("PHONE")
    return text


def _resident(match: re.Match[str]) -> str | None:
    year, month, day, hyphen, century, rest = match.groups()
    full = (1900 if century in "1256" else 2000) + int(year)
    if not 1 <= int(month) <= 12 or not 1 <= int(day) <= calendar.monthrange(full, int(month))[1]:
        return None
    digits = year + month + day + century + rest
    if not hyphen and not (digits.isdecimal() and _resident_check(digits)):
        return None
    return "[RESIDENT_NUMBER]"


def _resident_check(digits: str) -> bool:
    weighted = sum(
        int(digit) * weight for digit, weight in zip(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=False)
    )
    plain, foreign = (11 - weighted % 11) % 10, (13 - weighted % 11) % 10
    return int(digits[-1]) == (foreign if digits[6] in "5678" else plain)


def _card(match: re.Match[str]) -> str | None:
    digits = re.sub(r"\D", "", match.group())
    if not _NETWORK.match(digits) or len(set(digits)) == 1:
        return None
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return None if sum(value - 9 * (value > 9) for value in doubled) % 10 else "[CARD]"


def _iban(match: re.Match[str]) -> str | None:
    plain = match.group().replace(" ", "")
    number = "".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])
    return "[ACCOUNT]" if 15 <= len(plain) <= 34 and int(number) % 97 == 1 else None


def _account(match: re.Match[str]) -> str | None:
    return f"{match[1]}[ACCOUNT]" if 10 <= len(_DIGITS.findall(match[2])) <= 14 else None


def _address(match: re.Match[str]) -> str | None:
    if match.group().count(":") and len([part for part in match.group().split(":") if part]) < 4:
        return None
    try:
        ipaddress.ip_address(match.group())
    except ValueError:
        return None
    return "[IP_ADDRESS]"


_RULES: list[Rule] = [
    ("USER", _URL_USER, lambda match: "[USER]"),
    ("EMAIL", _EMAIL, lambda match: "[EMAIL]"),
    ("USER", _PROFILE, lambda match: f"{match[1]}[USER]"),
    ("RESIDENT_NUMBER", _RESIDENT, _resident),
    ("ACCOUNT", _IBAN, _iban),
    ("ACCOUNT", _BANK, _account),
    ("CARD", _CARD, _card),
    ("IP_ADDRESS", _IPV4, _address),
    ("IP_ADDRESS", _IPV6, _address),
    ("USER", _HANDLE, lambda match: "[USER]"),
    ("USER", _REDDIT, lambda match: "[USER]"),
]
