"""Weights make sources and labels count as asked, from the step that writes them to the batches of a run.

In    counts written here; the shipped scenarios.
Out   nothing.
Run   `pytest tests/test_prep_balance.py`
"""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_prep_filters import make_record

from preprocessing.balance import Balance, balanced
from preprocessing.encode import encode
from preprocessing.errors import UserError
from preprocessing.readers import parse_source, read
from preprocessing.records import Record, write_records
from redheart_hf import preset_config
from redheart_hf.labels import BASIC_EMOTIONS
from training.batch_plan import BatchPlan
from training.config import TrainConfig
from training.data import prepare_data
from training.weights import drawn_as, with_weights

ROOT = Path(__file__).resolve().parents[1]


def drawn(rows: dict[str, int], **settings: Any) -> dict[str, int]:
    return {line.reader: line.drawn for line in balanced({(reader, ""): n for reader, n in rows.items()}, **settings)}


def test_temperature_is_that_of_the_papers() -> None:
    rows = {"a": 9000, "b": 900, "c": 100}
    assert drawn(rows) == rows
    # n^0.7 as multilingual BERT: 586.62, 117.05 and 25.12 of 728.79 parts.
    assert drawn(rows, temperature=1 / 0.7) == {"a": 8049, "b": 1606, "c": 345}
    # Square roots: 94.868, 30, 10 of 134.868.
    assert drawn(rows, temperature=2) == {"a": 7034, "b": 2224, "c": 741}
    assert drawn(rows, temperature=1e9) == {"a": 3333, "b": 3333, "c": 3333}


def test_shares_are_of_the_whole_and_the_rest_goes_by_temperature() -> None:
    rows = {"a": 9000, "b": 900, "c": 100}
    assert drawn(rows, shares={"c": 0.5}) == {"a": 4545, "b": 455, "c": 5000}
    assert drawn(rows, shares={"c": 0.5}, temperature=1e9) == {"a": 2500, "b": 2500, "c": 5000}
    assert drawn(rows, shares={"a": 0.2, "b": 0.3, "c": 0.5}) == {"a": 2000, "b": 3000, "c": 5000}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": {"d": 0.5}}, "names 'd', of which there are no records; there are a, b"),
        ({"shares": {"a": 0.0}}, "share of a must lie above 0"),
        ({"shares": {"a": 1.0}}, "sum to 1; they must stay below 1, to leave some for b"),
        ({"shares": {"a": 0.5, "b": 0.4}}, "sum to 0.9; they must be 1 together"),
    ],
)
def test_shares_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        drawn({"a": 10, "b": 10}, **settings)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.5}, {"label_temperature": float("inf")}, {"label": "vad"}, {"label": "joy"}]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="balance"):
        Balance(**settings)


def of_two_readers(scenarios: list[Record]) -> list[Record]:
    """The scenarios as reader a, and every tenth of them also as reader b."""
    first = [replace(record, reader="a") for record in scenarios]
    return first + [replace(record, reader="b", id=f"b{record.id}") for record in scenarios[::10]]


def strongest(record: Record) -> str:
    assert record.basic_emotions is not None
    return BASIC_EMOTIONS[record.basic_emotions.index(max(record.basic_emotions))]


def test_the_step_gives_each_record_the_weight_of_its_stratum(scenarios: list[Record]) -> None:
    records = of_two_readers(scenarios)
    step = Balance(shares={"b": 0.5}, label="basic_emotions", label_temperature=1e9)
    found = list(step(iter(records)))
    assert [replace(record, weight=None) for record in found if isinstance(record, Record)] == records
    totals: Counter[tuple[str, str]] = Counter()
    for record in found:
        assert isinstance(record, Record)
        assert record.weight is not None
        totals[record.reader, strongest(record)] += record.weight
    for reader in "ab":
        labels = {strongest(record) for record in records if record.reader == reader}
        for label in labels:
            assert totals[reader, label] == pytest.approx(len(records) / 2 / len(labels), abs=0.51)
    assert {(line.reader, line.label): line.drawn for line in step.table} == {
        name: round(total) for name, total in totals.items()
    }
    assert list(Balance()([])) == []


def test_records_keep_their_weight_in_a_file(scenarios: list[Record], tmp_path: Path) -> None:
    records = [replace(record, weight=0.25 + row % 2) for row, record in enumerate(scenarios[:4])]
    write_records(tmp_path / "rows.jsonl", records)
    found = read(parse_source(f"records={tmp_path / 'rows.jsonl'}")).records
    assert [record.weight for record in found] == [0.25, 1.25, 0.25, 1.25]
    bad = tmp_path / "bad.jsonl"
    write_records(bad, [*records, *(replace(records[0], weight=weight) for weight in (0.0, -1.0, True, "1"))])
    result = read(parse_source(f"records={bad}"))
    assert (len(result.records), result.reasons) == (4, {"label-out-of-range": 4})


def test_an_epoch_draws_each_record_as_often_as_its_weight_says(scenarios: list[Record], tokenizer: Any) -> None:
    records = [
        record
        for record in Balance(shares={"b": 0.5}, label="basic_emotions", label_temperature=3)(
            of_two_readers(scenarios)
        )
        if isinstance(record, Record)
    ]
    dataset = with_weights(encode(records, tokenizer, 64), records)
    names, passes = drawn_as(dataset, {"a": 2})
    plan = BatchPlan(dataset["length"], names, batch_size=16, seed=4, passes=passes)
    epochs = 3
    times = Counter(row for step in range(plan.first_step(epochs)) for batch in plan.step(step) for row in batch)
    for row, record in enumerate(records):
        assert record.weight is not None
        expected = epochs * record.weight * (2 if record.reader == "a" else 1)
        # A record comes a second time only after all of its stratum have come once.
        assert expected - 1.01 < times[row] < expected + 1.01


def test_without_weights_batches_are_what_they_were(scenarios: list[Record], tokenizer: Any) -> None:
    records = of_two_readers(scenarios)[-60:]
    dataset = encode(records, tokenizer, 64)
    assert with_weights(dataset, records) is dataset
    plain = BatchPlan(dataset["length"], dataset["reader"], 8, 0, {"a": 1.5})
    ones = with_weights(dataset, [replace(record, weight=1.0) for record in records])
    for data in (dataset, ones):
        names, passes = drawn_as(data, {"a": 1.5})
        plan = BatchPlan(data["length"], names, 8, 0, passes)
        assert [plan.step(step) for step in range(30)] == [plain.step(step) for step in range(30)]


def test_weights_that_cannot_be_followed_are_refused(scenarios: list[Record], tokenizer: Any) -> None:
    dataset = encode(scenarios[:20], tokenizer, 64)
    few = [replace(record, weight=0.1 if row < 3 else 1.0) for row, record in enumerate(scenarios[:20])]
    with pytest.raises(UserError, match=r"3 records of scenarios have the weight 0\.1 and would never be drawn"):
        drawn_as(with_weights(dataset, few), None)
    with pytest.raises(UserError, match=r"passes names \['kote'\], not among the training readers: scenarios"):
        drawn_as(with_weights(dataset, [replace(record, weight=2.0) for record in scenarios[:20]]), {"kote": 2})


def test_a_run_follows_the_weights_of_its_files_and_goes_on_only_with_them(
    scenarios: list[Record], tokenizer: Any, tmp_path: Path
) -> None:
    content = set()
    for weight in (None, 0.5, 2.0):
        rows = [replace(record, weight=weight if row % 2 else None) for row, record in enumerate(scenarios[:40])]
        write_records(tmp_path / "rows.jsonl", rows)
        config = TrainConfig(
            train=[f"records={tmp_path / 'rows.jsonl'}"], output_dir=str(tmp_path), preset="redheart-tiny"
        )
        data = prepare_data(config, preset_config("redheart-tiny"), tokenizer, write=False)
        names, passes = drawn_as(data.train, {})
        plan = BatchPlan(data.train["length"], names, 4, 0, passes)
        taken = [row for step in range(plan.first_step(1)) for batch in plan.step(step) for row in batch]
        assert len(taken) == 20 + 20 * (weight or 1)
        content.add(data.train.info.description)
    assert len(content) == 3


@pytest.mark.slow
def test_a_whole_run_takes_as_many_steps_as_the_weights_ask_for(
    scenarios: list[Record], tokenizer_dir: Path, tmp_path: Path
) -> None:
    rows = [replace(record, weight=2.0 if row % 2 else None) for row, record in enumerate(scenarios[:40])]
    write_records(tmp_path / "rows.jsonl", rows)
    fields = {"preset": "redheart-tiny", "tokenizer": tokenizer_dir, "output_dir": tmp_path / "out", "batch_size": 4}
    settings = [f"--{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "training/train.py", *settings, f"--train=[records={tmp_path / 'rows.jsonl'}]"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=110)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert max(json.loads(line).get("step", 0) for line in lines) == (20 + 2 * 20) // 4


def test_a_record_made_here_has_no_weight() -> None:
    assert "weight" not in make_record("a").to_dict()
