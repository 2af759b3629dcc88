"""From a recipe and the command line to the dataclass of settings that a command has.

In    a dataclass of settings; `[recipe.yaml] [--field value ...]`.
Out   its values; later ones win; unknown fields and wrong types end with exit code 2.
Run   through training/command_line.py and preprocessing/settings.py
"""

import dataclasses
import difflib
import json
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from preprocessing.errors import UserError


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error: the second would silently win."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def parser_of(kind: type[Any], **texts: Any) -> ArgumentParser:
    """A parser whose options are the fields of `kind`, explained by their docstrings; `texts` are ArgumentParser's."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(**texts)
    parser.add_argument("--recipe", action="config", help="YAML file with any of the fields below")
    parser.add_class_arguments(kind)
    return parser


def values_of(kind: type[Any], parser: ArgumentParser, arguments: list[str], command: str) -> dict[str, Any]:
    """Values of the fields from arguments, the first of which may be a recipe's path; UserError for a bad recipe."""
    if arguments and not arguments[0].startswith("-"):
        if not Path(arguments[0]).is_file():
            raise UserError(f"no recipe at {arguments[0]!r} (looked from {Path.cwd()}); check the path")
        arguments = ["--recipe", *arguments]
    for recipe in recipes_in(arguments):
        check_recipe(Path(recipe), kind, command)
    values: dict[str, Any] = parser.parse_args(arguments).as_dict()
    values.pop("recipe", None)
    return values


def recipes_in(arguments: list[str]) -> list[str]:
    """What --recipe names, each time."""
    after = [value for name, value in zip(arguments, arguments[1:], strict=False) if name == "--recipe"]
    joined = [name.partition("=")[2] for name in arguments if name.startswith("--recipe=")]
    return [path for path in after + joined if Path(path).is_file()]


def check_recipe(path: Path, kind: type[Any], command: str) -> None:
    """Raises UserError when a recipe is not UTF-8, not YAML, or has a field that `kind` has not."""
    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
        json.dumps(fields, default=str)
    except UnicodeDecodeError as error:
        raise UserError(f"the recipe {path} is not UTF-8: {error}; save it as UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, a value that holds itself
        raise UserError(f"the recipe {path} is not YAML that can be used: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"the recipe {path} holds no fields; docs/data.md and training/recipes/ show how one looks")
    known = [field.name for field in dataclasses.fields(kind)]
    optional = {field.name for field in dataclasses.fields(kind) if "None" in str(field.type)}
    for name, value in fields.items():
        if name in known and value is None and name not in optional:
            raise UserError(f"the recipe {path} gives {name} no value; give it one, or remove the line")
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            meant = f"did you mean {near[0]}?" if near else f"{command} --help lists the fields"
            raise UserError(f"the recipe {path} has an unknown field {name!r}; {meant}")
