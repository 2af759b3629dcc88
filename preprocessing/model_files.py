"""Folders of pretrained models: where they lie, which files decide what they compute, and what they lack.

In    a name as a user gives it: a folder, or package:NAME/FOLDER inside an installed Python package.
Out   paths, a hash of files; or a UserError that says what is wrong with the folder.
Run   through preprocessing/llm.py, preprocessing/text_vectors.py and training/loading.py
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from preprocessing.errors import UserError
from preprocessing.sources import expand

LOADING_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)

_BESIDE = {".json", ".txt", ".model", ".jinja"}
"""Of tokenizer.json, vocab.json, merges.txt, tokenizer.model, chat_template.jinja and their like."""


def place_of(name: str, what: str) -> Path:
    """Where `name` leads, whether or not anything is there; raises UserError for a package that is not installed."""
    location = expand(name)
    if not location.startswith("package:"):
        return Path(location)
    package, _, inside = location.removeprefix("package:").partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{what} {name!r}: no Python package {package!r} is installed; pip install it first")
    return Path(spec.submodule_search_locations[0]) / inside


def kind_of(folder: Path) -> Any:
    """What config.json says its model is; raises UserError where it says nothing."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} is no model folder: {error}") from None


def weights_in(folder: Path) -> list[Path]:
    """Those that Transformers reads: a folder of shards may hold the same weights in another layout beside them."""
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        return _weights_of(index)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(file.name for file in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
        also = [f"; {name} is a pickle, which can run code when read: save it as safetensors" for name in pickles]
        raise UserError(f"{folder} holds no *.safetensors{''.join(also[:1])}")
    return weights


def _weights_of(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        weights = [index.parent / name for name in names]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{index} does not say which files hold the weights: {error!r}; fetch it again") from None
    if missing := [file.name for file in weights if not file.is_file()]:
        raise UserError(f"{index.parent} lacks {missing[0]}, which {index.name} names; fetch it again")
    if not weights:
        raise UserError(f"{index} names no file of weights; fetch it again")
    return weights


def files_beside(folder: Path) -> list[Path]:
    """What else decides what a model computes, its tokenizer with it, in whichever form this is kept."""
    return sorted(file for file in folder.iterdir() if file.suffix in _BESIDE and file.is_file())


def refuse_remote_code(folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        file = folder / name
        if not file.is_file():
            raise UserError(
                f"{folder} has no {name}: it is no model folder with a tokenizer, as save_pretrained writes"
            )
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file} is not JSON: {error}") from None
        if "auto_map" in values:
            raise UserError(f"{file} asks for code of its own to be run (auto_map); it is not run here: another model")


def hash_of(files: Iterable[Path], settings: str = "") -> str:
    """Twelve hexadecimal digits: other content or other names, or settings, another hash."""
    digest = hashlib.sha256(settings.encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(os.fsencode(file.name) + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


@contextmanager
def what_loading_raises(folder: Path | str, what: str) -> Iterator[None]:
    """What a damaged file makes Transformers raise becomes a UserError that names the folder."""
    try:
        yield
    except LOADING_ERRORS as error:
        raise UserError(f"{folder} could not be loaded as {what}: {type(error).__name__}: {error}") from error
