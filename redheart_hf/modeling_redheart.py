"""The model: the whole forward pass, in order, on one page.

In    what the saved tokenizer gives (input_ids, attention_mask, maybe token_type_ids; (B, T)), and, to compare
      actions, alternatives (G, A) of row indices padded with -1 and chosen (G,); labels (see losses.py) for a loss.
Out   RedHeartOutput.
Run   `model = RedHeartForMultiTask.from_pretrained(folder); model(**tokenizer("Hello", return_tensors="pt"))`

Letters: B sequences, T tokens, D hidden size, Q tasks, C task size, G groups, A alternatives.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .adapters import put_adapters, start_adapters
from .configuration_redheart import RedHeartConfig
from .labels import TASKS
from .losses import label_counts, loss_sums, multi_task_loss
from .modeling_analyzers import EmotionAnalyzer, EthicsAnalyzer, RegretAnalyzer, SurdAnalyzer
from .modeling_base import RedHeartPreTrainedModel
from .modeling_blocks import BLOCKS, FINAL_NORMS, rotary_angles
from .modeling_dynamics import AffectFilter, SignalSimulator
from .modeling_embeddings import InputProjection, TextEncoder, TokenEmbeddings, drop_pooler
from .modeling_head_emotion import RedHeartEmotionHead
from .modeling_head_ethics import RedHeartEthicsHead
from .modeling_head_regret import RedHeartRegretHead, check_alternatives
from .modeling_head_surd import RedHeartSurdHead
from .modeling_memory import ScenarioMemory
from .modeling_projections import AttentionPooling, TaskAttention, TaskProjections
from .modeling_triangle import Triangle
from .outputs import RedHeartModelOutput, RedHeartOutput

if TYPE_CHECKING:  # not run; but what a file imports is saved with it, and the pipeline belongs to a saved model
    from .pipeline_redheart import RedHeartPipeline as RedHeartPipeline

MODULE_CLASSES: dict[str, type[nn.Module]] = {
    "surd_head": RedHeartSurdHead,
    "emotion_analyzer": EmotionAnalyzer,
    "ethics_analyzer": EthicsAnalyzer,
    "regret_analyzer": RegretAnalyzer,
    "surd_analyzer": SurdAnalyzer,
    "signal_simulator": SignalSimulator,
    "affect_filter": AffectFilter,
    "scenario_memory": ScenarioMemory,
    "triangle": Triangle,
}


def optional(config: RedHeartConfig, name: str) -> nn.Module | None:
    """The module of that name, or nothing where `config.modules` leaves it out."""
    # CODEPATH: redheart-* presets have modules (redheart-6.8b the SURD head alone); real_text recipes have none.
    return MODULE_CLASSES[name](config) if name in config.modules else None


class RedHeartModel(RedHeartPreTrainedModel):
    """The backbone: text -> hidden states -> one vector per task."""

    def __init__(self, config: RedHeartConfig):
        super().__init__(config)
        # CODEPATH: redheart-* presets bring their own embeddings; real_text recipes read through a pretrained encoder.
        reader = TokenEmbeddings if config.text_encoder_config is None else TextEncoder
        self.embeddings = reader(config)
        self.input_projection = InputProjection(config, self.embeddings.output_size)
        self.blocks = nn.ModuleList(BLOCKS[config.block_type](config) for _ in range(config.num_hidden_layers))
        self.final_norm = FINAL_NORMS[config.block_type](config.hidden_size, eps=config.layer_norm_eps)
        self.signal_simulator = optional(config, "signal_simulator")
        self.pooling = AttentionPooling(config)
        self.scenario_memory = optional(config, "scenario_memory")
        self.task_projections = TaskProjections(config)
        self.task_attention = TaskAttention(config)
        self.gradient_checkpointing = False
        self.post_init()
        if isinstance(self.embeddings, TextEncoder):
            start_adapters(self.embeddings)

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> RedHeartModelOutput:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        hidden_BTD = self.input_projection(self.embeddings(input_ids, attention_mask, token_type_ids))
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden_BTD, attention_mask=attention_mask)
        angles = rotary_angles(hidden_BTD, self.config)
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD, mask, angles)
        hidden_BTD = self.final_norm(hidden_BTD)
        if self.signal_simulator is not None:
            hidden_BTD, _ = self.signal_simulator(hidden_BTD, attention_mask)
        pooled_BQD = self.pooling(hidden_BTD, attention_mask)
        remembered_BQD = pooled_BQD if self.scenario_memory is None else self.scenario_memory(pooled_BQD)
        task_BQC = self.task_attention(self.task_projections(remembered_BQD))
        return RedHeartModelOutput(last_hidden_state=hidden_BTD, pooled_states=pooled_BQD, task_states=task_BQC)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.set_input_embeddings(value)


class RedHeartForMultiTask(RedHeartPreTrainedModel):
    """The backbone, its heads, and what corrects them, joins them and follows them in time."""

    def __init__(self, config: RedHeartConfig):
        super().__init__(config)
        self.model = RedHeartModel(config)
        self.emotion_head = RedHeartEmotionHead(config)
        self.ethics_head = RedHeartEthicsHead(config)
        self.regret_head = RedHeartRegretHead(config)
        self.surd_head = optional(config, "surd_head")
        self.emotion_analyzer = optional(config, "emotion_analyzer")
        self.ethics_analyzer = optional(config, "ethics_analyzer")
        self.regret_analyzer = optional(config, "regret_analyzer")
        self.surd_analyzer = optional(config, "surd_analyzer")
        self.triangle = optional(config, "triangle")
        self.affect_filter = optional(config, "affect_filter")
        self.post_init()
        # CODEPATH: checkpoints of an adapted model carry the adapters apart; final/ has them merged.
        if config.adapters is not None:
            put_adapters(self, config.adapters)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        alternatives: torch.Tensor | None = None,
        chosen: torch.Tensor | None = None,
        turns: torch.Tensor | None = None,
        labels: dict[str, torch.Tensor] | None = None,
        **kwargs,
    ) -> RedHeartOutput:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if alternatives is not None:
            check_alternatives(alternatives, chosen, len(input_ids))
        if turns is not None and self.affect_filter is None:
            raise ValueError("turns were given, but this model has no affect_filter to follow them with")
        backbone = self.model(input_ids, attention_mask, token_type_ids, **kwargs | {"return_dict": True})
        task_BQC, hidden_BTD = backbone.task_states, backbone.last_hidden_state
        corrections = self.analyze(task_BQC, hidden_BTD, attention_mask, alternatives)
        emotion, ethics, regret = self.answer(task_BQC, corrections, alternatives, chosen)
        if self.triangle is not None:
            for _ in range(self.config.feedback_steps):
                fed_BQC = self.triangle(task_BQC, emotion, ethics, regret)
                emotion, ethics, regret = self.answer(fed_BQC, corrections, alternatives, chosen)
        output = RedHeartOutput(
            emotion=emotion,
            ethics=ethics,
            regret=regret,
            last_hidden_state=hidden_BTD,
            pooled_states=backbone.pooled_states,
            task_states=task_BQC,
            hidden_states=backbone.hidden_states,
            attentions=backbone.attentions or None,
        )
        if self.surd_head is not None:
            output.surd = self.surd_head(task_BQC[:, TASKS.index("surd")], corrections["surd"])
        if self.affect_filter is not None:
            state_BC = task_BQC[:, TASKS.index("emotion")]
            output.dynamics = self.affect_filter(state_BC, emotion.vad_mean, emotion.vad_log_variance, turns)
        if labels is not None:
            sums = loss_sums(output, labels, self.config)
            counts = label_counts(labels, len(input_ids))
            output.loss, output.losses = multi_task_loss(sums, counts, {}, self.config)
        return output

    def analyze(self, task_BQC, hidden_BTD, attention_mask, alternatives) -> dict[str, Any]:
        """Task -> what its analyzer adds to its head; None where there is none."""
        emotion_BC, ethics_BC, regret_BC, _ = task_BQC.unbind(dim=1)
        corrections: dict[str, Any] = dict.fromkeys(TASKS)
        if self.emotion_analyzer is not None:
            corrections["emotion"] = self.emotion_analyzer(emotion_BC, hidden_BTD, attention_mask)
        if self.ethics_analyzer is not None:
            corrections["ethics"] = self.ethics_analyzer(ethics_BC, hidden_BTD, attention_mask)
        if self.regret_analyzer is not None:
            corrections["regret"] = self.regret_analyzer(regret_BC, hidden_BTD, attention_mask, alternatives)
        if self.surd_analyzer is not None:
            corrections["surd"] = self.surd_analyzer(task_BQC)
        return corrections

    def answer(self, task_BQC, corrections, alternatives, chosen):
        """What the three heads say of these task vectors."""
        emotion_BC, ethics_BC, regret_BC, _ = task_BQC.unbind(dim=1)
        emotion = self.emotion_head(emotion_BC, corrections["emotion"])
        ethics = self.ethics_head(ethics_BC, corrections["ethics"])
        regret = self.regret_head(regret_BC, ethics.utility, alternatives, chosen, corrections["regret"])
        return emotion, ethics, regret

    @classmethod
    def from_text_encoder(cls, folder: str, config: RedHeartConfig) -> "RedHeartForMultiTask":
        """A new model whose text encoder starts from the weights in `folder`; the rest is initialised."""
        model = cls(config)
        model.read_text_encoder(folder)
        return model

    def read_text_encoder(self, folder: str) -> None:
        """Give the text encoder the weights in `folder`; raises ValueError when some of its own are not there."""
        pretrained = AutoModel.from_pretrained(folder, dtype=torch.float32)
        drop_pooler(pretrained)
        weights = pretrained.state_dict()
        # Adapters rename the layers they wrap; their base weights keep the old name after `base_layer`.
        encoder = self.model.embeddings.encoder
        renamed = {name.replace(".base_layer.", "."): name for name in encoder.state_dict() if "lora_" not in name}
        encoder.load_state_dict({renamed[name]: weight for name, weight in weights.items()}, strict=False)
        missing = sorted(set(renamed) - set(weights))
        if missing:
            raise ValueError(f"{folder} has no weights for {missing[:3]} of the text encoder ({len(missing)} in all)")

    def update_router_bias(self, router_load: torch.Tensor) -> None:
        """Balance the experts after an optimizer step; `router_load` (E,) is that step's, over all processes."""
        # CODEPATH: adapters are of a model that stays as it is, its router too; others balance as they learn.
        if self.config.adapters is not None:
            return
        mixture = self.emotion_head.mixture
        mixture.update_router_bias(router_load.to(mixture.router_bias.device), self.config.router_bias_rate)


RedHeartConfig.register_for_auto_class()
RedHeartModel.register_for_auto_class("AutoModel")
RedHeartForMultiTask.register_for_auto_class("AutoModelForSequenceClassification")
