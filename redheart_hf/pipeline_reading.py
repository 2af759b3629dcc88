"""What a user asks a model about, as token ids: texts of any length, scenarios with actions, dialogues.

In    a text, or {"text": ..., "actions": [...], "chosen": n} or {"text": ..., "turns": [...]}; the tokenizer.
Out   Unit: the sequences of one window of one question, which go through the model together.
Run   through pipeline_redheart.py

A text that is longer than the model reads is read in windows that overlap by a quarter; each has every action beside
it. A turn of a dialogue, and an action, must fit.
"""

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizerBase

KEYS = ("text", "actions", "chosen", "turns")
OVERLAP = 4  # of a window, one part in so many is in the next one too
SLACK = 8  # tokens: a window's text alone may be cut otherwise than inside its text
MOST_MARKS = 30  # in a row: the limit of Unicode's stream-safe format (UAX 15)
LEAST = 16  # tokens of the text in a window
MOST = {"actions": 100, "turns": 1000}  # which go through the model together

Part = tuple[str, str | None]
Coded = tuple[list[int], list[int] | None]


@dataclass(frozen=True)
class Question:
    """`turns` come before the text; `chosen` is a position in `actions`."""

    text: str
    actions: tuple[str, ...] = ()
    chosen: int | None = None
    turns: tuple[str, ...] = ()

    def parts(self, text: str) -> list[Part]:
        """The sequences of one window of the text: the text, then it with each action; or then the turns before it."""
        return [(text, None), *((text, action) for action in self.actions), *((turn, None) for turn in self.turns)]


@dataclass
class Unit:
    """One window of a question: token ids and segments of its sequences; `weight`: tokens of its text."""

    question: Question
    coded: list[Coded]
    weight: int = field(init=False)

    def __post_init__(self):
        self.weight = len(self.coded[0][0])

    @property
    def length(self) -> int:
        return max(len(ids) for ids, _ in self.coded)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for units that get the same answers."""
        return len(self.question.turns), *(tuple(ids) + (-1, *(types or ())) for ids, types in self.coded)


def question_of(asked: Any, where: str, most_characters: int) -> Question:
    """Raises ValueError, beginning with `where`, for what is no question."""
    if isinstance(asked, str):
        asked = {"text": asked}
    if not isinstance(asked, Mapping):
        raise ValueError(
            f"{where} is of type {type(asked).__name__}; give a text, or a dictionary with {', '.join(KEYS)}"
        )
    if unknown := sorted(set(asked) - set(KEYS), key=str):
        near = difflib.get_close_matches(str(unknown[0]), KEYS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}"
        raise ValueError(f"{where} has the key {unknown[0]!r}; {hint}")
    lists = {name: asked.get(name) or () for name in ("actions", "turns")}
    for name, texts in lists.items():
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise ValueError(f"{where}: {name} must be a list of texts, got {texts!r:.60}")
        if len(texts) > MOST[name]:
            raise ValueError(f"{where} has {len(texts):,} {name}; {MOST[name]:,} are read at once: ask about fewer")
    actions, turns = tuple(lists["actions"]), tuple(lists["turns"])
    for name, text in (
        ("text", asked.get("text")),
        *(("action", one) for one in actions),
        *(("turn", one) for one in turns),
    ):
        check_text(text, f"{where}: the {name}" if len(asked) > 1 else where, most_characters)
    if actions and turns:
        raise ValueError(f"{where} has actions and turns; ask about a choice or about a dialogue")
    if len(actions) == 1:
        raise ValueError(f"{where} has one action; a choice needs two or more")
    chosen = asked.get("chosen")
    if chosen is not None and not actions:
        raise ValueError(f"{where}: chosen is {chosen!r}, and there are no actions to choose from")
    if chosen is not None and (type(chosen) is not int or not 0 <= chosen < len(actions)):
        raise ValueError(f"{where}: chosen is {chosen!r}, and the actions are 0 to {len(actions) - 1}")
    return Question(clean(asked["text"]), tuple(map(clean, actions)), chosen, tuple(map(clean, turns)))


def clean(text: str) -> str:
    """As training reads texts: NFC, since Korean typed on some systems arrives as single jamo; no outer spaces."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").strip())


@cache
def is_mark(character: str) -> bool:
    """Whether NFC puts it in order with its neighbours, which takes the square of their number."""
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) > 0


def check_text(text: Any, where: str, most_characters: int) -> None:
    """Raises ValueError for what is no text that can be read."""
    if not isinstance(text, str):
        raise ValueError(f"{where} is {text!r:.60} and no text")
    if not text.strip():
        raise ValueError(f"{where} is empty")
    if len(text) > most_characters:
        raise ValueError(
            f"{where} has {len(text):,} characters; max_characters allows {most_characters:,}: split it, or raise that"
        )
    for character in set(text):
        if (
            (character < " " and character not in "\t\n\r\f")
            or "\x7f" <= character <= "\x9f"
            or "\ud800" <= character <= "\udfff"
        ):
            raise ValueError(
                f"{where} holds {character!r} at {text.index(character)}, which is no character of a text"
            )
    if not text.isascii():
        marks = max(sum(1 for _ in run) if mark else 0 for mark, run in groupby(text, key=is_mark))
        if marks > MOST_MARKS:
            raise ValueError(f"{where} has {marks} combining marks in a row, and no language more than {MOST_MARKS}")


class Reader:
    """Questions -> units, for one model and its tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, text_prefix: str):
        self.tokenizer, self.max_length, self.prefix = tokenizer, max_length, text_prefix
        self.typed = "token_type_ids" in tokenizer.model_input_names

    def read(self, questions: Sequence[Question], where: Sequence[str]) -> list[list[Unit]]:
        """The units of each question, window by window; raises ValueError for an action or a turn that is too long."""
        parts = [question.parts(question.text) for question in questions]
        coded = iter(self.encode([part for of in parts for part in of]))
        units = [Unit(question, [next(coded) for _ in of]) for question, of in zip(questions, parts, strict=True)]
        return [
            [unit] if unit.length <= self.max_length else self.windows(unit.question, place)
            for unit, place in zip(units, where, strict=True)
        ]

    def encode(self, parts: Sequence[Part]) -> list[Coded]:
        """Token ids and segments of each part, nothing cut."""
        found: list[Coded] = [([], None)] * len(parts)
        for paired in (False, True):
            places = [place for place, part in enumerate(parts) if (part[1] is not None) == paired]
            if not places:
                continue
            firsts = [self.prefix + parts[place][0] for place in places]
            seconds = [parts[place][1] or "" for place in places] if paired else None
            given = {"return_attention_mask": False, "return_token_type_ids": self.typed, "verbose": False}
            coded = self.tokenizer(firsts, seconds, truncation=False, **given)
            types = coded["token_type_ids"] if self.typed else [None] * len(places)
            for place, ids, segments in zip(places, coded["input_ids"], types, strict=True):
                found[place] = (ids, segments)
        return found

    def windows(self, question: Question, where: str) -> list[Unit]:
        """Of a question that does not fit."""
        beside = [len(ids) for ids, _ in self.encode([(one, None) for one in (*question.actions, *question.turns)])]
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True) - SLACK
        if question.turns:
            raise ValueError(f"{where}: a turn has more than the {self.max_length} tokens the model reads; shorten it")
        room -= max(beside, default=0)
        if room < LEAST:
            raise ValueError(
                f"{where}: an action of {max(beside)} tokens leaves no room for the text, of {self.max_length} that "
                "the model reads; shorten it"
            )
        texts = self.cut(question.text, room - len(self.prefix))
        coded = iter(self.encode([part for text in texts for part in question.parts(text)]))
        return [Unit(question, [next(coded) for _ in question.parts(text)]) for text in texts]

    def cut(self, text: str, room: int) -> list[str]:
        """Windows of `room` tokens."""
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        starts = range(0, max(1, len(spans) - room // OVERLAP), room - room // OVERLAP)
        return [text[spans[start][0] : spans[min(start + room, len(spans)) - 1][1]] for start in starts]
