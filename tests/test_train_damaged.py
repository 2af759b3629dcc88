"""Folders that were damaged: each is one clear error that names the file, or is mended where nothing can be lost.

In    model folders, checkpoints and logs with something cut off, replaced or taken away.
Out   UserErrors with the name; files that are as they were.
Run   pytest tests/test_train_damaged.py
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import tiny_config
from transformers import BertConfig, BertModel

from preprocessing.errors import UserError
from preprocessing.folders import MANIFEST, verify, write_folder
from redheart_hf import RedHeartForMultiTask, preset_config
from training.build import build_model
from training.loading import load_model, load_tokenizer
from training.report import store_in_config
from training.run_log import RunLog, drop_torn_line, seconds_logged
from training.run_state import read_state


@pytest.fixture(scope="module")
def tiny_bert_dir(tokenizer, tmp_path_factory) -> Path:
    """A text encoder as Transformers saves one."""
    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def final(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model folder with its manifest, as training leaves it."""
    folder = tmp_path / "final"
    write_folder(folder, lambda staging: shutil.copytree(tiny_model_dir, staging, dirs_exist_ok=True) and None)
    return folder


def change_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def test_weights_that_are_not_those_that_were_saved_do_not_answer(final: Path):
    load_model(final)
    weights = final / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-400] + b"\xff" * 400)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_model(final)


def test_a_config_may_be_edited_by_hand(final: Path):
    change_json(final / "config.json", memory_sharpness=20.0)
    assert load_model(final)[0].config.memory_sharpness == 20.0


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("[1]", "TypeError"),
        ('{"facts": {}, "files": {}}', "it lists no files"),
        ('{"files": {"config.json": {"bytes": 1, "sha256": "0"}}}', "facts"),
        ('{"facts": {}, "files": {"config.json": null}}', "of 'config.json' it says None"),
        ('{"facts": {}, "files": {"../secret": {"bytes": 1, "sha256": "0"}}}', "'../secret', outside the folder"),
        ('{"facts": {}, "files": {"/etc/passwd": {"bytes": 1, "sha256": "0"}}}', "'/etc/passwd', outside the folder"),
        ('{"facts": {}, "fil', "JSONDecodeError"),
    ],
)
def test_a_manifest_that_no_save_could_have_written_is_named(manifest: str, reason: str, final: Path):
    (final / MANIFEST).write_text(manifest)
    with pytest.raises(UserError, match=rf"{final / MANIFEST} is damaged: .*{reason}"):
        verify(final)
    before = (final / "config.json").read_bytes()
    with pytest.raises(UserError, match="is damaged"):
        store_in_config(final, lambda config: {"memory_sharpness": 1.0})
    assert (final / "config.json").read_bytes() == before


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "tokenizer cut short": lambda folder: truncate(folder / "tokenizer.json"),
    "tokenizer missing": lambda folder: (folder / "tokenizer.json").unlink(),
    "config an empty list": lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
    "no padding token": lambda folder: change_json(folder / "tokenizer_config.json", pad_token=None),
    "a length in words": lambda folder: change_json(folder / "tokenizer_config.json", model_max_length="abc"),
    "code of its own": lambda folder: change_json(
        folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": [None, "evil.Evil"]}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_tokenizer_is_named_where_it_is_loaded(damage, tiny_model_dir: Path, tmp_path: Path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model_dir, folder)
    damage(folder)
    for load in (load_tokenizer, load_model, lambda path: build_model(tiny_config(tmp_path, tokenizer=str(path)))):
        with pytest.raises(UserError, match=rf"{folder} could not be loaded as a tokenizer"):
            load(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: truncate(folder / "model.safetensors"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: change_json(folder / "config.json", model_type="nothing-known"),
    ],
)
def test_a_damaged_text_encoder_is_named(damage, tiny_bert_dir: Path, tokenizer_dir: Path, tmp_path: Path):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_bert_dir, folder)
    config = tiny_config(tmp_path / "run", text_encoder=str(folder), tokenizer=str(tokenizer_dir))
    build_model(config)
    damage(folder)
    with pytest.raises(UserError, match=rf"{folder} could not be loaded as a text encoder"):
        build_model(config)


def test_another_models_tokenizer_is_refused(tokenizer, tmp_path: Path):
    RedHeartForMultiTask(preset_config("redheart-tiny", vocab_size=300)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"tokenizer in {tmp_path} has 1024 entries, .* its ids 300"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"train_config": 3}'])
def test_a_damaged_state_is_named(text: str, tmp_path: Path):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(UserError, match=rf"{tmp_path / 'state.json'} is damaged.*remove {tmp_path} to go on"):
        read_state(tmp_path, tiny_config(tmp_path), 1)


def test_half_a_line_of_timings_is_no_hindrance(tmp_path: Path):
    """A kill or a full disk may end the file anywhere; the next run must neither stop at it nor write behind it."""
    timings = tmp_path / "timings.jsonl"
    timings.write_text('{"step": 10, "seconds": 2.5}\n{"step": 20, "sec')
    assert seconds_logged(tmp_path) == 2.5
    log = RunLog(tmp_path, 10, 20, 0, active=True)
    log.write(20, {"loss": 1.0})
    log.write_timings(20, {"seconds": 3.0})
    log.close()
    assert seconds_logged(tmp_path) == 5.5
    assert [json.loads(line)["step"] for line in timings.read_text().splitlines()] == [10, 20]


def test_half_a_line_is_cut_off_after_however_many_lines(tmp_path: Path):
    """What is looked at is the end; the lines before it need not even be JSON."""
    timings = tmp_path / "timings.jsonl"
    long = "x" * 200_000
    timings.write_text(f'{long}\n{{"step": 1}}\n{long}')
    drop_torn_line(timings)
    assert timings.read_text() == f'{long}\n{{"step": 1}}\n'
    timings.write_text(long)
    drop_torn_line(timings)
    assert timings.read_text() == ""
