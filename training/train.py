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
import os  # noqa: E402
import time  # noqa: E402
from contextlib import nullcontext  # noqa: E402
from functools import partial  # noqa: E402

from accelerate import Accelerator  # noqa: E402
from transformers import PreTrainedTokenizerBase  # noqa: E402

from preprocessing.errors import run  # noqa: E402
from preprocessing.folders import MANIFEST, verify  # noqa: E402
from training.build import Architecture, build_accelerator, left_behind, read_architecture  # noqa: E402
from training.checkpoint import run_of  # noqa: E402
from training.checkpoint_choice import find_checkpoint  # noqa: E402
from training.checkpoint_identity import architecture_of  # noqa: E402
from training.checkpoint_keep import keep  # noqa: E402
from training.checkpoint_metadata import write_metadata  # noqa: E402
from training.collator import Collator  # noqa: E402
from training.command_line import parse_config  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.creation import laid_out  # noqa: E402
from training.crossover_final import choose_final, refuse_in_pieces  # noqa: E402
from training.data import RunData, prepare_data  # noqa: E402
from training.disk_room import check_disk  # noqa: E402
from training.dry_run import as_loud_as_asked, unmoved  # noqa: E402
from training.ema import averaged  # noqa: E402
from training.evaluate import Evaluation, evaluate_dev  # noqa: E402
from training.final_model import write_final  # noqa: E402
from training.fresh_model import measure, unmeasured_model  # noqa: E402
from training.lr_sweep import began_with, with_swept_rate  # noqa: E402
from training.memory_kinds import MemoryPlan  # noqa: E402
from training.memory_monitor import monitor_of  # noqa: E402
from training.memory_plot import draw_memory  # noqa: E402
from training.memory_report import MemoryReport  # noqa: E402
from training.memory_run import hold, plan_run, refuse_at_once, refuse_without_gpu  # noqa: E402
from training.monitored_loop import MonitoredLoop  # noqa: E402
from training.out_of_memory import OOM_STATS, outside_of_steps, train_or_stop, without_delay  # noqa: E402
from training.preflight import preflight  # noqa: E402
from training.rewrite import finish_rewrite  # noqa: E402
from training.run_lock import held_run  # noqa: E402
from training.run_log import TIMINGS, seconds_logged, whole_lines  # noqa: E402
from training.run_output import kept_output  # noqa: E402
from training.run_state import load_run, read_state, refuse_other_data, whole_weights  # noqa: E402
from training.sharding import is_sharded  # noqa: E402
from training.signals import ended_by_signals, outlive_terminal  # noqa: E402
from training.standardize import wants_standardization  # noqa: E402
from training.trackers import import_trackers  # noqa: E402
from training.watchdog import watched  # noqa: E402
from training.weights import batches_of  # noqa: E402


def main() -> None:
    run_config(parse_config(sys.argv[1:]))


def run_config(config: TrainConfig) -> MemoryReport | None:
    """A run as the command makes it: its folder held, its output kept, deaf to a terminal that it is not before."""
    outlive_terminal()
    try:
        with held_run(Path(config.output_dir), os.environ.get("RANK", "0") == "0"):
            with kept_output(Path(config.output_dir)), as_loud_as_asked(config), outside_of_steps():
                memory = train(config)
            if memory is not None:  # only here: the run's memory is free again, and what draws needs some
                with memory.monitor.phase("draw"):
                    draw_memory(memory.to_dict(), memory.output_dir)
                memory.write()
            return memory
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = error.filename or config.output_dir  # a write that fails does not say where
        raise


def train(config: TrainConfig) -> MemoryReport | None:
    """The whole run, from the recipe to final/; gives back, in the main process, what it took of memory."""
    started, accelerator = time.perf_counter(), build_accelerator(config)
    architecture = look_ahead(config, accelerator)
    checkpoint = find_checkpoint(Path(config.output_dir), config.resume)
    config, data = read_data(config, architecture, checkpoint, accelerator)
    collator = Collator(architecture[0])
    config, plan, limits = plan_run(config, architecture[1], data, collator, accelerator)
    memory = MemoryReport(
        Path(config.output_dir), monitor_of(accelerator.device), plan, limits, accelerator.num_processes
    )
    if accelerator.is_main_process:
        print(disk_room(config, architecture, data, plan, accelerator.num_processes))
    passed = "none"
    if checkpoint is None and config.preflight:
        passed = preflight(config, data, architecture, collator, accelerator, memory)
    if checkpoint is None and config.lr_sweep is not None:
        with memory.monitor.phase("sweep"):
            config = with_swept_rate(config, architecture[1], data, collator, accelerator)
    loop = build_loop(config, architecture, data, collator, accelerator, memory, fresh=checkpoint is None)
    loop.saver.preflight, loop.saver.dev = passed, data.digest["dev"] if data.dev else None
    if accelerator.is_main_process:
        (loop.output_dir / OOM_STATS).mkdir(exist_ok=True)  # empty in the end: memory was never short
    resumed_at = 0 if checkpoint is None else go_on(loop, checkpoint)
    if final_stands(config, loop):
        accelerator.print(f"{config.output_dir}/final is already what this run ends with; nothing is left to do")
    else:
        with watched(loop, plan), ended_by_signals(loop), unmoved(loop.bare_model, config):
            train_or_stop(loop, plan)
        if loop.step < loop.total_steps:
            accelerator.print(loop.stopping.ended(loop.total_steps))
        if accelerator.is_main_process or is_sharded(accelerator):  # each has its pieces to give
            finish(loop, architecture[0], data, started, resumed_at)
    if accelerator.is_main_process:
        memory.write()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return memory if accelerator.is_main_process else None


def look_ahead(config: TrainConfig, accelerator: Accelerator) -> Architecture:
    """Refuses what can be told before any data is read; gives back the tokenizer and the model's config."""
    refuse_without_gpu(config, accelerator)
    refuse_in_pieces(config, accelerator)
    hold(config, accelerator)
    import_trackers(config)
    tokenizer, model_config = read_architecture(config)
    config.refuse_idle_settings(model_config)
    refuse_at_once(config, model_config, accelerator)
    for line in left_behind(config, model_config):
        accelerator.print(line)
    return tokenizer, model_config


def read_data(
    config: TrainConfig, architecture: Architecture, checkpoint: Path | None, accelerator: Accelerator
) -> tuple[TrainConfig, RunData]:
    """The run's rows, and its config as the run that is taken up began with it."""
    tokenizer, model_config = architecture
    approve = None
    if checkpoint is not None:  # a run that may not go on there must not write its holdout_*.jsonl over the other's
        config = began_with(config, checkpoint)
        state = read_state(checkpoint, config, accelerator.num_processes, architecture_of(model_config, tokenizer))
        approve = partial(refuse_other_data, checkpoint, state)
    with accelerator.main_process_first():
        data = prepare_data(config, model_config, tokenizer, accelerator.is_main_process, approve)
    if checkpoint is not None and accelerator.is_main_process:
        if run_of(checkpoint) == Path(config.output_dir):  # a kill may have come between the last save and this
            keep(Path(config.output_dir), config.save_total_limit, config.keep_complete)
        write_metadata(Path(config.output_dir))
    return config, data


def disk_room(
    config: TrainConfig, architecture: Architecture, data: RunData, plan: MemoryPlan | None, num_processes: int
) -> str:
    """Refuses what the disk has no room for, before hours of preflight and sweep."""
    tokenizer, model_config = architecture
    model = laid_out(model_config, config.weight_precision)
    batches = batches_of(data.train, config, 0, num_processes)
    return check_disk(config, model, tokenizer, batches, bool(data.dev), plan.taught if plan is not None else None)


def build_loop(
    config: TrainConfig,
    architecture: Architecture,
    data: RunData,
    collator: Collator,
    accelerator: Accelerator,
    memory: MemoryReport,
    fresh: bool,
) -> MonitoredLoop:
    """The model, in its place, and what trains it; `fresh`: it is not filled from a checkpoint."""
    with memory.monitor.phase("load"):
        model = unmeasured_model(config, architecture, data)
    if fresh and wants_standardization(model):
        with memory.monitor.phase("standardize"):
            measure(model, config, data, collator, accelerator, accelerator.is_main_process)

    def evaluate() -> Evaluation:
        with memory.monitor.phase("evaluate"):
            return evaluate_dev(model, architecture[0], data.dev, config.mixed_precision)

    judge = evaluate if data.dev else None
    return MonitoredLoop(accelerator, model, data.train, collator, config, judge, memory=memory)


def go_on(loop: MonitoredLoop, checkpoint: Path) -> int:
    """Takes up the run there; gives back how many lines of timings.jsonl are of before."""
    loop.accelerator.print(f"going on from {checkpoint}")
    loop.memory.recall(run_of(checkpoint))
    with loop.memory.monitor.phase("resume"):
        load_run(loop, checkpoint)
    return whole_lines(loop.output_dir / TIMINGS)


def final_stands(config: TrainConfig, loop: MonitoredLoop) -> bool:
    """Whether final/ was written by this very run after its last step: thresholds chosen since then are to stay."""
    final = Path(config.output_dir) / "final"
    if not loop.is_over or not all((final / name).is_file() for name in (MANIFEST, "train_config.json")):
        return False
    finish_rewrite(final)
    facts = verify(final)
    saved = json.loads((final / "train_config.json").read_text(encoding="utf-8"))
    if (facts.get("step"), facts.get("identity")) != (loop.step, loop.saver.identity):
        return False
    return not config.differences(saved) and saved.get("crossover", False) == config.crossover


def finish(
    loop: MonitoredLoop, tokenizer: PreTrainedTokenizerBase, data: RunData, started: float, resumed_at: int
) -> None:
    """Choose what is published, judge it, and write final/ with its thresholds: all at once, or as it was before."""
    config, monitor = loop.config, loop.memory.monitor
    with monitor.phase("evaluate"):
        parents = choose_final(loop, tokenizer, data)
    with nullcontext() if parents else averaged(loop):
        step, evaluation = loop.judged or (-1, None)
        if evaluation is None or parents or step != loop.step:
            with monitor.phase("evaluate"):
                evaluation = evaluate_dev(loop.bare_model, tokenizer, data.dev, config.mixed_precision)
        seconds = time.perf_counter() - started + seconds_logged(loop.output_dir, resumed_at)
        with monitor.phase("save"):
            weights, model = whole_weights(loop), loop.bare_model
            model.config.surd_found = loop.surd_targets.taught or model.config.surd_found
            if loop.accelerator.is_main_process:
                of = loop.saver.identity or {}
                write_final(config, model, tokenizer, data, evaluation, loop.step, seconds, of, weights, parents)


if __name__ == "__main__":
    with without_delay():
        run(main)
