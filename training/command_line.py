"""From the command line to a TrainConfig.

In    `[recipe.yaml] [--field value ...]`; later ones win; unknown fields and wrong types end with exit code 2.
Out   a TrainConfig.
Run   `python training/train.py --help`
"""

import dataclasses
import difflib
import json
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from preprocessing.errors import UserError
from training.config import TrainConfig

OPTIONAL = {field.name for field in dataclasses.fields(TrainConfig) if "None" in str(field.type)}


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error: the second would silently win."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def build_parser() -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="training/train.py",
        description="Train a Red Heart model: accelerate launch training/train.py [recipe.yaml] [--field value ...]",
        epilog="Exit codes: 0 done, 1 a fault of the program or a run stopped by NaN, 2 something you can mend, "
        "3 more memory than there is.",
    )
    parser.add_argument("--recipe", action="config", help="YAML file with any of the fields below")
    parser.add_class_arguments(TrainConfig)
    return parser


def parse_config(arguments: list[str]) -> TrainConfig:
    """The config from command-line arguments, the first of which may be a recipe's path."""
    if arguments and not arguments[0].startswith("-"):
        if not Path(arguments[0]).is_file():
            raise UserError(f"no recipe at {arguments[0]!r} (looked from {Path.cwd()}); check the path")
        arguments = ["--recipe", *arguments]
    for recipe in recipes_in(arguments):
        check_recipe(Path(recipe))
    values = build_parser().parse_args(arguments).as_dict()
    values.pop("recipe", None)
    return TrainConfig(**values)


def recipes_in(arguments: list[str]) -> list[str]:
    """What --recipe names, each time."""
    after = [value for name, value in zip(arguments, arguments[1:], strict=False) if name == "--recipe"]
    joined = [name.partition("=")[2] for name in arguments if name.startswith("--recipe=")]
    return [path for path in after + joined if Path(path).is_file()]


def check_recipe(path: Path) -> None:
    """Raises UserError when a recipe is not UTF-8, not YAML, or has a field that TrainConfig has not."""
    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
        json.dumps(fields, default=str)
    except UnicodeDecodeError as error:
        raise UserError(f"the recipe {path} is not UTF-8: {error}; save it as UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, a value that holds itself
        raise UserError(f"the recipe {path} is not YAML that can be used: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"the recipe {path} holds no fields; docs/data.md and training/recipes/ show how one looks")
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    for name, value in fields.items():
        if name in known and value is None and name not in OPTIONAL:
            raise UserError(f"the recipe {path} gives {name} no value; give it one, or remove the line")
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            meant = f"did you mean {near[0]}?" if near else "training/train.py --help lists the fields"
            raise UserError(f"the recipe {path} has an unknown field {name!r}; {meant}")
