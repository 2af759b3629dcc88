"""An explanation laid out for people, in a terminal.

In    the dict that `training.explain.explain` gives.
Out   lines of text.
Run   through training/explain.py; training/explain_report.py makes a page of the same.
"""

from collections.abc import Mapping
from typing import Any

from training.predict_text import BAR, line

ACCOUNT = {
    "baseline_value": "the baseline",
    "sum_of_words": "its words",
    "special_tokens": "special tokens",
    "expert_choice": "choice of experts",
    "convergence_delta": "inexactness",
}


def as_text(result: Mapping[str, Any]) -> str:
    """All parts, one under the other; what is missing with the reason."""
    lines = [result["text"], "", *words(result), *account(result["attribution"])]
    for name, title, show in (
        ("experts", "Experts that answered", experts),
        ("utility", "What each circumstance adds to utility", utility),
        ("regret", "Alternatives behind a regret", alternatives),
        ("surd", "SURD of this answer", surd),
    ):
        lines.append(title)
        lines += show(result[name]) if result[name] is not None else [f"  nothing to show: {result['missing'][name]}"]
    return "\n".join(lines) + "\n"


def signed_bar(share: float) -> str:
    """From the middle to the right for what raises the number, to the left for what lowers it."""
    half = BAR // 2
    filled = round(min(abs(share), 1.0) * half)
    left, right = (0, filled) if share > 0 else (filled, 0)
    return "." * (half - left) + "#" * left + "|" + "#" * right + "." * (half - right)


def words(result: Mapping[str, Any]) -> list[str]:
    """In the order of the text; the longest bar is the word that weighs most."""
    target, attribution = result["target"], result["attribution"]
    lines = [
        f"Why {target['name']} of {target['of']} is {attribution['value']:+z.3f} ({target['scale']}; "
        f"{target['taken_because']})"
    ]
    most = max((abs(word["attribution"]) for part in attribution["parts"] for word in part["words"]), default=0.0)
    for part in attribution["parts"]:
        if len(attribution["parts"]) > 1:
            lines.append(f" {part['of']}")
        for word in part["words"]:
            shown = repr(word["text"]) if word["text"].isspace() else word["text"]
            share = word["attribution"] / most if most else 0.0
            lines.append(line(shown, f"{signed_bar(share)} {word['attribution']:+z.4f}"))
        if part["unread"]:
            lines.append(f"  not read, too long: {part['unread'][:60]}")
    return lines


def account(attribution: Mapping[str, Any]) -> list[str]:
    """How the number comes about, from nothing to the text."""
    lines = [f"How the number comes about ({attribution['method']}; in the baseline {attribution['baseline']})"]
    for name, title in ACCOUNT.items():
        value = -attribution[name] if name == "convergence_delta" else attribution[name]
        lines.append(line(title, f"{value:+z.4f}"))
    return [*lines, line("this text", f"{attribution['value']:+z.4f}")]


def experts(part: Mapping[str, Any]) -> list[str]:
    lines = []
    for row in part["experts"]:
        use = f"chosen, gate {row['gate']:.3f}" if row["chosen"] else "not chosen"
        number = f"score {row['score']:.3f}, bias {row['bias']:+z.3f}"
        lines.append(line(f"expert {row['expert']}", f"{number}  {use}"))
    return lines


def utility(part: Mapping[str, Any]) -> list[str]:
    lines = [
        line(name, f"{row['value']:+z.2f} at weight {row['weight']:.2f} adds {row['contribution']:+z.3f}")
        for name, row in part["circumstances"].items()
    ]
    return [*lines, line(f"utility of {part['of']}", f"the sum, {part['utility']:+z.3f}")]


def alternatives(part: Mapping[str, Any]) -> list[str]:
    lines = [f"  {part['statement']}"] + ([f"  {part['left_out']}"] if part["left_out"] else [])
    for index, action in enumerate(part["actions"]):
        lines.append(f"  action {index}: {action['text']}" + ("  (chosen)" if index == part["chosen"] else ""))
        for view in part["views"]:
            best = "  best" if part["best"][view] == index else ""
            utility, missed, regret = (action[name][view] for name in ("utility", "missed", "regret"))
            lines.append(line(view, f"utility {utility:+z.3f}  missed {missed:.3f}  regret {regret:.3f}{best}"))
    return lines


def surd(part: Mapping[str, Any]) -> list[str]:
    baseline = part["baseline"]
    lines = [f"  {part['statement']}"]
    lines += [line(name, f"{value:.3f}") for name, value in part["terms"].items()]
    return [
        *lines,
        f"  {baseline['statement']}:",
        line("information", f"{baseline['information']:.4f}, by chance {baseline['information_by_chance']:.4f} "
             f"(p = {baseline['information_p']:.3f})"),
        line("synergy", f"{baseline['synergy']:.4f}, by chance {baseline['synergy_by_chance']:.4f}"),
    ]  # fmt: skip
