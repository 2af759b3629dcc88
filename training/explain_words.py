"""Between the model's tokens and the words people read.

In    the model's config, its tokenizer, a text and maybe an action; a number for each token.
Out   a Reading: what the model is fed, its baseline, and where each token stands in the text; words with the sum of
      their tokens' numbers.
Run   through training/explain.py.

A token may be a few bytes of a Korean letter, a jamo or half an English word. The tokenizer's offsets say which
letters of the original text it stands for, and tokens that touch one word are added up, so that only whole pieces of
the text are shown. Special tokens and the model's own prefix are the same in the baseline: nobody wrote them.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from redheart_hf import RedHeartConfig

WORD = re.compile(r"[ㄱ-ㅣ]+|[^\Wㄱ-ㅣ]+(?:['’][^\Wㄱ-ㅣ]+)*|[^\w\s]+")  # ㅠㅠ and ㅋㅋ stand apart
Span = tuple[int, int]


@dataclass(frozen=True)
class Reading:
    """One sequence as the model reads it. `parts[i]` is the text (0) or the action (1); `places` has, for each token,
    its part and where it stands there, None for what nobody wrote."""

    parts: tuple[str, ...]
    inputs: dict[str, torch.Tensor]
    baseline_ids: torch.Tensor
    baseline_token: str
    places: list[tuple[int, Span] | None]


def read(
    config: RedHeartConfig, tokenizer: PreTrainedTokenizerBase, text: str, action: str | None, device: torch.device
) -> Reading:
    """The same token ids as `preprocessing.encode` gives the model in training and prediction."""
    parts = (text,) if action is None else (text, action)
    encoded = tokenizer(
        config.text_prefix + text,
        action,
        truncation=True,
        max_length=config.max_length,
        return_offsets_mapping=True,
        return_token_type_ids="token_type_ids" in tokenizer.model_input_names,
    )
    starts = (len(config.text_prefix), 0)
    places: list[tuple[int, Span] | None] = []
    for part, (start, end) in zip(encoded.sequence_ids(0), encoded["offset_mapping"], strict=True):
        written = part is not None and (part == 1 or end > starts[0] or not starts[0])
        places.append((part, (max(start - starts[part], 0), end - starts[part])) if written else None)
    inputs = {
        name: torch.tensor([encoded[name]], device=device)
        for name in ("input_ids", "attention_mask", "token_type_ids")
        if name in encoded
    }
    # A mask stands for "some word"; padding also moves the positions of encoders that count by it.
    neutral = tokenizer.pad_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    baseline = inputs["input_ids"].clone()
    baseline[0, [place is not None for place in places]] = neutral
    return Reading(parts, inputs, baseline, str(tokenizer.convert_ids_to_tokens(neutral)), places)


def pieces_of(text: str, letters: Sequence[Span]) -> list[Span]:
    """Words of the text as far as tokens reach, joined where one token touches several; in order, apart."""
    reach = max((end for _, end in letters), default=0)
    pieces: list[Span] = []
    for start, end in sorted([match.span() for match in WORD.finditer(text, 0, reach)] + list(letters)):
        if pieces and start < pieces[-1][1]:
            pieces[-1] = (pieces[-1][0], max(pieces[-1][1], end))
        else:
            pieces.append((start, end))
    return pieces


def letters_of(text: str, span: Span, reach: int) -> Span:
    """Where a token's letters stand, without outer blanks; a token of blanks belongs to what follows it.

    Where nothing that was read follows, it stands for itself, so that no token is left out.
    """
    start, end = span
    held = text[start:end]
    if held.strip():
        return start + len(held) - len(held.lstrip()), end - len(held) + len(held.rstrip())
    following = reach - len(text[end:reach].lstrip())
    return (following, following + 1) if following < reach else (start, max(end, start + 1))


def parts_with_words(reading: Reading, numbers: Iterable[float]) -> list[dict[str, Any]]:
    """For the text and the action: its words with the sum of their tokens' numbers, and what was cut off unread."""
    found: list[tuple[int, Span, float]] = [
        (*place, number) for place, number in zip(reading.places, numbers, strict=True) if place is not None
    ]
    described = []
    for index, text in enumerate(reading.parts):
        tokens = [(span, number) for part, span, number in found if part == index]
        reach = max((end for (_, end), _ in tokens), default=0)
        letters = [letters_of(text, span, reach) for span, _ in tokens]
        pieces = pieces_of(text, letters)
        words: list[dict[str, Any]] = [
            {"text": text[start:end], "start": start, "end": end, "tokens": 0, "attribution": 0.0}
            for start, end in pieces
        ]
        for (start, _), (_, number) in zip(letters, tokens, strict=True):
            word = words[bisect_right(pieces, start, key=lambda piece: piece[0]) - 1]
            word["tokens"] += 1
            word["attribution"] += number
        described.append({"of": ("text", "action")[index], "text": text, "words": words, "unread": text[reach:]})
    return described
