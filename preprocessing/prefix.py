"""The part of a prompt that all texts share is read once, and every row of a batch looks at that one copy.

In    token ids of the shared beginning.
Out   `Prefix.layers`, its keys and values, for `shared_prefix` of the model's forward; masks of what follows.
Run   through preprocessing/score.py and preprocessing/decode.py.

A prompt with its examples is many times as long as a text. Attention over both is taken in two parts, one over the
shared keys with the queries of all rows in a single product, one over the row's own, and the two are joined by the
sums of their exponentials (arXiv 2402.05099): the same numbers but for rounding, and no row gets a copy of its own.

Letters: B rows, H heads, K heads of keys and values, T tokens of a row, P of the prompt, D numbers a head.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from preprocessing.errors import UserError
from preprocessing.llm import Llm

IMPLEMENTATION = "shared_prefix"
_NOT_HERE = ("softcap", "s_aux", "position_bias")
"""What some models ask of attention beside products and masks."""
_FAR = {torch.float32: 1e-3, torch.bfloat16: 0.3}
"""Half the sum of differences of probabilities, between one pass and two parts: SmolLM2 has 1e-6 in float32, and by
rounding up to 0.08 in bfloat16; a prompt that is not seen gives 0.9. That each layer looks at it is counted."""

Layer = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, (1, K, P, D) each."""


class Lent(list[Layer]):
    """What is lent to a forward pass, by layer; `looked_at` are the layers that took it."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__(layers)
        self.looked_at: set[int] = set()


class Prefix:
    def __init__(self, llm: Llm, ids: Sequence[int]) -> None:
        """Raises UserError for a model whose attention cannot be taken in two parts."""
        self.length, self.name = len(ids), llm.name
        config = llm.model.config.get_text_config()
        self.limits = {name: getattr(config, name, None) for name in ("sliding_window", "max_position_embeddings")}
        self.check_length(0)
        if self.length < 2:
            raise UserError(
                f"{llm.name}: its chat template leaves {self.length} tokens of a prompt; take another model"
            )
        if llm.model.config._attn_implementation != IMPLEMENTATION:
            llm.model.set_attn_implementation(IMPLEMENTATION)
        cache = DynamicCache()
        try:
            whole = self._probabilities(llm, ids, past_key_values=cache, use_cache=True)
        except (IndexError, AttributeError, TypeError, ValueError) as error:  # of a cache that it cannot work with
            raise UserError(
                f"{llm.name}: a {llm.model.config.model_type} model cannot read with a cache of keys and values "
                f"({error}); take another model"
            ) from error
        held = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]
        layers = [(keys, values) for keys, values in held if keys is not None and values is not None]
        if len(layers) != config.num_hidden_layers or any(keys.shape[2] != self.length for keys, _ in layers):
            raise UserError(
                f"{llm.name}: a {llm.model.config.model_type} model keeps something else than the keys and values of "
                "all it has read; take another model"
            )
        self._check(llm, ids, layers, whole)
        self.layers = Lent(layers)

    def _check(self, llm: Llm, ids: Sequence[int], layers: Sequence[Layer], whole: torch.Tensor) -> None:
        """The last token again, as a row that looks at those before it: what comes next must be as likely."""
        shorter = Lent((keys[:, :, :-1], values[:, :, :-1]) for keys, values in layers)
        parted = self._probabilities(
            llm,
            ids[-1:],
            position_ids=torch.tensor([[self.length - 1]]),
            attention_mask=additive(torch.ones(1, 1, 1, dtype=torch.bool), llm.model.dtype),
            shared_prefix=shorter,
        )
        far = float((whole - parted).abs().sum() / 2)
        blind = set(range(len(layers))) - shorter.looked_at
        if blind or not far <= _FAR.get(llm.model.dtype, _FAR[torch.bfloat16]):
            why = (
                f"layers {sorted(blind)} do not look at the prompt" if blind else f"probabilities are {far:.2g} apart"
            )
            raise UserError(
                f"{llm.name}: the attention of a {llm.model.config.model_type} model cannot be taken in two parts, "
                f"the prompt being one: {why}; take another model"
            )

    @staticmethod
    def _probabilities(llm: Llm, ids: Sequence[int], **inputs: Any) -> torch.Tensor:
        with torch.inference_mode():
            logits = llm.model(input_ids=torch.tensor([list(ids)]), logits_to_keep=1, **inputs).logits
        return logits[0, -1].double().softmax(-1)

    def check_length(self, total: int) -> None:
        """`total` are the tokens after the prompt. Masks here are those of full attention."""
        for name, most in self.limits.items():
            if isinstance(most, int) and self.length + total > most:
                raise UserError(
                    f"{self.name}: a prompt of {self.length} tokens and {total} more are above its {name} of {most}; "
                    "a smaller max_tokens, or another model"
                )


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    shared_prefix: Lent | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of (B, H, T, D) over `shared_prefix` of this layer and over its own keys: (B, T, H, D).

    Without `shared_prefix` this is Transformers' own sdpa. Raises UserError for what a model asks besides.
    """
    if shared_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if asked := [name for name in _NOT_HERE if kwargs.get(name) is not None]:
        raise UserError(f"{type(module).__name__} asks for attention with {', '.join(asked)}; take another model")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    shared_prefix.looked_at.add(layer)
    keys, values = shared_prefix[layer]
    scale = kwargs.get("scaling")
    rows, heads, length, _ = query.shape
    groups = heads // keys.shape[1]
    # (B, K * groups, T, D) -> (1, K, groups * B * T, D): all queries that one head of keys answers, in one product.
    stacked = query.unflatten(1, (-1, groups)).permute(1, 2, 0, 3, 4).flatten(1, 3)[None]
    shared, shared_sum = _flash(stacked, keys, values, None, scale)
    shape = (keys.shape[1], groups, rows, length)
    shared = shared[0].unflatten(1, shape[1:]).permute(2, 0, 1, 3, 4).flatten(1, 2)
    shared_sum = shared_sum[0].unflatten(1, shape[1:]).permute(2, 0, 1, 3).flatten(1, 2)
    own, own_sum = _own(query, key, value, attention_mask, scale)
    part = torch.sigmoid(shared_sum - own_sum)[..., None]
    joined = torch.lerp(own.float(), shared.float(), part).to(query.dtype)
    return joined.transpose(1, 2).contiguous(), None


def _own(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Over a row's own keys. A single token's heads are laid as tokens beside one another, which spares copies."""
    rows, heads, length, _ = query.shape
    groups = heads // key.shape[1]
    if length == 1:
        mask = None if mask is None else mask.expand(rows, key.shape[1], groups, -1)
        found, sums = _flash(query.reshape(rows, key.shape[1], groups, -1), key, value, mask, scale)
        return found.reshape(rows, heads, 1, -1), sums.reshape(rows, heads, 1)
    mask = None if mask is None else mask.expand(rows, heads, -1, -1)
    return _flash(query, repeat_kv(key, groups), repeat_kv(value, groups), mask, scale)


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention, and for each query the logarithm of the sum of its exponentials, which the public call keeps back."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flash(query, key, value, 0.0, False, attn_mask=mask, scale=scale)


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


def additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(rows, queries, keys) of bool -> what is added to attention scores, (rows, 1, queries, keys)."""
    mask = torch.zeros(allowed.shape, dtype=dtype)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def padded(rows: Sequence[Sequence[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids filled up on the right with 0, and which of them are real."""
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    real = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = torch.tensor(values, dtype=torch.long)
        real[row, : len(values)] = True
    return ids, real
