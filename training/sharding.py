"""One model cut into pieces over processes, its pieces in main memory if asked: FSDP2, through Accelerate.

In    what `accelerate launch --config_file training/launch/fsdp2_offload.yaml` asks for; a model and its optimizer.
Out   the same model, of whose weights, gradients and moments each process holds a share; whole tensors of it.
Run   accelerate launch --config_file training/launch/fsdp2_offload.yaml training/train.py RECIPE

A block's weights are gathered before it computes, and given back after; heads, and an encoder that names no layers
to cut at, are gathered once a step. With offload the pieces, and the optimizer's pass over them, are in main memory:
ZeRO-Offload's places (Ren et al. 2021, arXiv 2101.06840), as FSDP2 has them. The arithmetic is that of one process:
weights travel in float32, and lower precision is autocast's. A checkpoint holds whole tensors under the names of every
other run, so that it is loaded, judged and published as they are, and a run may go on from it cut into pieces or not.

Accelerate knows FSDP on GPUs only, and forgets on a CPU, in silence, that it was asked for. Here it is done on both.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import PreTrainedModel

from preprocessing.errors import UserError
from preprocessing.memory_room import is_wsl
from training.config import TrainConfig


def is_asked(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"  # as Accelerate reads it


def is_sharded(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.FSDP


def refuse_deepspeed() -> None:
    """Before there is an accelerator, which would ask for the package first."""
    if is_asked("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "DeepSpeed takes the optimizer's step inside the backward pass, where NaN is stepped over in silence "
            "(bf16) or into (float32), and it saves with pickle; training on it is not done. FSDP2 keeps weights, "
            "gradients and moments in the same places: accelerate launch --config_file "
            "training/launch/fsdp2_offload.yaml"
        )


def settle_sharding(config: TrainConfig, accelerator: Accelerator) -> None:
    """Let the accelerator shard if its launcher asked for it; raises UserError for what then cannot be done."""
    if not is_asked("ACCELERATE_USE_FSDP"):
        return
    plugin = FullyShardedDataParallelPlugin()  # reads what the launcher set
    if wrong := [*wrong_with_launcher(plugin), *wrong_with_pieces(config)]:
        raise UserError(f"with FSDP, {wrong[0]}")
    if accelerator.distributed_type not in (DistributedType.MULTI_CPU, DistributedType.FSDP):
        raise UserError(
            "FSDP was asked for, and this process is alone, or on no GPU: start several on CPUs with torchrun "
            "--nproc_per_node N, or one and more on GPUs with accelerate launch"
        )
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):  # no memory is pinned without a GPU, and little under WSL2
        pinned = accelerator.device.type != "cpu" and not is_wsl()
        plugin.cpu_offload = CPUOffloadPolicy(pin_memory=pinned)
    plugin.auto_wrap_policy, plugin.mixed_precision_policy = transformer_auto_wrap_policy, None
    accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    PartialState().distributed_type = DistributedType.FSDP
    # Nothing here writes into what the model gives back.
    warnings.filterwarnings("ignore", message=".*returned a view tensor")


def wrong_with_launcher(plugin: FullyShardedDataParallelPlugin) -> list[str]:
    """What the launcher asks for that is not done."""
    loads_once = is_asked("FSDP_CPU_RAM_EFFICIENT_LOADING")
    reasons = {
        "fsdp_version must be 2, not 1": plugin.fsdp_version != 2,
        "fsdp_cpu_ram_efficient_loading must be false: each process makes the model, from the seed": loads_once,
        "gradient_checkpointing of the recipe takes the place of fsdp_activation_checkpointing; set that to false": (
            plugin.activation_checkpointing
        ),
    }
    return [reason for reason, holds in reasons.items() if holds]


def wrong_with_pieces(config: TrainConfig) -> list[str]:
    """What the recipe asks for that is not done on pieces of a model."""
    whole_ones = config.optimizer not in ("adamw", "sgd")
    adapted = config.model.get("adapters") is not None
    reasons = {
        "mixed_precision fp16 is not done; use bf16 or no": config.mixed_precision == "fp16",
        f"weight_precision {config.weight_precision} is not done; use fp32": config.weight_precision != "fp32",
        f"optimizer {config.optimizer} would see a piece where it wants the whole; use adamw or sgd": whole_ones,
        "model.adapters leaves little to share out, and merging wants whole weights; leave FSDP out": adapted,
        "update_in_backward moves weights before gradients are added up; leave it out": config.update_in_backward,
        f"ema_decay {config.ema_decay} would need whole weights to change places with, and these are pieces; leave it "
        "out": config.ema_decay is not None,
    }
    return [reason for reason, holds in reasons.items() if holds]


def shared(
    accelerator: Accelerator, model: PreTrainedModel, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, Any, "Shares | None"]:
    """Model and optimizer as the processes share them; for a model cut into pieces, who keeps count of its gradients.

    Cuts are where every batch goes through in every process alike: at the blocks, the encoder's layers, the table of
    embeddings and the last norm. All else stays together: a process whose batch has no alternatives passes the layers
    by that compare them, and would leave the others waiting.
    """
    if not is_sharded(accelerator):
        alone = accelerator.distributed_type == DistributedType.NO  # else Accelerate places what it distributes
        prepared = accelerator.prepare(model, optimizer, device_placement=[False, False] if alone else None)
        return *prepared, None
    accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(cut_at(model))
    own = type(model)
    prepared = accelerator.prepare(model, optimizer)
    # FSDP2 makes a class of its own for the model; what is saved shall name, and bring, the model's.
    type(model).__module__, type(model).__name__, type(model).__qualname__ = (
        own.__module__,
        own.__name__,
        own.__qualname__,
    )
    return *prepared, Shares(model, accelerator.device)


def cut_at(model: PreTrainedModel) -> set[str]:
    """Names of the classes whose modules are cut out; the table of embeddings Accelerate cuts out by itself."""
    names = {name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    reads = model.get_input_embeddings()
    return names & {type(module).__name__ for module in model.modules() if reads not in set(module.modules())}


class Shares:
    """After each backward pass: whose gradient is known in any process, so that all take the same step.

    A process whose records lack a task's labels gives zeros for it to the sum. Where no process had a gradient there
    is none in the end, as in one process: an optimizer leaves alone what nothing was said of.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        assert isinstance(model, FSDPModule)
        model.set_reduce_scatter_unused_params(True)
        self.device, self.named = device, dict(model.named_parameters())
        self.met = WeakTensorKeyDictionary()
        self.used: set[str] = set()
        for prefix, module in model.named_modules():
            if isinstance(module, FSDPModule):
                assert isinstance(module, nn.Module)
                module.register_forward_pre_hook(partial(self.meet, prefix))

    def meet(self, prefix: str, module: nn.Module, _: object) -> None:
        """Just before a part computes, its parameters are there whole: have them say when they get a gradient."""
        for name, parameter in module.named_parameters(prefix):
            if parameter not in self.met and not isinstance(parameter, DTensor) and parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _, name=name: self.used.add(name))
                self.met[parameter] = True

    def drop_unused(self) -> None:
        """Every process has to call it, once a step, before gradients are looked at."""
        said = torch.tensor([float(name in self.used) for name in self.named], device=self.device)
        torch.distributed.all_reduce(said)
        self.used.clear()
        for parameter, count in zip(self.named.values(), said.tolist(), strict=True):
            if count == 0:
                parameter.grad = None


def local(tensor: Tensor) -> Tensor:
    """What of a tensor is in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def same_place(tensor: Tensor) -> tuple[int, int]:
    """Equal for two names of one tensor, and for no others: pieces may be empty, and have no address."""
    held = local(tensor.detach())
    return held.untyped_storage()._cdata, int(held.storage_offset())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process has a piece; every process has to ask. Any other tensor is itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(place: Tensor, value: Tensor) -> None:
    """Write all of a tensor, or what of it this process holds."""
    if isinstance(place, DTensor):
        place.to_local().copy_(piece(value, place).to_local())
    elif place is not value:
        place.copy_(value)


def piece(value: Tensor, like: DTensor) -> DTensor:
    """This process's piece of a whole tensor that every process has."""
    device = value.to(like.device_mesh.device_type)
    return distribute_tensor(device, like.device_mesh, like.placements, src_data_rank=None)


@contextmanager
def put_together(module: nn.Module) -> Iterator[None]:
    """The module with whole parameters, outside of a step; what is written to them is in the pieces afterwards."""
    cut_up = [
        (owner, name, parameter)
        for owner in module.modules()
        for name, parameter in owner.named_parameters(recurse=False)
        if isinstance(parameter, DTensor)
    ]
    for owner, name, parameter in cut_up:
        setattr(owner, name, nn.Parameter(whole(parameter.detach()), requires_grad=False))
    try:
        yield
    finally:
        for owner, name, parameter in cut_up:
            put(parameter.detach(), getattr(owner, name))
            setattr(owner, name, parameter)


@torch.no_grad()
def collected(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors in main memory, one gathered after another; every process has to ask, and those that `keep` have
    them afterwards."""
    found = {}
    for name, tensor in tensors.items():
        if (gathered := whole(tensor)) is not None and keep:
            found[name] = gathered.cpu()
    return found
