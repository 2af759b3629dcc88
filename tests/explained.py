"""A run of a few steps whose model there is something to explain of, and texts to explain.

In    an output folder, a tokenizer, the shipped scenarios.
Out   the folder with metrics.jsonl and final/; the model has a SURD head that was taught.
Run   through tests/test_train_explain.py and tests/test_train_explain_page.py.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_run import build_loop, tiny_config
from transformers import PreTrainedTokenizerBase

from preprocessing.records import Record
from training import surd_targets
from training.data import labels_of

KOREAN = "면접에서 또 떨어졌다.\n엄마한테 말하지 못했다ㅠㅠ"
MIXED = "뷁 쀍! I didn't tell <script>alert('나')</script> & left."
ACTIONS = ["Call her tonight", "다음 주에 말한다", "Say nothing at all"]
# Weights ten times the usual: after a few steps a smaller model answers every text alike.
SIZES = {"modules": ["surd_head"], "surd_trunk_sizes": [16], "surd_term_sizes": [16], "initializer_range": 0.2}


def explained_run(folder: Path, tokenizer: PreTrainedTokenizerBase, scenarios: Sequence[Record]) -> Path:
    """Eight steps on scenarios in both languages."""
    records = scenarios[:: len(scenarios) // 24][:24]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surd_targets, "LEAST", 12)
        patch.setattr(surd_targets, "REFRESH_STEPS", 2)
        config = tiny_config(folder, max_steps=8, batch_size=6, save_steps=8, learning_rate=1e-3)
        loop = build_loop(tokenizer, config, records, **SIZES)
        loop.train()
    model = loop.bare_model
    model.config.trained_labels, model.config.surd_found = labels_of(records), loop.surd_targets.taught
    model.save_pretrained(folder / "final")
    tokenizer.save_pretrained(folder / "final")
    return folder
