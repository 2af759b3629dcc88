"""Try the parts of a training run, each on very little: the guide's second step, before the first run of all of them.

In    nothing; --quick leaves out what takes longest, the run with sweep, sweet spots and crossover.
Out   the lines of training/validate.py, then a whole run of redheart-tiny in a folder that passes; exit code 0 or not.
Run   python training/test_unified_training.py --quick

The tests of this repository are in tests/ (`bash run_learning.sh test`); this is what a user tries on a new machine.
Exit codes: 0 all parts work, 1 one does not, 2 something you can mend, 3 more memory than there is.
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: let the checkout's packages be found from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402

from preprocessing.errors import run  # noqa: E402
from training.launched import train_command  # noqa: E402
from training.modes import RECIPES, ROOT, make_tokenizer  # noqa: E402

TINY = {"preset": "redheart-tiny", "train_rows": "48", "batch_size": "8", "gradient_accumulation_steps": "1"}
TINY |= {"epochs": "4", "warmup_steps": "4", "optimizer": "adamw", "lr_sweep.steps": "6", "preflight": "false"}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="training/test_unified_training.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="the parts alone, without the whole run")
    options = parser.parse_args()
    taken = [[sys.executable, "-m", "training.validate"]]
    with tempfile.TemporaryDirectory(prefix="redheart-unified-") as folder:
        if not options.quick:
            fields = TINY | {"output_dir": f"{folder}/run", "tokenizer": f"{folder}/tokenizer"}
            given = [part for name, value in fields.items() for part in (f"--{name}", value)]
            taken.append(make_tokenizer(f"{folder}/tokenizer"))
            taken.append(train_command([str(RECIPES / "unified_test.yaml"), *given]))
        for command in taken:
            code = subprocess.run(command, cwd=ROOT).returncode
            if code:
                sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    run(main)
