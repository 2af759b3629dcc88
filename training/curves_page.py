"""The page of a run's curves: every picture in it, the newest numbers beside, no network needed.

In    the run's folder, the pictures, the run's lines.
Out   curves.html.
Run   through training/curves.py
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.rewrite import write_whole
from training.run_log import flatten

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }}
img {{ max-width: 100%; display: block }} table {{ border-collapse: collapse; font-size: 90% }}
td, th {{ padding: .15rem .8rem .15rem 0; text-align: left; border-bottom: 1px solid #ddd }}
td + td {{ text-align: right; font-variant-numeric: tabular-nums }}
</style></head><body>
<h1>{title}</h1><p>{summary}</p>
{pictures}
{tables}
</body></html>
"""


def write_page(
    folder: Path,
    output: Path,
    pictures: Sequence[Path],
    metrics: Sequence[Mapping[str, Any]],
    timings: Sequence[Mapping[str, Any]],
) -> Path:
    seconds = sum(line.get("seconds", 0.0) for line in timings)
    summary = f"{metrics[-1]['step']:,} steps, {seconds:,.0f} s"
    newest: dict[str, tuple[int, float]] = {}
    for line in [*metrics, *timings]:
        newest |= {name: (line["step"], value) for name, value in flatten(dict(line)) if name != "step"}
    path = output / "curves.html"
    shown = "\n".join(map(figure, pictures))
    write_whole(
        path, PAGE.format(title=escape(folder.resolve().name), summary=summary, pictures=shown, tables=table(newest))
    )
    return path


def figure(picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode("ascii")
    name = escape(picture.stem.replace("_", " "))
    return f'<h2>{name}</h2>\n<img alt="{name}" src="data:image/png;base64,{data}">'


def table(newest: Mapping[str, tuple[int, float]]) -> str:
    """Every number as it was written last, by its whole name: in whatever script, which a picture may lack."""
    rows = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{value:.6g}</td><td>{step:,}</td></tr>"
        for name, (step, value) in sorted(newest.items())
    )
    return f"<h2>newest numbers</h2>\n<table><tr><th>name</th><th>value</th><th>step</th></tr>\n{rows}</table>"
