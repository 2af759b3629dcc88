"""What of a model peft adapts: its text encoder, its blocks, or both; and the layers that answer, which learn whole.

In    a model, full or loaded in 4 or 8 bits; which method, where, how wide.
Out   a LoraConfig or IA3Config for `peft.get_peft_model`; or, where `config.adapters` says so, the adapted model.
Run   adapted = get_peft_model(model, adapter_config(model, "lora", on=["blocks"]))
      adapted.save_pretrained("adapter")     # a few MB; PeftModel.from_pretrained(model, "adapter") reads them
      adapted.merge_and_unload()             # a plain model again
      In a recipe: `start_from: DIR` and `model: {adapters: {method: lora, on: [blocks]}}` (docs/use.md).

Low-rank adapters: Hu et al. 2021, arXiv 2106.09685; learned scales of activations (IA3): Liu et al. 2022, arXiv
2205.05638. The layers that answer (AnswerLinear) are small and say what the rest has learned to tell apart: they are
trained whole and saved with the adapter. Everything else keeps the base model's numbers.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import is_peft_available

from .configuration_checks import PLACES
from .modeling_projections import AnswerLinear

PeftConfig = Any  # of a package that only adapted models need: what is imported here, the Auto classes ask for
FEEDFORWARD = ("down_proj", "output.dense")  # whose inputs IA3 scales; of others it scales what comes out
ADAPTER = ("lora_", "ia3_")  # what an adapter's own tensors have in their names


def adapter_config(
    model: nn.Module,
    method: Literal["lora", "ia3"] = "lora",
    on: Sequence[str] = ("encoder", "blocks"),
    rank: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
) -> PeftConfig:
    """For every linear layer in these places; `rank`, `alpha` and `dropout` are LoRA's.

    Raises ValueError for a place or method that does not exist, and where the model has no linear layer there;
    ImportError without peft.
    """
    if is_peft_available():  # in this form the Auto classes do not ask for peft where nothing is adapted
        from peft import IA3Config, LoraConfig
    else:
        raise ImportError("adapters need the package peft: pip install peft")

    if unknown := [place for place in on if place not in PLACES] or not on:
        raise ValueError(f"on is {list(on)}; {unknown if on else 'nothing'} is no place of {', '.join(PLACES)}")
    starts = tuple(PLACES[place] for place in on)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets = [name for name in linear if name.startswith(starts)]
    if not targets:
        raise ValueError(f"this model has no linear layer in {', '.join(on)}")
    whole = [name for name, _ in answering(model)]
    if method == "lora":
        return LoraConfig(
            target_modules=targets, r=rank, lora_alpha=alpha, lora_dropout=dropout, modules_to_save=whole
        )
    if method == "ia3":
        feedforward = [name for name in targets if name.endswith(FEEDFORWARD) and "attention" not in name]
        return IA3Config(target_modules=targets, feedforward_modules=feedforward, modules_to_save=whole)
    raise ValueError(f"method is {method!r}; there are lora and ia3")


def put_adapters(model: nn.Module, adapters: Mapping[str, Any]) -> None:
    """Adapt `model` in place, as `config.adapters` says: {method, on, rank, alpha, dropout}, each as above.

    The model answers as before until the adapters learn, and nothing else learns but them and what answers.
    """
    settings = adapter_config(model, **adapters)
    settings.modules_to_save = None  # they learn where they are
    inject(settings, model)
    only_adapters_learn(model)


def inject(settings: PeftConfig, model: nn.Module) -> None:
    """Put fresh adapters into `model`, on the device of its weights, be it one without memory.

    peft moves what it makes to that device, and what is only counted, not there (training/memory_plan.py), cannot be
    moved. So peft makes them without memory, which it does not move, and they get it here.
    """
    if is_peft_available():
        from peft import inject_adapter_in_model
    else:
        raise ImportError("adapters need the package peft: pip install peft")
    device = next(model.parameters()).device
    with torch.device("meta"):
        inject_adapter_in_model(settings, model)
    for module, name, parameter in own_tensors(model):
        made = torch.empty(parameter.shape, dtype=torch.float32, device=device)
        module.register_parameter(name, nn.Parameter(made, parameter.requires_grad))
    start_adapters(model)


def own_tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """The adapters' tensors: the module that each is in, and its name there."""
    for prefix, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if any(part in f"{prefix}.{name}" for part in ADAPTER):
                yield module, name, parameter


def start_adapters(model: nn.Module) -> None:
    """Adapters begin as peft has them: A of LoRA at random and B at zero, scales of IA3 at one.

    To be called again where Transformers has initialised every linear layer, not knowing which ones are adapters.
    """
    for prefix, module in model.named_modules():
        if ".lora_A." in prefix:
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif ".lora_B." in prefix:
            init.zeros_(module.weight)
        elif prefix.endswith(".ia3_l"):
            for scale in module.parameters():
                init.ones_(scale)


def only_adapters_learn(model: nn.Module) -> None:
    """Set `requires_grad`; to be repeated after loading, which puts new parameters in place."""
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in ADAPTER))
    for _, layer in answering(model):
        layer.requires_grad_(True)


def answering(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, AnswerLinear))


@torch.no_grad()
def plain_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of the plain model that answers as `model` does, under its names; merged in place."""
    adapted: list[Any] = [module for module in model.modules() if hasattr(module, "base_layer")]
    for module in adapted:
        module.merge()
    own = {name: value for name, value in model.state_dict().items() if not any(part in name for part in ADAPTER)}
    return {name.replace(".base_layer.", "."): value for name, value in own.items()}


def adapter_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The adapters and the layers that answer, under the names that `PeftModel.from_pretrained` reads."""
    whole = tuple(f"{name}." for name, _ in answering(model))
    learned = {
        name.replace(".default", ""): value
        for name, value in model.state_dict().items()
        if any(part in name for part in ADAPTER) or name.startswith(whole)
    }
    return {f"base_model.model.{name}": value for name, value in learned.items()}


def peft_config_of(model: nn.Module, base: str) -> PeftConfig:
    """What `PeftModel.from_pretrained` reads beside them; `base` is the folder of the model that was adapted."""
    by_name: Any = model.peft_config
    settings = copy.deepcopy(by_name["default"])
    settings.base_model_name_or_path, settings.inference_mode = base, True
    settings.modules_to_save = [name for name, _ in answering(model)]
    return settings
