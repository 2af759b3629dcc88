"""The final model out of many checkpoints: never worse by the rows it is chosen by, and put together as it says.

In    a run of a tiny model on the shipped scenarios with its checkpoints; weights written by the test.
Out   failures where final/ is not what its card says, or memory is that of more than one model and one module.
Run   pytest tests/test_train_crossover.py
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from tiny_run import ROOT, SIZES, as_said_by, tiny_config, tiny_model

from preprocessing.errors import UserError
from preprocessing.folders import seal, write_folder
from preprocessing.readers import parse_source, read
from preprocessing.records import by_reader
from training.checkpoint import checkpoints
from training.creation import save_model
from training.crossover import BEST, EMA, LAST, MEAN, MIXTURE, RESULT, cross_over, table_of
from training.crossover_mixture import mix
from training.dev_scores import DevScores
from training.evaluate import evaluate_dev
from training.finished_run import open_run
from training.loading import load_model
from training.memory_monitor import MemoryMonitor, ProcessMemory
from training.model_parts import module_of, modules_of, put_in, put_mean, saved_names, weights_in
from training.sweet_spot import FOLDER, find_sweet_spots
from training.sweet_spot_measure import Measurements
from training.train import train

SCENARIOS = ROOT / "data" / "scenarios"
STEPS, EVERY = 20, 4


@pytest.fixture(scope="module")
def crossed(tokenizer_dir: Path, tmp_path_factory) -> Path:
    """The folder of a run with crossover, from its recipe to final/."""
    folder = tmp_path_factory.mktemp("crossed")
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        config = tiny_config(
            folder / "run",
            tokenizer=str(tokenizer_dir),
            model=SIZES,
            holdout={"scenarios": 50},
            max_steps=STEPS,
            save_steps=EVERY,
            crossover=True,
        )
        config.train = [f"scenarios={SCENARIOS / 'train.jsonl'}"]
        train(config)
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder / "run"


def result_of(folder: Path) -> dict:
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def named(folder: Path) -> dict[str, Path]:
    """Checkpoints by the names that candidates have: which were thinned is said with them."""
    thin = result_of(folder)["rounded"]
    return {found.name + (" (kept in bfloat16)" if found.name in thin else ""): found for found in checkpoints(folder)}


def held_out(folder: Path):
    return by_reader(read(parse_source(f"records={folder / 'holdout_scenarios.jsonl'}")).records)


def test_the_winner_is_never_worse_than_the_best_single_checkpoint_where_it_was_chosen(crossed):
    found = result_of(crossed)
    scores = {one["name"]: one["scores"]["choosing"]["score"] for one in found["candidates"]}
    assert scores[found["winner"]] == max(scores.values()) >= scores[BEST]
    # Against an evaluation of the folders themselves.
    for name, folder in {
        BEST: named(crossed)[found["candidates"][0]["parents"][0]],
        found["winner"]: crossed / "final",
    }.items():
        model, tokenizer = load_model(folder)
        model.config.thresholds = None
        assert evaluate_dev(model, tokenizer, held_out(crossed)).scores["choosing"]["score"] == scores[name]
    singles = [
        evaluate_dev(*load_model(folder), held_out(crossed)).scores["choosing"]["score"]
        for folder in checkpoints(crossed)
    ]
    assert scores[BEST] == max(singles)


def test_final_holds_the_very_tensors_that_its_card_names(crossed):
    """Read by safetensors alone."""
    found = result_of(crossed)
    mixture = next(one for one in found["candidates"] if one["name"] == MIXTURE)
    assert found["winner"] == MIXTURE, "this run's mixture gained; with another it may not"
    card = (crossed / "final" / "README.md").read_text(encoding="utf-8")
    assert all(f"- {parent}\n" in card for parent in mixture["parents"])
    of_module = dict(parent.split(" of ") for parent in mixture["parents"][1:])
    rest = mixture["parents"][0].removesuffix(" but for:")
    final = load_file(crossed / "final" / "model.safetensors")
    parents = {name: load_file(named(crossed)[name] / "model.safetensors") for name in {rest, *of_module.values()}}
    for name, value in final.items():
        assert torch.equal(value, parents[of_module.get(module_of(name), rest)][name].to(value.dtype)), name


def test_what_was_tried_is_kept_exactly_where_it_raised_the_score(crossed):
    tried = result_of(crossed)["tried"]
    assert tried
    score = tried[0]["before"]
    for one in tried:
        assert one["before"] == score
        assert one["accepted"] == (one["score"] > score)
        score = max(score, one["score"])


def test_the_reporting_half_tells_each_candidate_beside_the_best_single_one(crossed):
    found = result_of(crossed)
    assert found["candidates"][0]["name"] == BEST
    assert found["candidates"][0]["difference"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert {one["name"] for one in found["candidates"]} >= {BEST, MIXTURE}
    assert any(one["name"].startswith(MEAN) for one in found["candidates"])
    for one in found["candidates"]:
        low, high = one["difference"]["interval"]
        told = one["scores"]["reporting"]["score"] - found["candidates"][0]["scores"]["reporting"]["score"]
        assert one["difference"]["value"] == pytest.approx(told)
        assert low <= high
    assert "<- final" in table_of(found)


def test_the_command_on_the_run_ends_with_the_same_bits(crossed, tmp_path):
    """Done anew from the checkpoints, as after a kill in the crossover; and once more on what it left."""
    copy = tmp_path / "run"
    shutil.copytree(crossed, copy)
    for name in ("final", FOLDER):
        shutil.rmtree(copy / name)
    (copy / RESULT).unlink()
    for _ in range(2):
        command = [sys.executable, "-m", "training.crossover", str(copy)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        for name in ("final/model.safetensors", "final/metrics.json", RESULT, f"{FOLDER}/sweet_spot_analysis.json"):
            assert (copy / name).read_bytes() == (crossed / name).read_bytes(), name
    assert "<- final" in done.stdout


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoints; name the output_dir of a run"):
        open_run(tmp_path)


def test_choosing_without_dev_is_refused():
    for name in ("crossover", "sweet_spot"):
        with pytest.raises(UserError, match=f"{name} chooses by dev"):
            tiny_config("out", **{name: True})


@pytest.fixture(scope="module")
def family(tokenizer, scenarios, tmp_path_factory):
    """Five checkpoints around a model that knows its rows, none of which is it; the third is thinned to bfloat16, the
    last has averaged weights beside it."""
    folder = tmp_path_factory.mktemp("family")
    model = tiny_model(tokenizer)
    records = as_said_by(model, tokenizer, scenarios[:48])
    own = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.Generator().manual_seed(0)

    def save(place: Path) -> None:
        save_model(model, place)
        tokenizer.save_pretrained(place)

    for step in range(1, 6):
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.copy_(own[name] + 0.3 * own[name].abs().mean() * torch.randn(value.shape, generator=random))
        write_folder(folder / f"checkpoint-{step}", save, {"step": step})
    thin = folder / "checkpoint-3"
    halved = {name: value.bfloat16() for name, value in load_file(thin / "model.safetensors").items()}
    save_file(halved, thin / "model.safetensors", {"format": "pt"})
    (thin / "manifest.json").unlink()
    seal(thin, {"step": 3})
    learned = {name: own[name] for name, _ in model.named_parameters()}
    save_file(learned, folder / "checkpoint-5" / "ema.safetensors")
    return folder, records, own


def written_in(folder: Path) -> list[Path]:
    return [folder / f"checkpoint-{step}" for step in range(1, 6)]


def measured_in(family, work: Path) -> tuple[Measurements, DevScores]:
    folder, records, _ = family
    model, tokenizer = load_model(folder / "checkpoint-5")
    halves = [DevScores(model.config, tokenizer, {"scenarios": records}, half) for half in ("choosing", "reporting")]
    return Measurements(model, halves[0], written_in(folder), 200, work / "measured"), halves[1]


def test_the_mean_is_the_mean_and_the_average_is_what_the_run_kept(family, tmp_path):
    folder, _, own = family
    measured, reporting = measured_in(family, tmp_path)
    put_mean(measured.model, measured.weights[-3:])
    files = [load_file(folder / f"checkpoint-{step}" / "model.safetensors") for step in (3, 4, 5)]
    for name, value in measured.model.state_dict().items():
        expected = np.mean([file[name].float().numpy().astype(np.float64) for file in files], axis=0)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-7)
    spots = find_sweet_spots(measured, [1.0, 2.0, 3.0, 4.0, 5.0], tmp_path / FOLDER)
    winner = cross_over(measured, spots, reporting, 3, tmp_path)
    found = result_of(tmp_path)
    names = [one["name"] for one in found["candidates"]]
    assert f"{EMA} of checkpoint-5" in names
    assert f"{MEAN} of the last 3" in names
    assert LAST in names or found["candidates"][0]["parents"] == ["checkpoint-5"]
    assert found["rounded"] == ["checkpoint-3"]
    # The averaged weights are those of the model that wrote the rows: nothing can be better.
    assert winner.name == f"{EMA} of checkpoint-5"
    parameters = dict(measured.model.named_parameters())
    assert all(torch.equal(parameters[name], own[name]) for name in parameters)


def test_a_mixture_is_the_same_each_time_and_scored_as_it_is(family, tmp_path):
    measured, _ = measured_in(family, tmp_path)
    spots = find_sweet_spots(measured, [1.0, 2.0, 3.0, 4.0, 5.0], tmp_path / FOLDER)
    one = mix(measured, spots)
    held = {name: value.clone() for name, value in measured.model.state_dict().items()}
    again = mix(measured, spots)
    assert (one.modules, one.tried) == (again.modules, again.tried)
    one.load(measured)
    assert all(torch.equal(value, held[name]) for name, value in measured.model.state_dict().items())
    assert any(len(entry["modules"]) > 1 for entry in one.tried), "parts of a task are tried together too"


def test_memory_is_that_of_one_model_and_one_module(tokenizer, tmp_path):
    """Checkpoints of 100 MB each; what reading modules and means takes besides is less than one of them."""
    model = tiny_model(tokenizer, hidden_size=512, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8)
    folders = [tmp_path / f"checkpoint-{step}" for step in range(4)]
    for step, folder in enumerate(folders):
        write_folder(folder, lambda place: save_model(model, place), {"step": step})
    modules, names = modules_of(model), saved_names(model)
    weights = [weights_in(folder, names) for folder in folders]
    largest = max(parameter.nbytes for parameter in model.parameters())
    put_mean(model, weights)  # what is loaded once is not counted
    monitor = MemoryMonitor(ProcessMemory())
    monitor.turn("before")
    monitor.turn("mean")
    put_mean(model, weights)
    monitor.turn("exchange")
    for saved in weights:
        for tensors in modules.values():
            put_in(model, saved, tensors)
    monitor.turn("after")
    found = monitor.most["cpu"]
    if not found.phases:
        pytest.skip(str(monitor.devices[0].unable))
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert size > 10 * largest
    assert found.phases["mean"] - found.phases["before"] < 3 * largest + (8 << 20) < size / 2
    assert found.phases["exchange"] - found.phases["before"] < 2 * largest + (8 << 20)
