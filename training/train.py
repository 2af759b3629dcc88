"""Train a Red Heart model: real text in, a model folder out.

In    a recipe (training/recipes/*.yaml) and fields to set differently.
Out   OUTPUT_DIR/final (model, tokenizer, card, metrics.json), checkpoints, metrics.jsonl; a table per task.
Run   accelerate launch --config_file accelerate_config.yaml training/train.py training/recipes/main.yaml
      python training/train.py --help
      torchrun --nproc_per_node 2 training/train.py RECIPE     (two processes on one CPU)
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: let the checkout's packages be found from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import errno  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

from transformers import PreTrainedTokenizerBase  # noqa: E402

from preprocessing.errors import run  # noqa: E402
from training.build import build_accelerator, build_model, left_behind, read_architecture  # noqa: E402
from training.checkpoint import MANIFEST, find_checkpoint, verify, write_folder  # noqa: E402
from training.collator import Collator  # noqa: E402
from training.command_line import parse_config  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.creation import save_model  # noqa: E402
from training.data import RunData, label_weights, prepare_data  # noqa: E402
from training.evaluate import Evaluation, evaluate_dev  # noqa: E402
from training.loop import TrainLoop  # noqa: E402
from training.memory_run import hold, plan_run, refuse_at_once, write_memory_report  # noqa: E402
from training.model_card import write_model_card  # noqa: E402
from training.out_of_memory import train_or_stop, without_delay  # noqa: E402
from training.report import figures_table  # noqa: E402
from training.rewrite import finish_rewrite  # noqa: E402
from training.run_log import seconds_logged  # noqa: E402
from training.run_state import load_run, read_state  # noqa: E402
from training.standardize import fit_standardization, wants_standardization  # noqa: E402
from training.watchdog import watched  # noqa: E402


def main() -> None:
    config = parse_config(sys.argv[1:])
    try:
        train(config)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = error.filename or config.output_dir  # a write that fails does not say where
        raise


def train(config: TrainConfig) -> None:
    """The whole run, from the recipe to final/."""
    started = time.perf_counter()
    accelerator = build_accelerator(config)
    hold(config, accelerator)
    tokenizer, model_config = read_architecture(config)
    config.refuse_idle_settings(model_config)
    refuse_at_once(config, model_config, accelerator)
    for line in left_behind(config, model_config):
        accelerator.print(line)
    checkpoint = find_checkpoint(Path(config.output_dir), config.resume)
    if checkpoint is not None:  # a run that may not go on there must not write its holdout_*.jsonl over the other's
        read_state(checkpoint, config, accelerator.num_processes)
    with accelerator.main_process_first():
        data = prepare_data(config, model_config, tokenizer, write=accelerator.is_main_process)
    collator = Collator(tokenizer)
    plan = plan_run(config, model_config, data, collator, accelerator)
    _, model = build_model(config)
    if config.class_balance is not None:
        model.config.label_weights = label_weights(data.emotion_counts, config.class_balance)
    if wants_standardization(model) and checkpoint is None:
        fit_standardization(model, data.train, collator, config, accelerator.device, accelerator.is_main_process)

    evaluated: dict[int, Evaluation] = {}

    def evaluate() -> dict[str, Any]:
        evaluated[loop.step] = evaluate_dev(model, tokenizer, data.dev, config.mixed_precision)
        return evaluated[loop.step][0]

    loop = TrainLoop(accelerator, model, data.train, collator, config, evaluate if data.dev else None)
    if checkpoint is not None:
        accelerator.print(f"going on from {checkpoint}")
        load_run(loop, checkpoint)
        started -= seconds_logged(Path(config.output_dir))
    if final_stands(config, loop):
        accelerator.print(f"{config.output_dir}/final is already what this run ends with; nothing is left to do")
    else:
        with watched(loop, plan):
            train_or_stop(loop, plan)
        if accelerator.is_main_process:
            evaluation = evaluated.get(loop.step) or evaluate_dev(model, tokenizer, data.dev, config.mixed_precision)
            finish(config, loop, tokenizer, data, evaluation, time.perf_counter() - started)
    if plan is not None:
        write_memory_report(Path(config.output_dir), plan)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def final_stands(config: TrainConfig, loop: TrainLoop) -> bool:
    """Whether final/ was written by this very run after its last step: thresholds chosen since then are to stay."""
    final = Path(config.output_dir) / "final"
    if loop.step < loop.total_steps or not all((final / name).is_file() for name in (MANIFEST, "train_config.json")):
        return False
    finish_rewrite(final)
    step = verify(final).get("step")
    saved = json.loads((final / "train_config.json").read_text(encoding="utf-8"))
    return step == loop.step and not config.differences(saved)


def finish(
    config: TrainConfig,
    loop: TrainLoop,
    tokenizer: PreTrainedTokenizerBase,
    data: RunData,
    evaluation: Evaluation,
    seconds: float,
) -> None:
    """Report, and write final/ with the chosen thresholds: all at once, or as it was before."""
    output_dir, model = Path(config.output_dir), loop.bare_model
    figures, thresholds = evaluation
    earlier_labels, earlier_data = model.config.trained_labels or [], model.config.trained_on or {}
    model.config.thresholds = thresholds or None
    model.config.trained_labels = sorted({*earlier_labels, *data.labels})
    model.config.trained_on = earlier_data | data.counts
    model.config.surd_found = loop.surd_targets.taught or model.config.surd_found

    def write(folder: Path) -> None:
        save_model(model, folder)
        tokenizer.save_pretrained(folder)
        (folder / "train_config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        write_model_card(folder, config, figures, model.config.trained_on, seconds, model)

    write_folder(output_dir / "final", write, {"step": loop.step})
    print(figures_table(figures))
    print(f"{output_dir / 'final'} written after {seconds:.0f} s")


if __name__ == "__main__":
    with without_delay():
        run(main)
