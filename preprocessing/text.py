"""What a text is stored as, when two texts count as the same, and what is no text.

In    a text as found in a file.
Out   `clean(text)`: the text that is trained on. `normalise(text)`: equal for texts that differ in form only.
      `text_fault` and `name_fault`: None, or why it is refused.
Run   `python -c "from preprocessing.text import normalise; print(normalise('So… HAPPY!'))"`
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

MAX_CHARACTERS = 20_000
MAX_MARKS = 30
"""Combining marks in a row, the limit of Unicode's stream-safe format (UAX 15): no language stacks more."""
_NFC_SHRINKS = 4
"""NFC makes one character of four at most, so a text of more than four times the limit stays above it."""

_WORD = re.compile(r"[^\W_]+")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """NFC, because Korean typed on some systems arrives as single jamo (NFD), which tokenizers do not know.

    What `text_fault` refuses anyway stays as it is where normalising could take long: putting a run of marks in order
    takes the square of its length.
    """
    text = text.replace("\r\n", "\n").strip()
    if len(text) > _NFC_SHRINKS * MAX_CHARACTERS or _marks_fault("text", text):
        return text
    return unicodedata.normalize("NFC", text)


def normalise(text: str) -> str:
    """Letters and digits in lower case; a text without any, of emoji or dots, stands for itself."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(plain)) or "".join(plain.split())


def text_fault(name: str, text: Any) -> str | None:
    """Why `text` is not to be trained on, as "reason: detail"; reasons are listed in docs/data.md."""
    if not isinstance(text, str):
        return f"wrong-type: {name} is {text!r:.80}, not a string"
    if not text.strip():
        return f"empty-text: {name} is empty"
    if len(text) > MAX_CHARACTERS:
        return f"too-long: {name} has {len(text):,} characters; at most {MAX_CHARACTERS:,}, split it"
    return _unreadable(name, text) or _marks_fault(name, text)


def name_fault(name: str, value: Any) -> str | None:
    """The same for what is not trained on, but printed, written and compared."""
    if not isinstance(value, str):
        return f"wrong-type: {name} is {value!r:.80}, not a string"
    if fault := _unreadable(name, value):
        return fault
    if found := _CONTROL.search(value):
        return f"control-character: {name} holds {found.group()!r}, which could command a terminal"
    return None


def listed(names: Iterable[str]) -> str:
    """Names from a file for a message: quoted, so that a character no terminal can print does not break it."""
    shown = [f"{name!r:.40}" for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _unreadable(name: str, text: str) -> str | None:
    if "\0" in text:
        return f"nul-character: {name} holds NUL at character {text.index(chr(0)) + 1}"
    if found := _SURROGATE.search(text):
        return f"invalid-utf8: {name} is not UTF-8 at character {found.start() + 1}"
    return None


def _marks_fault(name: str, text: str) -> str | None:
    if text.isascii():
        return None
    marks, run = _marks()
    if marks.isdisjoint(text) or not (found := run.search(text)):
        return None
    return (
        f"too-many-marks: {name} has more than {MAX_MARKS} combining marks in a row at character "
        f"{found.start() + 1}; take them out"
    )


@cache
def _marks() -> tuple[frozenset[str], re.Pattern[str]]:
    """What NFC and NFKC put in order: marks, and the few characters that become one (the last is U+1E94A)."""
    marks = frozenset(
        letter
        for letter in map(chr, range(0x300, 0x20000))
        if unicodedata.combining(letter)
        or (unicodedata.decomposition(letter) and unicodedata.combining(unicodedata.normalize("NFKD", letter)[0]))
    )
    return marks, re.compile(f"[{''.join(sorted(marks))}]{{{MAX_MARKS + 1}}}")
