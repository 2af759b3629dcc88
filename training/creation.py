"""A model made once, each number in its final place and precision, and filled from files without a second copy.

In    a RedHeartConfig and a `weight_precision`; or a model, and a folder that `save_pretrained` wrote.
Out   a freshly initialised model; or the same model, holding the folder's weights.
Run   through training/build.py and training/run_state.py

With bf16 the weights of linear layers, embeddings and the scenario memory take two bytes a number. Norms, biases, the
router, layers that answer, the affect filter, and whatever is a single vector or small, stay in float32: they weigh
little, and rounding them would be heard. So does a text encoder, which comes trained in float32. No matrix is ever
there in float32: the model is laid out without memory, memory is given to each tensor in its own precision, and then
it is initialised.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from preprocessing.errors import UserError
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from redheart_hf.adapters import start_adapters
from redheart_hf.modeling_dynamics import AffectFilter
from redheart_hf.modeling_embeddings import TextEncoder
from redheart_hf.modeling_head_emotion import MixtureOfExperts
from redheart_hf.modeling_memory import ScenarioMemory
from redheart_hf.modeling_projections import AnswerLinear
from training.sharding import put, same_place

MATRICES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight",),
    nn.Embedding: ("weight",),
    ScenarioMemory: ("keys", "values"),
}
SHARD, SHARD_BYTES = "4GB", 4 * 10**9  # of weights in one file
LEAST_NUMBERS = 4096  # smaller matrices stay in float32


def create_model(config: RedHeartConfig, weight_precision: str) -> RedHeartForMultiTask:
    """A freshly initialised model: all of it in float32, or with bf16 as above."""
    if weight_precision == "fp32":
        return RedHeartForMultiTask(config)
    model = laid_out(config, weight_precision)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            made = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), parameter.requires_grad)
            setattr(module, name, made)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
    model.init_weights()
    start_adapters(model)
    return model


def laid_out(config: RedHeartConfig, weight_precision: str) -> RedHeartForMultiTask:
    """The same without memory: shapes and precisions alone."""
    with torch.device("meta"):
        model = RedHeartForMultiTask(config)
    halved = set(halved_weights(model)) if weight_precision == "bf16" else set()
    for name, parameter in model.named_parameters():
        if name in halved:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def halved_weights(model: nn.Module) -> Iterator[str]:
    """Names of the weights that take two bytes a number."""
    whole = (AffectFilter, TextEncoder)
    inside = {inner for module in model.modules() if isinstance(module, whole) for inner in module.modules()}
    inside |= {module.router for module in model.modules() if isinstance(module, MixtureOfExperts)}
    for prefix, module in model.named_modules():
        kept = isinstance(module, AnswerLinear) or module in inside
        names = () if kept else next((names for kind, names in MATRICES.items() if isinstance(module, kind)), ())
        yield from (f"{prefix}.{name}" for name in names if getattr(module, name).numel() >= LEAST_NUMBERS)


def save_model(model: RedHeartForMultiTask, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """As `save_pretrained`, in shards. Who loads the folder gets float32, where the first matrix's two bytes would be
    taken for the precision of all."""
    model.save_pretrained(folder, max_shard_size=SHARD, state_dict=weights)
    path = folder / CONFIG_NAME
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("dtype") != "float32":
        path.write_text(json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@torch.no_grad()
def fill_model(model: RedHeartForMultiTask, folder: Path) -> None:
    """Weights and buffers of `folder`, one at a time, in the precision that the model has. Raises UserError when they
    are not the model's.

    Transformers saves a few text encoders as their first code had them: under other names, and some with matrices laid
    together that its own modules have apart. These are read at once, with a second copy of the weights.
    """
    own = model.state_dict()
    places = revert_weight_conversion(model, own)
    if {same_place(place) for place in places.values()} - {same_place(place) for place in own.values()}:
        for name, value in RedHeartForMultiTask.from_pretrained(folder, dtype=torch.float32).state_dict().items():
            put(own[name], value)
        return
    filled = set()
    for file in weight_files(folder):
        with safe_open(file, "pt", backend="pread") as weights:
            for name in weights.offset_keys():
                place, shape = places.get(name), list(weights.get_slice(name).get_shape())
                if place is None or list(place.shape) != shape:
                    there = "no place" if place is None else f"a place of shape {list(place.shape)}"
                    raise UserError(f"{file} has {name} of shape {shape}, for which this model has {there}")
                put(place, weights.get_tensor(name))
                filled.add(same_place(place))
    missing = [name for name, place in places.items() if same_place(place) not in filled]  # tied names share a place
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} tensors of this model, the first is {min(missing)}")


def weight_files(folder: Path) -> list[Path]:
    """The files of safetensors that hold a model's weights: one, or those that an index names."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        return [folder / SAFE_WEIGHTS_NAME]
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if outside := [name for name in names if Path(name).name != name]:
        raise UserError(f"{index} names {outside[0]!r}, which is no file of its own folder")
    return [folder / name for name in names]
