"""Text in: token ids become hidden states, by our own embeddings or by a pretrained encoder.

In    input_ids (B, T), attention_mask (B, T), token_type_ids (B, T) or None.
Out   hidden_states (B, T, D) after the input projection.
Run   through `RedHeartModel`; `config.text_encoder_config` decides which of the two it is.
"""

import inspect

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel
from transformers.utils import is_peft_available

from .adapters import inject
from .configuration_redheart import RedHeartConfig
from .modeling_projections import output_linear


class TokenEmbeddings(nn.Module):
    """Our own: one vector a token plus one a segment. Positions come later, as rotations inside attention."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.embed_tokens: nn.Module = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.embed_segments = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.output_size = config.hidden_size

    def forward(self, input_ids, attention_mask=None, token_type_ids=None) -> torch.Tensor:
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        return self.embed_tokens(input_ids) + self.embed_segments(token_type_ids)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value


class Standardization(nn.Module):
    """States less their mean, over their spread: how texts differ comes to the fore.

    A pretrained encoder's states may share one long vector, beside which what tells texts apart is small (measured of
    two encoders in docs/experiments.md). Both numbers are measured once, before training; nothing here learns. Before
    that they are 0 and 1, and change nothing.
    """

    def __init__(self, size: int):
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(size))
        self.spread = nn.Buffer(torch.ones(()))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return (states - self.mean) / self.spread

    @property
    def fitted(self) -> bool:
        return bool(self.mean.any())

    @torch.no_grad()
    def fit(self, mean: torch.Tensor, spread: torch.Tensor) -> None:
        """The states' mean (D,), and the root of their mean squared distance from it in a dimension, ().

        Raises ValueError for a spread that is not positive and finite: all tokens read the same, or as NaN.
        """
        if not 0 < float(spread) < float("inf"):
            raise ValueError(f"the text encoder's states have a spread of {float(spread)}; is its folder whole?")
        self.mean.copy_(mean)
        self.spread.copy_(spread)


class TextEncoder(nn.Module):
    """A Hugging Face encoder, of which as much learns as `text_encoder_mode` says."""

    def __init__(self, config: RedHeartConfig):
        super().__init__()
        self.encoder = AutoModel.from_config(config.text_encoder_config)
        self.output_size = self.encoder.config.hidden_size
        self.takes_segments = "token_type_ids" in inspect.signature(self.encoder.forward).parameters
        # CODEPATH: checkpoints trained with adapters carry them beside the encoder's own weights.
        if config.text_encoder_mode == "lora":
            add_lora(self.encoder, config)
        # CODEPATH: real_text recipes standardise; folders trained before have no such numbers.
        self.standardization = Standardization(self.output_size) if config.text_encoder_standardize else nn.Identity()
        self.mode = config.text_encoder_mode
        self.held = False  # set by training while heads first learn what to ask
        drop_pooler(self.encoder)
        self.fix_what_does_not_learn()

    def fix_what_does_not_learn(self) -> None:
        """Set `requires_grad` as the mode says; to be repeated after loading, which puts new parameters in place."""
        for name, parameter in self.encoder.named_parameters():
            learns = self.mode in ("trained", "layers") or (self.mode == "lora" and "lora_" in name)
            parameter.requires_grad_(learns and parameter.is_floating_point())  # not of 4 and 8 bits
        if self.mode == "layers":
            self.encoder.get_input_embeddings().requires_grad_(False)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None) -> torch.Tensor:
        return self.standardization(self.read(input_ids, attention_mask, token_type_ids))

    def read(self, input_ids, attention_mask=None, token_type_ids=None) -> torch.Tensor:
        """The encoder's own states (B, T, D)."""
        segments = {"token_type_ids": token_type_ids} if self.takes_segments else {}
        learns = self.mode != "frozen" and not self.held
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return self.encoder(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)

    def train(self, mode: bool = True):
        """A frozen encoder stays in evaluation mode: dropout in it would only blur features that cannot adapt."""
        super().train(mode)
        if self.mode == "frozen":
            self.encoder.eval()
        return self


def add_lora(encoder: nn.Module, config: RedHeartConfig) -> None:
    """Put low-rank adapters (Hu et al. 2021, arXiv 2106.09685) into the encoder's linear layers, in place."""
    if is_peft_available():  # in this form the Auto classes do not ask for peft where nothing is adapted
        from peft import LoraConfig
    else:
        raise ImportError("text_encoder_mode lora needs the package peft: pip install peft")
    targets = config.lora_target_modules
    inject(LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=targets, bias="none"), encoder)


def drop_pooler(encoder: nn.Module) -> None:
    """Remove the encoder's own pooler: we pool per task; weights that never learn stay out of checkpoints."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.register_module("pooler", None)


class InputProjection(nn.Module):
    """Linear, norm, GELU, dropout, Linear, norm: from the width of what reads the text to the backbone's.

    With `input_residual` what was read goes along it, so that what an encoder has learned is there from the start;
    a backbone k times as wide, as growth makes it, gets it k times beside itself.
    """

    def __init__(self, config: RedHeartConfig, input_size: int):
        super().__init__()
        self.in_proj = nn.Linear(input_size, config.hidden_size)
        self.in_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # CODEPATH: real_text recipes go on from a pretrained encoder; redheart-* presets start from nothing.
        self.residual = config.input_residual
        self.copies = config.hidden_size // input_size
        out_linear = output_linear if self.residual else nn.Linear
        self.out_proj = out_linear(config.hidden_size, config.hidden_size)
        self.out_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        projected = self.out_proj(self.dropout(F.gelu(self.in_norm(self.in_proj(states)))))
        return self.out_norm(states.repeat(1, 1, self.copies) + projected if self.residual else projected)
