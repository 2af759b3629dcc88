"""A prediction laid out for people, with bars and in columns that hold in Korean too.

In    the dict that `training.prediction.predict` gives.
Out   lines of text.
Run   through training/predict.py.
"""

import unicodedata
from collections.abc import Mapping
from typing import Any

from redheart_hf.labels import CIRCUMSTANCES, CULTURE, EMOTION_FIELDS, ETHICS_EXPERTS, VAD, VIEWS

BAR = 20
UNTRAINED = "  not trained: no label of this kind was in the training data"
LABEL = 24
NAMES = {
    "vad": VAD,
    "culture": CULTURE,
    "circumstances": CIRCUMSTANCES,
    "acceptability": ETHICS_EXPERTS,
    "regret": VIEWS,
}
FIELDS = {
    "basic_emotions": "Basic emotions",
    "fine_emotions": "Fine emotions (GoEmotions)",
    "korean_emotions": "Korean emotions (KOTE)",
}


def display_width(text: str) -> int:
    """Columns a terminal needs: two for a Korean letter, none for a combining mark."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text
    )


def padded(text: str, width: int) -> str:
    return text + " " * max(0, width - display_width(text))


def bar(share: float) -> str:
    """Filled from the left for values in [0, 1]."""
    filled = round(min(max(share, 0.0), 1.0) * BAR)
    return "#" * filled + "." * (BAR - filled)


def line(label: str, rest: str) -> str:
    return f"  {padded(label, LABEL)} {rest}"


def as_text(result: Mapping[str, Any]) -> str:
    """All parts, one under the other."""
    lines = [result["text"], ""]
    lines += emotions(result) + feelings(result) + ethics(result) + regret(result) + similar(result)
    return "\n".join(lines) + "\n"


def emotions(result: Mapping[str, Any]) -> list[str]:
    """Those present, most probable first; where none is, the nearest is named."""
    lines = []
    for field, title in FIELDS.items():
        lines.append(title)
        if result[field] is None:
            lines.append(UNTRAINED)
            continue
        probabilities, present = result[field], result["present"][field]
        for name in sorted(present, key=probabilities.__getitem__, reverse=True):
            lines.append(line(name, f"{bar(probabilities[name])} {probabilities[name]:.2f}"))
        if not present:
            nearest = max(probabilities, key=probabilities.__getitem__)
            lines.append(f"  none over its threshold; the most probable is {nearest}, {probabilities[nearest]:.2f}")
    return lines


def feelings(result: Mapping[str, Any]) -> list[str]:
    lines = ["Valence, arousal, dominance (-1 to 1, +- standard deviation)"]
    for name, value in (result["vad"] or {}).items():
        lines.append(line(name, f"{value:+z.2f} +- {result['vad_standard_deviation'][name]:.2f}"))
    lines += [] if result["vad"] else [UNTRAINED]
    if "turns" in result:
        lines.append(f"The same, given the {len(result['turns'])} turns before")
        for name, value in (result["turn_vad"] or {}).items():
            lines.append(line(name, f"{value:+z.2f} +- {result['turn_vad_standard_deviation'][name]:.2f}"))
        lines += [] if result["turn_vad"] else [UNTRAINED]
    return [*lines, "Culture", *bars(result["culture"])]


def bars(shares: Mapping[str, float | None] | None) -> list[str]:
    """A bar for each share; what was never trained is said to be so."""
    if shares is None:
        return [UNTRAINED]
    shown = {name: "not trained" if value is None else f"{bar(value)} {value:.2f}" for name, value in shares.items()}
    return [line(name, text) for name, text in shown.items()]


def ethics(result: Mapping[str, Any]) -> list[str]:
    chosen = result.get("chosen")
    of = "the text" if chosen is None else f"action {chosen}"
    lines = [f"Circumstances of {of}, and what each adds to utility"]
    for name, value in (result["circumstances"] or {}).items():
        lines.append(line(name, f"{value:+z.2f}  adds {result['contributions'][name]:+z.3f}"))
    lines += [] if result["circumstances"] else [UNTRAINED]
    if result["utility"] is not None:
        lines.append(line("utility", f"{'':5}  sum  {result['utility']:+z.3f}"))
    lines += [f"Acceptability of {of}", *bars(result["acceptability"])]
    return lines


def regret(result: Mapping[str, Any]) -> list[str]:
    """Of the text alone, and with actions what each is worth and what having chosen it would cost."""
    lines = ["Regret, by view", line("", in_columns(VIEWS))]
    if result["text_regret"] is None:
        lines.append(line("from the text alone", "not trained"))
    else:
        lines.append(line("from the text alone", in_columns(result["text_regret"].values(), "{:>12.2f}")))
    for position, action in enumerate(result.get("actions", ())):
        marks = [
            word
            for word, key in (("best", "best"), ("chosen", "chosen"))
            if result[key] is not None
            if result[key] == position
        ]
        lines.append(f"Action {position}: {action['text']}" + (f"  ({', '.join(marks)})" if marks else ""))
        lines.append(line("utility", in_columns(action["utility"].values(), "{:>+z12.2f}")))
        lines.append(line("regret if chosen", in_columns(action["regret"].values(), "{:>12.2f}")))
    return lines


def similar(result: Mapping[str, Any]) -> list[str]:
    """The nearest texts of an index, with what their labels say; nothing where none was asked for."""
    if "similar" not in result:
        return []
    lines = ["Similar texts, by cosine, and their labels"]
    for near in result["similar"]:
        lines.append(f"  {near['similarity']:.2f}  {near['text']}  ({near['id']})")
        lines += [
            f"        {name}: {said}" for name, values in near["labels"].items() if (said := named(name, values))
        ]
    return lines


def named(label: str, values: Any) -> str:
    """Labels of a record in words: names of what is above zero of the emotions, all numbers of the rest."""
    if label in EMOTION_FIELDS:
        found = [f"{name} {value:.2f}" for name, value in zip(EMOTION_FIELDS[label], values, strict=True) if value > 0]
        return ", ".join(found)
    if label in NAMES:
        known = zip(NAMES[label], values, strict=True)
        return ", ".join(f"{name} {value:+z.2f}" for name, value in known if value is not None)
    return "; ".join(values) if label == "actions" else str(values)


def in_columns(values: Any, form: str = "{:>12}") -> str:
    return "".join(f"{'not trained':>12}" if value is None else form.format(value) for value in values)
