"""Fifty steps of a fixed run, and the losses they had when somebody last looked; CHANGELOG says why they change.

In    the shipped scenarios, a tokenizer trained on them, seed 0, one thread, float32, dropout on; tests/golden.
Out   every loss: within 1e-4 everywhere, and bit for bit on each machine it was recorded on. On other machines, and
      with other versions, that test is skipped and says so.
Run   `pytest tests/test_train_golden.py`; to record anew, with this machine alone, and say why in CHANGELOG:
      OMP_NUM_THREADS=1 PYTHONPATH=. python tests/test_train_golden.py
      to add this machine to a record that it meets within 1e-4: the same with --add-machine
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_bits import asked_to_add, bits_on_record, checksum, with_this_machine, write_golden
from tiny_run import ROOT, build_loop, tiny_config

from preprocessing.readers import parse_source, read
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


def bits_of(losses: list[dict[str, float]]) -> str:
    """JSON writes the shortest number that reads back as the same bits."""
    return checksum(json.dumps(losses, sort_keys=True).encode())


def check_losses(losses: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(losses) == len(expected) == STEPS
    for step, (found, recorded) in enumerate(zip(losses, expected, strict=True), start=1):
        assert found == pytest.approx(recorded, rel=1e-4, abs=1e-6), f"step {step}"


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def one_thread():
    with threads(1):
        yield


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def losses(tmp_path_factory) -> list[dict[str, float]]:
    with threads(1):
        return losses_of_run(tmp_path_factory.mktemp("golden"))


def test_the_losses_are_those_of_the_record(losses, golden):
    check_losses(losses, golden["losses"])
    start, end = ([loss["circumstances"] for loss in part] for part in (losses[:10], losses[-10:]))
    assert sum(end) < 0.85 * sum(start), "the recorded run learned"


@pytest.mark.usefixtures("one_thread")
def test_the_losses_are_those_of_the_record_bit_for_bit(losses, golden):
    expected = bits_on_record(golden, __file__)
    moved = [step for step in range(STEPS) if losses[step] != golden["losses"][step]]
    assert bits_of(losses) == expected, f"steps (from 0) that differ from the losses on record: {moved}"


def main() -> None:
    torch.set_num_threads(1)
    adding = asked_to_add()
    with tempfile.TemporaryDirectory() as folder:
        losses = losses_of_run(Path(folder))
    bits, machines = bits_of(losses), {}
    if adding:
        golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
        check_losses(losses, golden["losses"])
        losses, machines = golden["losses"], golden["machines"]
    lines = ",\n".join("  " + json.dumps(loss) for loss in losses)
    machines = with_this_machine(machines, bits)
    write_golden(GOLDEN, machines=json.dumps(machines, indent=2), losses=f"[\n{lines}\n]")


if __name__ == "__main__":
    main()
