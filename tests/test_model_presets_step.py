"""Every preset up to 800M parameters is built and takes a training step on this machine.

In    a tokenizer and two of the shipped scenarios; each preset in a process of its own, which gives its memory back.
Out   failures where a preset cannot be trained: too large for 16 GiB, a loss that is not a number, blocks that stay.
Run   pytest -m slow tests/test_model_presets_step.py
      python tests/test_model_presets_step.py TOKENIZER OUTPUT PRESET       one preset; prints what its step did
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import ROOT, tiny_config

from preprocessing.encode import encode
from preprocessing.errors import run
from preprocessing.readers import parse_source, read
from redheart_hf.presets import PRESETS
from training.build import build_accelerator, build_model
from training.collator import Collator
from training.loop import TrainLoop

UP_TO_800M = [name for name in PRESETS if not name.endswith("b")]
# A weight, its gradient and two moments are 16 bytes: 12 GiB for the largest, and half a GiB for all else.
MEMORY_GIB = 16


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("preset", UP_TO_800M)
def test_a_preset_takes_a_training_step(preset: str, tokenizer_dir: Path, tmp_path: Path):
    command = [sys.executable, __file__, str(tokenizer_dir), str(tmp_path / "run"), preset]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    step = json.loads(ended.stdout.splitlines()[-1])
    assert 0 < step["loss"] < 100
    assert step["still_blocks"] == []
    assert step["peak_gib"] < MEMORY_GIB


def main() -> None:
    tokenizer_dir, output_dir, preset = sys.argv[1:]
    config = tiny_config(
        output_dir,
        preset=preset,
        tokenizer=tokenizer_dir,
        batch_size=2,
        max_steps=1,
        warmup_steps=0,
        learning_rate=1e-4,
    )
    tokenizer, model = build_model(config)
    records = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}")).records[:2]
    dataset = encode(records, tokenizer, model.config.max_length, cache_dir=Path(output_dir).parent / "encoded")
    loop = TrainLoop(build_accelerator(config), model, dataset, Collator(tokenizer), config)

    def sizes() -> dict[str, float]:
        return {name: float(weight.detach().double().norm()) for name, weight in model.model.blocks.named_parameters()}

    before = sizes()
    losses, _ = loop.take_step(next(loop.groups()))
    after = sizes()
    print(
        json.dumps(
            {
                "loss": losses["total"],
                "still_blocks": [name for name in before if before[name] == after[name]],
                "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            }
        )
    )


if __name__ == "__main__":
    run(main)
