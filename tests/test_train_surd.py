"""What the SURD head learns from: human judgements met with the model's own predictions, over thousands of them.

In    gates with a known decomposition; the shipped scenarios and a tiny model that trains on them.
Out   targets compared with what the gate's decomposition must be; a resumed run compared byte by byte.
Run   `pytest tests/test_train_surd.py`
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import ROOT, build_loop, tiny_config

from preprocessing.errors import UserError
from preprocessing.folders import MANIFEST, seal
from preprocessing.readers import parse_source, read
from redheart_hf.labels import SURD_TERMS
from training import surd_targets
from training.checkpoint import checkpoint_at
from training.collator import MODEL_INPUTS
from training.run_state import load_run
from training.surd_score import looked_up, surd_errors
from training.surd_targets import LEAST, SurdTargets, agents_of, outcomes_of

NAN = float("nan")
SIZES = {"modules": ["surd_head"], "surd_trunk_sizes": [16], "surd_term_sizes": [16]}


def labels_with(outcomes: list[int]) -> dict[str, torch.Tensor]:
    """One verdict a row, by the virtue expert."""
    verdicts = torch.full((len(outcomes), 4), NAN)
    verdicts[:, 3] = torch.tensor(outcomes, dtype=torch.float32)
    return {"acceptability": verdicts, "preference": torch.empty(0, 2, dtype=torch.long)}


def test_the_outcome_is_the_verdict_or_the_side_of_a_pair():
    verdicts = torch.tensor([[NAN] * 4, [NAN, 1, NAN, NAN], [0, 1, 0, NAN], [NAN] * 4, [NAN] * 4, [1, 0, NAN, NAN]])
    labels = {"acceptability": verdicts, "preference": torch.tensor([[4, 3]])}
    assert outcomes_of(labels).tolist() == [-1, 1, 0, 0, 1, 1]


def test_targets_are_the_terms_of_what_was_seen():
    """The outcome is the XOR of a high valence and a high utility: all of it is synergy of the two."""
    generator = np.random.default_rng(0)
    valence, utility, regret = generator.permuted(np.tile(np.linspace(-1, 1, LEAST + 120), (3, 1)), axis=1)
    outcome = ((valence > 0) ^ (utility > 0)).astype(np.int64)
    targets = SurdTargets()
    agents = np.stack((valence, utility, regret), axis=1)
    targets.add(agents[: LEAST - 1], outcome[: LEAST - 1])
    targets.refresh()
    assert targets.targets(labels_with([0, 1])).isnan().all()
    targets.add(agents[LEAST - 1 :], outcome[LEAST - 1 :])
    targets.refresh()
    found = targets.targets(labels_with([0, 1]) | {"preference": torch.empty(0, 2, dtype=torch.long)})
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))
    synergy = found[:, SURD_TERMS.index("S12")]
    assert (synergy > 0.95).all()
    assert targets.found["synergy"] == pytest.approx(1, abs=0.05)
    assert targets.found["information_p"] < 0.05
    assert targets.found["information_by_chance"] < 0.05
    none = targets.targets(
        {"acceptability": torch.full((1, 4), NAN), "preference": torch.empty(0, 2, dtype=torch.long)}
    )
    assert none.isnan().all()


def test_what_a_state_is_known_to_tell_is_looked_up():
    """Counted out: the accepted share of the rows in the same quartiles, and of one row of the mean."""
    generator = np.random.default_rng(0)
    agents = generator.normal(size=(LEAST, 3))
    outcomes = (agents[:, 0] + generator.normal(size=LEAST) > 1).astype(np.int64)
    targets = SurdTargets()
    targets.add(agents, outcomes)
    targets.terms = np.eye(len(SURD_TERMS))[[0, 1]]  # the refused are all R12, the accepted all R13
    edges = np.quantile(targets.agents[:LEAST], [0.25, 0.5, 0.75], axis=0)
    asked = np.array([[-0.9, 0.1, 0.1], [1.2, -0.4, 0.9]])
    shares = []
    for row in asked:
        same = np.ones(LEAST, dtype=bool)
        for column in range(3):
            same &= (agents[:, column, None] > edges[:, column]).sum(axis=1) == (row[column] > edges[:, column]).sum()
        shares.append((outcomes[same].sum() + outcomes.mean()) / (same.sum() + 1))
    found = looked_up(targets, asked)
    np.testing.assert_allclose(found[:, 1], shares, rtol=1e-6)
    np.testing.assert_allclose(found[:, 0], 1 - np.array(shares), rtol=1e-6)
    assert shares[1] > shares[0] + 0.2


def test_the_heads_error_is_that_of_its_terms(tokenizer, scenarios, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(surd_targets, "LEAST", 12)
    monkeypatch.setattr(surd_targets, "REFRESH_STEPS", 2)
    config = tiny_config(tmp_path / "run", max_steps=6, batch_size=6, save_steps=6, learning_rate=1e-3)
    loop = build_loop(tokenizer, config, scenarios[:24], **SIZES)
    batch = loop.collator([loop.dataset[row] for row in range(8)])
    assert surd_errors(loop.surd_targets, loop.bare_model, [batch]) is None
    loop.train()
    found = surd_errors(loop.surd_targets, loop.bare_model, [batch])
    with torch.no_grad():
        output = loop.bare_model.eval()(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
    outcomes = outcomes_of(batch["labels"])
    errors = [
        float(((output.surd.terms[row] - torch.from_numpy(loop.surd_targets.terms[outcome])) ** 2).mean())
        for row, outcome in enumerate(outcomes.tolist())
        if outcome >= 0
    ]
    assert found["rows"] == len(errors) > 0
    assert found["head_rmse"] == pytest.approx(1000 * (sum(errors) / len(errors)) ** 0.5, rel=1e-5)
    expected = looked_up(loop.surd_targets, agents_of(output).numpy())[outcomes >= 0]
    errors = [
        float(np.mean((terms - loop.surd_targets.terms[outcome]) ** 2))
        for terms, outcome in zip(expected, outcomes[outcomes >= 0].tolist(), strict=True)
    ]
    assert found["looked_up_rmse"] == pytest.approx(1000 * np.mean(errors) ** 0.5, rel=1e-5)


def test_a_checkpoint_from_before_is_named_as_one(tokenizer, scenarios, tmp_path: Path):
    config = tiny_config(tmp_path / "run", max_steps=2, batch_size=6, save_steps=2)
    loop = build_loop(tokenizer, config, scenarios[:24], **SIZES)
    loop.train()
    folder = checkpoint_at(tmp_path / "run", 2)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"surd": None}))
    (folder / MANIFEST).unlink()
    seal(folder, {"step": 2})
    with pytest.raises(UserError, match=r"step_00000002 was written before .*--start_from"):
        load_run(loop, folder)


def test_the_oldest_predictions_are_forgotten():
    targets = SurdTargets()
    targets.add(np.zeros((surd_targets.CAPACITY, 3)), np.zeros(surd_targets.CAPACITY, dtype=np.int64))
    targets.add(np.ones((5, 3)), np.array([1, -1, 1, 1, -1]))
    assert targets.outcomes[:4].tolist() == [1, 1, 1, 0]
    assert targets.seen == surd_targets.CAPACITY + 3


def test_a_resumed_run_learns_the_same_terms(tokenizer, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(surd_targets, "LEAST", 12)
    monkeypatch.setattr(surd_targets, "REFRESH_STEPS", 2)
    records = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}")).records[:24]
    for name in ("whole", "parts"):
        config = tiny_config(tmp_path / name, max_steps=6, batch_size=6, save_steps=4, learning_rate=1e-3)
        loop = build_loop(tokenizer, config, records, **SIZES)
        if name == "parts":
            shutil.copytree(tmp_path / "whole", tmp_path / "parts")
            shutil.rmtree(checkpoint_at(tmp_path / "parts", 6))
            load_run(loop, checkpoint_at(tmp_path / "parts", 4))
        loop.train()
    whole, parts = (checkpoint_at(tmp_path / name, 6) for name in ("whole", "parts"))
    for file in ("model.safetensors", "surd_predictions.safetensors", "../../metrics.jsonl"):
        assert (whole / file).read_bytes() == (parts / file).read_bytes(), file
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    # Six verdicts a step: at step 2 there are 12, so that step 3 is the first with targets.
    assert [("surd" in line["loss"]) for line in logged] == [False, False, True, True, True, True]
    assert logged[0]["surd"] is None
    assert {"synergy", "synergy_by_chance", "leak"} <= set(logged[-1]["surd"])
