"""The modes of the first guide, typed as there: what each stands for, and what a mistake gets.

In    the guide's commands (seed 002 and 001); the recipes of this checkout.
Out   failures where a mode would not do what the guide says, or would not start.
Run   pytest tests/test_train_modes.py
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import run_command
from tiny_run import ROOT

from preprocessing.errors import UserError
from preprocessing.folders import verify, write_folder
from preprocessing.readers import parse_source, read
from training import launched, modes
from training.checkpoint import checkpoints
from training.checkpoint_choice import find_checkpoint
from training.command_line import parse_config
from training.config import TrainConfig


def config_of(line: str) -> TrainConfig:
    """Of a mode that trains with one recipe: the run that its command starts."""
    (command,) = modes.commands_of(line.split())
    program, *arguments = command[command.index(str(ROOT / "training" / "train.py")) :]
    assert Path(program).is_file()
    return parse_config(arguments)


def test_the_guides_test_mode_counts_epochs():
    plain, three = config_of("unified-test"), config_of("unified-test --samples 3 --debug --verbose")
    assert (plain.epochs, plain.preset, plain.batch_size) == (2, "redheart-730m", 2)
    assert (plain.lr_sweep["points"], plain.lr_sweep["low"], plain.lr_sweep["high"]) == (5, 1e-5, 1e-2)
    assert (plain.label_smoothing, plain.rdrop_alpha, plain.ema_decay) == (0.1, 1.0, 0.999)
    assert (plain.sweet_spot, plain.crossover) == (True, True)
    assert (three.epochs, three.debug, three.verbose) == (3, True, True)
    assert three.train_rows == plain.train_rows


def test_samples_may_be_said_before_the_command(monkeypatch):
    monkeypatch.setenv("SAMPLES", "5")
    assert config_of("unified-test").epochs == 5
    assert config_of("train-local").train_rows == 5
    monkeypatch.setenv("SAMPLES", "many")
    code, _, err = run_command(modes, "unified-test")
    assert code == 2
    assert "a whole number of at least 1 is wanted, got 'many'" in err


def test_the_guides_long_run():
    config = config_of("unified-train")
    assert (config.epochs, config.batch_size, config.gradient_accumulation_steps) == (60, 2, 32)
    assert (config.save_epochs, config.save_total_limit, config.preflight) == (2, 30, True)
    each_five = config_of("unified-train --checkpoint-interval 5")
    assert (each_five.save_steps, each_five.save_epochs) == (5, None)
    assert config_of("unified-train --epochs 30").epochs == 30
    assert config_of("unified-train --skip-preflight").preflight is False
    checkpoint = "training/checkpoints_final/checkpoint_epoch_0020.pt"
    assert config_of(f"unified-train --resume {checkpoint}").resume == checkpoint
    assert config_of("unified-train --batch-size 1 --no-param-update").update_weights is False


def test_a_checkpoint_to_judge_has_two_names_in_the_guides():
    for line in ("train-validate --resume old.pt", "train-validate --load-checkpoint old.pt"):
        assert modes.commands_of([*line.split(), "--run", "runs/a"])[0][3:] == ["old.pt", "--run", "runs/a"]
    for line in ("train-validate", "train-validate --resume", "train-validate --load-checkpoint"):
        assert modes.commands_of(line.split())[0][3:] == ["latest"]
    assert config_of("unified-train --resume --epochs 3").resume == "latest"


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("unified-test", "unified_test"),
        ("unified-test --samples 3", "unified_test_epochs_3"),
        ("unified-test --samples 2 --batch-size 2", "unified_test"),  # as the recipe has it
        ("unified-test --debug --verbose --force-preprocess", "unified_test"),
        ("unified-train --checkpoint-interval 5 --skip-preflight --resume", "unified_train"),
        ("unified-train --no-param-update --batch-size 1", "unified_train_batch_size_1_update_weights_false"),
        ("train-local --full-dataset --epochs 2", "train_local_epochs_2_train_rows_all"),
        ("train-cloud --full-dataset", "train_cloud"),
    ],
)
def test_a_run_that_options_make_another_one_has_a_folder_of_its_own(line, folder):
    assert config_of(line).output_dir == f"runs/{folder}"
    assert config_of(f"{line} --output_dir mine").output_dir == "mine"
    assert config_of(f"{line} --output_dir=mine").output_dir == "mine"


def test_commands_that_share_a_folder_are_the_same_run():
    """Typed one after the other, none is refused: whoever finds checkpoints finds its own."""
    mode = "unified-test"
    options = [
        "",
        "--samples 3",
        "--batch-size 1",
        "--no-param-update",
        "--full-dataset",
        "--debug",
        "--skip-preflight",
    ]
    of_folder: dict[str, TrainConfig] = {}
    for option in options:
        config = config_of(f"{mode} {option}")
        assert not config.differences(of_folder.setdefault(config.output_dir, config).to_dict())
    assert len(of_folder) == 5


def test_the_guides_name_of_a_checkpoint_is_found_from_another_runs_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Path("runs/unified_train/checkpoints_final/checkpoint_epoch_0020_lr_0.000100_step_00000100")
    write_folder(made, lambda place: (place / "weights").write_text("x"), {"step": 100})
    config = config_of("unified-train --epochs 30 --resume training/checkpoints_final/checkpoint_epoch_0020.pt")
    assert config.output_dir == "runs/unified_train_epochs_30"
    assert find_checkpoint(Path(config.output_dir), config.resume) == made


def test_the_older_models_are_tried_one_after_the_other():
    commands = modes.commands_of(["unified-test-v1", "--samples", "1"])
    presets = [parse_config(command[command.index(str(ROOT / "training" / "train.py")) + 1 :]) for command in commands]
    assert [(config.preset, config.epochs, config.output_dir) for config in presets] == [
        ("redheart-legacy-800m", 1, "runs/legacy_800m_test_epochs_1"),
        ("redheart-legacy-320m", 1, "runs/legacy_320m_test_epochs_1"),
    ]


@pytest.mark.parametrize("mode", ["unified-train", "train-cloud"])
def test_a_long_run_looks_at_dev_every_fifty_steps_or_more_often(mode):
    config = config_of(mode)
    records = sum(len(read(parse_source(source)).records) for source in config.train)
    epoch = -(-records // (config.batch_size * config.gradient_accumulation_steps))
    assert (config.eval_steps or epoch) <= 50
    assert config.dev


def test_train_cloud_does_so_however_much_data_it_is_given():
    assert config_of("train-cloud --full-dataset").eval_steps == 50


def test_cloud_and_local_take_all_records_or_some():
    cloud = config_of("train-cloud --full-dataset --checkpoint-interval 1000")
    assert (cloud.train_rows, cloud.save_steps) == (None, 1000)
    assert config_of("train-local --samples 3 --debug --verbose").train_rows == 3
    assert config_of("train-local --force-preprocess").force_preprocess is True
    assert config_of("train-local --learning_rate 0.5").learning_rate == 0.5  # any field may follow


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("unified-tset", "did you mean unified-test? the modes are: unified-test, unified-train"),
        ("fly", "unknown mode 'fly'; the modes are"),
        ("train-local --full-dataset --samples 3", "takes all records"),
        ("unified-test --samples 3 --epochs 2", "both say how many"),
        ("unified-train --load-checkpoint", "is of train-validate"),
        ("train-validate --resume a --load-checkpoint b", "both say which checkpoint"),
        ("train-validate --samples 3", "train-validate trains nothing and has no use for --samples 3 (or SAMPLES)"),
        ("train-validate --resume a --epochs 3", "has no use for --epochs 3"),
        ("train-validate --no-param-update", "has no use for --no-param-update: leave it out"),
        ("validate --resume", "validate trains nothing and has no use for --resume latest"),
        ("validate --debug", "has no use for --debug"),
    ],
)
def test_what_makes_no_sense_is_refused(line, message):
    with pytest.raises(UserError) as refused:
        modes.commands_of(line.split())
    assert message in str(refused.value)


def test_a_mode_runs_in_the_place_of_its_command(tokenizer_dir, tmp_path):
    """train-local, from the command line to final/, on two records; its exit code is the run's own."""
    in_checkout(tmp_path, tokenizer_dir)
    command = [sys.executable, "-m", "training.modes", *f"train-local --samples 2 --no-param-update {SMALL}".split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "weights unchanged: " in done.stdout
    run = tmp_path / "runs" / "train_local_train_rows_2_update_weights_false"
    assert {"final", "logs", "checkpoints_final", "memory.png", "metrics.jsonl"} <= {
        path.name for path in run.iterdir()
    }
    assert "weights unchanged: " in (run / "logs" / "training.log").read_text(encoding="utf-8")
    small_memory = f"train-local --samples 2 --ram_gib 0.01 --output_dir {tmp_path / 'other'} {SMALL}"
    does_not_fit = subprocess.run(
        [*command[:3], *small_memory.split()], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert does_not_fit.returncode == 3, does_not_fit.stderr[-2000:]
    again = subprocess.run(
        [*command, "--epochs", "x"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert again.returncode == 2
    assert "a whole number of at least 1 is wanted, got 'x'" in again.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_mode_that_is_terminated_is_the_run_that_ends_in_order(tokenizer_dir, tmp_path):
    in_checkout(tmp_path, tokenizer_dir)
    given = f"train-local --samples 40 --epochs 500 --checkpoint-interval 100000 {SMALL}".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "training.modes", *given],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    (run,) = wait_for_steps(process, tmp_path / "runs", 3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err[-2000:]
    (folder,) = checkpoints(run)
    assert verify(folder)["step"] == len((run / "metrics.jsonl").read_bytes().splitlines())
    assert f"after step {verify(folder)['step']}, in order" in err


CHILD = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
time.sleep(100)
"""


def test_the_first_of_two_commands_is_told_to_end(tmp_path):
    """unified-test-v1 has two: whoever waits for the first hands SIGTERM on, and ends with its code."""
    waits = f"import sys; from training.launched import follow; sys.exit(follow([sys.executable, '-c', {CHILD!r}]))"
    process = subprocess.Popen([sys.executable, "-c", waits], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait() == 7


def test_the_launcher_is_left_out_only_where_it_would_do_nothing(tmp_path):
    shipped = (ROOT / "accelerate_config.yaml").read_text(encoding="utf-8")
    assert launched.train_command(["a.yaml"])[:2] == [sys.executable, str(ROOT / "training" / "train.py")]
    for line in ("mixed_precision: bf16", "num_processes: 2", "distributed_type: FSDP", "gpu_ids: 1"):
        (tmp_path / "own.yaml").write_text(f"{shipped}\n{line}\n", encoding="utf-8")
        command = launched.train_command(["a.yaml"], tmp_path / "own.yaml")
        assert command[1:3] == ["launch", "--quiet"]
        assert command[-1] == "a.yaml"


SMALL = "--preset redheart-tiny --model.max_length 96 --optimizer adamw --warmup_steps 0"


def in_checkout(folder: Path, tokenizer_dir: Path) -> None:
    """Where a mode can be typed, and its runs are nobody else's."""
    (folder / "runs").mkdir()
    for name in ("data", "training"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "runs" / "tokenizer").symlink_to(tokenizer_dir)


def wait_for_steps(process: subprocess.Popen, runs: Path, steps: int) -> list[Path]:
    """The runs that have logged so many."""
    while True:
        found = [path.parent for path in runs.glob("*/metrics.jsonl") if path.read_bytes().count(b"\n") >= steps]
        if found:
            return found
        assert process.poll() is None, process.stderr and process.stderr.read()[-3000:]
        time.sleep(0.01)


def environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
