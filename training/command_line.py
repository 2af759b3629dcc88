"""From the command line to a TrainConfig.

In    `[recipe.yaml] [--field value ...]`; later ones win; unknown fields and wrong types end with exit code 2.
Out   a TrainConfig.
Run   `python training/train.py --help`
"""

from jsonargparse import ArgumentParser

from preprocessing.command_line import parser_of, values_of
from training.config import TrainConfig


def build_parser() -> ArgumentParser:
    return parser_of(
        TrainConfig,
        prog="training/train.py",
        description="Train a Red Heart model: accelerate launch training/train.py [recipe.yaml] [--field value ...]",
        epilog="Exit codes: 0 done, 1 a fault of the program or a run stopped by NaN, 2 something you can mend, "
        "3 more memory than there is.",
    )


def parse_config(arguments: list[str]) -> TrainConfig:
    """The config from command-line arguments, the first of which may be a recipe's path."""
    return TrainConfig(**values_of(TrainConfig, build_parser(), arguments, "training/train.py"))
