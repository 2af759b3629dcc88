"""Answers as HTML and SVG, readable without colours, on a telephone and aloud.

In    an answer of pipeline("red-heart"), or an explanation of it; a language.
Out   HTML; everything that a person typed is escaped.
Run   through demo/page.py
"""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from demo.words import Language, label, say
from redheart_hf.labels import VIEWS

MOST = 6
CSS = """
.rh {columns: 19rem; column-gap: 1rem;}
.rh section {border: 1px solid var(--border-color-primary); border-radius: .5rem; padding: .75rem;}
.rh section {break-inside: avoid; margin-bottom: 1rem;}
.rh h3 {margin: 0 0 .5rem; font-size: 1rem;} .rh h4 {margin: .6rem 0 .2rem; font-size: .85rem; font-weight: 600;}
.rh .bar {display: grid; grid-template-columns: 7.5rem 1fr 3rem; gap: .5rem; align-items: center; font-size: .85rem;}
.rh .bar.wide {grid-template-columns: 5rem 1fr 6.5rem;}
.rh .bar i {display: block; height: .7rem; background: var(--background-fill-secondary); position: relative;}
.rh .bar b {display: block; height: 100%; background: #c0392b;} .rh .on {font-weight: 700;}
.rh .bar s {position: absolute; top: 0; height: 100%; background: #c0392b55;}
.rh .bar u {position: absolute; top: -.15rem; width: 2px; height: 1rem; background: #c0392b;}
.rh table {width: 100%; border-collapse: collapse; font-size: .85rem;}
.rh td, .rh th {padding: .25rem; text-align: left;}
.rh svg {width: 100%; max-width: 20rem; height: auto; display: block; margin: auto;}
.rh mark {border-radius: .2rem; padding: 0 .1rem; color: inherit;} .rh p {font-size: .85rem; margin: .3rem 0;}
.rh-run {width: 100%; height: 80vh; border: 0;}
.rh-alert {border: 2px solid #c0392b; border-radius: .5rem; padding: .75rem;}
"""


def alert(text: str) -> str:
    return f'<div class="rh-alert" role="alert">{escape(text)}</div>'


def section(name: str, body: str, language: Language) -> str:
    return f"<section><h3>{escape(say(name, language))}</h3>{body}</section>"


def untaught(name: str, language: Language) -> str:
    return section(name, f"<p>{escape(say('untaught', language))}</p>", language)


def bar(name: str, value: float, strong: bool = False) -> str:
    """A share of one."""
    shown = f'<b style="width:{100 * min(1.0, max(0.0, value)):.1f}%"></b>'
    kind = "bar on" if strong else "bar"
    return f'<div class="{kind}"><span>{escape(name)}</span><i>{shown}</i><span>{value:.2f}</span></div>'


def answer_html(answer: Mapping[str, Any], language: Language) -> str:
    """Everything that was answered of a text or a choice."""
    parts = [emotions(answer, language), feeling(answer, language), circumstances(answer, language)]
    parts += [experts(answer, language), regrets(answer, language), similar(answer, language)]
    long = f"<p>{escape(say('windows', language, answer['windows']))}</p>" if answer["windows"] > 1 else ""
    return f'<div class="rh">{"".join(filter(None, parts))}</div>{long}'


def emotions(answer: Mapping[str, Any], language: Language) -> str:
    """By level, coarse to fine; in bold what counts as present."""
    body = ""
    for field in ("polarity", "basic_emotions", "fine_emotions", "korean_emotions", "culture"):
        values = answer[field]
        body += f"<h4>{escape(say(field, language))}</h4>"
        if values is None:
            body += f"<p>{escape(say('untaught', language))}</p>"
            continue
        present = answer["present"].get(field, ())
        most = sorted(values, key=lambda name: -values[name])[:MOST] if len(values) > 7 else list(values)
        body += "".join(bar(label(name, language), values[name], name in present) for name in most)
    return section("emotions", body, language)


def feeling(answer: Mapping[str, Any], language: Language, name: str = "vad") -> str:
    """Numbers from -1 to 1, each with its standard deviation."""
    if answer[name] is None:
        return untaught("vad", language)
    body = ""
    for axis, value in answer[name].items():
        deviation = answer[f"{name}_standard_deviation"][axis]
        low, high = (50 * (1 + min(1.0, max(-1.0, bound))) for bound in (value - deviation, value + deviation))
        shown = f'<s style="left:{low:.1f}%;width:{high - low:.1f}%"></s><u style="left:{50 * (1 + value):.1f}%"></u>'
        number = f"{value:+.2f} ± {deviation:.2f}"
        body += (
            f'<div class="bar wide"><span>{escape(label(axis, language))}</span>'
            f"<i>{shown}</i><span>{number}</span></div>"
        )
    return section("vad", body, language)


def circumstances(answer: Mapping[str, Any], language: Language) -> str:
    """A radar of the seven; intensity has a sign, the others none."""
    values = answer["circumstances"]
    if values is None:
        return untaught("circumstances", language)
    told = ", ".join(f"{label(name, language)} {value:+.2f}" for name, value in values.items())
    body = radar({label(name, language): value for name, value in values.items()}, told)
    if answer["utility"] is not None:
        body += f"<p>{escape(say('utility', language))}: <strong>{answer['utility']:+.3f}</strong></p>"
    return section("circumstances", body, language)


def radar(values: Mapping[str, float], told: str) -> str:
    """Lengths are sizes; a value below zero is drawn hollow."""
    middle, reach, count = 150, 90, len(values)
    spokes, points, names, dots = "", [], "", ""
    for index, (name, value) in enumerate(values.items()):
        angle = 2 * math.pi * index / count - math.pi / 2
        across, down = math.cos(angle), math.sin(angle)
        x, y = middle + reach * abs(value) * across, middle + reach * abs(value) * down
        points.append(f"{x:.1f},{y:.1f}")
        spokes += (
            f'<line x1="{middle}" y1="{middle}" x2="{middle + reach * across:.1f}" y2="{middle + reach * down:.1f}"/>'
        )
        names += (
            f'<text x="{middle + 1.25 * reach * across:.1f}" y="{middle + 1.18 * reach * down:.1f}" '
            f'text-anchor="middle" dominant-baseline="middle">{escape(name)}</text>'
        )
        dots += (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{"#c0392b" if value >= 0 else "none"}" stroke="#c0392b"/>'
        )
    rings = "".join(f'<circle cx="{middle}" cy="{middle}" r="{reach * part / 4}"/>' for part in (1, 2, 3, 4))
    return (
        f'<svg viewBox="0 0 300 300" role="img" aria-label="{escape(told)}"><g stroke="currentColor" fill="none" '
        f'stroke-opacity=".25">{rings}{spokes}</g><polygon points="{" ".join(points)}" fill="#c0392b44" '
        f'stroke="#c0392b"/>{dots}<g fill="currentColor" font-size="12">{names}</g></svg><p>{escape(told)}</p>'
    )


def experts(answer: Mapping[str, Any], language: Language) -> str:
    body = ""
    for name, value in answer["acceptability"].items():
        known = label(name, language)
        body += (
            bar(known, value) if value is not None else f"<p>{escape(known)}: {escape(say('untaught', language))}</p>"
        )
    return section("acceptability", body, language)


def regrets(answer: Mapping[str, Any], language: Language) -> str:
    """Of each action, in three views; of a text without actions the regret that it tells of."""
    views = "".join(f"<th>{escape(label(view, language))}</th>" for view in VIEWS)
    if "actions" not in answer:
        values = answer["text_regret"]
        row = "".join(f"<td>{number(values[view])}</td>" for view in VIEWS) if values else ""
        body = (
            f"<table><tr>{views}</tr><tr>{row}</tr></table>"
            if values
            else f"<p>{escape(say('untaught', language))}</p>"
        )
        return section("regret", body, language)
    rows = ""
    for position, action in enumerate(answer["actions"]):
        notes = [say("best", language)] if position == answer["best"] else []
        notes += [say("was_chosen", language)] if position == answer["chosen"] else []
        said = escape(action["text"]) + (f" <em>({escape(', '.join(notes))})</em>" if notes else "")
        rows += (
            f"<tr><td>{said}</td>" + "".join(f"<td>{number(action['regret'][view])}</td>" for view in VIEWS) + "</tr>"
        )
    return section(
        "regret", f"<table><tr><th>{escape(say('action', language))}</th>{views}</tr>{rows}</table>", language
    )


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def similar(answer: Mapping[str, Any], language: Language) -> str:
    if "similar" not in answer:
        return ""
    rows = "".join(f"<p>{near['similarity']:.2f} · {escape(near['text'])}</p>" for near in answer["similar"])
    return section("similar", rows, language)


def why_html(explanation: Mapping[str, Any], language: Language) -> str:
    """Words in the colour of what they carry, and SURD's terms beside what chance finds."""
    target = explanation["target"]["name"]
    words = [word for part in explanation["attribution"]["parts"] for word in part["words"]]
    most = max((abs(word["attribution"]) for word in words), default=0.0) or 1.0
    body = f"<p>{escape(say('words', language))} <strong>{escape(target)}</strong></p><p>"
    for word in words:
        share = word["attribution"] / most
        colour = f"rgba({'192,57,43' if share > 0 else '41,98,168'},{abs(share) * 0.6:.2f})"
        told = f"{word['attribution']:+.3f}"
        body += f'<mark style="background:{colour}" title="{told}">{escape(word["text"])}</mark> '
    parts = [f"<section><h3>{escape(say('why', language))}</h3>{body}</p></section>", surd(explanation, language)]
    return f'<div class="rh">{"".join(parts)}</div>'


def surd(explanation: Mapping[str, Any], language: Language) -> str:
    found = explanation["surd"]
    if found is None:
        return section("surd", f"<p>{escape(explanation['missing']['surd'])}</p>", language)
    bars = "".join(bar(name, value) for name, value in found["terms"].items())
    chance = {name: value for name, value in found["baseline"].items() if name != "statement"}
    told = ", ".join(f"{name} {value:.4f}" for name, value in chance.items())
    return section("surd", f"{bars}<p>{escape(say('by_chance', language))}: {escape(told)}</p>", language)


def dialogue_html(answer: Mapping[str, Any], language: Language) -> str:
    """The state after each turn, and how it moved."""
    turns = answer["dialogue"]
    if any(turn["turn_vad"] is None for turn in turns):
        return f'<div class="rh">{untaught("vad", language)}</div>'
    rows = "".join(
        f"<tr><td>{escape(turn['text'])}</td>"
        + "".join(
            f"<td>{value:+.2f} ± {turn['turn_vad_standard_deviation'][axis]:.2f}</td>"
            for axis, value in turn["turn_vad"].items()
        )
        + "</tr>"
        for turn in turns
    )
    axes = "".join(f"<th>{escape(label(axis, language))}</th>" for axis in turns[0]["turn_vad"])
    table = f"<section><table><tr><th></th>{axes}</tr>{rows}</table></section>"
    return f'<div class="rh">{feeling(answer, language, "turn_vad")}{table}{emotions(answer, language)}</div>'
