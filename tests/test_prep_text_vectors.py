"""Vectors of an encoder's folder are those of Transformers, and a folder that cannot give them is refused.

In    a tiny encoder of random weights; the shipped scenarios.
Out   pass or fail.
Run   `pytest tests/test_prep_text_vectors.py`
"""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoder import plain_vectors, save_tiny_encoder

from preprocessing import text_vectors
from preprocessing.errors import DoesNotFit, UserError
from preprocessing.records import Record
from preprocessing.text_vectors import RECENT, encoder_folder, of_folder


@pytest.fixture(scope="module")
def saved(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny", tokenizer)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "copy")


def test_vectors_are_those_of_transformers_whatever_is_asked_with_them(saved: Path, scenarios: list[Record]) -> None:
    texts = [record.text for record in scenarios[:80]]
    expected = plain_vectors(saved, texts)
    embed = of_folder(str(saved))
    np.testing.assert_allclose(embed(texts), expected, atol=1e-5)
    np.testing.assert_allclose(of_folder(str(saved))(texts[::-1]), expected[::-1], atol=1e-5)
    many = [f"{text} {number}" for number in range(RECENT // 80 + 2) for text in texts]
    assert embed(many).shape == (len(many), 32)
    np.testing.assert_allclose(embed([texts[3], texts[3], texts[5]]), expected[[3, 3, 5]], atol=1e-5)


def test_texts_of_any_length_are_read_in_batches_of_so_many_tokens(saved: Path, scenarios: list[Record]) -> None:
    """The longest are cut as Transformers cuts them; none is left out or read twice."""
    long = " ".join(record.text for record in scenarios[:20])
    texts = [long[:end] for end in range(10, len(long), 97)]
    np.testing.assert_allclose(of_folder(str(saved))(texts), plain_vectors(saved, texts), atol=1e-5)


def test_a_prefix_goes_before_each_text(saved: Path) -> None:
    found = of_folder(str(saved), "query: ")(["I was glad.", "기뻤다."])
    np.testing.assert_allclose(found, plain_vectors(saved, ["query: I was glad.", "query: 기뻤다."]), atol=1e-5)


def test_the_hash_follows_all_that_decides_the_vectors_and_not_the_place(saved: Path, folder: Path) -> None:
    first = encoder_folder(str(saved)).hash
    assert encoder_folder(str(folder)).hash == first
    assert encoder_folder(str(folder), "query: ").hash != first
    (folder / "notes.md").write_text("of no matter")
    assert encoder_folder(str(folder)).hash == first
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 16}))
    changed = encoder_folder(str(folder)).hash
    assert changed != first
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"embeddings.LayerNorm.bias": torch.ones(32)}, folder / "model.safetensors", {"format": "pt"})
    assert encoder_folder(str(folder)).hash not in (first, changed)


def test_weights_are_in_memory_once_and_only_while_somebody_holds_them(saved: Path) -> None:
    one, other = encoder_folder(str(saved)), encoder_folder(str(saved))
    first = one.open()
    assert other.open() is first
    assert len(text_vectors._OPEN) == 1
    del first
    gc.collect()
    assert len(text_vectors._OPEN) == 0


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def lacking_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("encoder.layer.1.")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def with_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.Y"}}))


def cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "there is no folder"),
        (without("config.json"), r"is no model folder: .*config\.json"),
        (without("tokenizer_config.json"), r"has no tokenizer_config\.json"),
        (as_pickle, r"pytorch_model\.bin is a pickle"),
        (lacking_a_layer, r"16 of its weights are not in the folder, the first is encoder\.layer\.1"),
        (with_code, "auto_map"),
        (cut_short, "could not be loaded as a text encoder"),
    ],
    ids=["nothing", "config", "tokenizer", "pickle", "layer", "code", "cut"],
)
def test_a_folder_that_gives_no_vectors_is_refused_with_the_reason(
    folder: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=said):
        of_folder(str(folder))


def test_a_red_heart_model_is_no_encoder_of_a_job(tiny_model_dir: Path) -> None:
    with pytest.raises(UserError, match="holds a Red Heart model"):
        encoder_folder(str(tiny_model_dir))


def test_an_encoder_larger_than_the_memory_is_refused_before_it_is_read(folder: Path) -> None:
    # A sparse file takes no room on the disk; its hash is not asked for here, which would read two terabytes.
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1 << 41)
    with pytest.raises(DoesNotFit, match="GiB"):
        text_vectors.EncoderFolder(folder, "", "0", frozenset()).open()
