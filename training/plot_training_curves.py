"""Draws the curves of a run, the newest one where none is named: training.curves by the name that the guide has.

In    the folder of a run, or nothing.
Out   as training/curves.py.
Run   python training/plot_training_curves.py [RUN_DIR] [--output DIR]
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: let the checkout's packages be found from anywhere
    sys.path[0] = str(ROOT)

from preprocessing.errors import UserError, run  # noqa: E402
from training.curves import main  # noqa: E402


def newest_run(folders: list[Path]) -> Path:
    """The run that was written to last, of those in `folders`. Raises UserError where there is none."""
    found = [path for folder in folders for path in folder.glob("*/metrics.jsonl")]
    if not found:
        raise UserError(f"no run in {', '.join(map(str, folders))}; name its folder")
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent


def draw() -> None:
    arguments = sys.argv[1:]
    options = {"--output"}
    named = [
        word
        for before, word in zip([""] + arguments, arguments, strict=False)
        if not word.startswith("-") and before not in options
    ]
    asks_help = {"-h", "--help"} & set(arguments)
    main(arguments if named or asks_help else [str(newest_run([Path("runs"), ROOT / "runs"])), *arguments])


if __name__ == "__main__":
    run(draw)
