"""What of a model peft adapts: its text encoder, its blocks, or both; and the layers that answer, which learn whole.

In    a model, full or loaded in 4 or 8 bits; which method, where, how wide.
Out   a LoraConfig or IA3Config for `peft.get_peft_model`.
Run   adapted = get_peft_model(model, adapter_config(model, "lora", on=["blocks"]))
      adapted.save_pretrained("adapter")     # a few MB; PeftModel.from_pretrained(model, "adapter") reads them
      adapted.merge_and_unload()             # a plain model again

Low-rank adapters: Hu et al. 2021, arXiv 2106.09685; learned scales of activations (IA3): Liu et al. 2022, arXiv
2205.05638. The layers that answer (AnswerLinear) are small and say what the rest has learned to tell apart: they are
trained whole and saved with the adapter. Everything else keeps the base model's numbers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from torch import nn

from .modeling_projections import AnswerLinear

if TYPE_CHECKING:
    from peft import PeftConfig

PLACES = {"encoder": "model.embeddings.encoder.", "blocks": "model.blocks."}
FEEDFORWARD = ("down_proj", "output.dense")  # whose inputs IA3 scales; of others it scales what comes out


def adapter_config(
    model: nn.Module,
    method: Literal["lora", "ia3"] = "lora",
    on: Sequence[str] = ("encoder", "blocks"),
    rank: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
) -> "PeftConfig":
    """For every linear layer in these places; `rank`, `alpha` and `dropout` are LoRA's.

    Raises ValueError for a place or method that does not exist, and where the model has no linear layer there.
    """
    from peft import IA3Config, LoraConfig

    if unknown := [place for place in on if place not in PLACES] or not on:
        raise ValueError(f"on is {list(on)}; {unknown if on else 'nothing'} is no place of {', '.join(PLACES)}")
    starts = tuple(PLACES[place] for place in on)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets = [name for name in linear if name.startswith(starts)]
    if not targets:
        raise ValueError(f"this model has no linear layer in {', '.join(on)}")
    whole = [name for name, module in model.named_modules() if isinstance(module, AnswerLinear)]
    if method == "lora":
        return LoraConfig(
            target_modules=targets, r=rank, lora_alpha=alpha, lora_dropout=dropout, modules_to_save=whole
        )
    if method == "ia3":
        feedforward = [name for name in targets if name.endswith(FEEDFORWARD) and "attention" not in name]
        return IA3Config(target_modules=targets, feedforward_modules=feedforward, modules_to_save=whole)
    raise ValueError(f"method is {method!r}; there are lora and ia3")
