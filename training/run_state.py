"""A run's state in a checkpoint: all that decides the next step, and nothing else.

In    a TrainLoop, and a place for the checkpoint or a checkpoint to go on from.
Out   checkpoint-STEP: a loadable model folder with its tokenizer, optimizer.safetensors, state.json, manifest.json.
Run   through TrainLoop; what is in it: docs/architecture.md, "Resume".
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor

from preprocessing.errors import UserError
from preprocessing.folders import verify, write_folder
from training.checkpoint import PREFIX, load_optimizer, optimizer_tensors, remove_oldest
from training.config import TrainConfig
from training.creation import fill_model, save_model
from training.out_of_memory import FOR_SAVING, ask_first
from training.run_facts import numerics, warn_when_bits_may_differ
from training.run_log import RunLog
from training.sharding import collected, is_sharded

if TYPE_CHECKING:
    from training.loop import TrainLoop


def save_run(loop: "TrainLoop", log: RunLog) -> None:
    """Write checkpoint-STEP and remove the oldest ones; the main process writes, the others wait."""
    accelerator, scaler = loop.accelerator, loop.accelerator.scaler
    weights, moments = whole_weights(loop), optimizer_tensors(loop.optimizer)
    if is_sharded(accelerator):
        moments = collected(moments, accelerator.is_main_process)
    if accelerator.is_main_process:
        state = {
            "step": loop.step,
            "skipped_steps": loop.skipped_steps,
            "skipped_in_a_row": loop.skipped_in_a_row,
            "term_weights": loop.term_weights.state_dict(),
            "loss_means": loop.loss_means.state_dict(),
            "surd": {"found": loop.surd_targets.found, "taught": loop.surd_targets.taught},
            "scaler": scaler.state_dict() if scaler is not None else None,
            "metrics_bytes": log.metrics_bytes(),
            "data": loop.dataset.info.description,
            "num_processes": accelerator.num_processes,
            "previous_norm": loop.in_backward.previous_norm if loop.in_backward is not None else None,
            "numerics": numerics(accelerator.device),
            "train_config": loop.config.to_dict(),
        }

        def write(folder: Path) -> None:
            save_model(loop.bare_model, folder, weights)
            loop.collator.tokenizer.save_pretrained(folder)
            save_file({name: value.contiguous() for name, value in moments.items()}, folder / "optimizer.safetensors")
            if loop.surd_targets.active:
                loop.surd_targets.save(folder / "surd_predictions.safetensors")
            (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

        ask_first(FOR_SAVING)
        with log.saving():
            write_folder(loop.output_dir / f"checkpoint-{loop.step}", write, {"step": loop.step})
            remove_oldest(loop.output_dir, loop.config.save_total_limit)
        log.saved()
    accelerator.wait_for_everyone()


def whole_weights(loop: "TrainLoop") -> dict[str, Tensor] | None:
    """Of a model cut into pieces, all of it in the main process; None for any other. Every process has to ask."""
    if not is_sharded(loop.accelerator):
        return None
    return collected(loop.bare_model.state_dict(), loop.accelerator.is_main_process)


def read_state(folder: Path, config: TrainConfig, num_processes: int) -> dict[str, Any]:
    """state.json of a checkpoint; raises UserError when it is of another run."""
    if not (folder / "state.json").is_file():
        raise UserError(f"{folder} is a model, not a checkpoint: it has no state.json; name a {PREFIX}STEP folder")
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        differences = config.differences(state["train_config"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / 'state.json'} is damaged: {error}; remove {folder} to go on from an older one"
        ) from error
    if state["num_processes"] != num_processes:
        differences.append(f"processes: {state['num_processes']} in the checkpoint, {num_processes} now")
    if differences:
        raise UserError(
            f"{folder} belongs to another run ({'; '.join(differences)}). Restore these settings, or give another "
            "output_dir"
        )
    return state


def load_run(loop: "TrainLoop", folder: Path) -> None:
    """Take up the run where `folder` left it; raises UserError when it is damaged or of another run."""
    verify(folder)
    accelerator = loop.accelerator
    state = read_state(folder, loop.config, accelerator.num_processes)
    if (trained_on := state.get("data")) != loop.dataset.info.description:
        raise UserError(
            f"{folder} was trained on {trained_on or 'data it does not name'}, this is "
            f"{loop.dataset.info.description}: a training file, the tokenizer or max_length has changed "
            "since. Bring them back, or give another output_dir"
        )
    warn_when_bits_may_differ(state["numerics"], numerics(accelerator.device))
    fill_model(loop.bare_model, folder)
    load_optimizer(loop.optimizer, folder / "optimizer.safetensors")
    if loop.surd_targets.active:
        loop.surd_targets.load(folder / "surd_predictions.safetensors")
        if "taught" not in (state["surd"] or {}):
            raise UserError(
                f"{folder} was written before checkpoints said what their SURD head learned from; go on with the "
                "version that wrote it, or start from its weights: --start_from"
            )
        loop.surd_targets.found, loop.surd_targets.taught = state["surd"]["found"], state["surd"]["taught"]
    if loop.in_backward is not None:
        loop.in_backward.previous_norm = state["previous_norm"]
    loop.term_weights.load_state_dict(state["term_weights"])
    loop.loss_means.load_state_dict(state["loss_means"])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    loop.step, loop.metrics_bytes = state["step"], state["metrics_bytes"]
    loop.skipped_steps, loop.skipped_in_a_row = state["skipped_steps"], state["skipped_in_a_row"]
