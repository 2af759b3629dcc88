"""Writes short texts in the form of a grammar, many rows at once, each row drawing its own lots.

In    token ids of the rows, a grammar, and a seed for each row.
Out   an answer for each row that the grammar accepts, and its mean log probability a token.
Run   through preprocessing/enrichment.py.

The grammar library (llguidance) masks what must not come; where it leaves one continuation only, nothing is
drawn. What a row draws depends on its seed alone: one uniform number a token, looked up in cumulated probabilities.
Each step reads one token of every row, also of those that have ended: so many rows of so many tokens are the same
products, whoever the neighbours are, and the same draws. A step costs the reading of all weights, a row in it little.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llguidance.torch
import torch
from llguidance import LLMatcher, LLTokenizer
from transformers.cache_utils import Cache, DynamicLayer

from preprocessing.errors import UserError
from preprocessing.llm import Llm
from preprocessing.prefix import Prefix, additive, padded
from preprocessing.score import rounded, unpacked

WRITE_ROUND = 128
"""Rows are filled up to a multiple of this many tokens: few lengths make full batches; unseen tokens cost little."""
_ROOM = 128
"""Tokens that a row's keys and values have room for before all are moved."""


@dataclass
class _Row:
    matcher: LLMatcher
    lots: random.Random
    prompt: list[int]
    """The text and what stands after it, up to where something may be drawn."""
    written: list[int]
    read: int
    """How many of those written the model has read."""
    finished: bool = False
    log_probability: float = 0.0
    drawn: int = 0


@dataclass(frozen=True)
class Written:
    text: str
    log_probability: float
    """Mean over the tokens that were drawn, at temperature 1, among those the grammar allowed."""


class _Roomy(DynamicLayer):
    """Keys and values with room for more tokens: one more is written behind the others, and none is copied."""

    room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        length = self.get_seq_length() if self.room is not None else 0
        total = length + key_states.shape[2]
        if self.room is None or total > self.room[0].shape[2]:
            self._move(key_states, value_states, length, total + _ROOM)
        assert self.room is not None
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, length:total] = states
        self.keys, self.values = (room[:, :, :total] for room in self.room)
        return self.keys, self.values

    def _move(self, key_states: torch.Tensor, value_states: torch.Tensor, length: int, places: int) -> None:
        """To a larger room, for so many tokens."""
        rows, heads = key_states.shape[:2]
        keys, values = (
            states.new_empty(rows, heads, places, states.shape[3]) for states in (key_states, value_states)
        )
        if self.room is not None:
            assert self.keys is not None
            assert self.values is not None
            keys[:, :, :length], values[:, :, :length] = self.keys, self.values
        self.room, self.is_initialized = (keys, values), True
        self.dtype, self.device = key_states.dtype, key_states.device


class Writer:
    """One prompt in one language: what stands before the text, what after it, and the form of the answer."""

    def __init__(
        self, llm: Llm, grammar_tokenizer: LLTokenizer, turns: Sequence[str], after: str, grammar: str
    ) -> None:
        self.llm, self.grammar_tokenizer, self.grammar = llm, grammar_tokenizer, grammar
        matcher = LLMatcher(grammar_tokenizer, grammar)
        if matcher.is_error():
            raise UserError(f"{llm.name}: no grammar for its answers: {matcher.get_error()}")
        head, tail = llm.chat_parts(turns, after)
        self.head = llm.template_ids(head)
        self.tail = llm.template_ids(tail)
        self.forced = list(matcher.compute_ff_tokens())
        self.prefix = Prefix(llm, self.head)

    def row_length(self, text: Sequence[int]) -> int:
        """Tokens of a text with what stands after it, filled up: rows of one such length share a batch."""
        return rounded(len(text) + len(self.tail) + len(self.forced), WRITE_ROUND)

    def __call__(self, texts: Sequence[Sequence[int]], seeds: Sequence[int], temperature: float) -> list[Written]:
        rows = [self._row(text, seed) for text, seed in zip(texts, seeds, strict=True)]
        # Filled up on the left: every row ends at the last place.
        backwards = padded([row.prompt[::-1] for row in rows], max(self.row_length(text) for text in texts))
        ids, seen = (part.flip(1) for part in backwards)
        ends = torch.tensor([len(row.prompt) for row in rows])
        cache = Cache(layer_class_to_replicate=_Roomy)
        with torch.inference_mode():
            causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
            places = (torch.arange(ids.shape[1]) - ids.shape[1] + ends[:, None]).clamp(min=0)
            logits = self._read(ids, places, causal & seen[:, None, :], cache)
            self._go_on(rows, logits, temperature)
            step = 0
            while not all(row.finished for row in rows):
                ids = torch.tensor([[row.written[row.read] if row.read < len(row.written) else 0] for row in rows])
                for row in rows:
                    row.read += 1
                seen = torch.cat([seen, torch.ones(len(rows), 1, dtype=torch.bool)], 1)
                logits = self._read(ids, ends[:, None] + step, seen[:, None, :], cache)
                self._go_on(rows, logits, temperature)
                step += 1
        return [
            Written(self.grammar_tokenizer.decode_bytes(row.written).decode(), row.log_probability / max(1, row.drawn))
            for row in rows
        ]

    def _row(self, text: Sequence[int], seed: int) -> _Row:
        matcher = LLMatcher(self.grammar_tokenizer, self.grammar)
        matcher.consume_tokens(self.forced)
        prompt = [*text, *self.tail, *self.forced]
        return _Row(matcher, random.Random(seed), prompt, written=list(self.forced), read=len(self.forced))

    def _read(self, ids: torch.Tensor, places: torch.Tensor, allowed: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Logits of each row's next token, (rows, vocabulary); what fills up a row stays in the cache, unseen."""
        self.prefix.check_length(allowed.shape[2])
        return self.llm.model(
            input_ids=ids,
            position_ids=self.prefix.length + places,
            attention_mask=additive(allowed, self.llm.model.dtype),
            shared_prefix=self.prefix.layers,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _go_on(self, rows: list[_Row], logits: torch.Tensor, temperature: float) -> None:
        """A token more for each row that has been read to its end and is not finished."""
        numbers = [number for number, row in enumerate(rows) if not row.finished and row.read == len(row.written)]
        if not numbers:
            return
        vocabulary = self.grammar_tokenizer.vocab_size
        mask = llguidance.torch.allocate_token_bitmask(len(numbers), vocabulary)
        for place, number in enumerate(numbers):
            llguidance.torch.fill_next_token_bitmask(rows[number].matcher, mask, place)
        width = min(vocabulary, logits.shape[1])
        scores = logits[numbers, :width].float().masked_fill(~unpacked(mask, vocabulary)[:, :width], -torch.inf)
        plain = scores.log_softmax(-1)
        cumulated = (scores / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
        for place, number in enumerate(numbers):
            row = rows[number]
            lot = row.lots.random() * float(cumulated[place, -1])
            token = int(torch.searchsorted(cumulated[place], lot, right=True))
            row.log_probability += float(plain[place, token])
            row.drawn += 1
            self._append(row, token)

    def _append(self, row: _Row, token: int) -> None:
        if not row.matcher.consume_token(token):
            raise RuntimeError(f"the grammar refused a token that it had allowed: {row.matcher.get_error()}")
        forced = [] if row.matcher.is_stopped() else row.matcher.compute_ff_tokens()
        if forced:
            row.matcher.consume_tokens(forced)
        row.written += [token, *forced]
        row.finished = row.matcher.is_stopped() or row.matcher.is_accepting()
