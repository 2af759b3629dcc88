"""The plan of batches: what every epoch holds, how processes share it, and that any step can be had at once.

In    made-up lengths and readers; the lengths of the shipped scenarios.
Out   batches compared with counts made by hand.
Run   `pytest tests/test_train_plan.py`
"""

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from preprocessing.errors import UserError
from training.batch_plan import BatchPlan

LENGTHS = [5 + (7 * row) % 91 for row in range(103)]
READERS = ["long" if row % 4 else "short" for row in range(103)]  # 77 and 26 records
ROWS_OF = {name: [row for row, reader in enumerate(READERS) if reader == name] for name in ("long", "short")}


def plan_of(**changes) -> BatchPlan:
    return BatchPlan(LENGTHS, READERS, **({"batch_size": 8, "seed": 3} | changes))


def epoch_of(plan: BatchPlan, epoch: int) -> list[list[int]]:
    steps = range(plan.first_step(epoch), plan.first_step(epoch + 1))
    return [batch for step in steps for batch in plan.step(step)]


@pytest.mark.parametrize("pool_batches", [1, 4, 50])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_an_epoch_holds_every_record_once(pool_batches: int, accumulation: int):
    plan = plan_of(pool_batches=pool_batches, accumulation=accumulation)
    for epoch in (0, 1, 17):
        assert sorted(chain(*epoch_of(plan, epoch))) == list(range(103))


def test_epochs_and_seeds_differ_in_order():
    plan = plan_of()
    assert epoch_of(plan, 0) != epoch_of(plan, 1)
    assert epoch_of(plan, 0) != epoch_of(plan_of(seed=4), 0)


def test_batches_of_an_epoch_differ_by_at_most_one_record_and_are_never_larger_than_asked():
    # 103 records in steps of 3 batches of 8: ceil(103 / 24) = 5 steps of 3 batches, so 15 batches of 6 or 7.
    sizes = Counter(len(batch) for batch in epoch_of(plan_of(accumulation=3), 0))
    assert sizes == {7: 13, 6: 2}


def test_a_fraction_of_a_pass_takes_all_records_before_any_comes_again():
    plan = plan_of(passes={"short": 0.25})  # round(26 / 4) = 6 of its 26 records an epoch
    seen = [[row for row in chain(*epoch_of(plan, epoch)) if READERS[row] == "short"] for epoch in range(13)]
    assert [len(rows) for rows in seen] == [6] * 13
    # 13 epochs of 6 are 78: three whole rounds of 26.
    assert Counter(chain(*seen)) == dict.fromkeys(ROWS_OF["short"], 3)
    # The first round ends within the fifth epoch: four epochs of 6 have no record twice.
    assert max(Counter(chain(*seen[:4])).values()) == 1
    for epoch in range(13):
        assert sorted(row for row in chain(*epoch_of(plan, epoch)) if READERS[row] == "long") == ROWS_OF["long"]


def test_several_passes_repeat_records_evenly():
    plan = plan_of(passes={"short": 2.5})
    counts = Counter(row for row in chain(*epoch_of(plan, 0)) if READERS[row] == "short")
    assert sorted(counts.values()) == [2] * 13 + [3] * 13
    both = counts + Counter(row for row in chain(*epoch_of(plan, 1)) if READERS[row] == "short")
    assert set(both.values()) == {5}


def test_passes_may_differ_by_epoch():
    # short: 52, 13 and from then on 13 of its 26 records; long: none, then all of its 77.
    plan = plan_of(passes={"short": [2, 0.5], "long": [0, 1]})
    held = [Counter(chain(*epoch_of(plan, epoch))) for epoch in range(6)]
    assert held[0] == dict.fromkeys(ROWS_OF["short"], 2)
    for counts in held[1:]:
        assert sum(counts[row] for row in ROWS_OF["short"]) == 13
        assert {counts[row] for row in ROWS_OF["long"]} == {1}
    # Two half passes are a whole one: epochs go on where the one before them stopped.
    assert {(held[1] + held[2])[row] for row in ROWS_OF["short"]} == {1}
    # 52 records make 7 batches of at most 8, 90 make 12.
    assert [plan.first_step(epoch) for epoch in range(4)] == [0, 7, 19, 31]
    assert [plan.epoch_of(step) for step in (0, 6, 7, 18, 19, 31 + 12 * 100)] == [0, 0, 1, 1, 2, 103]
    assert [steps for steps in range(1, 40) if plan.ends_epoch(steps)] == [7, 19, 31]


def test_an_epoch_without_records_is_refused():
    with pytest.raises(UserError, match="0 records in epoch 1"):
        plan_of(passes={"short": [1, 0], "long": [1, 0]})


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_share_the_batch_that_one_process_would_have(num_processes: int):
    alone = plan_of(batch_size=6, accumulation=2)
    together = [
        plan_of(batch_size=6 // num_processes, accumulation=2, process=process, num_processes=num_processes)
        for process in range(num_processes)
    ]
    assert {plan.first_step(2) for plan in together} == {alone.first_step(2)}
    for step in range(alone.first_step(2)):
        parts = zip(*(plan.step(step) for plan in together), strict=True)
        for whole, shares in zip(alone.step(step), parts, strict=True):
            assert sorted(chain(*shares)) == sorted(whole)
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_step_depends_on_seed_and_number_only():
    walked = plan_of()
    in_order = [walked.step(step) for step in range(40)]
    for step in (39, 0, 17, 3):
        assert plan_of().step(step) == in_order[step]


def test_a_far_step_is_planned_without_the_ones_before(monkeypatch):
    plan = plan_of(passes={"short": 0.25})
    planned = []
    monkeypatch.setattr(plan, "_epoch_batches", lambda epoch: planned.append(epoch) or plan._plan_epoch(epoch))
    shuffles = []
    default_rng = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: shuffles.append(seed) or default_rng(seed))
    far = plan.step(1_000_000)
    assert planned == [1_000_000 // plan.first_step(1)]
    assert len(shuffles) <= 4  # one for the epoch, one for each reader's round, one more where an epoch spans two
    monkeypatch.undo()
    assert plan_of(passes={"short": 0.25}).step(1_000_000) == far


def test_pools_spare_padding(scenarios, tokenizer):
    lengths = [len(ids) for ids in tokenizer([record.text for record in scenarios])["input_ids"]]
    readers = ["scenarios"] * len(lengths)

    def padding(pool_batches: int) -> int:
        plan = BatchPlan(lengths, readers, batch_size=16, seed=0, pool_batches=pool_batches)
        batches = [[lengths[row] for row in batch] for batch in epoch_of(plan, 0)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    assert padding(50) < 0.3 * padding(1)


def test_with_pools_a_record_still_meets_others_each_epoch():
    plan = plan_of(pool_batches=4)
    company = [{frozenset(batch) for batch in epoch_of(plan, epoch)} for epoch in (0, 1)]
    assert not company[0] & company[1]


@pytest.mark.parametrize("records", range(8, 30))
def test_no_micro_batch_is_ever_empty(records: int):
    shape = {"batch_size": 1, "seed": 0, "accumulation": 4, "num_processes": 2}
    plans = [BatchPlan([9] * records, ["a"] * records, process=process, **shape) for process in (0, 1)]
    assert all(len(batch) > 0 for plan in plans for batch in epoch_of(plan, 0))
    assert sum(len(batch) for plan in plans for batch in epoch_of(plan, 0)) == records


def test_too_few_records_for_one_step_are_refused():
    with pytest.raises(UserError, match=r"7 records.*2 processes 4 micro-batches"):
        BatchPlan([9] * 7, ["a"] * 7, batch_size=1, seed=0, accumulation=4, num_processes=2)


def test_passes_of_a_reader_that_is_not_there_are_refused():
    with pytest.raises(UserError, match=r"shrot.*long, short"):
        plan_of(passes={"shrot": 0.5})
