"""Going on from a trained model: its weights, its tokenizer, and modules it did not have.

In    a saved redheart-tiny.
Out   the model a run would start with, compared with what was saved.
Run   `pytest tests/test_train_start.py`
"""

import pytest
import torch
from tiny_run import tiny_config
from transformers import BertConfig, BertModel

from preprocessing.errors import UserError
from redheart_hf import RedHeartForMultiTask, preset_config
from training.build import build_model, left_behind

WEIGHTS = {"basic_emotions": [0.5] * 7}


@pytest.fixture
def folder(tokenizer, tmp_path):
    torch.manual_seed(5)
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "modules": ["triangle"]}
    sizes |= {"label_weights": {"basic_emotions": [3.0] * 7}, "thresholds": {"basic_emotions": [0.25] * 7}}
    RedHeartForMultiTask(preset_config("redheart-tiny", **sizes)).save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_run_starts_with_the_saved_weights_and_may_change_what_they_allow(folder, tokenizer, tmp_path):
    config = tiny_config(tmp_path / "run", start_from=str(folder), model={"hidden_dropout": 0.25})
    found_tokenizer, model = build_model(config)
    saved = RedHeartForMultiTask.from_pretrained(folder)
    assert found_tokenizer.get_vocab() == tokenizer.get_vocab()
    assert model.config.hidden_dropout == 0.25
    for name, value in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_modules_are_added_to_a_trained_model_and_change_nothing_at_first(folder, tokenizer, tmp_path):
    modules = ["triangle", "emotion_analyzer"]
    _, model = build_model(tiny_config(tmp_path / "run", start_from=str(folder), model={"modules": modules}))
    saved = RedHeartForMultiTask.from_pretrained(folder).eval()
    inputs = tokenizer(["오늘은 조금 외로웠다.", "We made it!"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected, found = saved(**inputs), model.eval()(**inputs)
    assert model.emotion_analyzer is not None
    torch.testing.assert_close(found.emotion.basic_logits, expected.emotion.basic_logits)


def test_what_was_fitted_to_other_data_stays_behind(folder, tmp_path):
    """Weights of labels by the old data's counts would go on weighing, unseen, like its thresholds."""
    _, model = build_model(tiny_config(tmp_path / "run", start_from=str(folder)))
    assert (model.config.label_weights, model.config.thresholds) == (None, None)
    _, model = build_model(tiny_config(tmp_path / "run", start_from=str(folder), model={"label_weights": WEIGHTS}))
    assert model.config.label_weights == WEIGHTS


def test_what_the_weights_do_not_allow_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="could not be loaded as a Red Heart model"):
        build_model(tiny_config(tmp_path / "run", start_from=str(folder), model={"hidden_size": 64}))
    for name, value, told in (
        ("task_residual", True, "trained with task_residual False and would compute something else with True"),
        ("num_attention_heads", 2, "trained with num_attention_heads 4"),
        ("initialization", "he", "initialization says how fresh weights start, and here are none"),
    ):
        with pytest.raises(UserError, match=told):
            build_model(tiny_config(tmp_path / "run", start_from=str(folder), model={name: value}))
    with pytest.raises(UserError, match="no model folder at"):
        build_model(tiny_config(tmp_path / "run", start_from=str(folder / "nothing")))


def test_what_a_recipe_names_beside_start_from_is_said(folder, tmp_path):
    """A recipe's `modules: []` takes trained modules away: as asked, but not in silence."""
    given = {"text_encoder": "some/encoder", "preset": "redheart-330m", "model": {"modules": []}}
    config = tiny_config(tmp_path / "run", start_from=str(folder), **given)
    lines = left_behind(config, build_model(config)[1].config)
    assert len(lines) == 3
    assert lines[0].startswith("text_encoder some/encoder is not used")
    assert lines[1].startswith("preset redheart-330m is not used")
    assert lines[2].startswith("triangle, which the model of start_from has, is left out")
    plain = tiny_config(tmp_path / "run", start_from=str(folder))
    assert left_behind(plain, build_model(plain)[1].config) == []


def test_a_tokenizer_with_more_entries_than_the_encoder_has_is_refused(tokenizer_dir, tmp_path):
    BertModel(
        BertConfig(vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(tmp_path / "encoder")
    config = tiny_config(tmp_path / "run", text_encoder=str(tmp_path / "encoder"), tokenizer=str(tokenizer_dir))
    with pytest.raises(UserError, match=rf"tokenizer in {tokenizer_dir} has 1024 entries, .* its ids 200"):
        build_model(config)


def test_an_encoder_that_would_begin_after_the_end_is_refused(tmp_path):
    model = preset_config("redheart-tiny", text_encoder_config=BertConfig())
    config = tiny_config(tmp_path / "run", text_encoder_start=10)
    config.refuse_idle_settings(model)
    config.refuse_idle_encoder(total_steps=11)
    with pytest.raises(UserError, match="lies beyond the run's 10 steps"):
        config.refuse_idle_encoder(total_steps=10)
