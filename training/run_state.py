"""A run's state in a checkpoint: all that decides the next step, and nothing else.

In    a TrainLoop, and a place for the checkpoint or a checkpoint to go on from.
Out   a checkpoint: a loadable model folder with its tokenizer, optimizer.safetensors, state.json, manifest.json;
      ema.safetensors where the run keeps an average.
Run   through TrainLoop; what is in it: docs/architecture.md, "Resume".
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor

from preprocessing.errors import UserError
from preprocessing.folders import verify, write_folder
from training.checkpoint import COMPLETE, FOLDER, load_optimizer, name_of, optimizer_tensors, refuse_thin, run_of
from training.checkpoint_identity import identity, strangers
from training.checkpoint_keep import keep
from training.checkpoint_metadata import write_metadata
from training.config import TrainConfig
from training.creation import fill_model, save_model
from training.ema import FILE as EMA_FILE
from training.optim import learning_rate_at
from training.out_of_memory import FOR_SAVING, ask_first
from training.run_facts import numerics, warn_when_bits_may_differ
from training.run_log import RunLog
from training.saving import Files
from training.score import TOTAL
from training.sharding import collected, is_sharded
from training.tokenizer_files import tokenizer_files

if TYPE_CHECKING:
    from training.loop import TrainLoop


def saving_is_due(loop: "TrainLoop") -> bool:
    """After a step: each save_epochs epochs, without it each save_steps steps; at the end always."""
    config, step = loop.config, loop.step
    if loop.is_over:
        return True
    if config.save_epochs is None:
        return step % config.save_steps == 0
    return loop.plan.ends_epoch(step) and loop.plan.epoch_of(step) % config.save_epochs == 0


def save_run(loop: "TrainLoop", log: RunLog, wait: bool = False, interim: bool = False) -> None:
    """Write a checkpoint, thin and remove older ones; the main process writes, the others wait. With save_async it is
    written beside the steps that follow, unless `wait`, or none do. `interim`: none is due, the run is ending."""
    accelerator, saver = loop.accelerator, loop.saver
    wait = wait or not saver.beside or loop.is_over
    weights, moments = loop.bare_model.state_dict(), optimizer_tensors(loop.optimizer)
    if is_sharded(accelerator):
        weights, moments = (collected(tensors, accelerator.is_main_process) for tensors in (weights, moments))
    if accelerator.is_main_process:
        place, state, surd = place_of(loop), state_of(loop, log), loop.surd_targets.packed()
        facts = facts_of(loop, place, state["identity"]) | ({"interim": True} if interim else {})
        if saver.tokenizer is None:
            saver.tokenizer = tokenizer_files(loop.collator.tokenizer)
        tokenizer = saver.tokenizer
        files: dict[str, Mapping[str, Tensor]] = {"model": weights, "optimizer.safetensors": moments}
        if loop.ema is not None:
            files[EMA_FILE] = loop.ema.tensors()
        if not wait:  # a forward pass may change buffers, while all else stands still until the next update
            buffers = dict(loop.bare_model.named_buffers())
            for name in files.keys() - {"optimizer.safetensors"}:
                files[name] = {key: held.clone() if key in buffers else held for key, held in files[name].items()}

        def write_files(folder: Path, files: Files) -> None:
            save_model(loop.bare_model, folder, dict(files["model"]))
            for name, content in tokenizer.items():
                (folder / name).write_bytes(content)
            for name in files.keys() - {"model"}:
                save_file({key: value.contiguous() for key, value in files[name].items()}, folder / name)
            if surd is not None:
                (folder / "surd_predictions.safetensors").write_bytes(surd)
            (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            log.flush()  # a checkpoint may not know of lines that a crash could lose

        def write(files: Files) -> None:
            write_folder(place, partial(write_files, files=files), facts)
            keep(loop.output_dir, loop.config.save_total_limit, loop.config.keep_complete)
            write_metadata(loop.output_dir)

        ask_first(FOR_SAVING)
        with log.saving():
            saver.save(files, write, wait)
        saver.parent = place.name
        log.saved()
    if wait:
        accelerator.wait_for_everyone()


def state_of(loop: "TrainLoop", log: RunLog) -> dict[str, Any]:
    """What of the run is no tensor."""
    accelerator, saver = loop.accelerator, loop.saver
    data, scaler = loop.dataset.info.description, accelerator.scaler
    if saver.identity is None:
        saver.identity = identity(loop.config, loop.bare_model.config, loop.collator.tokenizer, data, saver.dev)
    return {
        "step": loop.step,
        "skipped_steps": loop.skipped_steps,
        "skipped_in_a_row": loop.skipped_in_a_row,
        "term_weights": loop.term_weights.state_dict(),
        "loss_means": loop.loss_means.state_dict(),
        "early_stopping": loop.stopping.state_dict(),
        "ema_updates": loop.ema.updates if loop.ema is not None else None,
        "surd": {"found": loop.surd_targets.found, "taught": loop.surd_targets.taught},
        "scaler": scaler.state_dict() if scaler is not None else None,
        "metrics_bytes": log.metrics_bytes(),
        "identity": saver.identity,
        "num_processes": accelerator.num_processes,
        "previous_norm": loop.in_backward.previous_norm if loop.in_backward is not None else None,
        "numerics": numerics(accelerator.device),
        "train_config": loop.config.to_dict(),
    }


def facts_of(loop: "TrainLoop", place: Path, known: dict[str, str]) -> dict[str, Any]:
    """The checkpoint's entry in metadata.json."""
    step, scores = loop.saver.judged
    scores = scores if step == loop.step else {}
    total = {"score": found} if (found := scores.get("choosing", {}).get(TOTAL)) is not None else {}
    return {
        "epoch": loop.plan.epoch_of(loop.step),
        "step": loop.step,
        "name": place.name,
        "learning_rate": last_rate(loop),
        "metrics": {"loss": loop.loss_means.latest(), **total},
        "score": scores or None,
        "parent": loop.saver.parent,
        "identity": known,
        "preflight": loop.saver.preflight,
        "kept": COMPLETE,
    }


def last_rate(loop: "TrainLoop") -> float:
    """Of the update that led to the loop's step."""
    config = loop.config
    least, warmup = config.min_learning_rate, config.warmup_steps
    return learning_rate_at(loop.step - 1, config.learning_rate, least, warmup, loop.total_steps)


def place_of(loop: "TrainLoop") -> Path:
    """Where the checkpoint of the loop's step lies."""
    return loop.output_dir / FOLDER / name_of(loop.step, loop.plan.epoch_of(loop.step), last_rate(loop))


def whole_weights(loop: "TrainLoop") -> dict[str, Tensor] | None:
    """Of a model cut into pieces, all of it in the main process; None for any other. Every process has to ask."""
    if not is_sharded(loop.accelerator):
        return None
    return collected(loop.bare_model.state_dict(), loop.accelerator.is_main_process)


def read_state(
    folder: Path, config: TrainConfig, num_processes: int, known: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """state.json of a checkpoint; raises UserError when it is of another run. `known`: what there is of this run's
    identity (training/checkpoint_identity.py)."""
    if not (folder / "state.json").is_file():
        raise UserError(f"{folder} is a model, not a checkpoint: it has no state.json; name one in {FOLDER}/")
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        differences = config.differences(state["train_config"])
        differences += strangers(state.get("identity", {}), known or {})
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


def refuse_other_data(folder: Path, state: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Raises UserError where the run of a checkpoint trained on, or was judged by, other rows than `now` says."""
    saved = state.get("identity", {})
    if saved.get("data") != now["data"]:
        raise UserError(
            f"{folder} was trained on {saved.get('data') or 'data it does not name'}, this is {now['data']}: a "
            "training file, the tokenizer or max_length has changed since. Bring them back, or give another output_dir"
        )
    if "dev" in saved and "dev" in now and saved["dev"] != now["dev"]:
        raise UserError(
            f"the run of {folder} was judged by dev {saved['dev']}, this is {now['dev']}: its rows have changed, "
            "and scores of both would be compared. Bring them back, or give another output_dir"
        )


def load_run(loop: "TrainLoop", folder: Path) -> None:
    """Take up the run where `folder` left it; raises UserError when it is damaged or of another run."""
    facts = verify(folder)
    refuse_thin(folder, facts)
    accelerator, data = loop.accelerator, loop.dataset.info.description
    known = identity(loop.config, loop.bare_model.config, loop.collator.tokenizer, data, loop.saver.dev)
    loop.saver.identity = known
    state = read_state(folder, loop.config, accelerator.num_processes, {"model": known["model"]})
    refuse_other_data(folder, state, known)
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
    loop.stopping.load_state_dict(state.get("early_stopping", []))
    if loop.ema is not None:
        loop.ema.load(folder / EMA_FILE)
        loop.ema.updates = state["ema_updates"]
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    loop.saver.parent = folder.name if run_of(folder) == loop.output_dir else str(folder)
    if facts.get("interim"):  # it goes with the next save
        loop.saver.parent = facts.get("parent")
    loop.saver.preflight = facts.get("preflight", loop.saver.preflight)
    loop.step, loop.metrics_bytes = state["step"], state["metrics_bytes"]
    loop.skipped_steps, loop.skipped_in_a_row = state["skipped_steps"], state["skipped_in_a_row"]
