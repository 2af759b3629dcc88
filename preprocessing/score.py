"""All numbers of one prompt in one pass: the text is read once, and each question branches off behind it.

In    token ids of texts; the questions, each as an answer up to its number.
Out   for each text and question the probabilities of the digits and of null.
Run   through preprocessing/enrichment.py.

A question is the beginning of an answer, {"key":, and which tokens may follow is said by the grammar (llguidance). All
questions lie behind the text in one sequence. A mask lets each see the prompt, the text and itself, and its positions
go on from the text's end, so each is answered as if it were asked alone: no answer leans on another one, and the
probabilities are those of a plain pass over prompt, text and question (tests/test_prep_enrichment.py).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import llguidance.torch
import torch
from llguidance import LLMatcher, LLTokenizer

from preprocessing.errors import UserError
from preprocessing.llm import Llm
from preprocessing.prefix import Prefix, additive, padded
from preprocessing.schema import SCALES, grammar_number

ROUND = 32
"""Rows are filled up to a multiple of this many tokens."""


NOTHING = ("...", "N/A", "[text]")
"""Texts without content, whose answers show what digits the model prefers as such."""


@dataclass(frozen=True)
class Question:
    ids: tuple[int, ...]
    """The answer up to its number."""
    choices: tuple[tuple[int, ...], ...]
    """Tokens that begin each digit of the scale, in order, and at last those that begin null."""


def question(llm: Llm, grammar_tokenizer: LLTokenizer, key: str, scale: str) -> Question:
    """Raises UserError where this tokenizer has no token with which a digit or null begins."""
    matcher = LLMatcher(grammar_tokenizer, grammar_number(key, scale))
    if matcher.is_error():
        raise UserError(f"{llm.name}: no grammar for {key!r}: {matcher.get_error()}")
    ids = tuple(matcher.compute_ff_tokens())
    matcher.consume_tokens(list(ids))
    first, last, _, _ = SCALES[scale]
    starts = [str(digit).encode() for digit in range(first, last + 1)] + [b"n"]
    choices: list[list[int]] = [[] for _ in starts]
    for token in allowed_tokens(matcher, grammar_tokenizer.vocab_size):
        written = grammar_tokenizer.decode_bytes([token])
        found = [number for number, start in enumerate(starts) if written.startswith(start)]
        if not found:
            raise UserError(f"{llm.name} cannot be made to give {key!r}: after {ids} may come {written!r}, no digit")
        choices[found[0]].append(token)
    if not ids or not all(choices):
        raise UserError(f"{llm.name} cannot be made to give {key!r}: its tokenizer has no token for one of {starts}")
    return Question(ids, tuple(map(tuple, choices)))


def allowed_tokens(matcher: LLMatcher, vocabulary: int) -> list[int]:
    """What the grammar lets stand next."""
    mask = llguidance.torch.allocate_token_bitmask(1, vocabulary)
    llguidance.torch.fill_next_token_bitmask(matcher, mask)
    return torch.nonzero(unpacked(mask, vocabulary)[0]).flatten().tolist()


def unpacked(mask: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Bits in 32-bit words -> one bool a token, (rows, vocabulary)."""
    bits = (mask[:, :, None] >> torch.arange(32, dtype=torch.int32)) & 1
    return bits.flatten(1)[:, :vocabulary].bool()


def rounded(length: int, to: int = ROUND) -> int:
    return -(-length // to) * to


class Scorer:
    """One prompt in one language: what stands before the text, what after it, and the questions."""

    def __init__(self, llm: Llm, turns: Sequence[str], after: str, questions: Sequence[Question]) -> None:
        self.llm, self.questions = llm, list(questions)
        head, tail = llm.chat_parts(turns, after)
        self.head = llm.template_ids(head)
        self.tail = llm.template_ids(tail)
        self.prefix = Prefix(llm, self.head)
        lengths = torch.tensor([len(item.ids) for item in self.questions])
        self._ids = torch.tensor([token for item in self.questions for token in item.ids])
        self._ends = lengths.cumsum(0) - 1
        self._owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        self._offset = torch.cat([torch.arange(int(length)) for length in lengths])
        within = self._owner[:, None] == self._owner[None, :]
        self._own = within & (self._offset[None, :] <= self._offset[:, None])
        self._prior: list[torch.Tensor] | None = None

    def prior(self) -> list[torch.Tensor]:
        """For each question (digits + 1): what is answered to texts that say nothing."""
        if self._prior is None:
            nothing = [self.llm.data_ids(json.dumps({"text": text})) for text in NOTHING]
            self._prior = [table.log().mean(0).softmax(-1) for table in self(nothing)]
        return self._prior

    def row_length(self, text: Sequence[int]) -> int:
        """Tokens of a text with what stands after it, filled up: rows of one such length share a batch."""
        return rounded(len(text) + len(self.tail))

    def __call__(self, texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """For each question (texts, digits + 1) probabilities in 64 bits; the last column is null."""
        rows = [[*text, *self.tail] for text in texts]
        length = max(self.row_length(text) for text in texts)
        ids, real = padded(rows, length)
        count, asked = len(rows), len(self._ids)
        self.prefix.check_length(length + asked)
        ends = torch.tensor([len(row) for row in rows])
        positions = torch.cat([torch.arange(length).expand(count, -1), ends[:, None] + self._offset], 1)
        with torch.inference_mode():
            logits = self.llm.model(
                input_ids=torch.cat([ids, self._ids.expand(count, -1)], 1),
                position_ids=positions + self.prefix.length,
                attention_mask=additive(self._allowed(real, asked), self.llm.model.dtype),
                shared_prefix=self.prefix.layers,
                use_cache=False,
                logits_to_keep=length + self._ends,
            ).logits
        return [shares(logits[:, number], item.choices) for number, item in enumerate(self.questions)]

    def _allowed(self, real: torch.Tensor, asked: int) -> torch.Tensor:
        """Who sees whom of a row's own, beside the prompt that all see: (rows, text + questions, text + questions)."""
        rows, length = real.shape
        allowed = torch.zeros(rows, length + asked, length + asked, dtype=torch.bool)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        allowed[:, :length, :length] = causal & real[:, None, :]
        allowed[:, length:, :length] = real[:, None, :]
        allowed[:, length:, length:] = self._own
        return allowed


def shares(logits: torch.Tensor, choices: Sequence[Sequence[int]]) -> torch.Tensor:
    """Probability of each choice among all that the grammar allows; (rows, choices) in 64 bits."""
    sums = [logits[:, list(tokens)].double().logsumexp(-1) for tokens in choices]
    return torch.stack(sums, -1).softmax(-1)


def calibrated(table: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """What the text adds: probabilities divided by those for no text, and made to sum to one again."""
    return (table.log() - prior.log()).softmax(-1)
