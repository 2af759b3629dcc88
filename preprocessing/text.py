"""What a text is stored as, and when two texts count as the same.

In    a text as found in a file.
Out   `clean(text)`: the text that is trained on. `normalise(text)`: equal for texts that differ in form only.
Run   `python -c "from preprocessing.text import normalise; print(normalise('So… HAPPY!'))"`
"""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")


def clean(text: str) -> str:
    """NFC, because Korean typed on some systems arrives as single jamo (NFD), which tokenizers do not know."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n")).strip()


def normalise(text: str) -> str:
    """Letters and digits in lower case; a text without any, of emoji or dots, stands for itself."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(plain)) or "".join(plain.split())
