"""Fifty steps of a fixed run, and the losses they had when somebody last looked; CHANGELOG says why they change.

In    the shipped scenarios, a tokenizer trained on them, seed 0, one thread, float32, dropout on; tests/golden.
Out   every loss, bit for bit where versions and processor are those of the record, within 1e-4 elsewhere.
Run   `pytest tests/test_train_golden.py`; to record anew, and say why in CHANGELOG:
      OMP_NUM_THREADS=1 PYTHONPATH=. python tests/test_train_golden.py
"""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from tiny_run import ROOT, build_loop, tiny_config

from preprocessing.readers import parse_source, read
from training.run_facts import numerics
from training.train_tokenizer import texts_of, train_tokenizer

GOLDEN = ROOT / "tests" / "golden" / "losses.json"
STEPS = 50


def losses_of_run(folder: Path) -> list[dict[str, float]]:
    """One dictionary a step: each term's loss and the total."""
    records = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}")).records
    tokenizer = train_tokenizer(texts_of(records), vocab_size=1024, max_length=512)
    config = tiny_config(
        folder / "run",
        max_steps=STEPS,
        save_steps=STEPS,
        eval_steps=STEPS,
        warmup_steps=5,
        batch_size=8,
        learning_rate=2e-3,
    )
    # Every eighth scenario: Korean and English, and all fields of life.
    build_loop(tokenizer, config, records[::8]).train()
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_losses_are_those_of_the_record(tmp_path: Path):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    losses = losses_of_run(tmp_path)
    assert len(losses) == len(golden["losses"]) == STEPS
    start, end = ([loss["circumstances"] for loss in part] for part in (losses[:10], losses[-10:]))
    assert sum(end) < 0.85 * sum(start), "the recorded run learned"
    same_machine = golden["numerics"] == numerics(torch.device("cpu"))
    for step, (found, expected) in enumerate(zip(losses, golden["losses"], strict=True), start=1):
        if same_machine:
            assert found == expected, f"step {step}"
        else:
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-6), f"step {step}"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        losses = losses_of_run(Path(folder))
    lines = ",\n".join("    " + json.dumps(loss) for loss in losses)
    facts = json.dumps(numerics(torch.device("cpu")))
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(f'{{\n  "numerics": {facts},\n  "losses": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
