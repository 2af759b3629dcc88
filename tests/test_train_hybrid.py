"""The hybrid trainer by the guide's names: the same run as a recipe's, and what comes back.

In    HybridConfig with the guide's values; one run of redheart-tiny on the shipped scenarios.
Out   failures where a field would be lost on the way, or (report, checkpoint) is not of that run.
Run   pytest tests/test_train_hybrid.py
"""

import json
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from tiny_run import ROOT

from preprocessing.errors import UserError
from preprocessing.folders import verify
from redheart_hf.presets import describe
from training.hybrid_distributed_trainer import HybridConfig, HybridDistributedTrainer, preset_of, train_config
from training.modes import TOKENIZER
from training.run_lock import held_run


def test_the_guides_values_arrive_in_the_run():
    found = train_config(HybridConfig(gpu_layers_ratio=0.0, cpu_memory_gb=None))
    assert found.preset == "redheart-200m"
    assert Path(found.tokenizer) == ROOT / TOKENIZER  # wherever it is started
    assert (found.num_regrets, found.num_bentham, found.num_workers) == (7, 3, 4)
    assert (found.epochs, found.batch_size, found.gradient_accumulation_steps) == (3, 2, 4)
    assert (found.log_steps, found.save_steps, found.max_grad_norm) == (5, 20, 1.0)
    assert (found.learning_rate, found.gpu_layers_ratio) == (1e-4, None)


def test_sizes_and_the_gpu_go_by_their_own_names():
    sizes = {"hidden_dim": 512, "num_layers": 2, "num_heads": 8, "intermediate_size": 1024, "sequence_length": 64}
    found = train_config(HybridConfig(gpu_memory_gb=8.0, cpu_memory_gb=None, use_mixed_precision=False, **sizes))
    assert found.model == {
        "hidden_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "intermediate_size": 1024,
        "max_length": 64,
    }
    assert (found.gpu_layers_ratio, found.mixed_precision) == (0.6, "no")
    assert found.vram_gib == pytest.approx(8e9 / 2**30)


def test_the_preset_is_the_one_whose_weights_are_near():
    assert describe(preset_of(200_000_000))["total"] == pytest.approx(200e6, rel=0.05)
    with pytest.raises(UserError, match=r"target_params is 123,456, .* the nearest is redheart-"):
        preset_of(123_456)


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(UserError, match="batch_size 9 is no multiple of micro_batch_size 2: change one"):
        train_config(HybridConfig(batch_size=9))


def test_it_trains_and_gives_back_its_report_and_its_checkpoint(tokenizer_dir: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    splits = {name: [f"scenarios={ROOT / 'data' / 'scenarios' / name}.jsonl"] for name in ("train", "dev")}
    more = {"preset": "redheart-tiny", "tokenizer": str(tokenizer_dir), "train_rows": 24, "trackers": []}
    config = HybridConfig(
        gpu_layers_ratio=0.0, epochs=1, save_checkpoint_every=2, num_workers=1, batch_size=8, **splits, more=more
    )
    config.output_dir = str(tmp_path / "run")
    with held_run(tmp_path / "run"), pytest.raises(UserError, match="is in use by process"):
        HybridDistributedTrainer(config).train()
    report, checkpoint = HybridDistributedTrainer(config).train()
    AcceleratorState._reset_state(reset_partial_state=True)
    assert verify(checkpoint)["step"] == 3
    assert checkpoint.is_relative_to(tmp_path / "run")
    assert report["metrics"] == json.loads((tmp_path / "run" / "final" / "metrics.json").read_text())
    assert report["memory"]["measured"]["peak"] > 0
    verify(Path(report["final"]))
    assert "going on" not in (tmp_path / "run" / "logs" / "training.log").read_text(encoding="utf-8")
    assert (tmp_path / "run" / "memory.png").is_file()
