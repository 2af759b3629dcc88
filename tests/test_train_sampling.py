"""How often each source comes: by temperature, by reader, by source; and data gone through in chunks.

In    made-up readers; the shipped scenarios as two files.
Out   counts of an epoch, worked out by hand; orders; encoded files; a run in chunks that is taken up again.
Run   `pytest tests/test_train_sampling.py`
"""

import shutil
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from tiny_run import SIZES, tiny_config, tiny_model

from preprocessing.encode import encode, encode_in_chunks
from preprocessing.errors import UserError
from redheart_hf import RedHeartConfig
from training.batch_plan import BatchPlan
from training.build import build_accelerator
from training.checkpoint import checkpoint_at
from training.collator import Collator
from training.config import TrainConfig
from training.data import prepare_data
from training.loop import TrainLoop
from training.run_state import load_run
from training.sampling import passes_of
from training.weights import batches_of

READERS = ["small"] * 20 + ["large"] * 180
CHUNK = 25


def config_of(**fields) -> TrainConfig:
    return TrainConfig(**({"output_dir": "out", "train": ["scenarios=a.jsonl", "kote=b.tsv"]} | fields))


@pytest.mark.parametrize(("temperature", "small"), [(1.0, 20), (2.0, 50), (1e6, 100)])
def test_a_temperature_gives_each_source_its_root_and_the_epoch_its_size(temperature: float, small: int):
    """20 and 180 rows: at 2 the shares are as 1 to 3, in the limit alike."""
    passes = passes_of(READERS, config_of(sampling_temperature=temperature))
    plan = BatchPlan([5] * 200, READERS, 8, 0, passes)
    for epoch in (0, 1, 7):
        rows = chain(
            *(batch for step in range(plan.first_step(epoch), plan.first_step(epoch + 1)) for batch in plan.step(step))
        )
        assert Counter(READERS[row] for row in rows) == {"small": small, "large": 200 - small}


def test_a_temperature_of_one_is_no_temperature():
    assert passes_of(READERS, config_of(passes={"small": 2})) == {"small": 2}
    assert passes_of(READERS, config_of()) == {}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sampling_temperature": 2, "passes": {"kote": 2}}, "and so does passes of kote; leave one of them out"),
        ({"sampling_temperature": 0.5}, "must be at least 1 and finite, got 0.5"),
        ({"passes": {"kote=c.tsv": 2}}, "passes names 'kote=c.tsv', which is not among train: scenarios=a.jsonl"),
        ({"passes": {"kote=b.tsv": 0}}, "passes of kote=b.tsv must be positive and finite"),
        ({"passes": {"kote=b.tsv": [1, 2]}}, r"must be one number above 0, got \[1, 2\]"),
        ({"passes": {"kote=b.tsv": 2, "kote": 3}}, "and its reader 'kote' too"),
        ({"chunk_rows": 0}, "chunk_rows must be a number of at least 1, got 0"),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict, said: str):
    with pytest.raises(UserError, match=said):
        config_of(**fields)


def test_one_of_two_folders_of_a_reader_comes_more_often(tokenizer, scenarios, dev, tmp_path: Path):
    root = Path(__file__).resolve().parents[1] / "data" / "scenarios"
    sources = [f"scenarios={root / 'train.jsonl'}", f"scenarios={root / 'dev.jsonl'}"]
    config = TrainConfig(output_dir=str(tmp_path), train=sources, passes={sources[1]: 3}, batch_size=7)
    network = RedHeartConfig(**SIZES | {"vocab_size": len(tokenizer)})
    data = prepare_data(config, network, tokenizer, write=False)
    plan = batches_of(data.train, config)
    rows = chain(*(batch for step in range(plan.first_step(1)) for batch in plan.step(step)))
    times = Counter(data.train[row]["id"] for row in rows)
    assert {times[record.id] for record in scenarios} == {1}
    assert {times[record.id] for record in dev} == {3}


def chunked(**fields) -> BatchPlan:
    readers = ["a" if row % 5 else "b" for row in range(200)]
    given = {"batch_size": 4, "seed": 1, "pool_batches": 3, "chunk_rows": CHUNK} | fields
    return BatchPlan([5 + row % 13 for row in range(200)], readers, **given)


def test_a_chunk_is_done_with_before_the_next_begins():
    """Chunks of 25 of 200 rows in which readers take turns: rows 0 to 24 and so on, each with its fifth of b."""
    plan = chunked(batch_size=5)
    orders = []
    for epoch in (0, 1):
        steps = range(plan.first_step(epoch), plan.first_step(epoch + 1))
        rows = list(chain(*(batch for step in steps for batch in plan.step(step))))
        assert sorted(rows) == list(range(200))
        chunks = [row // CHUNK for row in rows]
        runs = [chunk for before, chunk in zip([None, *chunks], chunks, strict=False) if chunk != before]
        assert len(runs) == 200 // CHUNK
        orders.append(runs)
    assert orders[0] != orders[1]


def test_where_a_batch_lies_across_two_chunks_no_more_than_two_are_wanted():
    plan = chunked(batch_size=7)
    for step in range(plan.first_step(3)):
        (rows,) = plan.step(step)
        assert len({row // CHUNK for row in rows}) <= 2


def test_one_chunk_is_no_chunk():
    whole, one = chunked(chunk_rows=None), chunked(chunk_rows=200)
    assert [whole.step(step) for step in range(120)] == [one.step(step) for step in range(120)]


def test_rows_encoded_in_chunks_are_those_encoded_at_once(tokenizer, scenarios, tmp_path: Path):
    whole = encode(scenarios[:50], tokenizer, 96, cache_dir=tmp_path)
    lots = encode_in_chunks(scenarios[:50], 20, tokenizer, 96, cache_dir=tmp_path)
    assert lots[:] == whole[:]
    assert len(list(tmp_path.glob("encoded-*"))) == 1 + 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("encoded-*")}
    more = encode_in_chunks(scenarios[:70], 20, tokenizer, 96, cache_dir=tmp_path)
    assert len(more) == 70
    assert len(list(tmp_path.glob("encoded-*"))) == len(before) + 2  # the third lot is larger, the fourth is new
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert more.info.description != lots.info.description


def test_a_run_that_ends_inside_a_chunk_goes_on_there(tokenizer, scenarios, tmp_path: Path):
    def loop_of(name: str) -> TrainLoop:
        config = tiny_config(tmp_path / name / "run", max_steps=9, chunk_rows=15, trackers=[], keep_complete=9)
        dataset = encode_in_chunks(scenarios[:60], 15, tokenizer, 96, cache_dir=tmp_path / "encoded")
        return TrainLoop(build_accelerator(config), tiny_model(tokenizer), dataset, Collator(tokenizer), config)

    loop_of("whole").train()
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for step in (8, 9):  # as if it had been killed after step 6, which is inside a chunk
        shutil.rmtree(checkpoint_at(tmp_path / "parts" / "run", step))
    later = loop_of("parts")
    load_run(later, checkpoint_at(tmp_path / "parts" / "run", 6))
    later.train()
    last = checkpoint_at(tmp_path / "parts" / "run", 9).relative_to(tmp_path / "parts" / "run")
    for name in ("metrics.jsonl", last / "model.safetensors", last / "optimizer.safetensors"):
        assert (tmp_path / "parts" / "run" / name).read_bytes() == (tmp_path / "whole" / "run" / name).read_bytes()
