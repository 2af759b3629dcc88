"""Asks a language model for the labels a record lacks, and says of each value where it comes from.

In    an `Llm`, the names of prompts, and records.
Out   `Enricher.answer`: for each record, field -> `Answer` (preprocessing/merging.py).
Run   through preprocessing/pipeline.py.

Nothing is made up: a field's value is None where the model abstained, where its answers to several wordings of the
question do not agree (preprocessing/confidence.py), or where the text is too long to be asked about. A field of
several labels is given whole or not at all, as a record holds it; its confidence is that of its least certain label.

Numbers are expected values over probabilities, so nothing is drawn. Alternatives are written: each record draws its
own lots, from the seed and the content of the record. Other rows in the batch change probabilities by rounding only,
which in bfloat16 is not little: with SmolLM2 as nf4, values in batches of 1 and of 16 lay 0.007 apart in the mean and
0.03 at most (16 scenarios, affect@1). With `fixed_shapes` every batch has the same number of rows of the same length;
then a record's numbers did not depend on its neighbours, bit for bit (tests/test_prep_enrichment.py, a tiny model).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import llguidance.hf
import torch

from preprocessing.alternatives import can_hold_actions, may_be_given_actions
from preprocessing.confidence import falling, judged
from preprocessing.decode import Writer, Written
from preprocessing.decoding import Decoding
from preprocessing.errors import UserError
from preprocessing.llm import Llm
from preprocessing.merging import Answer
from preprocessing.origins import DERIVED
from preprocessing.prefix import Prefix
from preprocessing.records import Action, Record
from preprocessing.regret import regret_of
from preprocessing.schema import UTILITY, Item, Prompt, data_of, grammar_actions, load_prompt, opening
from preprocessing.score import Scorer, calibrated, question
from preprocessing.text import normalise
from redheart_hf.labels import VIEWS

PROMPTS = ("affect@1", "circumstances@1", "culture@1", "alternatives@1")
_TRIED = 32
"""Tokens of a prompt on which it is tried whether a model can be asked at all."""
_FORM = "4"
"""Raised by hand when the same settings would give other answers: it makes caches of earlier code miss."""


class Enricher:
    def __init__(self, llm: Llm, prompts: Sequence[str | Prompt] = PROMPTS, decoding: Decoding | None = None) -> None:
        """Raises UserError for an unknown prompt, two that fill in one field, or a field the model cannot give."""
        self.llm, self.decoding = llm, decoding or Decoding()
        self.prompts = [load_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        fields = [field for prompt in self.prompts for field in prompt.fields]
        if twice := sorted({field for field in fields if fields.count(field) > 1}):
            raise UserError(f"more than one prompt fills in {', '.join(twice)}; leave all but one out")
        self._grammar_tokenizer = llguidance.hf.from_tokenizer(
            llm.tokenizer, n_vocab=llm.model.config.get_text_config().vocab_size
        )
        self._frames: dict[tuple[str, str], str] = {}
        self._made: dict[tuple[str, str, str], Any] = {}

    def key(self, record: Record, prompt: Prompt) -> str:
        """Hash of all that decides the answers of this prompt to this record: to cache them under."""
        model = [self.llm.hash, self.llm.quantization, prompt.name, prompt.hash]
        read = [record.language, self._frame(prompt, record.language), data_of(record, _chosen(record))]
        made_of = [_FORM, *model, asdict(self.decoding), *read]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    def check(self, languages: Iterable[str]) -> None:
        """Raises UserError where this model cannot be asked: what a job would otherwise find out when all is read."""
        for prompt in self.prompts:
            for language in languages:
                keys = [key for item in prompt.items(language) for key in item.wordings]
                asked = sum(len(self.llm.template_ids(opening(key))) for key in keys)
                for head, tail in self._parts(prompt, language):
                    more = len(head) - len(head[:_TRIED]) + len(tail) + self.decoding.max_tokens + asked
                    Prefix(self.llm, head[:_TRIED]).check_length(more)

    def _parts(self, prompt: Prompt, language: str) -> list[tuple[list[int], list[int]]]:
        """Of each stage the token ids of what stands before the text and of what comes after it."""
        stages = ("write_", "") if prompt.writes else ("",)
        parts = [self.llm.chat_parts(*prompt.frame(language, stage)) for stage in stages]
        return [(self.llm.template_ids(head), self.llm.template_ids(tail)) for head, tail in parts]

    def _frame(self, prompt: Prompt, language: str) -> str:
        """Hash of all that the model reads beside the text, as its chat template renders it."""
        if (prompt.name, language) not in self._frames:
            read = json.dumps(self._parts(prompt, language))
            self._frames[prompt.name, language] = hashlib.sha256(read.encode()).hexdigest()
        return self._frames[prompt.name, language]

    def answer(
        self, records: Sequence[Record], only_missing: bool = True, prompts: Sequence[Prompt] | None = None
    ) -> list[dict[str, Answer]]:
        """Field -> answer, of each record; without `only_missing` also of fields that people have labelled."""
        answers: list[dict[str, Answer]] = [{} for _ in records]
        for prompt in self.prompts if prompts is None else prompts:
            for language in sorted({record.language for record in records}):
                asked = [
                    number
                    for number, record in enumerate(records)
                    if record.language == language and wants(record, prompt, only_missing)
                ]
                ask = self._alternatives if prompt.writes else self._numbers
                for number, given in zip(asked, ask(prompt, language, [records[n] for n in asked]), strict=True):
                    answers[number] |= {
                        field: item
                        for field, item in given.items()
                        if not only_missing or getattr(records[number], field) is None
                    }
        return answers

    def _numbers(self, prompt: Prompt, language: str, records: Sequence[Record]) -> Iterator[dict[str, Answer]]:
        texts = [data_of(record, _chosen(record)) for record in records]
        for given in self._judge(prompt, language, texts):
            yield {field: self._whole(prompt, given.get(field)) for field in prompt.fields}

    def _whole(self, prompt: Prompt, given: list[tuple[float, float]] | None) -> Answer:
        origin = f"{self.llm.origin}/{prompt.name}"
        if not given:
            return Answer(None, 0.0, origin)
        confidence = min(confidence for _, confidence in given)
        sure = confidence >= self.decoding.threshold
        return Answer([value for value, _ in given] if sure else None, confidence, origin)

    def _alternatives(self, prompt: Prompt, language: str, records: Sequence[Record]) -> Iterator[dict[str, Answer]]:
        chosen = [_actions_in(written) for written in self._write(prompt, language, records)]
        asked = [data_of(record, text) for record, texts in zip(records, chosen, strict=True) for text in texts]
        judged_actions = iter(self._judge(prompt, language, asked))
        for texts in chosen:
            given = [next(judged_actions).get(UTILITY, []) for _ in texts]
            flat = [pair for utility in given for pair in utility]
            actions = self._whole(prompt, flat if len(flat) == len(texts) * len(VIEWS) else None)
            if actions.value is None:
                yield {name: replace(actions, origin=origin) for name, origin in _origins(actions.origin)}
                continue
            utilities = [falling([value for value, _ in utility]) for utility in given]
            pairs = zip(texts, utilities, strict=True)
            made = replace(actions, value=[Action(text=text, utility=utility) for text, utility in pairs])
            yield {"actions": made, "regret": Answer(regret_of(utilities, 0), made.confidence, DERIVED)}

    def _judge(
        self, prompt: Prompt, language: str, texts: Sequence[str]
    ) -> list[dict[str, list[tuple[float, float]]]]:
        """Of each text: field -> (value, confidence) of its labels in order; empty where it is too long."""
        scorer, items = self._scorer(prompt, language)
        ids = [self.llm.data_ids(text) for text in texts]
        results: list[dict[str, list[tuple[float, float]]]] = [{} for _ in texts]
        for batch in self._batches([len(row) for row in ids], scorer.row_length, self.decoding.batch_size):
            tables = iter(self._tables(scorer, [ids[number] for number in batch]))
            for item in items:
                wordings = [next(tables) for _ in item.wordings]
                values, confidences = judged(wordings, item.scale, self.decoding.tolerance)
                for place, number in enumerate(batch):
                    pair = (float(values[place]), float(confidences[place]))
                    held = results[number].setdefault(item.field, [])
                    if len(held) == item.position:  # a row that only fills up a batch has been judged already
                        held.append(pair)
        return results

    def _tables(self, scorer: Scorer, ids: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        tables = scorer(ids)
        if not self.decoding.calibrate:
            return tables
        return [calibrated(table, prior) for table, prior in zip(tables, scorer.prior(), strict=True)]

    def _write(self, prompt: Prompt, language: str, records: Sequence[Record]) -> list[Written | None]:
        writer = self._writer(prompt, language)
        texts = [data_of(record) for record in records]
        ids = [self.llm.data_ids(text) for text in texts]
        best: list[Written | None] = [None] * len(records)
        for sample in range(self.decoding.samples):
            seeds = [_seed(self.decoding.seed, text, sample) for text in texts]
            for batch in self._batches([len(row) for row in ids], writer.row_length, self.decoding.write_batch_size):
                written = writer([ids[n] for n in batch], [seeds[n] for n in batch], self.decoding.temperature)
                for number, new in zip(batch, written, strict=True):
                    old = best[number]
                    if old is None or new.log_probability > old.log_probability:
                        best[number] = new
        return best

    def _batches(
        self, lengths: Sequence[int], row_length: Callable[[Sequence[int]], int], size: int
    ) -> Iterator[list[int]]:
        """Numbers of rows of like length; with fixed shapes of one length, filled up by repeating the last."""
        fitting = [number for number, length in enumerate(lengths) if length <= self.decoding.max_tokens]
        groups: dict[int, list[int]] = {}
        for number in sorted(fitting, key=lambda number: lengths[number]):
            group = row_length(range(lengths[number])) if self.decoding.fixed_shapes else 0
            groups.setdefault(group, []).append(number)
        for numbers in groups.values():
            for start in range(0, len(numbers), size):
                batch = numbers[start : start + size]
                yield batch + batch[-1:] * (size - len(batch)) if self.decoding.fixed_shapes else batch

    def _scorer(self, prompt: Prompt, language: str) -> tuple[Scorer, list[Item]]:
        made = self._made.get((prompt.name, language, "judge"))
        if made is None:
            items = prompt.items(language)
            asked = [
                question(self.llm, self._grammar_tokenizer, key, item.scale) for item in items for key in item.wordings
            ]
            turns, after = prompt.frame(language, "")
            made = Scorer(self.llm, turns, after, asked), items
            self._made[prompt.name, language, "judge"] = made
        return made

    def _writer(self, prompt: Prompt, language: str) -> Writer:
        made = self._made.get((prompt.name, language, "write"))
        if made is None:
            grammar = grammar_actions(prompt.content["write"]["instead"], prompt.content[language]["max_characters"])
            turns, after = prompt.frame(language, "write_")
            made = Writer(self.llm, self._grammar_tokenizer, turns, after, grammar)
            self._made[prompt.name, language, "write"] = made
        return made


def wants(record: Record, prompt: Prompt, only_missing: bool = True) -> bool:
    """Whether the prompt could fill in anything of the record."""
    if prompt.writes and not (may_be_given_actions(record) if only_missing else can_hold_actions(record)):
        return False
    return not only_missing or any(getattr(record, field) is None for field in prompt.fields)


def _chosen(record: Record) -> str | None:
    return record.actions[record.chosen].text if record.actions and record.chosen is not None else None


def _actions_in(written: Written | None) -> list[str]:
    """What was done and what else could be; nothing where two are the same but for their form."""
    if written is None:
        return []
    answer = json.loads(written.text)
    texts = [text.strip() for text in (answer["done"], *answer["instead"])]
    return texts if len({normalise(text) for text in texts}) == len(texts) else []


def _origins(origin: str) -> tuple[tuple[str, str], ...]:
    return ("actions", origin), ("regret", DERIVED)


def _seed(seed: int, content: str, sample: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{sample}/{content}".encode()).digest()[:8])
