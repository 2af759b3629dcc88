"""Which records lend their actions to others as alternatives, and to whom: columns of the encoded data set.

In    an encoded data set, the records it was made from, `regret_alternatives`; for like cases a text encoder.
Out   the data set with the column `lends`, and `near` where alternatives come from like cases.
Run   through training/data.py, with `num_regrets` above 0

data        actions that people named, drawn by chance among all of the same language
retrieved   the same, of the cases whose texts are nearest in meaning to the record's own
enriched    actions that a language model wrote, drawn by chance

An action comes with the text it was named for, and with what it was said to be worth there: nothing is taken over
from one case to another, which agrees no better than by chance (docs/preprocessing-steps.md).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset, List, Value

from preprocessing.errors import UserError
from preprocessing.origin_weights import kind_of
from preprocessing.records import Record

if TYPE_CHECKING:
    from training.config import TrainConfig

LENDERS = {"data": "human", "retrieved": "human", "enriched": "llm"}
SAID = {"human": "that people named", "llm": "that a language model wrote (preprocessing/enrichment.py)"}
QUERIES = 1024  # at a time

Embed = Callable[[Sequence[str]], np.ndarray]


def with_cases(
    dataset: Dataset, records: Sequence[Record], config: "TrainConfig", embed: Callable[[], Embed] | None = None
) -> Dataset:
    """`embed` gives what makes vectors (texts, D) of length one; asked only for like cases. Raises UserError where no
    record has actions to lend."""
    if not config.num_regrets:
        return dataset
    origin = LENDERS[config.regret_alternatives]
    lends = [record.actions is not None and kind_of(record.origins.get("actions")) == origin for record in records]
    if sum(lends) < 2:
        raise UserError(
            f"num_regrets {config.num_regrets} asks for alternatives from other cases (regret_alternatives "
            f"{config.regret_alternatives}), and {sum(lends)} of {len(records):,} training records have actions "
            f"{SAID[origin]}; add such a source, name another kind, or set num_regrets 0"
        )
    found = dataset.add_column("lends", lends)
    said: list[object] = [config.regret_alternatives, lends]
    if config.regret_alternatives == "retrieved":
        assert embed is not None
        near = nearest(records, lends, config.num_regrets, embed())
        found = found.add_column("near", near, feature=List(Value("int32")))
        said.append(near)
    digest = hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()
    found.info.description = f"{dataset.info.description}-cases-{digest}"
    return found


def nearest(records: Sequence[Record], lends: Sequence[bool], count: int, embed: Embed) -> list[list[int]]:
    """For each record with a deed that has a worth, `count` records of its language that lend, the nearest first;
    never itself nor one of the same text. Of equally near ones the first in the data."""
    near: list[list[int]] = [[] for _ in records]
    for language in sorted({record.language for record in records}):
        of_language = [row for row, record in enumerate(records) if record.language == language]
        cases = [row for row in of_language if lends[row]]
        asking = [row for row in of_language if records[row].actions or records[row].circumstances]
        if not cases or not asking:
            continue
        vectors = embed([records[row].text for row in cases])
        for start in range(0, len(asking), QUERIES):
            rows = asking[start : start + QUERIES]
            cosines = embed([records[row].text for row in rows]) @ vectors.T
            for row, order in zip(rows, np.argsort(-cosines, axis=1, kind="stable"), strict=True):
                others = (cases[place] for place in order if records[cases[place]].text != records[row].text)
                near[row] = [case for case, _ in zip(others, range(count), strict=False)]
    return near
