"""How figures leave the program: a table for people, JSON for programs, thresholds into the model's folder.

In    figures by reader, as training/figures.py measures them; thresholds; a path.
Out   a table as text; files that are written whole or left as they were.
Run   through training/evaluate.py and training/train.py.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.figures import Thresholds
from training.rewrite import rewrite_files, write_whole


def figures_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a figure: reader, figure, value, interval, rows."""
    lines = [f"{'reader':<18} {'figure':<18} {'value':>8}  {'95 % interval':<18} {'rows':>7}"]
    for reader, values in figures.items():
        names = [name for name in values if f"{name}_interval" in values]
        for name in names:
            low, high = values[f"{name}_interval"]
            interval = f"[{shown(low)}, {shown(high)}]"
            rows = values.get(f"{name}_rows", values["rows"])
            lines.append(f"{reader:<18} {name:<18} {shown(values[name]):>8}  {interval:<18} {rows:>7,}")
        if not names:
            lines.append(f"{reader:<18} {'nothing measured':<18} {'':>8}  {'':<18} {values.get('rows', 0):>7,}")
        if values.get("rejected"):
            lines.append(f"{reader:<18} {values['rejected']:,} rows could not be read and are not in these figures")
        if str(values.get("thresholds", "")).startswith("0.5"):
            lines.append(f"{reader:<18} the model's config has no thresholds for these labels: 0.5 was used")
    return "\n".join(lines)


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def store_thresholds(folder: Path, thresholds: Thresholds) -> None:
    """Put thresholds into the folder's config.json, beside those of other fields."""
    store_in_config(folder, lambda stored: {"thresholds": {**(stored.get("thresholds") or {}), **thresholds}})


def store_in_config(
    folder: Path, changes: Callable[[Mapping[str, Any]], Mapping[str, Any]], section: str | None = None
) -> None:
    """Change fields of the folder's config.json and put a section at the end of its model card, both or neither.

    `changes` says from the config that is there which fields to change; where it raises, nothing is changed. A folder
    without a card is left without one.
    """

    def change() -> dict[str, str]:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        texts = {"config.json": as_json(config | dict(changes(config)), sort_keys=True)}
        if section and (folder / "README.md").is_file():
            texts["README.md"] = with_section((folder / "README.md").read_text(encoding="utf-8"), section)
        return texts

    rewrite_files(folder, change)


def with_section(card: str, section: str) -> str:
    """The section at the end; one of the same heading goes."""
    heading = section.partition("\n")[0]
    before, found, after = f"{card}\n".partition(f"\n{heading}\n")
    kept = after[after.index("\n## ") :] if found and "\n## " in after else ""
    return f"{(before + kept).rstrip()}\n\n{section.rstrip()}\n"


def as_json(value: Any, sort_keys: bool = False) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=sort_keys)


def write_json(path: Path, value: Any) -> None:
    write_whole(path, as_json(value) + "\n")
