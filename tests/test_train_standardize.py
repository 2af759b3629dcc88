"""The states of a text encoder, measured before a run's first step.

In    a small BERT saved with weights that share one long vector, scenarios of the repository, a tiny run.
Out   what the stack above is given, against mean and spread computed by NumPy from the encoder alone.
Run   `pytest tests/test_train_standardize.py`
"""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import ROOT, SIZES, tiny_config
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from preprocessing.errors import UserError
from redheart_hf import RedHeartForMultiTask
from training.build import checked_config
from training.checkpoint import checkpoint_at
from training.train import train

ROWS = 24


@pytest.fixture
def encoder_dir(tokenizer, tmp_path: Path) -> Path:
    """A BERT whose states all lie on one side, far from zero, as those of multilingual E5 do."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    encoder = BertModel(BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes))
    encoder.encoder.layer[-1].output.LayerNorm.bias.data.fill_(3.0)
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    with (ROOT / "data" / "scenarios" / "train.jsonl").open(encoding="utf-8") as lines:
        (tmp_path / "rows.jsonl").write_text("".join(islice(lines, ROWS)), encoding="utf-8")
    return tmp_path / "rows.jsonl"


@pytest.fixture
def run_in(encoder_dir: Path, rows: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def run(output_dir: Path, start_from: Path | None = None, **model) -> RedHeartForMultiTask:
        source = {"start_from": str(start_from)} if start_from else {"text_encoder": str(encoder_dir)}
        config = tiny_config(output_dir, max_steps=4, **source)
        config.train, config.model = [f"scenarios={rows}"], SIZES | {"text_encoder_standardize": True} | model
        train(config)
        return RedHeartForMultiTask.from_pretrained(output_dir / "final").eval()

    return run


def test_what_all_texts_share_is_taken_off(run_in, encoder_dir: Path, rows: Path, tmp_path: Path):
    """Against NumPy over every token: the run has fewer than the 512 rows that are measured."""
    embeddings = run_in(tmp_path / "run", text_encoder_mode="frozen").model.embeddings
    encoder, tokenizer = AutoModel.from_pretrained(encoder_dir).eval(), AutoTokenizer.from_pretrained(encoder_dir)
    states = []
    for row in map(json.loads, rows.read_text(encoding="utf-8").splitlines()):
        for second in (None, *(action["text"] for action in row["actions"])):
            cut = {"truncation": True, "max_length": SIZES["max_length"]}
            inputs = tokenizer(row["text"], second, return_tensors="pt", **cut)
            with torch.no_grad():
                states.append(encoder(**inputs).last_hidden_state[0].double().numpy())
    every = np.concatenate(states)
    mean, spread = every.mean(axis=0), np.sqrt(every.var(axis=0).mean())
    np.testing.assert_allclose(embeddings.standardization.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(embeddings.standardization.spread, spread, rtol=1e-4)
    with torch.no_grad():
        given = embeddings(**inputs)[0]
    np.testing.assert_allclose(given, (states[-1] - mean) / spread, atol=1e-4)
    assert np.abs(mean).mean() > 2  # so that there was something to take off


def test_a_resumed_run_keeps_what_was_measured_at_its_start(run_in, tmp_path: Path):
    whole = run_in(tmp_path / "run").state_dict()
    shutil.rmtree(tmp_path / "run" / "final")
    shutil.rmtree(checkpoint_at(tmp_path / "run", 4))
    resumed = run_in(tmp_path / "run").state_dict()
    assert {name for name, value in resumed.items() if not torch.equal(value, whole[name])} == set()


def test_a_run_that_goes_on_from_another_keeps_its_numbers(run_in, tmp_path: Path, capsys):
    """Measured again, on standardised states of an encoder that has learned since, they would be others."""
    earlier = run_in(tmp_path / "earlier", modules=["triangle"]).model.embeddings.standardization
    final = tmp_path / "earlier" / "final"
    later = run_in(tmp_path / "later", start_from=final, modules=[]).model.embeddings.standardization
    assert "triangle, which the model of start_from has, is left out by model.modules" in capsys.readouterr().out
    assert torch.equal(later.mean, earlier.mean)
    assert torch.equal(later.spread, earlier.spread)
    assert earlier.fitted


def test_a_run_from_a_model_without_it_is_told_so(run_in, tmp_path: Path):
    run_in(tmp_path / "earlier", text_encoder_standardize=False)
    with pytest.raises(UserError, match="was trained without text_encoder_standardize; leave it false"):
        run_in(tmp_path / "later", start_from=tmp_path / "earlier" / "final")


def test_states_that_do_not_differ_are_refused(run_in, encoder_dir: Path, tmp_path: Path):
    encoder = BertModel.from_pretrained(encoder_dir)
    encoder.encoder.layer[-1].output.LayerNorm.weight.data.zero_()
    encoder.save_pretrained(encoder_dir)
    with pytest.raises(UserError, match="states have a spread of 0.0; is its folder whole"):
        run_in(tmp_path / "run")


def test_it_is_refused_where_no_encoder_reads(tmp_path: Path):
    with pytest.raises(UserError, match="text_encoder_standardize is true, but there is no text_encoder_config"):
        checked_config("redheart-tiny", {"text_encoder_standardize": True})
