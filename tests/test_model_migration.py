"""A folder of an older version loads as what it has become; one of a newer version is refused by its number.

In    the tiny model's folder, changed to what earlier versions wrote.
Out   nothing.
Run   `pytest tests/test_model_migration.py`
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from preprocessing.errors import UserError
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from training.loading import load_model

SCALE = "ethics_head.log_preference_scale"


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    return tmp_path / "model"


def with_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= changes
    left = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(left), encoding="utf-8")


def test_version_0_had_no_number_and_a_scale_without_a_dimension(folder: Path, tiny_model_dir: Path):
    weights = load_file(folder / "model.safetensors")
    assert weights[SCALE].shape == (1,)
    save_file(weights | {SCALE: weights[SCALE][0].clone()}, folder / "model.safetensors", {"format": "pt"})
    with_config(folder, config_version=None, custom_pipelines=None)
    old, _ = load_model(folder)
    new, _ = load_model(tiny_model_dir)
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())
    old.save_pretrained(folder / "again")
    saved = load_file(folder / "again" / "model.safetensors")
    assert saved[SCALE].shape == (1,)
    assert set(saved) == set(weights)
    assert json.loads((folder / "again" / "config.json").read_text(encoding="utf-8"))["config_version"] == 1


def test_a_newer_version_is_refused_with_both_numbers(folder: Path):
    with_config(folder, config_version=7, a_field_of_the_future=3)
    for load in (AutoConfig.from_pretrained, RedHeartConfig.from_pretrained, RedHeartForMultiTask.from_pretrained):
        with pytest.raises(ValueError, match=r"of version 7, .* reads versions up to 1: install a newer"):
            load(folder)
    with pytest.raises(UserError, match="of version 7"):
        load_model(folder)
