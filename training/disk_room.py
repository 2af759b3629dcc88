"""What a run will take of its disk, known before anything of it begins, and refused where there is no such room.

In    a run's config, its model (laid out without memory will do), its tokenizer and batches; what is taught.
Out   bytes of a complete checkpoint, of a thinned one and of final/; a line that says so, or DoesNotFit (exit code 3)
      with the settings that would fit.
Run   through training/train.py

Sizes come from shapes and dtypes: those of the model as it stands, those of the optimizer by letting it take a step on
tensors without memory. What is small (config, code, tokenizer) is written once, to a folder that goes again, and
counted. A save needs room for one more complete checkpoint than are kept, since nothing goes before the new one is
whole; final/ comes beside all of them.
"""

import resource
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from preprocessing.errors import DoesNotFit
from redheart_hf import RedHeartForMultiTask
from redheart_hf.losses import terms_of
from training.adamw_8bit import AdamW8bit
from training.batch_plan import BatchPlan
from training.checkpoint import FOLDER
from training.checkpoint_keep import thin_dtype
from training.config import TrainConfig
from training.creation import save_model
from training.memory_ledger import Ledger
from training.optim import make_optimizer
from training.sharding import same_place
from training.surd_targets import SurdTargets, teaches_surd
from training.tensor_file import Specs, file_size
from training.tokenizer_files import save_tokenizer
from training.weights import steps_of

GIB = 2**30
STATE, CARD = 10 << 10, 24 << 10
"""state.json with the manifest; a model card with its figures."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of a run's folders, and of its largest file."""

    complete: int
    thin: int
    final: int
    largest: int

    def most(self, saves: int, limit: int, complete: int, judged: bool) -> int:
        """What lies there at the most, of a run that saves so often."""
        held = min(saves, max(limit, 1 + judged))
        whole = min(held, complete + judged)
        kept = whole * self.complete + (held - whole) * self.thin
        return kept + max(self.complete if saves > 1 else 0, self.final)


def sizes_of_run(
    config: TrainConfig,
    model: RedHeartForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    taught: Collection[str] | None = None,
) -> Sizes:
    """`taught`: names of the parameters that get gradients; None: all that may."""
    weights = specs_of(model)
    whole = file_size(weights, {"format": "pt"})
    thin = file_size({name: (thin_dtype(*spec), spec[1]) for name, spec in weights.items()}, {"format": "pt"})
    moments = file_size(moments_of(model, config, taught))
    averaged = 0
    if config.ema_decay:
        floats = {
            name: (torch.float32 if dtype.is_floating_point else dtype, shape)
            for name, (dtype, shape) in weights.items()
        }
        averaged = file_size(floats)
    small, targets = small_files(model, tokenizer), SurdTargets(teaches_surd(config, terms_of(model.config)))
    surd = len(targets.packed() or b"")
    return Sizes(
        complete=whole + moments + averaged + small + surd + STATE,
        thin=thin + small + STATE // 2,
        final=whole + small + CARD,
        largest=max(whole, moments, averaged),
    )


def specs_of(model: nn.Module) -> Specs:
    """Shapes and dtypes of what a model's file holds: tensors with two names are in it once."""
    found: dict[object, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        found.setdefault(same_place(tensor), (name, tensor))
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.values()}


def moments_of(model: nn.Module, config: TrainConfig, taught: Collection[str] | None) -> Specs:
    """Shapes and dtypes of what the optimizer keeps after a step of all that is taught."""
    with Ledger(), torch.no_grad():
        parameters = [
            nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and (taught is None or name in taught)
        ]
        if not parameters:
            return {}
        optimizer = make_optimizer([{"params": parameters, "weight_decay": 0.0}], config)
        for parameter in parameters:
            if isinstance(optimizer, AdamW8bit):
                optimizer.begin(parameter)
            else:
                parameter.grad = torch.empty_like(parameter)
        if not isinstance(optimizer, AdamW8bit):
            optimizer.step()
        return {
            f"{number}.{name}": (value.dtype, tuple(value.shape))
            for number, parameter in enumerate(parameters)
            for name, value in optimizer.state[parameter].items()
        }


def small_files(model: RedHeartForMultiTask, tokenizer: PreTrainedTokenizerBase) -> int:
    """Bytes of the files beside the tensors in a model's folder."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder), {})
        save_tokenizer(tokenizer, Path(folder))
        return bytes_in(Path(folder))


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def saves_of(config: TrainConfig, plan: BatchPlan, total: int) -> int:
    """How often a run of `total` steps saves."""
    every = config.save_epochs
    if every is None:
        return -(-total // config.save_steps)
    epochs = plan.epoch_of(total)
    at_the_end = plan.ends_epoch(total) and epochs % every == 0
    return epochs // every + (not at_the_end)


def check_disk(
    config: TrainConfig,
    model: RedHeartForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    plan: BatchPlan,
    judged: bool,
    taught: Collection[str] | None = None,
) -> str:
    """The line that says what the run will take; raises DoesNotFit where there is less. `judged`: on dev."""
    sizes, output_dir = sizes_of_run(config, model, tokenizer, taught), Path(config.output_dir)
    saves = saves_of(config, plan, steps_of(config, plan))
    limit, complete = config.save_total_limit, config.keep_complete
    needed = sizes.most(saves, limit, complete, judged)
    place = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    there, own = shutil.disk_usage(place).free, bytes_in(output_dir / FOLDER)
    said = (
        f"disk: {needed / GIB:.2f} GiB at the most ({min(saves, limit)} checkpoints: complete "
        f"{sizes.complete / GIB:.3f}, thinned {sizes.thin / GIB:.3f}; final/ {sizes.final / GIB:.3f}); "
        f"{there / GIB:.2f} GiB are free for {output_dir}"
    )
    said += f", {own / GIB:.2f} are this run's checkpoints" if own else ""
    refuse_large_files(sizes)
    if needed <= there + own:
        return said
    raise DoesNotFit(
        f"there is no room for this run.\n  {said}\n" + "\n".join(advice(config, sizes, saves, judged, there + own))
    )


def advice(config: TrainConfig, sizes: Sizes, saves: int, judged: bool, there: int) -> list[str]:
    """The settings nearest to those asked for that fit."""
    lines = []
    for complete in sorted({config.keep_complete, min(2, config.keep_complete), 1}, reverse=True):
        for limit in range(min(saves, config.save_total_limit), 0, -1):
            if (needed := sizes.most(saves, limit, complete, judged)) <= there:
                lines.append(f"  --save_total_limit {limit} --keep_complete {complete}  ({needed / GIB:.2f} GiB)")
                break
    if lines:
        return ["Nothing was begun. These settings fit; or make room, or name another --output_dir:", *lines]
    least = sizes.most(saves, 1, 1, judged)
    said = f"No settings fit, the least takes {least / GIB:.2f} GiB"
    return [f"Nothing was begun. {said}: make room, or name another --output_dir"]


def refuse_large_files(sizes: Sizes) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and sizes.largest > limit:
        raise DoesNotFit(
            f"this process may write files of {limit / GIB:.3f} GiB at most (ulimit -f), and a checkpoint has one of "
            f"{sizes.largest / GIB:.3f}. Nothing was begun; raise the limit: ulimit -f unlimited"
        )
