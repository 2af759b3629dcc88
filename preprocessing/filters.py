"""Steps that set aside what is in another language than it claims, too short or long, or there already.

In    records, one after another.
Out   the same records or `Rejected`; `counts` of a step says what it saw and let pass.
Run   through preprocessing/pipeline.py

Language goes by script, because for Korean against English that is both surer and faster than a detector: lingua took
1.5 % of GoEmotions for another language, "To 1?" among them, the script none. What the script cannot tell, Spanish
from English, the commonest words do, for six languages of Europe (figures in docs/preprocessing-steps.md).

Of two rows with the same texts the second is a duplicate only if each of its labels was given with those texts before:
what people said is never thrown away. Two answers to one text stay two rows, from which training learns the mean.
"""

import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.readers import Rejected
from preprocessing.records import LANGUAGES, RANGES, Record
from preprocessing.steps import set_aside
from preprocessing.text import normalise

HANGUL_SHARE = 0.2
"""Of the letters of a Korean text; a syllable stands for two or three letters of English."""
LATIN_SHARE = 0.8
"""Of the letters of an English text."""
CACHE_KIB = 32 * 1024
"""Of what was seen, so much is held in memory at most."""

_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3130-\u318f]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+")
# None of the one list is a word of the other.
_COMMON_IN_ENGLISH = (
    "the of and to is it you that for are with his they be at have this from not but what were when your can there "
    "which she how their my him more just than them these been would its our out up get like some because by any a "
    "too after before every only in on was he has had as so do did if or one all will who about"
)
_COMMON_ELSEWHERE = (
    "el la los las de del que y en un una por con para pero muy se su como más está le les des et est une je ne pas "
    "pour dans qui sur avec mais ce il elle nous vous ça der das ist nicht und ich ein eine zu mit auf den dem wir es "
    "sie für von sind auch aber não os um uma com mas eu você isso di che è lo gli per non sono mi ik het een niet "
    "van dat met voor"
)
_ENGLISH, _OTHERS = frozenset(_COMMON_IN_ENGLISH.split()), frozenset(_COMMON_ELSEWHERE.split())


class Language:
    """Sets aside texts that are not in the language their record claims."""

    name = "language"

    def __init__(self, languages: Iterable[str] = LANGUAGES) -> None:
        self.languages = frozenset(languages)
        self.counts: Counter[str] = Counter()
        if unknown := sorted(self.languages - set(LANGUAGES)):
            raise UserError(f"there is no rule for the language {unknown[0]!r}; known are {', '.join(LANGUAGES)}")

    def __call__(self, records: Iterable[Record]) -> Iterator[Record | Rejected]:
        for record in records:
            if record.language not in self.languages:
                yield set_aside(record, "language-not-wanted", f"it is in {record.language!r}")
            elif fault := language_fault(record.text, record.language):
                yield set_aside(record, *fault)
            else:
                yield record


def language_fault(text: str, language: str) -> tuple[str, str] | None:
    """(reason, detail), or None where `text` may be in `language`, "en" or "ko"."""
    letters = len(_LETTER.findall(text))
    if not letters:
        return "no-letters", "it holds no letters, so no language"
    script, pattern, least = ("Korean", _HANGUL, HANGUL_SHARE) if language == "ko" else ("Latin", _LATIN, LATIN_SHARE)
    if (share := len(pattern.findall(text)) / letters) < least:
        return "another-language", f"{share:.0%} of its letters are {script}, not {least:.0%} or more"
    if language == "en":
        words = set(_WORD.findall(text.casefold()))
        if (others := len(words & _OTHERS)) >= 2 and others > len(words & _ENGLISH):
            return "another-language", f"{others} of its words are among the commonest of other languages"
    return None


class Length:
    """Sets aside texts that are too short or too long, in characters and, where they can be counted, in tokens.

    `least` and `most` go for the text; `most_tokens` for all parts of the record together.
    """

    name = "length"

    def __init__(
        self,
        least: int = 2,
        most: int = 4000,
        most_tokens: int | None = None,
        count_tokens: Callable[[str], int] | None = None,
    ) -> None:
        if not 0 <= least <= most:
            raise UserError(f"length asks for {least} to {most} characters; the first must not be above the second")
        if (most_tokens is None) != (count_tokens is None):
            raise UserError("length counts tokens with a tokenizer and a limit; give both or neither")
        self.least, self.most, self.most_tokens, self.count_tokens = least, most, most_tokens, count_tokens
        self.counts: Counter[str] = Counter()

    def __call__(self, records: Iterable[Record]) -> Iterator[Record | Rejected]:
        for record in records:
            yield self._judged(record)

    def _judged(self, record: Record) -> Record | Rejected:
        length = len(record.text)
        if length < self.least:
            return set_aside(record, "too-short", f"{length} characters; at least {self.least}")
        if length > self.most:
            return set_aside(record, "too-long", f"{length:,} characters; at most {self.most:,}")
        if self.count_tokens is not None and self.most_tokens is not None:
            tokens = sum(map(self.count_tokens, texts_of(record)))
            if tokens > self.most_tokens:
                return set_aside(record, "too-many-tokens", f"{tokens:,} tokens; at most {self.most_tokens:,}")
        return record


class Duplicates:
    """Sets aside rows of which the texts were there before, and each of the labels with them.

    What was seen is kept in a database on the disk: some 12 bytes a row and label there, and `CACHE_KIB` in memory.
    """

    name = "duplicates"

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, records: Iterable[Record]) -> Iterator[Record | Rejected]:
        with tempfile.TemporaryDirectory(prefix="duplicates-") as folder:
            seen = sqlite3.connect(Path(folder) / "seen.sqlite", isolation_level=None)
            try:
                for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
                    seen.execute(f"PRAGMA {pragma}")
                seen.execute(f"PRAGMA cache_size={-CACHE_KIB}")
                seen.execute("CREATE TABLE seen (key INTEGER PRIMARY KEY)")
                seen.execute("BEGIN")
                for record in records:
                    yield self._judged(record, seen)
            except sqlite3.OperationalError as error:
                raise UserError(
                    f"what was seen cannot be kept in {folder} ({error}); make room there, or set TMPDIR to a folder "
                    "on a disk with more"
                ) from error
            finally:
                seen.close()

    def _judged(self, record: Record, seen: sqlite3.Connection) -> Record | Rejected:
        texts = texts_key(record)
        new_text = _is_new(seen, texts)
        new_labels = [label for label, value in labels_of(record) if _is_new(seen, f"{texts}\0{label}\0{value!r}")]
        if new_text or new_labels:
            if not new_text:
                self.counts["kept: the same texts with other labels"] += 1
            return record
        return set_aside(record, "duplicate", "the same texts were there before, with all of its labels")


def texts_of(record: Record) -> Iterator[str]:
    """All that the record says: its text, the other part or the worse text, the turns before, what could be done."""
    yield record.text
    for text in (record.text_pair, record.worse):
        if text is not None:
            yield text
    yield from record.turns or ()
    yield from (action.text for action in record.actions or ())


def texts_key(record: Record) -> str:
    """Equal for records of which all texts are the same (`text.normalise`), each in its place."""
    pair = "" if record.text_pair is None else normalise(record.text_pair)
    worse = "" if record.worse is None else normalise(record.worse)
    turns = "\1".join(map(normalise, record.turns or ()))
    actions = "\1".join(normalise(action.text) for action in record.actions or ())
    return "\0".join((record.language, normalise(record.text), pair, worse, turns, actions))


def labels_of(record: Record) -> Iterator[tuple[str, object]]:
    """What people said of the record, label by label; of lists in which some may be missing, item by item."""
    from_machines = getattr(record, "origins", {})
    for label in RANGES:
        values = getattr(record, label)
        if values is None or label in from_machines:
            continue
        if label in ("vad", "acceptability"):
            yield from ((f"{label}/{place}", value) for place, value in enumerate(values) if value is not None)
        else:
            yield label, values
    if record.actions is not None and "actions" not in from_machines:
        yield "utilities", [action.utility for action in record.actions]
        yield "chosen", record.chosen


def _is_new(seen: sqlite3.Connection, key: str) -> bool:
    """Eight bytes of a hash: among ten million keys two are the same by chance once in 370,000 jobs."""
    number = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True)
    return seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (number,)).rowcount == 1
