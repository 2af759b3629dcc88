"""Train a Red Heart model: real text in, a model folder out.

In    a recipe (training/recipes/*.yaml) and fields to set differently.
Out   OUTPUT_DIR/final (model, tokenizer, card, metrics.json), checkpoints, metrics.jsonl; a table per task;
      memory_report.json and memory.png, what the run was planned to take of memory and what it took.
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
from preprocessing.folders import MANIFEST, verify, write_folder  # noqa: E402
from training.build import build_accelerator, build_model, left_behind, read_architecture  # noqa: E402
from training.checkpoint import find_checkpoint  # noqa: E402
from training.collator import Collator  # noqa: E402
from training.command_line import parse_config  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.creation import save_model  # noqa: E402
from training.data import RunData, label_weights, prepare_data  # noqa: E402
from training.evaluate import Evaluation, evaluate_dev  # noqa: E402
from training.memory_monitor import monitor_of  # noqa: E402
from training.memory_plot import draw_memory  # noqa: E402
from training.memory_report import MemoryReport  # noqa: E402
from training.memory_run import hold, plan_run, refuse_at_once, refuse_without_gpu  # noqa: E402
from training.model_card import write_model_card  # noqa: E402
from training.monitored_loop import MonitoredLoop  # noqa: E402
from training.out_of_memory import outside_of_steps, train_or_stop, without_delay  # noqa: E402
from training.report import figures_table  # noqa: E402
from training.rewrite import finish_rewrite  # noqa: E402
from training.run_log import seconds_logged  # noqa: E402
from training.run_state import load_run, read_state, whole_weights  # noqa: E402
from training.sharding import is_sharded  # noqa: E402
from training.standardize import fit_standardization, wants_standardization  # noqa: E402
from training.watchdog import watched  # noqa: E402


def main() -> None:
    config = parse_config(sys.argv[1:])
    try:
        with outside_of_steps():
            memory = train(config)
        if memory is not None:  # only here: the run's memory is free again, and what draws needs some
            with memory.monitor.phase("draw"):
                draw_memory(memory.to_dict(), memory.output_dir)
            memory.write()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = error.filename or config.output_dir  # a write that fails does not say where
        raise


def train(config: TrainConfig) -> MemoryReport | None:
    """The whole run, from the recipe to final/; gives back, in the main process, what it took of memory."""
    started = time.perf_counter()
    accelerator = build_accelerator(config)
    refuse_without_gpu(config, accelerator)
    hold(config, accelerator)
    monitor = monitor_of(accelerator.device)
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
    config, plan, limits = plan_run(config, model_config, data, collator, accelerator)
    memory = MemoryReport(Path(config.output_dir), monitor, plan, limits, accelerator.num_processes)
    with monitor.phase("load"):
        _, model = build_model(config)
    if config.class_balance is not None:
        model.config.label_weights = label_weights(data.emotion_counts, config.class_balance)
    if wants_standardization(model) and checkpoint is None:
        with monitor.phase("standardize"):
            fit_standardization(model, data.train, collator, config, accelerator.device, accelerator.is_main_process)

    evaluated: dict[int, Evaluation] = {}

    def evaluate() -> dict[str, Any]:
        with monitor.phase("evaluate"):
            evaluated[loop.step] = evaluate_dev(model, tokenizer, data.dev, config.mixed_precision)
        return evaluated[loop.step][0]

    judge = evaluate if data.dev else None
    loop = MonitoredLoop(accelerator, model, data.train, collator, config, judge, memory=memory)
    if checkpoint is not None:
        accelerator.print(f"going on from {checkpoint}")
        memory.recall(checkpoint.parent)
        with monitor.phase("resume"):
            load_run(loop, checkpoint)
        started -= seconds_logged(Path(config.output_dir))
    if final_stands(config, loop):
        accelerator.print(f"{config.output_dir}/final is already what this run ends with; nothing is left to do")
    else:
        with watched(loop, plan):
            train_or_stop(loop, plan)
        if accelerator.is_main_process or is_sharded(accelerator):  # each has its pieces to give
            if loop.step not in evaluated:
                evaluate()
            with monitor.phase("save"):
                finish(config, loop, tokenizer, data, evaluated[loop.step], time.perf_counter() - started)
    if accelerator.is_main_process:
        memory.write()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return memory if accelerator.is_main_process else None


def final_stands(config: TrainConfig, loop: MonitoredLoop) -> bool:
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
    loop: MonitoredLoop,
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

    weights = whole_weights(loop)

    def write(folder: Path) -> None:
        save_model(model, folder, weights)
        tokenizer.save_pretrained(folder)
        (folder / "train_config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        write_model_card(folder, config, figures, model.config.trained_on, seconds, model)

    if not loop.accelerator.is_main_process:
        return
    write_folder(output_dir / "final", write, {"step": loop.step})
    print(figures_table(figures))
    print(f"{output_dir / 'final'} written after {seconds:.0f} s")


if __name__ == "__main__":
    with without_delay():
        run(main)
