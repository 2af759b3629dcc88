"""Writes short texts in the form of a grammar, many rows at once, each row drawing its own lots.

In    token ids of the rows, a grammar, and a seed for each row.
Out   an answer for each row that the grammar accepts, and its mean log probability a token.
Run   through preprocessing/enrichment.py.

The grammar library (llguidance) masks what must not come next. Where it leaves one continuation only, those tokens
are not asked for but appended, and read together with the next step. What a row draws depends on its seed alone: one
uniform number a token, looked up in the cumulated probabilities. Its neighbours and the size of the batch change the
probabilities by rounding, so a draw that lies within that of a border can come out otherwise; the same batches give
the same texts.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import llguidance.torch
import torch
from llguidance import LLMatcher, LLTokenizer

from preprocessing.errors import UserError
from preprocessing.llm import Llm
from preprocessing.prefix import Prefix, additive, padded
from preprocessing.score import unpacked


@dataclass
class _Row:
    matcher: LLMatcher
    lots: random.Random
    pending: list[int]
    """Tokens the model has not read yet."""
    length: int = 0
    """Tokens it has read of this row."""
    written: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    drawn: int = 0


@dataclass(frozen=True)
class Written:
    text: str
    log_probability: float
    """Mean over the tokens that were drawn, at temperature 1, among those the grammar allowed."""


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
        self.prefix = Prefix(llm, self.head)

    def __call__(self, texts: Sequence[Sequence[int]], seeds: Sequence[int], temperature: float) -> list[Written]:
        rows = [self._row(text, seed) for text, seed in zip(texts, seeds, strict=True)]
        running = list(rows)
        cache = self.prefix.cache(len(rows))
        seen = torch.ones(len(rows), self.prefix.length, dtype=torch.bool)
        with torch.inference_mode():
            while running:
                logits, seen = self._read(running, cache, seen)
                self._draw(running, logits, temperature)
                kept = [number for number, row in enumerate(running) if row.pending]
                if len(kept) < len(running):
                    running = [running[number] for number in kept]
                    cache.batch_select_indices(torch.tensor(kept, dtype=torch.long))
                    seen = seen[kept]
        return [
            Written(self.grammar_tokenizer.decode_bytes(row.written).decode(), row.log_probability / max(1, row.drawn))
            for row in rows
        ]

    def _row(self, text: Sequence[int], seed: int) -> _Row:
        matcher = LLMatcher(self.grammar_tokenizer, self.grammar)
        forced = matcher.compute_ff_tokens()
        matcher.consume_tokens(forced)
        return _Row(matcher, random.Random(seed), [*text, *self.tail, *forced], written=list(forced))

    def _read(self, rows: list[_Row], cache: object, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of each row's next token, (rows, vocabulary); filled-up places stay in the cache, unseen."""
        length = max(len(row.pending) for row in rows)
        ids, real = padded([row.pending for row in rows], length)
        starts = torch.tensor([row.length for row in rows])
        seen = torch.cat([seen, real], 1)
        causal = torch.ones(length, seen.shape[1], dtype=torch.bool).tril(seen.shape[1] - length)
        self.prefix.check_length(seen.shape[1])
        lasts = [len(row.pending) - 1 for row in rows]
        wanted = sorted(set(lasts))
        logits = self.llm.model(
            input_ids=ids,
            position_ids=self.prefix.length + starts[:, None] + torch.arange(length),
            attention_mask=additive(causal & seen[:, None, :], self.llm.model.dtype),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor(wanted),
        ).logits
        for row in rows:
            row.length += len(row.pending)
        return logits[torch.arange(len(rows)), [wanted.index(last) for last in lasts]], seen

    def _draw(self, rows: list[_Row], logits: torch.Tensor, temperature: float) -> None:
        vocabulary = self.grammar_tokenizer.vocab_size
        mask = llguidance.torch.allocate_token_bitmask(len(rows), vocabulary)
        for number, row in enumerate(rows):
            llguidance.torch.fill_next_token_bitmask(row.matcher, mask, number)
        width = min(vocabulary, logits.shape[1])
        scores = logits[:, :width].double().masked_fill(~unpacked(mask, vocabulary)[:, :width], -torch.inf)
        plain = scores.log_softmax(-1)
        cumulated = (scores / temperature).softmax(-1).cumsum(-1)
        for number, row in enumerate(rows):
            lot = row.lots.random() * float(cumulated[number, -1])
            token = int(torch.searchsorted(cumulated[number], lot, right=True))
            row.log_probability += float(plain[number, token])
            row.drawn += 1
            self._append(row, token)

    def _append(self, row: _Row, token: int) -> None:
        if not row.matcher.consume_token(token):
            raise RuntimeError(f"the grammar refused a token that it had allowed: {row.matcher.get_error()}")
        forced = [] if row.matcher.is_stopped() else row.matcher.compute_ff_tokens()
        if forced:
            row.matcher.consume_tokens(forced)
        row.written += [token, *forced]
        finished = row.matcher.is_stopped() or row.matcher.is_accepting()
        row.pending = [] if finished else [token, *forced]
