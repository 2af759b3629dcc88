"""pipeline("red-heart"): what a model says of texts, scenarios and dialogues, as plain dictionaries.

In    a text or a dictionary (pipeline_reading.py); a list of them; a data set or generator, which is streamed.
Out   a dictionary of named answers for each, in order (answers.py); null where the model never learned one.
Run   from redheart_hf import RedHeartPipeline   # which also makes the task known
      ask = transformers.pipeline("red-heart", model="outputs/main/final")
      ask("I never called her back.")
      ask({"text": "He found a wallet.", "actions": ["Hand it in", "Keep the money"], "chosen": 1})
      ask({"text": "괜찮아.", "turns": ["무슨 일 있어?", "아니, 아무 일도."]})
      for answer in ask(KeyDataset(dataset, "text"), batch_size=64): ...

Texts of like length go through the model together, and a text that comes twice goes once: BUFFER batches are read
ahead. An answer does not depend on what else was asked. A text longer than the model reads is read in windows, whose
answers are averaged by their tokens; `windows` says how many. With actions each has its utility and the regret of
choosing it; circumstances and acceptability are then those of the chosen one, without one those of the text.
`explain=True` adds which words carry the answer, `similar=k` with `index=FOLDER` the nearest known cases; both need a
checkout of this project, with its extras.
"""

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from transformers import Pipeline, PreTrainedTokenizerBase

from .answers import (
    Arrays,
    arrays_of_sequences,
    describe_actions,
    describe_deed,
    describe_text,
    describe_turn,
    keep_back,
    to_numpy,
)
from .labels import VIEWS
from .modeling_head_regret import regret_of
from .pipeline_reading import Question, Reader, Unit, question_of

BATCH_SIZE, BUFFER = 32, 32
MOST_AT_ONCE = 100_000
MOST_CHARACTERS = 1_000_000
OPTIONS = ("explain", "similar", "index", "max_characters")


class RedHeartPipeline(Pipeline):
    """`pipeline("red-heart", model=...)`. Raises ValueError for what cannot be asked, before anything is computed."""

    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = True  # type: ignore[assignment]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        config = self.model.config
        self.reader = Reader(cast(PreTrainedTokenizerBase, self.tokenizer), config.max_length, config.text_prefix)

    def _sanitize_parameters(self, **given):
        if unknown := sorted(set(given) - set(OPTIONS)):
            raise ValueError(f"red-heart has no option {unknown[0]!r}; it has {', '.join(OPTIONS)}")
        return {}, given, {}

    def __call__(self, inputs, *args, num_workers: int | None = None, batch_size: int | None = None, **given):
        """Answers in the order of `inputs`: one, a list of them, or an iterator; `num_workers` has nothing to do."""
        if args:
            raise ValueError(
                f"what is {args[0]!r:.60}? Give one input, a list of them, or an iterator; options by name"
            )
        size = batch_size if batch_size is not None else self._batch_size or BATCH_SIZE
        options = {"batch_size": size} | self._forward_params | self._sanitize_parameters(**given)[1]
        for name in ("batch_size", "max_characters"):
            if name in options and (type(options[name]) is not int or options[name] < 1):
                raise ValueError(f"{name} is {options[name]!r}; give a whole number, 1 or more")
        if isinstance(inputs, (str, Mapping)):
            return next(self.stream([inputs], options))
        if isinstance(inputs, (list, tuple)):
            if len(inputs) > MOST_AT_ONCE:
                raise ValueError(
                    f"{len(inputs):,} answers at once would fill the memory; give an iterator, iter(texts), and take "
                    f"the answers one by one (a list may have {MOST_AT_ONCE:,})"
                )
            return list(self.stream(inputs, options))
        many = hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__")
        if not many or isinstance(inputs, (bytes, bytearray)):
            raise ValueError(f"input is of type {type(inputs).__name__}; give a text, a dictionary or many of them")
        return self.stream(inputs, options)

    def stream(self, inputs: Iterable[Any], options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Answers one by one; as many questions are read ahead as fill BUFFER batches."""
        number, rest = 0, iter(items_of(inputs))
        while asked := list(islice(rest, BUFFER * options["batch_size"])):
            where = [f"input {number + place}" for place in range(len(asked))]
            yield from self.forward(self.preprocess((asked, where), **options), **options)
            number += len(asked)

    # ---------------------------------------------------------------- the steps that every pipeline has

    def preprocess(self, asked, **options) -> list[list[Unit]]:  # type: ignore[override]
        """The units of each question: ([question, ...], [where it came from, ...])."""
        most = options.get("max_characters", MOST_CHARACTERS)
        questions = [question_of(one, place, most) for one, place in zip(*asked, strict=True)]
        if any(question.turns for question in questions) and "affect_filter" not in self.model.config.modules:
            raise ValueError("turns were given, but this model has no affect_filter to follow them with")
        return self.reader.read(questions, asked[1])

    def _forward(self, model_inputs, **options) -> list[dict[str, Any]]:  # type: ignore[override]
        """The answer to each question."""
        units = {unit.key: unit for of in model_inputs for unit in of}
        arrays = self.answers_of(list(units.values()), options["batch_size"])
        found = dict(zip(units, arrays, strict=True))
        return [self.postprocess((of, [found[unit.key] for unit in of]), **options) for of in model_inputs]

    def postprocess(self, model_outputs, **options) -> dict[str, Any]:
        """One question's units and their arrays -> its answer."""
        units, arrays = model_outputs
        question, config = units[0].question, self.model.config
        averaged = average(arrays, [unit.weight for unit in units])
        answer = {"text": question.text} | describe_text(averaged, 0, config.thresholds or {})
        answer |= describe_deed(averaged, 0 if question.chosen is None else 1 + question.chosen)
        if question.actions:
            views = averaged["utility_views"][1:]
            answer["actions"] = describe_actions(question.actions, views, averaged["regret"])
            answer |= {"best": int(views[:, VIEWS.index("neutral")].argmax()), "chosen": question.chosen}
            answer["regret"] = None if question.chosen is None else answer["actions"][question.chosen]["regret"]
        if question.turns:
            said = [*question.turns, question.text]
            rows = [*range(1, len(said)), 0]
            answer["dialogue"] = [
                {"text": text} | describe_turn(averaged, row) for text, row in zip(said, rows, strict=True)
            ]
            answer |= describe_turn(averaged, 0)
        answer["windows"] = len(units)
        return keep_back(answer, config.trained_labels) | self.beyond(question, options)

    # ---------------------------------------------------------------- batches

    def answers_of(self, units: list[Unit], batch_size: int) -> list[Arrays]:
        """Arrays of each unit's sequences; like lengths go together, at most `batch_size` sequences where they can."""
        found: dict[int, Arrays] = {}
        order = sorted(range(len(units)), key=lambda place: -units[place].length)
        for places in groups(order, [len(unit.coded) for unit in units], batch_size):
            for place, arrays in zip(places, self.arrays_of([units[place] for place in places]), strict=True):
                found[place] = arrays
        return [found[place] for place in range(len(units))]

    def arrays_of(self, units: list[Unit]) -> Iterator[Arrays]:
        with torch.inference_mode():
            output = self.model(**self.batch_of(units))
        arrays = arrays_of_sequences(output, self.model.config.calibration or {})
        first = 0
        for unit in units:
            rows = slice(first, first + len(unit.coded))
            own = {name: values[rows] for name, values in arrays.items()}
            if unit.question.actions:
                views = output.regret.utility_views[rows][1:].float()
                own["regret"] = to_numpy(regret_of(views.amax(dim=0) - views, self.model.config.regret_aversion))
            yield own
            first = rows.stop

    def batch_of(self, units: list[Unit]) -> dict[str, torch.Tensor]:
        """What the model takes, padded on the right; `chosen` moves nothing but the regret of what was chosen."""
        coded = [of for unit in units for of in unit.coded]
        shape = (len(coded), max(len(ids) for ids, _ in coded))
        input_ids = np.full(shape, self.reader.tokenizer.pad_token_id, dtype=np.int64)
        mask, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        first = 0
        groups: list[list[int]] = []
        turns: list[list[int]] = []
        for row, (ids, segments) in enumerate(coded):
            input_ids[row, : len(ids)], mask[row, : len(ids)] = ids, 1
            if segments is not None:
                types[row, : len(ids)] = segments
        for unit in units:
            rows = list(range(first + 1, first + len(unit.coded)))
            if unit.question.actions:
                groups.append(rows)
            elif unit.question.turns:
                turns.append([*rows, first])
            first += len(unit.coded)
        batch = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}
        if self.reader.typed:
            batch["token_type_ids"] = torch.from_numpy(types)
        if groups:
            batch |= {"alternatives": padded(groups), "chosen": torch.zeros(len(groups), dtype=torch.long)}
        if turns:
            batch["turns"] = padded(turns)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    # ---------------------------------------------------------------- what a checkout adds

    def beyond(self, question: Question, options: Mapping[str, Any]) -> dict[str, Any]:
        """`explain` and `similar`; raises ValueError where this is not a checkout, or an index is lacking."""
        added: dict[str, Any] = {}
        if options.get("explain"):
            given = (self.model, self.reader.tokenizer, question.text, list(question.actions), question.chosen)
            found = of_checkout("training.explain", "explain")(*given)
            added["explanation"] = {name: value for name, value in found.items() if name not in ("text", "prediction")}
        if options.get("similar"):
            if options.get("index") is None:
                raise ValueError("similar needs index=FOLDER, which `python -m training.similar` makes")
            if getattr(self, "_index", None) != options["index"]:
                find = of_checkout("training.predict", "similar_texts")
                self._index, self._find = options["index"], find(options["index"], self.model, self.reader.tokenizer)
            added["similar"] = self._find(question.text)[: options["similar"]]
        return added


def of_checkout(module: str, name: str) -> Any:
    """What is not published with a model, since it needs packages that most users of one do not have."""
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise ValueError(f"explain and similar need a checkout of Red Heart on the path: {error}") from error


def items_of(inputs: Any) -> Iterable[Any]:
    """A torch data set knows its length and its items, and may not be iterable."""
    if not hasattr(inputs, "__iter__") and hasattr(inputs, "__getitem__"):
        return (inputs[place] for place in range(len(inputs)))
    return inputs


def groups(order: list[int], sizes: list[int], most: int) -> Iterator[list[int]]:
    """`order` in lots of at most `most` in all; what is larger alone is a lot of its own."""
    lot: list[int] = []
    for place in order:
        if lot and sum(sizes[one] for one in lot) + sizes[place] > most:
            yield lot
            lot = []
        lot.append(place)
    if lot:
        yield lot


def padded(rows: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in rows])


def average(arrays: list[Arrays], weights: list[int]) -> Arrays:
    """Of windows, by their tokens. A variance is the mixture's: the mean of variances and the variance of means."""
    if len(arrays) == 1:
        return arrays[0]
    share = np.asarray(weights, dtype=float) / sum(weights)
    mean = {name: np.tensordot(share, np.stack([one[name] for one in arrays]), axes=1) for name in arrays[0]}
    for name in ("vad", "turn_vad"):
        if f"{name}_mean" in mean:
            spread = [np.exp(one[f"{name}_log_variance"]) + one[f"{name}_mean"] ** 2 for one in arrays]
            mean[f"{name}_log_variance"] = np.log(
                np.tensordot(share, np.stack(spread), axes=1) - mean[f"{name}_mean"] ** 2
            )
    return mean
