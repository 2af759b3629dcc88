"""What to change so that a run fits: found by planning, least costly first, and true when it is tried.

In    the command training.memory with --fit and --rule; the search on a plan that is a formula.
Out   recipes that the planner accepts; suggestions beside what trying every choice finds; exit codes.
Run   `pytest tests/test_train_memory_search.py`
"""

import dataclasses
import json
import re
from functools import partial
from pathlib import Path

import pytest
import yaml
from commands import run_command
from tiny_run import tiny_config

from preprocessing.memory_room import resident
from training import memory, memory_search
from training.memory_choices import bytes_a_number, choices, with_changes
from training.memory_kinds import KERNELS, DevicePlan, MemoryPlan
from training.memory_least import least_of
from training.memory_search import search

GIB = 2**30
NUMBERS = 100_000_000


def by_formula(config) -> MemoryPlan:
    """100 million numbers and activations that grow with the batch; the plan is its formula."""
    weight = 2 if config.weight_precision == "bf16" else 4
    optimizer = 2 if config.optimizer == "adamw_8bit" else 8
    batches = config.gradient_accumulation_steps if config.update_in_backward else 1
    activations = config.batch_size * batches * (2_000_000 if config.gradient_checkpointing else 20_000_000)
    activations //= 2 if config.mixed_precision == "bf16" else 1
    activations = activations * config.model.get("max_length", 128) // 128
    gradients = 0 if config.update_in_backward else NUMBERS * weight
    kinds = [NUMBERS * weight, gradients, NUMBERS * optimizer, activations, KERNELS[config.mixed_precision], GIB // 2]
    return MemoryPlan({"cpu": DevicePlan(*kinds, phases={"backward": sum(kinds)})})


def everything(config, limit: int) -> list[tuple[float, dict]]:
    """All choices that fit, least costly first, by trying each."""
    fitting = [
        (cost, changes) for cost, changes in choices(config) if by_formula(with_changes(config, changes)).peak <= limit
    ]
    return sorted(fitting, key=lambda choice: choice[0])


@pytest.mark.parametrize("limit", [2.4, 2.1, 1.7, 1.5, 1.4, 1.2])
def test_the_least_costly_of_all_choices_is_found(limit, tmp_path):
    config = tiny_config(tmp_path, batch_size=64)
    asked = by_formula(config)
    assert asked.peak > 2.5 * GIB
    found = search(config, asked, {"cpu": int(limit * GIB)}, by_formula, max_length=128, shortest=128)
    best = everything(config, int(limit * GIB))
    assert found[0].cost == pytest.approx(best[0][0])
    assert all(suggestion.plan.peak <= limit * GIB for suggestion in found)
    assert [suggestion.cost for suggestion in found] == sorted(suggestion.cost for suggestion in found)


def test_no_suggestion_does_all_that_another_does_and_more(tmp_path):
    config = tiny_config(tmp_path, batch_size=64)
    found = search(config, by_formula(config), {"cpu": int(1.7 * GIB)}, by_formula, 128)
    for later, suggestion in enumerate(found):
        for earlier in found[:later]:
            assert not earlier.changes.items() <= suggestion.changes.items()


@pytest.mark.parametrize("update_weights", [True, False])
def test_the_records_of_a_step_and_its_numbers_stay_what_they_were(update_weights: bool, tmp_path):
    """Every change gives a config that is none to be refused."""
    fields = {"batch_size": 24, "gradient_accumulation_steps": 2, "update_weights": update_weights}
    config = tiny_config(tmp_path, **fields)
    for _, changes in choices(config):
        changed = with_changes(config, changes)
        assert changed.batch_size * changed.gradient_accumulation_steps == 48
        assert bytes_a_number(changed) <= bytes_a_number(config)


def test_texts_are_cut_only_when_nothing_else_fits(tmp_path):
    config = tiny_config(tmp_path, batch_size=1, gradient_checkpointing=True, model={"max_length": 128})
    limits = {"cpu": NUMBERS * 4 + GIB // 2 + KERNELS["bf16"] + 600_000}
    found = search(config, by_formula(config), limits, by_formula, 128)
    assert found[0].changes["model"] == {"max_length": 64}
    assert found[0].cost < 2
    assert "cuts longer texts" in found[0].remarks
    assert not search(config, by_formula(config), limits, by_formula, 128, shortest=128)


def test_a_search_that_finds_nothing_makes_few_plans(tmp_path):
    config, calls = tiny_config(tmp_path, batch_size=64), []

    def never(changed) -> MemoryPlan:
        calls.append(changed)
        plan = by_formula(changed).devices["cpu"]
        return MemoryPlan({"cpu": dataclasses.replace(plan, phases={"backward": 100 * GIB})})

    assert search(config, by_formula(config), {"cpu": 3 * GIB}, never, 128) == []
    assert len(calls) == memory_search.PLANS + 1  # one tells how much computing blocks twice saves


def test_a_recipe_that_fits_is_one_the_planner_accepts(tmp_path):
    asked = ("--preset", "redheart-tiny", "--model.intermediate_size", 12288, "--batch-size", 32, "--max-length", 64)
    _, out, _ = run_command(memory, *asked, "--json")
    plan = json.loads(out)
    room = (plan["process"] + 0.5 * (plan["peak"] - plan["process"])) / GIB
    assert run_command(memory, *asked, "--ram-gib", room)[0] == 3
    code, recipe, said = run_command(memory, *asked, "--ram-gib", room, "--fit")
    assert code == 0
    assert "times the time of a step" in said
    fields = yaml.safe_load(recipe)
    assert fields["batch_size"] * fields.get("gradient_accumulation_steps", 1) == 32
    path = Path(tmp_path / "recipe.yaml")
    path.write_text(recipe, encoding="utf-8")
    code, out, _ = run_command(memory, path, "--json")
    assert code == 0
    assert json.loads(out)["peak"] <= room * GIB


def test_what_fits_is_left_as_it_was_asked(tmp_path):
    code, recipe, said = run_command(memory, "--preset", "redheart-tiny", "--batch-size", 4, "--ram-gib", 4, "--fit")
    assert (code, said) == (0, "")
    assert yaml.safe_load(recipe) == {"preset": "redheart-tiny", "batch_size": 4, "ram_gib": 4.0}


def test_nothing_that_fits_is_said_with_exit_code_3():
    code, out, said = run_command(memory, "--preset", "redheart-200m", "--ram-gib", 0.3, "--fit")
    assert (code, out) == (3, "")
    assert "no settings were found" in said


@pytest.mark.parametrize(
    ("preset", "arguments", "table"),
    [
        ("redheart-6.8b", ("--batch-size", 8, "--max-length", 32), (25.44, 25.44, 50.88, 0.18, 101.94)),
        ("redheart-4.3b", ("--batch-size", 32, "--max-length", 512), (16.0, 16.0, 32.0, 5.0, 69.1)),
    ],
)
def test_the_rule_of_the_first_documents_gives_their_tables(preset, arguments, table):
    """GiB; the 6.83B's batch of 8 x 32 tokens is what its 0.18 is of; the 4.3B's 5.1 says "and others"."""
    code, out, _ = run_command(memory, "--preset", preset, *arguments, "--rule", "seed", "--json", "--ram-gib", 62)
    assert code == 3
    found = json.loads(out)
    for kind, expected in zip(("weights", "gradients", "optimizer", "activations", "total"), table, strict=True):
        assert found[kind] / GIB == pytest.approx(expected, rel=0.005, abs=0.005), kind


def test_what_could_never_fit_is_refused_by_arithmetic_with_what_would():
    """6.83 billion numbers at 16 bytes on 62 GiB; with two bytes a weight and a moment 6 a number are left."""
    code, out, said = run_command(memory, "--preset", "redheart-6.8b", "--ram-gib", 62)
    assert (code, out) == (3, "")
    advised = re.search(r"--optimizer adamw_8bit --weight_precision bf16 .*\(at least (.*) GiB\)", said)
    assert advised
    assert 0 < float(advised[1]) - 6 * 6.83e9 / GIB - resident() / GIB < 1  # embeddings come to it


@pytest.mark.parametrize("fields", [{"optimizer": "sgd"}, {"optimizer": "adafactor"}])
def test_a_run_that_is_not_adamws_stays_what_it_is(fields, tmp_path):
    """Its rate would be another thing to AdamW: only its batches and blocks are changed."""
    config = tiny_config(tmp_path, batch_size=32, model={"intermediate_size": 12288, "max_length": 64}, **fields)
    asked = memory.plan_of(config, 0)
    process = asked.of_kind("process")
    limit = int(process + 0.85 * (asked.peak - process))
    found = search(config, asked, {"cpu": limit}, partial(memory.plan_of, actions=0), 64, wanted=1, shortest=64)
    assert found
    assert found[0].changes.keys() <= {"batch_size", "gradient_accumulation_steps", "gradient_checkpointing"}
    assert found[0].plan.peak <= limit


def test_the_least_is_no_more_than_the_plan(tmp_path):
    eights, others = (
        {"optimizer": "adamw_8bit"},
        [{"ema_decay": 0.999}, {"optimizer": "sgd", "momentum": 0.9}, {"optimizer": "adafactor"}],
    )
    for fields in ({}, eights, eights | {"update_in_backward": True}, {"optimizer": "sgd"}, *others):
        config = tiny_config(tmp_path, model={"max_length": 8}, **(fields | {"batch_size": 1}))
        least, plan = least_of(config, memory.model_config_of(config)), memory.plan_of(config, 0)
        for kind, size in least.items():
            assert size <= plan.of_kind(kind), kind
            assert size == 0 or size > 0.1 * plan.of_kind(kind), kind
