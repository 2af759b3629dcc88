"""What a text is stored as, and when two texts count as the same.

In    a text as found in a file.
Out   `clean(text)`: the text that is trained on. `match_key(text)`: equal for texts that differ in form only.
Run   `python -c "from preprocessing.text import match_key; print(match_key('So… HAPPY!'))"`
"""

import unicodedata


class _Skeleton(dict[int, int | None]):
    """A translation table that fills itself: spaces, punctuation and control characters go, all else stays."""

    def __missing__(self, code: int) -> int | None:
        self[code] = None if unicodedata.category(chr(code))[0] in "ZPC" else code
        return self[code]


_SKELETON = _Skeleton()


def clean(text: str) -> str:
    """NFC, because Korean typed on some systems arrives as single jamo (NFD), which tokenizers do not know."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n")).strip()


def match_key(text: str) -> str:
    """Symbols stay, so that an emoji tells two texts apart; a text of punctuation alone is its own key."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return plain.translate(_SKELETON) or "".join(plain.split())
