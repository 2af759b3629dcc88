"""An explanation as a page: one file without anything from outside, for a browser or a printer.

In    the dict that `training.explain.explain` gives.
Out   HTML with its styles and drawings (SVG) inside. The browser's own fonts draw the letters, Korean ones too.
Run   through training/explain.py, `--output FILE.html`.

Every piece of text goes through `html.escape`, and the page forbids scripts and everything from outside: what somebody
wrote to be analysed is shown and never run.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from redheart_hf.labels import SURD_TERMS
from training.explain_text import ACCOUNT
from training.predict_text import display_width

MOST_BARS = 24
WIDTH, LABELS, ROW = 760, 210, 22
UP, DOWN = "37, 99, 235", "194, 65, 12"  # blue and orange: told apart by nearly every eye
STYLE = f"""
body {{ font: 16px/1.6 system-ui, "Noto Sans KR", "Malgun Gothic", "Apple SD Gothic Neo", sans-serif;
       max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #1f2937; background: #fff; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; font-size: .9rem; }}
th, td {{ text-align: left; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid #e5e7eb; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.words {{ font-size: 1.15rem; line-height: 2; white-space: pre-wrap; overflow-wrap: anywhere; }}
.words span {{ border-radius: 3px; padding: .1rem .05rem; }}
.unread {{ color: #6b7280; text-decoration: line-through; }}
.note {{ color: #4b5563; font-size: .9rem; }}
.up {{ background: rgba({UP}, .35); }} .down {{ background: rgba({DOWN}, .35); }}
svg {{ max-width: 100%; height: auto; }} svg text {{ font-size: 13px; fill: #1f2937; }}
"""


def as_html(result: Mapping[str, Any]) -> str:
    """The whole page."""
    target, attribution = result["target"], result["attribution"]
    body = [
        f"<h1>Why {escape(target['name'])} is {attribution['value']:+z.3f}</h1>",
        note(f"Of {target['of']}; {target['scale']}; {target['taken_because']}."),
        *(heat(part, strongest(attribution)) for part in attribution["parts"]),
        '<p class="note"><span class="up">raises</span> or <span class="down">lowers</span> the number; the deeper '
        "the colour, the more.</p>",
        word_bars(attribution),
        "<h2>How the number comes about</h2>",
        note(f"{attribution['method']}; in the baseline {attribution['baseline']}."),
        account(attribution),
    ]
    for name, title, show in (
        ("experts", "Experts that answered", experts),
        ("utility", "What each circumstance adds to utility", utility),
        ("regret", "Alternatives behind a regret", alternatives),
        ("surd", "SURD of this answer", surd),
    ):
        body.append(f"<h2>{title}</h2>")
        body.append(show(result[name]) if result[name] is not None else note(f"Nothing: {result['missing'][name]}."))
    body.append(note("This explains what the model computes. It is no evidence of what anybody feels or ought to do."))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Why {escape(target['name'])}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>"
    )


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def strongest(attribution: Mapping[str, Any]) -> float:
    """What the deepest colour and the longest bar stand for; 1 where there is nothing to show."""
    return max((abs(word["attribution"]) for part in attribution["parts"] for word in part["words"]), default=0) or 1.0


def heat(part: Mapping[str, Any], most: float) -> str:
    """The text as it was written, its words on colours."""
    pieces, at = [], 0
    for word in part["words"]:
        colour = UP if word["attribution"] > 0 else DOWN
        pieces.append(escape(part["text"][at : word["start"]]))
        pieces.append(
            f'<span style="background: rgba({colour}, {0.75 * abs(word["attribution"]) / most:.3f})" '
            f'title="{word["attribution"]:+z.4f}">{escape(word["text"])}</span>'
        )
        at = word["end"]
    unread = f'<span class="unread" title="not read: too long">{escape(part["unread"])}</span>'
    return f'<p class="words">{"".join(pieces)}{unread if part["unread"] else ""}</p>'


def word_bars(attribution: Mapping[str, Any]) -> str:
    """The words that weigh most, in the order of the text, and what the others come to."""
    words = [word for part in attribution["parts"] for word in part["words"]]
    heaviest = sorted(range(len(words)), key=lambda index: -abs(words[index]["attribution"]))[:MOST_BARS]
    rows = [(words[index]["text"], words[index]["attribution"]) for index in sorted(heaviest)]
    others = sum(word["attribution"] for word in words) - sum(value for _, value in rows)
    said = f"{len(words) - len(rows)} lighter words, not drawn, come to {others:+z.4f} together."
    return bars(rows) + (note(said) if len(words) > len(rows) else "")


def bars(rows: Sequence[tuple[str, float]]) -> str:
    """A drawing: to the right of the line what raises, to the left what lowers."""
    most = max((abs(value) for _, value in rows), default=0) or 1.0
    middle, room = LABELS + (WIDTH - LABELS) / 2, (WIDTH - LABELS) / 2 - 70
    drawn = []
    for index, (label, value) in enumerate(rows):
        top, length = index * ROW, abs(value) / most * room
        left = middle if value > 0 else middle - length
        beside, anchor = (left + length + 5, "start") if value > 0 else (left - 5, "end")
        drawn.append(
            f"<g><title>{escape(label)}: {value:+z.4f}</title>"
            f'<text x="{LABELS - 8}" y="{top + 16}" text-anchor="end">{escape(shortened(label))}</text>'
            f'<rect x="{left:.1f}" y="{top + 4}" width="{length:.1f}" height="{ROW - 8}" '
            f'fill="rgb({UP if value > 0 else DOWN})"/>'
            f'<text x="{beside:.1f}" y="{top + 16}" text-anchor="{anchor}">{value:+z.3f}</text></g>'
        )
    height = max(len(rows), 1) * ROW
    line = f'<line x1="{middle}" y1="0" x2="{middle}" y2="{height}" stroke="#9ca3af"/>'
    return f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">{line}{"".join(drawn)}</svg>'


def shortened(label: str, columns: int = 26) -> str:
    """As much as the drawing has room for; blanks are made visible."""
    label = repr(label) if label.isspace() else label
    if display_width(label) <= columns:
        return label
    while display_width(label) > columns - 1:
        label = label[:-1]
    return label + "…"


def table(header: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    """Numbers to the right; everything escaped."""
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    lines = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def cell(value: str | float) -> str:
    return f"<td>{escape(value)}</td>" if isinstance(value, str) else f'<td class="number">{value:+z.4f}</td>'


def account(attribution: Mapping[str, Any]) -> str:
    rows = [(title, -attribution[name] if name == "convergence_delta" else attribution[name])
            for name, title in ACCOUNT.items()]  # fmt: skip
    return table(("from", "adds"), [*rows, ("this text", attribution["value"])])


def experts(part: Mapping[str, Any]) -> str:
    rows = [
        (
            f"expert {row['expert']}",
            f"{row['score']:.3f}",
            f"{row['bias']:+z.3f}",
            f"chosen, gate {row['gate']:.3f}" if row["chosen"] else "",
        )
        for row in part["experts"]
    ]
    return note(f"Of {part['of']}: {part['statement']}.") + table(("", "score", "bias", ""), rows)


def utility(part: Mapping[str, Any]) -> str:
    drawing = bars([(name, row["contribution"]) for name, row in part["circumstances"].items()])
    rows = [(name, row["value"], row["weight"], row["contribution"]) for name, row in part["circumstances"].items()]
    whole = ("sum, the utility", "", "", part["utility"])
    said = note(f"Of {part['of']}: {part['statement']}.")
    return said + drawing + table(("circumstance", "value", "weight", "adds"), [*rows, whole])


def alternatives(part: Mapping[str, Any]) -> str:
    rows = []
    for index, action in enumerate(part["actions"]):
        for view in part["views"]:
            marks = ["best"] * (part["best"][view] == index) + ["chosen"] * (part["chosen"] == index)
            numbers = (action[name][view] for name in ("utility", "missed", "regret"))
            rows.append((f"{index}: {action['text']}", view, *numbers, ", ".join(marks)))
    left_out = note(f"Left out: {part['left_out']}.") if part["left_out"] else ""
    header = ("action", "view", "utility", "missed", "regret if chosen", "")
    return note(f"{part['statement']}.") + left_out + table(header, rows)


def surd(part: Mapping[str, Any]) -> str:
    baseline = part["baseline"]
    rows = [(name, f"{part['terms'][name]:.3f}") for name in SURD_TERMS]
    found = [
        (name, f"{baseline[name]:.4f}", f"{baseline[f'{name}_by_chance']:.4f}") for name in ("information", "synergy")
    ]
    agents = ", ".join(f"{number} {name}" for number, name in part["agents"].items())
    said = note(f"Of {part['of']}: {part['statement']}. Agents: {agents}.") + table(("term", "share"), rows)
    beside = note(f"{baseline['statement']}; p of the information is {baseline['information_p']:.3f}.")
    return said + beside + table(("bits", "found", "by chance"), found)
