"""Models in two places: the numbers of one place, what crosses, and what each device then holds.

In    runs of a small model on the CPU, which plays both devices; plans for a GPU that is pretended.
Out   weights beside those of a run in one place; bytes beside what they must be by arithmetic.
Run   `pytest tests/test_train_placement.py`
"""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from accelerate.utils import set_seed
from commands import NEEDS_COMPILER, run_command
from tiny_run import ROOT, SMALL_MODULES, build_loop, tiny_config

from redheart_hf import RedHeartForMultiTask, preset_config
from redheart_hf.presets import parameters_by_module
from training import memory, train
from training.loop import TrainLoop
from training.placement import Crossing, Placed, units_of

LAYERS = SMALL_MODULES | {"num_hidden_layers": 4, "modules": ["triangle", "emotion_analyzer", "regret_analyzer"]}
LOW = {"optimizer": "adamw_8bit", "mixed_precision": "bf16", "weight_precision": "bf16", "update_in_backward": True}
LOW |= {"gradient_accumulation_steps": 1}  # of more, the gradients of all would be added up in another order
USED_ONCE = LAYERS | {"modules": []}  # autocast adds up gradients of a weight used twice before it widens them
STEPS = 4


class OnTheSecond(TrainLoop):
    """A run whose GPU is a CPU with a number: what is given to a unit there goes through a crossing, and stays where
    it was. That nothing is forgotten to cross, the plans for a pretended GPU show."""

    def place(self, model: RedHeartForMultiTask) -> Placed:
        return Placed(model, self.config, torch.device("cpu", 1))


def weights_after(loop: TrainLoop) -> dict[str, torch.Tensor]:
    loop.train()
    return {name: value.clone() for name, value in loop.bare_model.state_dict().items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def first_step(loop: TrainLoop) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Sums of the losses of the run's first step, and its gradients."""
    group = next(iter(loop.groups()))
    set_seed(loop.seed_of_step())
    loop.model.train()
    sums = loop.go_through(group, loop.count_labels(group))
    gradients = {name: value.grad for name, value in loop.bare_model.named_parameters() if value.grad is not None}
    return {term: float(value) for term, value in sums.of_terms.items()}, gradients


def runs(tokenizer, scenarios, folder, kind=TrainLoop, plain=None, **changed) -> tuple[TrainLoop, TrainLoop]:
    """The same run in one place, and as `changed` says."""
    fields = {"max_steps": STEPS, "eval_steps": 2, "gradient_accumulation_steps": 2} | (plain or {})
    sizes = USED_ONCE if "mixed_precision" in fields else LAYERS
    first = build_loop(tokenizer, tiny_config(folder / "plain", **fields), scenarios[:24], **sizes)
    second_config = tiny_config(folder / "placed", **(fields | changed))
    return first, build_loop(tokenizer, second_config, scenarios[:24], kind, **sizes)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("after", ["gpu", "cpu"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_split_model_learns_what_a_whole_one_does(ratio, after, checkpointing, tokenizer, scenarios, tmp_path):
    plain = {"gradient_checkpointing": checkpointing}
    placed = {"gpu_layers_ratio": ratio, "heads_device": after}
    whole, split = runs(tokenizer, scenarios, tmp_path, OnTheSecond, plain, **placed)
    places = list(split.placed.places.values())
    assert set(map(str, places)) == ({"cpu"} if (ratio, after) == (0.0, "cpu") else {"cpu", "cpu:1"})
    assert str(split.placed.last) == ("cpu" if after == "cpu" else "cpu:1")
    (losses, gradients), (expected_losses, expected) = first_step(split), first_step(whole)
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():  # sums of the same numbers, some in another order
        torch.testing.assert_close(gradients[name], value, rtol=1e-5, atol=1e-6 * float(value.abs().max()))


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"gradient_checkpointing": True},
        pytest.param(LOW | {"clipping": "previous_norm", "gradient_checkpointing": True}, marks=NEEDS_COMPILER),
        pytest.param(LOW | {"clipping": "global"}, marks=NEEDS_COMPILER),
    ],
    ids=["plain", "checkpointing", "low memory", "two passes"],
)
@pytest.mark.parametrize("room", [0.0, 1.0])
@pytest.mark.usefixtures("own_precision")
def test_weights_that_visit_learn_what_weights_that_stay_do(room, plain, tokenizer, scenarios, tmp_path):
    """Copies are real here: one that outlived an update would show."""
    whole, swapped = runs(tokenizer, scenarios, tmp_path, TrainLoop, plain, swap="on", swap_room_gib=room)
    assert_same(weights_after(swapped), weights_after(whole))
    lines = (tmp_path / "placed" / "timings.jsonl").read_text().splitlines()
    figures = json.loads(lines[-1])["swap"]
    assert figures["hits"] > 0
    assert figures["misses"] > 0
    assert figures["bytes_moved"] > 0


def test_with_room_each_weight_is_copied_once_between_updates(tokenizer, scenarios, tmp_path):
    fields = {"max_steps": 3, "gradient_checkpointing": True, "gradient_accumulation_steps": 1, "eval_steps": 100}
    moved = {}
    for room in (0.0, 1.0):
        config = tiny_config(tmp_path / f"{room}", swap="on", swap_room_gib=room, **fields)
        loop = build_loop(tokenizer, config, scenarios[:12], **LAYERS)
        loop.evaluate = None
        visitors = [unit for name, unit in units_of(loop.bare_model) if name != "model.embeddings"]
        once = sum(tensor.nbytes for unit in visitors for tensor in (*unit.parameters(), *unit.buffers()))
        loop.train()
        moved[room] = loop.placed.swap.figures.bytes_moved
    assert 3 * once <= moved[1.0] < 4 * once  # beside them what was fetched ahead when the weights moved
    assert moved[0.0] > moved[1.0] + 3 * 4 * sum(map(torch.numel, loop.bare_model.model.blocks.parameters()))


def test_heads_stay_longer_than_blocks_and_what_was_used_last_than_what_was_used_first(tokenizer, scenarios, tmp_path):
    config = tiny_config(tmp_path / "run", swap="on", max_steps=1)
    swap = build_loop(tokenizer, config, scenarios[:12], **LAYERS).placed.swap
    swap.following, swap.room = {}, 1 << 40
    for name in ("model.blocks.0", "emotion_head", "model.blocks.1", "model.blocks.0"):
        swap.following.clear()
        swap.invite(name)
    assert (swap.figures.hits, swap.figures.misses) == (1, 3)
    sizes = {name: guest.size for name, guest in swap.guests.items()}
    swap.room = sum(sizes.values()) - 1
    swap.make_room(0, keep=())
    assert set(swap.guests) == {"emotion_head", "model.blocks.0"}
    swap.room = sizes["emotion_head"]
    swap.make_room(0, keep=())
    assert set(swap.guests) == {"emotion_head"}


def test_a_crossing_takes_the_gradient_back():
    value = torch.arange(3.0, requires_grad=True)
    Crossing.apply(value * 2, torch.device("cpu", 1), False).square().sum().backward()
    assert value.grad.tolist() == [0.0, 8.0, 16.0]


def planned(*options: object, code: int = 0) -> dict:
    """A plan for a GPU, which registers one with torch: in a process of its own."""
    command = ["-m", "training.memory", "--preset", "redheart-tiny", "--vram-gib", 8, "--batch-size", 4]
    command += ["--max-length", 32, *options, "--json"]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-2000:]
    return json.loads(done.stdout)


HIDDEN = 4 * 32 * 128 * 4  # bytes of 4 x 32 tokens of redheart-tiny's width
MODULES = parameters_by_module(preset_config("redheart-tiny"))
WEIGHTS = 4 * sum(MODULES.values())


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_hidden_states_cross_once_and_their_gradients_once(checkpointing):
    plan = planned("--gpu-layers-ratio", 0.5, "--gradient-checkpointing", checkpointing)
    devices = plan["devices"]
    for device in devices.values():  # and a few single numbers
        assert HIDDEN <= device["arrived"] < 1.03 * HIDDEN
    block = 4 * MODULES["model.blocks"] / 2
    reads = 4 * (MODULES["model.embeddings"] + MODULES["model.input_projection"])
    assert devices["cpu"]["weights"] == pytest.approx(block + reads, rel=0.01)
    assert devices["gpu"]["weights"] == pytest.approx(WEIGHTS - block - reads, rel=0.01)
    assert devices["gpu"]["optimizer"] == pytest.approx(2 * devices["gpu"]["gradients"], rel=0.01)
    assert "1 of 2 blocks are on the GPU, the first ones on the CPU" in plan["notes"]


def test_weights_that_visit_leave_the_gpu_what_is_at_work():
    whole, swapped = planned(), planned("--swap", "on", "--gradient-checkpointing", "true")
    gpu, cpu = swapped["devices"]["gpu"], swapped["devices"]["cpu"]
    assert (gpu["weights"], gpu["gradients"], gpu["optimizer"]) == (0, 0, 0)
    assert cpu["weights"] == pytest.approx(WEIGHTS, rel=0.01)
    assert cpu["optimizer"] == pytest.approx(whole["devices"]["gpu"]["optimizer"], rel=0.01)
    visiting = WEIGHTS - 4 * MODULES["model.embeddings"]  # a table's rows are looked up at home
    assert gpu["arrived"] > visiting + 4 * MODULES["model.blocks"]  # blocks come twice
    assert gpu["peak"] < whole["devices"]["gpu"]["peak"]


def test_swap_is_on_by_itself_only_where_the_gpu_has_too_little_room():
    wide = ("--model.intermediate_size", 65536, "--swap", "auto", "--gradient-checkpointing", "true")
    large, small = planned(*wide), planned(*wide, "--vram-gib", 0.9)
    assert not any("swap" in note for note in large["notes"])
    assert any("swap is on" in note for note in small["notes"])
    assert small["fits"]
    assert small["devices"]["gpu"]["peak"] <= 0.9 * 2**30 < large["devices"]["gpu"]["peak"]


def test_what_bf16_multiplies_is_planned_in_two_bytes_on_the_gpu_too():
    """Blocks whose matrix products are most of what is kept; with them are kept the weights as they were cast."""
    wide = ("--batch-size", 16, "--model.intermediate_size", 4096, "--model.num_hidden_layers", 4)
    whole, half = planned(*wide), planned(*wide, "--mixed-precision", "bf16")
    assert half["devices"]["gpu"]["activations"] < 0.8 * whole["devices"]["gpu"]["activations"]


def test_settings_that_fit_a_gpu_are_found_and_fit(tmp_path):
    wide = ("--model.intermediate_size", 65536, "--ram-gib", 4)
    command = [sys.executable, "-m", "training.memory", "--preset", "redheart-tiny", "--vram-gib", 0.9, "--fit"]
    done = subprocess.run([*map(str, command), *map(str, wide)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "GiB of the GPU, about" in done.stderr
    fields = yaml.safe_load(done.stdout)
    assert fields["vram_gib"] == 0.9
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(done.stdout, encoding="utf-8")
    again = [sys.executable, "-m", "training.memory", str(recipe), "--json"]
    assert json.loads(subprocess.run(again, cwd=ROOT, capture_output=True, text=True).stdout)["fits"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("options", "gpu", "ram"),
    [
        (
            "--preset redheart-730m --batch-size 2 --gradient-accumulation-steps 32 --max-length 128 --swap on "
            "--gradient-checkpointing true --vram-gib 7.45",
            (0, 8e9),
            (0, 16e9),
        ),
        (
            "--preset redheart-200m --batch-size 8 --alternatives 7 --max-length 96 --gpu-layers-ratio 0.6 "
            "--vram-gib 7.45",
            (6e9, 7e9),
            (0, 128e9),
        ),
        ("--preset redheart-800m --batch-size 8 --alternatives 3 --max-length 128 --ram-gib 62", (0, 0), (0, 25e9)),
    ],
    ids=["unified 730m", "hybrid 200m", "safe 800m"],
)
def test_the_named_systems_keep_to_the_figures_they_were_named_with(options, gpu, ram):
    """Bytes: docs of this project's systems, S2 to S4."""
    command = [sys.executable, "-m", "training.memory", *options.split(), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout, done.stderr[-2000:]
    devices = json.loads(done.stdout)["devices"]
    assert gpu[0] <= devices.get("gpu", {"peak": 0})["peak"] <= gpu[1]
    assert ram[0] <= devices["cpu"]["peak"] <= ram[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpu-layers-ratio", 1.5], "gpu_layers_ratio must lie in 0.0 to 1.0, got 1.5"),
        (["--gpu-layers-ratio", -0.1], "gpu_layers_ratio must lie in 0.0 to 1.0, got -0.1"),
        (["--vram-gib", 0], "vram_gib must be positive and finite, got 0.0"),
        (["--vram-gib", -8], "vram_gib must be positive and finite, got -8.0"),
        (["--swap", "on", "--gpu-layers-ratio", 0.5], "leave one of them out"),
        (["--heads-device", "cpu"], "heads_device cpu is a part of gpu_layers_ratio"),
        (["--swap-room-gib", 1], "swap_room_gib 1.0 does nothing without swap"),
        (["--swap", "sometimes"], "sometimes"),
        (["--swap", "on", "--mixed-precision", "fp16"], "fp16's scaler is for gradients on the GPU"),
        (["--ram-gib", 1e308], "ram_gib is in GiB, and 1e+308 are more than any machine has"),
        (["--vram-gib", 8, "--optimizer", "adamw_8bit"], "optimizer adamw_8bit runs on the CPU"),
        (["--heads-device", "tpu"], "tpu"),
    ],
)
def test_what_no_placement_could_be_is_refused(options, told):
    code, out, err = run_command(memory, "--preset", "redheart-tiny", *options)
    assert (code, out, told in err) == (2, "", True), err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("option", [["--gpu_layers_ratio", "0.5"], ["--swap", "on"], ["--vram_gib", "8"]])
def test_a_run_without_a_gpu_refuses_what_needs_one(option, tmp_path):
    source = f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}"
    given = ["--output_dir", tmp_path / "run", "--train", json.dumps([source]), "--tokenizer", "none", *option]
    code, _, err = run_command(train, *given)
    assert (code, "none is found here: leave it out to train on the CPU" in err) == (2, True), err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_plan_for_a_gpu_of_unknown_size_asks_for_it():
    code, _, err = run_command(memory, "--preset", "redheart-tiny", "--gpu-layers-ratio", 0.5)
    assert (code, "say how much it has: --vram_gib 8" in err) == (2, True), err
