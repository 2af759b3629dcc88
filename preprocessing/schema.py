"""Prompts as files with a name and a version, and the grammar that each answer must keep to.

In    preprocessing/prompts/NAME@VERSION.yaml; a record.
Out   `Prompt`: what is asked in each language; `grammar_*`: the forms of an answer for llguidance.
Run   `python -c "from preprocessing.schema import *; print(load_prompt('affect@1').items('en'))"`

An answer is JSON in one spelling, without spaces. A number is one digit of a small scale, or null: the model may say
that the text does not tell. What is asked is put in several wordings; each is a question of its own.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from preprocessing.errors import UserError
from preprocessing.records import LANGUAGES, RANGES, Record
from redheart_hf.labels import VIEWS

FOLDER = Path(__file__).resolve().parent / "prompts"
SCALES = {"bipolar": (1, 9, -1.0, 1.0), "share": (0, 9, 0.0, 1.0)}
"""Scale -> first and last digit, and the values they stand for; those between lie evenly."""
UTILITY = "utility"
_COUNT = {**{field: count for field, (count, _, _) in RANGES.items()}, UTILITY: len(VIEWS)}
_MARKS = str.maketrans({"{": "(", "}": ")", '"': "'"} | {digit: chr(ord(digit) + 0xFEE0) for digit in "0123456789"})
_OF_TURNS = (("<|", "(/"), ("|>", "/)"))
_COLON = re.compile(r"""((?<=[^\W\d])|(?<=["']))(\s*):(?!//)""")
"""After a letter or a quote, as in "joy":9 and SYSTEM: all; not that of 12:30, of :) and of http://."""
_NAME = re.compile(r"[a-z_]+@[0-9]+")


@dataclass(frozen=True)
class Item:
    """One number that is asked for: its field, its position in the field, its scale and the wordings of the key."""

    field: str
    position: int
    scale: str
    wordings: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    name: str
    """NAME@VERSION, as the file is called."""
    hash: str
    """Of the file's content: what was asked, even if somebody edits a file and keeps its version."""
    content: dict[str, Any]

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of Record it fills in."""
        return ("actions",) if self.writes else tuple(self.content["fields"])

    @property
    def writes(self) -> bool:
        """Whether the alternatives are written first, and then judged one by one."""
        return "write" in self.content

    def frame(self, language: str, stage: str) -> tuple[list[str], str]:
        """Turns up to the data, the last of which goes on with it, and what stands after the data.

        `stage` is "" where numbers are asked for, or "write_". The examples are turns of the same conversation: they
        cost nothing, as keys and values of what all texts share are computed once.
        """
        words = self.content[language]
        turns, after = [words[f"{stage}task"] + "\n"], "\n" + words[f"{stage}after"]
        for example in words[f"{stage}examples"]:
            data = {name: _unlike_answers(example[name]) for name in ("text", "action") if name in example}
            turns[-1] += json.dumps(data, ensure_ascii=False) + after
            turns += [_compact(self._answer(language, example)), ""]
        return turns, after

    def _answer(self, language: str, example: dict[str, Any]) -> dict[str, Any]:
        if "done" in example:
            return {name: example[name] for name in ("done", "instead")}
        return {item.wordings[0]: example[item.field][item.position] for item in self.items(language)}

    def items(self, language: str) -> list[Item]:
        """In the order of the fields and of their labels."""
        asked = self.content[language]["keys"]
        return [
            Item(field, position, scale, tuple(asked[field][position]))
            for field, scales in self.content["fields"].items()
            for position, scale in enumerate(_scales(field, scales))
        ]


def load_prompt(name: str, folder: Path = FOLDER) -> Prompt:
    """Raises UserError for a file that is not there, or asks for what a record has no place for."""
    path = folder / f"{name}.yaml"
    if not _NAME.fullmatch(name) or not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise UserError(f"there is no prompt {name!r}; known are {known}")
    data = path.read_bytes()
    try:
        content = yaml.safe_load(data)
        _check(content)
    except (yaml.YAMLError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no prompt: {type(error).__name__} {error}") from error
    return Prompt(name=name, hash=hashlib.sha256(data).hexdigest()[:12], content=content)


def _check(content: dict[str, Any]) -> None:
    for field, scales in content["fields"].items():
        if (
            field not in _COUNT
            or len(_scales(field, scales)) != _COUNT[field]
            or {*_scales(field, scales)} - {*SCALES}
        ):
            raise ValueError(f"{field}: {scales} is not a field with a scale of {', '.join(SCALES)} for each label")
        for language in LANGUAGES:
            keys = content[language]["keys"][field]
            if len(keys) != _COUNT[field] or len({len(wordings) for wordings in keys}) != 1 or not keys[0]:
                raise ValueError(f"{language}: {field} has {_COUNT[field]} labels, each with as many wordings")
    parts = ["task", "after", "examples"]
    if "write" in content:
        parts += ["write_task", "write_after", "write_examples", "max_characters"]
    for language in LANGUAGES:
        if missing := [part for part in parts if part not in content[language]]:
            raise ValueError(f"{language} lacks {', '.join(missing)}")
        for example in content[language]["examples"]:
            _check_example(content["fields"], example)


def _check_example(fields: dict[str, Any], example: dict[str, Any]) -> None:
    for field, scales in fields.items():
        for digit, scale in zip(example[field], _scales(field, scales), strict=True):
            first, last, _, _ = SCALES[scale]
            if digit is not None and not first <= digit <= last:
                raise ValueError(f"an example's {field} is {digit}, not {first} to {last} or null")


def _scales(field: str, scales: str | list[str]) -> list[str]:
    return [scales] * _COUNT[field] if isinstance(scales, str) else scales


def data_of(record: Record, action: str | None = None) -> str:
    """What is judged, as one JSON object: a quote or a line break in a text cannot end it."""
    data: dict[str, Any] = {"before": [_unlike_answers(turn) for turn in record.turns]} if record.turns else {}
    data["text"] = _unlike_answers(record.text)
    if record.text_pair is not None:
        data["about"] = _unlike_answers(record.text_pair)
    if action is not None:
        data["action"] = _unlike_answers(action)
    return json.dumps(data, ensure_ascii=False)


def _unlike_answers(text: str) -> str:
    """The marks of JSON and of turns in others that a person reads the same, and digits wide: nothing to be copied.

    A small model repeats what it has just read. With this, commands in a text move SmolLM2's answers 1.9 times as far
    as a harmless sentence (vad, emotions; circumstances and culture less); as they are, or all wide, above 2
    (benchmarks/injection.py, fp32).
    """
    for mark, other in _OF_TURNS:
        text = text.replace(mark, other)
    return _COLON.sub(r"\2,", text).translate(_MARKS)


def opening(key: str) -> str:
    """An answer of one number, up to the number."""
    return "{" + json.dumps(key, ensure_ascii=False) + ":"


def grammar_number(key: str, scale: str) -> str:
    """Lark grammar of {"key":digit} and {"key":null}."""
    first, last, _, _ = SCALES[scale]
    return f'start: {_literal(opening(key))} ("null" | /[{first}-{last}]/) "}}"'


def grammar_actions(instead: int, max_characters: int) -> str:
    """Lark grammar of {"done":TEXT,"instead":[TEXT, ...]}: texts of at most so many characters."""
    texts = ' "," '.join(["QUOTED"] * instead)
    plain = r'"\\\x00-\x1f\x7f-\x9f'
    opened, middle, closed = _literal('{"done":'), _literal(',"instead":['), _literal("]}")
    return (
        f"start: {opened} QUOTED {middle} {texts} {closed}\n"
        f'QUOTED: /"[^\\s{plain}][^{plain}]{{0,{max_characters - 1}}}"/'
    )


def value_of(digit: int | float, scale: str) -> float:
    """What a digit stands for."""
    first, last, low, high = SCALES[scale]
    return low + (digit - first) / (last - first) * (high - low)


def _compact(answer: dict[str, Any]) -> str:
    """JSON in the one spelling that the grammars allow."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
