"""RedHeartConfig: every number needed to build the network again; it travels with the weights as config.json.

In    keyword arguments, or the `config.json` of a saved model.
Out   a validated configuration; a wrong type, a value out of range or an unknown key raises and names it.
Run   `python -c "from redheart_hf import RedHeartConfig; print(RedHeartConfig())"`
"""

import copy
import difflib
from dataclasses import field
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_checks import check_config
from .labels import MODULES, MODULES_OF_MODE

# Keys that Transformers itself writes into a config.json or passes to a constructor; all others must be fields.
TRANSFORMERS_KEYS = {
    "name_or_path",
    "_name_or_path",
    "_commit_hash",
    "output_attentions",
    "attn_implementation",
    "experts_implementation",
    "per_layer_config",
    "torch_dtype",
    "num_labels",
    "model_type",
    "_attn_implementation_internal",
    "_experts_implementation_internal",
}

AUTO_MAP = {  # the class that answers all tasks stands last
    "AutoConfig": "configuration_redheart.RedHeartConfig",
    "AutoModel": "modeling_redheart.RedHeartModel",
    "AutoModelForSequenceClassification": "modeling_redheart.RedHeartForMultiTask",
}
CONFIG_VERSION = 1
PIPELINES = {
    "red-heart": {
        "impl": "pipeline_redheart.RedHeartPipeline",
        "pt": ["AutoModelForSequenceClassification"],
        "type": "text",
    }
}


@strict
class RedHeartConfig(PreTrainedConfig):
    """Architecture of a Red Heart model. Sizes are widths of vectors; the presets in `presets.py` set them."""

    model_type = "redheart"
    sub_configs_defaults = {
        "text_encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True)
    }

    config_version: int = CONFIG_VERSION
    """Which fields and tensors a folder has; one of an older version is read as what it has become."""
    vocab_size: int = 32000
    """Rows of our own token embeddings; unused when `text_encoder_config` is set."""
    type_vocab_size: int = 2
    """Segments our own embeddings tell apart: a text and its second part (an action, an excuse, a trait)."""
    pad_token_id: int = 0
    """Row of our own embeddings that padding reads; it does not learn."""
    text_encoder_config: dict | PreTrainedConfig | None = None
    """Config of a Hugging Face encoder that reads the text in place of our own token embeddings."""
    text_encoder_mode: Literal["trained", "layers", "frozen", "lora"] = "trained"
    """What of it learns: all, all but its token embeddings (of a multilingual encoder the most part), nothing, or
    low-rank adapters."""
    lora_rank: int = 8
    """Inner width of each adapter (Hu et al. 2021, arXiv 2106.09685); this and the next two with mode `lora` alone."""
    lora_alpha: int = 16
    """What an adapter adds is multiplied by `lora_alpha` / `lora_rank`."""
    lora_target_modules: list[str] | str = "all-linear"
    """Layers of the encoder that get adapters: ends of their names in a list, or what peft takes as one string."""
    adapters: dict[str, Any] | None = None
    """What adapts a trained model that itself stays as it is: {method: lora or ia3, on: [encoder, blocks], rank: 8,
    alpha: 16, dropout: 0.0}; the layers that answer learn too (adapters.py)."""
    text_encoder_standardize: bool = False
    """Whether its states are taken less their mean and over their spread, both measured before training."""
    text_prefix: str = ""
    """Put before every text, as some encoders ask for (`query: ` of E5)."""
    max_length: int = 128
    """Tokens a sequence is cut to by the commands of this project."""

    input_residual: bool = False
    """Whether what was read goes past the input projection too; `hidden_size` must then be a multiple of its width."""
    hidden_size: int = 768
    """Width D of the backbone's hidden states; a multiple of `num_attention_heads`."""
    num_hidden_layers: int = 6
    """Blocks of the backbone; zero leaves the encoder's states to the heads."""
    num_attention_heads: int = 12
    """Heads of each block's self-attention; `hidden_size` over it must be even, for the rotary angles."""
    intermediate_size: int = 3072
    """Inner width of each block's feed-forward layer."""
    block_type: Literal["pre_ln_gelu", "post_ln_swiglu"] = "pre_ln_gelu"
    """Norm before each branch and GELU, or norm after it and a gated SiLU (Shazeer 2020, arXiv 2002.05202)."""
    rope_theta: float | int = 10000.0
    """Base of the rotary angles' wavelengths (Su et al. 2021, arXiv 2104.09864)."""
    hidden_dropout: float | int = 0.1
    """Share that training drops: of each branch's output in blocks and attention, of hidden layers elsewhere."""
    attention_dropout: float | int = 0.1
    """Share of the blocks' attention weights that training drops."""
    layer_norm_eps: float | int = 1e-5
    """Added to the variance in the norms, the encoder's own and a sigmoid router's left out."""
    initialization: Literal["normal", "he"] = "normal"
    """Hidden linear layers: normal, or by number of inputs (He et al. 2015, arXiv 1502.01852); all else normal."""
    initializer_range: float | int = 0.02
    """Standard deviation of a normal start."""
    output_initializer_range: float | int | None = None
    """Standard deviation with which layers start that answer, or close a branch of backbone, tasks and heads; null for
    `initializer_range`. At 0 a fresh stack is silent but for what goes past its branches."""

    task_size: int = 512
    """Width C of the vector that each task works on."""
    task_residual: bool = False
    """Whether the pooled states go past each task's projection too; `task_size` must then be `hidden_size`."""
    answer_residual: bool = False
    """Whether ethics, regret and SURD answers are linear in what they read, their hidden layers adding to that."""
    task_projection_size: int = 640
    """Inner width of each task's projection of the pooled states to `task_size`."""
    task_specialization_size: int = 480
    """Inner width of the residual branch that each task has to itself after that."""
    task_attention_size: int = 480
    """Inner width of the attention across the task vectors; a multiple of `num_task_attention_heads`."""
    num_task_attention_heads: int = 8
    """Heads of the attention across the task vectors."""

    emotion_trunk_sizes: list[int] = field(default_factory=lambda: [2048, 1536])
    """Inner widths of the emotion head's first branch, one layer each."""
    num_experts: int = 8
    """Experts of the emotion head's mixture."""
    num_experts_per_tok: int = 2
    """Experts that answer for one text; equal to `num_experts`, the mixture is dense."""
    moe_intermediate_size: int = 1024
    """Inner width of each expert."""
    router_scores: Literal["softmax", "sigmoid"] = "softmax"
    """How the router weighs experts: against one another, or each by itself after the states' length is taken out."""
    router_bias_rate: float | int = 0.001
    """Step of the balancing bias (Wang et al. 2024, arXiv 2408.15664), moved after each optimizer step."""
    emotion_level_size: int = 1376
    """Inner width of the branches before the three levels: polarity, basic, fine."""
    emotion_culture_size: int = 1920
    """Inner width of the layer that jeong, han and chemyeon are read from."""
    emotion_attention_size: int = 1024
    """Inner width of the attention over trunk, mixture and culture."""

    ethics_trunk_sizes: list[int] = field(default_factory=lambda: [2048, 1536])
    """Inner widths of the ethics head's first branch."""
    ethics_expert_sizes: list[int] = field(default_factory=lambda: [2688, 864])
    """Inner widths of each of the four experts."""
    circumstance_weights: list[float] = field(default_factory=lambda: [1 / 7] * 7)
    """Weight of each circumstance in utility, in the order of `labels.CIRCUMSTANCES`; they sum to one."""

    regret_trunk_sizes: list[int] = field(default_factory=lambda: [2048, 1536])
    """Inner widths of the regret head's first branch."""
    regret_view_sizes: list[int] = field(default_factory=lambda: [3072, 1344])
    """Inner widths of each of the three views."""
    regret_aversion: float | int = 0.5
    """c in Q(d) = d + c d^3, the regret function of Loomes and Sugden (1982); zero makes regret linear."""

    modules: list[str] | str = field(default_factory=lambda: list(MODULES))
    """Which of `labels.MODULES` the model has, or a mode; what is left out has no weights and no say."""
    surd_trunk_sizes: list[int] = field(default_factory=lambda: [2048, 1536])
    """Inner widths of the SURD head's first branch."""
    surd_term_sizes: list[int] = field(default_factory=lambda: [3072, 3008])
    """Inner widths of the layers that give its twelve terms."""
    analyzer_size: int = 768
    """Width of the analyzers' queries; a multiple of `num_analyzer_heads`."""
    num_analyzer_heads: int = 12
    """Heads of the analyzers' attention."""
    num_emotion_analyzer_layers: int = 4
    """Layers of that analyzer, each of attention and a feed-forward layer of the width below; so for all four."""
    emotion_analyzer_intermediate_size: int = 4992
    num_ethics_analyzer_layers: int = 4
    ethics_analyzer_intermediate_size: int = 4160
    num_regret_analyzer_layers: int = 4
    regret_analyzer_intermediate_size: int = 4992
    num_surd_analyzer_layers: int = 2
    surd_analyzer_intermediate_size: int = 5184
    num_filters: int = 1728
    """Damped oscillators of the signal simulator."""
    filter_mixer_size: int = 1600
    """Inner width of the layer that reads the oscillators."""
    affect_observer_sizes: list[int] = field(default_factory=lambda: [2048, 1888])
    """Inner widths of what the affect filter observes with: VAD of a turn and how sure it is."""
    memory_slots: int = 9728
    """Slots of the scenario memory, each a key and a value of `hidden_size`."""
    memory_sharpness: float | int = 30.0
    """What the cosine between a vector and a slot is multiplied by before softmax."""
    feedback_steps: int = 1
    """Rounds of the triangle in one forward pass; zero is the model without it."""

    focal_gamma: float | int = 2.0
    """Exponent of |t - p| in the emotions' focal loss (Lin et al. 2017, arXiv 1708.02002); 0: cross-entropy."""
    huber_delta: float | int = 1.0
    """Where the loss of regret turns from squared to linear."""
    quantile_huber_delta: float | int = 0.1
    """Where that of the three views of utility does (Dabney et al. 2018, arXiv 1710.10044)."""
    extreme_margin: float | int = 3.0
    """Raw circumstances beyond +-margin are penalised: there their squashed values no longer learn."""
    extreme_penalty: float | int = 0.01
    """Factor of that penalty, the squared distance past the margin."""
    router_z_loss_weight: float | int = 0.001
    """Factor of the squared log-sum of a softmax router's exponentials (Zoph et al. 2022, arXiv 2202.08906)."""

    thresholds: dict[str, list[float]] | None = None
    """Per label field, the probability from which a label counts as present; chosen on dev, null before that. Where
    `calibration` has the field, it is meant of the calibrated probability (`calibration.calibrated`)."""
    label_weights: dict[str, list[float]] | None = None
    """Per label field, what each label's loss is multiplied by; null for one."""
    calibration: dict[str, list[list[float]]] | None = None
    """Per label field [scale, offset] of each logit, and under `vad` a factor of each variance (calibration.py)."""
    trained_labels: list[str] | None = None
    """Labels the model was trained on; what it says of others is chance, and `training.predict` keeps it back."""
    surd_found: dict[str, float] | None = None
    """What the decomposition found, in bits and beside what chance finds, that the SURD head last learned from; null
    until it was taught."""
    trained_on: dict[str, int] | None = None
    """Reader -> records it has learned from, in the last run and in those that it was started from."""
    auto_map: dict[str, str] | None = None
    """The classes in a saved folder that Transformers' Auto classes load; written here, never read from a file."""
    custom_pipelines: dict[str, Any] = field(default_factory=dict)
    """The task that the folder's own pipeline answers, where its own code was loaded; where this package is installed,
    `pipeline` knows the task from it. A saved config always has it."""

    def __post_init__(self, **kwargs: Any):
        if self.config_version > CONFIG_VERSION:
            raise ValueError(
                f"this model's config is of version {self.config_version}, and redheart_hf reads versions up to "
                f"{CONFIG_VERSION}: install a newer redheart_hf, or load it with trust_remote_code=True"
            )
        self.config_version = CONFIG_VERSION  # versions 0 and 1 have the same fields; for tensors see modeling_base.py
        unknown = sorted(set(kwargs) - TRANSFORMERS_KEYS)
        if unknown:
            names = list(type(self).__dataclass_fields__)
            near = difflib.get_close_matches(unknown[0], names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"RedHeartConfig has no field {', '.join(map(repr, unknown))}{hint}")
        if isinstance(self.modules, str) and self.modules in MODULES_OF_MODE:
            self.modules = list(MODULES_OF_MODE[self.modules])
        self.auto_map = dict(AUTO_MAP)
        self.custom_pipelines = copy.deepcopy(PIPELINES) if __name__.startswith("transformers_modules.") else {}
        super().__post_init__(**kwargs)
        check_config(self)  # here too: a validator's ValueError would be raised as another error, which is none

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"custom_pipelines": copy.deepcopy(PIPELINES)}

    def with_modules(self, modules: list[str] | str) -> "RedHeartConfig":
        """This config with only these of its modules, or with those of its modules that a mode uses.

        Modes are the keys of `labels.MODULES_OF_MODE`; what a mode would use but this config has not is no error.
        Raises ValueError for a mode or module that does not exist, and for a module named that this config has not.
        """
        if isinstance(modules, str):
            if modules not in MODULES_OF_MODE:
                raise ValueError(f"no mode is called {modules!r}; known: {', '.join(MODULES_OF_MODE)}")
            modules = [name for name in MODULES_OF_MODE[modules] if name in self.modules]
        if not isinstance(modules, list | tuple):
            raise ValueError(f"modules is {modules!r}: give a list, or a mode of {', '.join(MODULES_OF_MODE)}")
        if unknown := [str(name) for name in modules if name not in MODULES]:
            raise ValueError(f"no module is called {', '.join(unknown)}; known: {', '.join(MODULES)}")
        if lacking := [name for name in modules if name not in self.modules]:
            present = ", ".join(self.modules) or "none"
            raise ValueError(f"the saved model has no {', '.join(lacking)}; it has: {present}")
        return type(self)(**self.to_dict() | {"modules": list(modules)})

    def validate_architecture(self):
        """Raises ValueError with the values when the network could not be built; Transformers asks again on saving."""
        check_config(self)
