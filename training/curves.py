"""Draws what a run has written down of itself: one picture a subject, and a page with all of them.

In    the folder of a run, finished or not: metrics.jsonl, timings.jsonl, memory_report.json where there is one.
Out   DIR/*.png and DIR/curves.html, which holds the pictures and the last numbers and needs no network.
Run   python -m training.curves outputs/main [--output DIR]      (by default outputs/main/curves)

A run that goes on while this reads, or was killed, may have half a line at the end: it is left out. A step that was
taken twice, since a run was killed between, is drawn as it was taken last.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError, run
from training.curves_draw import draw_all
from training.curves_page import write_page
from training.memory_report import REPORT

Lines = list[dict[str, Any]]


def lines_of(path: Path) -> Lines:
    """Whole lines, by step; of a step with two lines of one kind (the same names) the last. Raises UserError for a
    damaged one."""
    if not path.is_file():
        return []
    *whole, _ = path.read_bytes().split(b"\n")
    found: dict[tuple[int, tuple[str, ...]], dict[str, Any]] = {}
    for number, line in enumerate(whole, start=1):
        try:
            values = json.loads(line)
            step = values["step"]
            if not isinstance(step, int):
                raise TypeError(f"step is {step!r:.40}")
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{path}:{number} is damaged: {error}; remove that line to draw the rest") from error
        found[step, tuple(sorted(values))] = values
    return [found[key] for key in sorted(found)]


def read_run(folder: Path) -> tuple[Lines, Lines, dict[str, Any] | None]:
    """metrics.jsonl, timings.jsonl, memory_report.json. Raises UserError where there is no run, or no line of one."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give that of a run, such as outputs/main")
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{folder} has no metrics.jsonl: no run has written into it")
    metrics, timings = lines_of(folder / "metrics.jsonl"), lines_of(folder / "timings.jsonl")
    if not metrics:
        raise UserError(
            f"{folder / 'metrics.jsonl'} holds no whole line yet: the run writes one every log_steps steps"
        )
    report = folder / REPORT
    if not report.is_file():
        return metrics, timings, None
    try:
        return metrics, timings, json.loads(report.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{report} is damaged: {error}; remove it to draw the rest") from error


def draw_run(folder: Path, output: Path) -> list[Path]:
    """What was written: the pictures, and the page last."""
    metrics, timings, report = read_run(folder)
    output.mkdir(parents=True, exist_ok=True)
    pictures = draw_all(metrics, timings, report, output)
    return [*pictures, write_page(folder, output, pictures, metrics, timings)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.curves", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="the folder of a run (output_dir)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to draw; by default RUN_DIR/curves")
    given = parser.parse_args(arguments)
    written = draw_run(given.run, given.output or given.run / "curves")
    print(f"{written[-1]}: {len(written) - 1} pictures")


if __name__ == "__main__":
    run(main)
