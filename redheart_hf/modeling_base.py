"""What all classes of the model share: how weights start, how they are loaded, and with which modules.

In    a RedHeartConfig; or a folder that `save_pretrained` wrote.
Out   RedHeartPreTrainedModel, the base of the classes in modeling_redheart.py.
Run   `RedHeartForMultiTask.from_pretrained(folder, modules=["triangle"])`
"""

import copy
import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter

from .adapters import only_adapters_learn
from .configuration_redheart import RedHeartConfig
from .labels import MODULES
from .modeling_analyzers import Analyzer
from .modeling_blocks import PreNormBlock, RedHeartAttention
from .modeling_dynamics import AffectFilter, SignalSimulator
from .modeling_embeddings import Standardization, TextEncoder
from .modeling_head_emotion import MixtureOfExperts
from .modeling_head_ethics import RedHeartEthicsHead
from .modeling_memory import ScenarioMemory
from .modeling_projections import AttentionPooling
from .modeling_triangle import Triangle
from .quantization import with_kept


class AsVector(ConversionOps):
    """What folders of version 0 hold as a number without a dimension has one since."""

    def convert(self, input_dict, source_patterns, target_patterns, **kwargs) -> dict[str, Any]:
        (found,) = input_dict.values()
        return {target_patterns[0]: (found[0] if isinstance(found, list) else found).reshape(-1)}

    @property
    def reverse_op(self) -> ConversionOps:
        return self


OF_VERSION_0 = ["ethics_head.log_preference_scale"]
register_checkpoint_conversion_mapping(
    "redheart", [WeightConverter(OF_VERSION_0, OF_VERSION_0, operations=[AsVector()])], overwrite=True
)

HUB_ARGUMENTS = ("subfolder", "revision", "token", "cache_dir", "local_files_only", "force_download")

# log of the first steepness of choice: utilities .3 apart, a common distance, give odds of about 3 : 1.
INITIAL_LOG_PREFERENCE_SCALE = math.log(4.0)


class RedHeartPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation, common to all classes."""

    config: RedHeartConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["PreNormBlock", "PostNormBlock"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": PreNormBlock, "attentions": RedHeartAttention}
    _keys_to_ignore_on_load_unexpected = [rf"\b{name}\." for name in MODULES]  # left out by `modules`

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As Transformers'; the table of a text encoder is the one of its own config."""
        own, embeddings = self.config.vocab_size, super().resize_token_embeddings(*args, **kwargs)
        encoder: Any = self.config.text_encoder_config
        # CODEPATH: models on a text encoder have no token embeddings beside it.
        if encoder is not None:
            self.config.vocab_size, encoder.vocab_size = own, embeddings.num_embeddings
        return embeddings

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        # What answers, or is added to a residual path, starts small in all: He's numbers would begin in the flat part
        # of tanh and sigmoid, and drown what they are added to. real_text recipes start it at zero: what is fresh
        # then adds nothing to a pretrained encoder until it has learned to.
        output_range = self.config.output_initializer_range
        if isinstance(module, nn.Linear) and hasattr(module, "may_be_silent"):
            if output_range is not None and module.may_be_silent:
                init.normal_(module.weight, std=output_range)
        # CODEPATH: the stable family (Post-LN + SwiGLU) starts from He et al. 2015; the others from a plain normal.
        elif self.config.initialization == "he" and isinstance(module, nn.Linear):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, AttentionPooling):
            init.zeros_(module.queries)
        elif isinstance(module, MixtureOfExperts):
            init.zeros_(module.router_bias)
        elif isinstance(module, Standardization):
            init.zeros_(module.mean)
            init.ones_(module.spread)
        elif isinstance(module, RedHeartEthicsHead):
            init.zeros_(module.acceptance)
            init.constant_(module.log_preference_scale, INITIAL_LOG_PREFERENCE_SCALE)
        elif isinstance(module, (Analyzer, SignalSimulator, AffectFilter, ScenarioMemory, Triangle)):
            module.init_own_weights(self.config.initializer_range)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        modules: list[str] | str | None = None,
        new_modules: bool = False,
        **kwargs,
    ):
        """As Transformers', with as many of the saved model's `modules` as asked for.

        `modules` names some of `labels.MODULES`, or a mode: training, evaluation, inference, dialogue. None takes
        those of `config`, if one is given, else all there are. What `text_encoder_mode` keeps from learning is kept
        from it still. Raises ValueError for a module that does not exist; for one that was not saved, unless
        `new_modules` says that it may start fresh; and for any other weight that the folder lacks. Weights are read
        from safetensors alone: a pickle can run code, and is never opened.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("use_safetensors=False would read a pickle, which can run code; save it as safetensors")
        kwargs["use_safetensors"] = True
        config = kwargs.get("config")  # the Auto classes have put `modules` into it already
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        with_report = kwargs.pop("output_loading_info", False)
        fresh: set[str] = set()
        if modules is not None or hasattr(config, "modules"):
            saved = RedHeartConfig.from_pretrained(pretrained_model_name_or_path, **hub)
            base: Any = config if hasattr(config, "modules") else saved
            kwargs["config"] = with_modules(base, saved, modules, new_modules)
            fresh = set(kwargs["config"].modules) - set(saved.modules)
        if kwargs.get("quantization_config") is not None:
            with torch.device("meta"):
                empty = cls(
                    kwargs.get("config") or RedHeartConfig.from_pretrained(pretrained_model_name_or_path, **hub)
                )
            kwargs["quantization_config"] = with_kept(empty, kwargs["quantization_config"])
        kwargs["output_loading_info"] = True
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model, report = loaded
        absent = sorted(key for key in report["missing_keys"] if not fresh & set(key.split(".")))
        if absent:  # Transformers would leave them at random values, with a warning
            raise lacking(pretrained_model_name_or_path, absent, cls.__name__)
        for module in model.modules():
            if isinstance(module, TextEncoder):
                module.fix_what_does_not_learn()
        if model.config.adapters is not None:
            only_adapters_learn(model)
        return (model, report) if with_report else model


def with_modules(
    config: RedHeartConfig, saved: RedHeartConfig, modules: list[str] | str | None, new_modules: bool
) -> RedHeartConfig:
    """A copy of `config` with the modules asked for, its own by default; raises ValueError for one not `saved`."""
    config = copy.deepcopy(config)
    asked = config.modules if modules is None else modules
    if new_modules:
        config.modules = RedHeartConfig(modules=asked).modules  # a mode becomes a list
    else:
        config.modules = saved.with_modules(asked).modules
    return config


def lacking(folder: str, absent: list[str], model: str) -> ValueError:
    """The error for weights that `folder` has not."""
    if any(".standardization." in key for key in absent):
        return ValueError(f"{folder} was trained without text_encoder_standardize; leave it false")
    return ValueError(
        f"the weights in {folder} lack {len(absent)} tensors of {model}, the first is {absent[0]}; save it again, or "
        "name the modules that it was saved with (modules=[...])"
    )
