"""The ways to use this project, by the names that the first guide gave them: a mode is a recipe and what it is given.

In    a mode and options: those of the guide (below), and any field of training/train.py as --field VALUE.
Out   what the mode's command writes; a run's folder is runs/<recipe>/,
      with what options made of it behind: runs/unified_test_epochs_3/.
Run   bash run_learning.sh unified-test --samples 3 --debug --verbose
      python -m training.modes --help

The guide's names beside ours: docs/modes.md. Exit codes are those of the command that a mode stands for: 0 done, 1 a
fault of the program, 2 something you can mend, 3 more memory than there is.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from preprocessing.errors import UserError, run
from training.launched import ROOT, become, follow, train_command

RECIPES = ROOT / "training" / "recipes"
TOKENIZER = Path("runs/tokenizer")
VOCABULARY = 4096
ANOTHER_RUN = ("epochs", "train_rows", "batch_size", "update_weights")
"""Fields of the guide's options that make a run another one, which cannot go on with the same checkpoints."""


@dataclass(frozen=True)
class Mode:
    """`samples` is the field that --samples sets."""

    recipes: tuple[str, ...]
    text: str
    samples: str = "train_rows"
    trains: bool = True


MODES = {
    "unified-test": Mode(
        ("unified_test",), "everything once on a part of the data: sweep, 2 epochs, sweet spot, crossover", "epochs"
    ),
    "unified-train": Mode(("unified_train",), "the 730M model, 60 epochs, a checkpoint after each even one"),
    "unified-test-v1": Mode(("legacy_800m_test", "legacy_320m_test"), "the older 800M and 320M models", "epochs"),
    "train-local": Mode(("train_local",), "a few records on this machine, its memory watched and drawn"),
    "train-cloud": Mode(("train_cloud",), "all data, a checkpoint every N steps"),
    "train-validate": Mode((), "a checkpoint judged on dev, nothing trained", trains=False),
    "validate": Mode((), "environment, data, model and a checkpoint's way there and back, in a minute", trains=False),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_learning.sh",
        description="Modes:\n" + "\n".join(f"  {name:<16} {mode.text}" for name, mode in MODES.items()),
        epilog="Any field of training/train.py may follow as --field VALUE (python training/train.py --help).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("mode", metavar="MODE")
    parser.add_argument(
        "--samples",
        type=positive,
        default=os.environ.get("SAMPLES"),
        metavar="N",
        help="epochs of unified-test and unified-test-v1, else records to train on; or SAMPLES=N before bash",
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the data")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="records a micro-batch")
    parser.add_argument("--full-dataset", action="store_true", help="all records of the recipe's sources")
    parser.add_argument("--checkpoint-interval", type=positive, metavar="N", help="steps between checkpoints")
    parser.add_argument(
        "--load-checkpoint",
        nargs="?",
        const="latest",
        metavar="PATH",
        help="of train-validate: which (the newest)",
    )
    parser.add_argument("--force-preprocess", action="store_true", help="encode the data anew")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="WHAT",
        help="latest (also where nothing follows), or a checkpoint by its path or its name",
    )
    parser.add_argument("--skip-preflight", action="store_true", help="begin without the three runs of ten records")
    parser.add_argument("--no-param-update", action="store_true", help="do everything but move the weights")
    parser.add_argument(
        "--debug", action="store_true", help="name the operation behind a NaN; show where an error began"
    )
    parser.add_argument("--verbose", action="store_true", help="let the libraries say all they have to say")
    return parser


def positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is wanted, got {text!r}")
    return number


def mode_of(name: str) -> Mode:
    """Raises UserError with the list of modes for a name that is none."""
    if name not in MODES:
        near = get_close_matches(name, MODES, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"unknown mode {name!r}; {meant}the modes are: {', '.join(MODES)}")
    return MODES[name]


def fields_of(options: argparse.Namespace, mode: Mode) -> dict[str, str]:
    """The options of the guide as fields of TrainConfig, in the order of the help."""
    if options.full_dataset and options.samples and mode.samples == "train_rows":
        raise UserError(f"--full-dataset takes all records, --samples {options.samples} some: leave one of them out")
    if options.samples and options.epochs and mode.samples == "epochs":
        raise UserError(f"--samples {options.samples} and --epochs {options.epochs} both say how many: give one")
    if options.load_checkpoint and mode.trains:
        raise UserError("--load-checkpoint is of train-validate; a run goes on by --resume PATH, or --start_from PATH")
    fields: Mapping[str, object] = {
        mode.samples: options.samples,
        "epochs": options.epochs or (options.samples if mode.samples == "epochs" else None),
        "batch_size": options.batch_size,
        "save_steps": options.checkpoint_interval,
        "save_epochs": "null" if options.checkpoint_interval else None,
        "force_preprocess": options.force_preprocess or None,
        "resume": options.resume,
        "preflight": False if options.skip_preflight else None,
        "update_weights": False if options.no_param_update else None,
        "debug": options.debug or None,
        "verbose": options.verbose or None,
    }
    given = {name: str(value).lower() for name, value in fields.items() if isinstance(value, bool)}
    given |= {name: str(value) for name, value in fields.items() if value is not None and name not in given}
    return given | ({"train_rows": "null"} if options.full_dataset else {})


def own_folder(recipe: Path, given: Mapping[str, str], others: Sequence[str]) -> dict[str, str]:
    """The output_dir of a run that options made another one than its recipe's: its name says which, so that it neither
    goes on with the recipe's run nor is refused by it."""
    if any(part.split("=")[0] == "--output_dir" for part in others):
        return {}
    fields = {"update_weights": True} | yaml.safe_load(recipe.read_text(encoding="utf-8"))
    changed = {name: given[name] for name in ANOTHER_RUN if name in given}
    changed = {name: value for name, value in changed.items() if yaml.safe_load(value) != fields.get(name)}
    said = [f"{name}_{'all' if value == 'null' else value}" for name, value in changed.items()]
    return {"output_dir": "_".join([fields["output_dir"], *said])} if said else {}


def checkpoint_of(options: argparse.Namespace) -> str:
    """Which one train-validate judges: --resume is the guide's other word for --load-checkpoint."""
    if options.resume and options.load_checkpoint:
        raise UserError(
            f"--resume {options.resume} and --load-checkpoint {options.load_checkpoint} both say which checkpoint: "
            "give one"
        )
    return options.load_checkpoint or options.resume or "latest"


def refuse_idle(options: argparse.Namespace, used: Sequence[str] = ()) -> None:
    """Raises UserError for an option that a mode which trains nothing would leave lying."""
    for name, value in vars(options).items():
        if value and name not in ("mode", *used):
            option = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            also = " (or SAMPLES)" if name == "samples" else ""
            raise UserError(f"{options.mode} trains nothing and has no use for {option}{also}: leave it out")


def commands_of(arguments: Sequence[str]) -> list[list[str]]:
    """What a mode stands for: one command for each of its recipes."""
    options, others = build_parser().parse_known_args(arguments)
    mode = mode_of(options.mode)
    if options.mode == "validate":
        refuse_idle(options)
        return [[sys.executable, "-m", "training.validate", *others]]
    if options.mode == "train-validate":
        refuse_idle(options, used=("resume", "load_checkpoint"))
        return [[sys.executable, "-m", "training.judge_checkpoint", checkpoint_of(options), *others]]
    given, commands = fields_of(options, mode), []
    for recipe in (RECIPES / f"{name}.yaml" for name in mode.recipes):
        fields = own_folder(recipe, given, others) | given
        parts = [part for name, value in fields.items() for part in (f"--{name}", value)]
        commands.append(train_command([str(recipe), *parts, *others]))
    return commands


def make_tokenizer(folder: Path | str = TOKENIZER) -> list[str]:
    """The command for the tokenizer that the modes' recipes read with, learned from the shipped scenarios."""
    data = f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}"
    size = str(VOCABULARY)
    learn = [sys.executable, "-m", "training.train_tokenizer", "--data", data]
    return [*learn, "--vocab-size", size, "--output", str(folder)]


def main() -> None:
    """Each command in turn, in this process's place where it is the last: signals and exit codes are then its own."""
    commands = commands_of(sys.argv[1:])
    if mode_of(sys.argv[1]).trains and not (TOKENIZER / "tokenizer.json").is_file():
        commands.insert(0, make_tokenizer())
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    for command in commands[:-1]:
        if code := follow(command):
            sys.exit(code)
    become(commands[-1])


if __name__ == "__main__":
    run(main)
