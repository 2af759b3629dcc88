"""Gives each deed the alternatives that it lacks, and says what it is to be regretted beside each of them.

In    rows of the encoded data set, with the columns of training/regret_cases.py; the epoch.
Out   the same rows with more sequences, what each is worth in three views, and the regret of the deed among all.
Run   through training/groups.py

A deed is the action that was chosen, or, in a record without actions whose text has circumstances, the text itself. Up
to `num_regrets` other actions stand beside it: first those that its own record has, then ones that other cases lend,
each with its own text before it. For each of them there are up to three Bentham calculations: in each view what it is
worth, less what the deed is worth, through the model's own Q. The greatest of them is the regret that the model is
to learn (redheart_hf/modeling_head_regret.py), so that all are computed from labels of the very sequences it reads.

What a deed is worth is what was said of it, in three views; from circumstances Bentham's sum gives the neutral one.
A record of which neither is known has no target and is given no alternatives, and both are counted. Which cases lend
is a function of (seed, epoch, row), so a run repeats it wherever it is taken up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from redheart_hf import RedHeartConfig
from redheart_hf.labels import VIEWS
from redheart_hf.modeling_head_regret import regret_of
from training.collator import WEIGHTS
from training.config import TrainConfig

NEUTRAL = VIEWS.index("neutral")
STREAM = 7_919  # chance of its own, beside that of the batches

Place = tuple[int, int]
"""A row of the data set, and one of its actions."""


@dataclass
class Counted:
    """Of one micro-batch."""

    samples: int = 0
    """Deeds that were compared with alternatives."""
    alternatives: int = 0
    """Actions they were compared with."""
    lent: int = 0
    """Of these, from other cases."""
    calculations: int = 0
    """Regrets computed, one for each alternative and view of which both worths are known."""
    without_target: int = 0
    """Alternatives that are asked for and of which nothing is known: of records without a deed of known worth, and
    where no other case lends."""


def alternatives_of(dataset: Dataset, config: TrainConfig, model: RedHeartConfig) -> "Alternatives | None":
    """None where `num_regrets` asks for none."""
    return Alternatives(dataset, config, model) if config.num_regrets else None


class Alternatives:
    """Holds three numbers for each action that may be lent, and where it lies; sequences stay in the data set."""

    def __init__(self, dataset: Dataset, config: TrainConfig, model: RedHeartConfig):
        columns = ["sequences", "segments", WEIGHTS]
        self.sequences = dataset.select_columns([name for name in columns if name in dataset.column_names])
        self.near = dataset.select_columns("near") if "near" in dataset.column_names else None
        self.wanted, self.seed = config.num_regrets, config.seed
        self.views = range(len(VIEWS)) if config.num_bentham == len(VIEWS) else [NEUTRAL]
        self.weights, self.aversion = np.asarray(model.circumstance_weights), model.regret_aversion
        pairs, turns = np.asarray(dataset["is_pair"]), np.asarray(dataset["num_turns"])
        told = np.asarray([values is not None for values in dataset["circumstances"]]) & ~pairs & (turns == 0)
        self.deeds = told | np.asarray([chosen is not None for chosen in dataset["chosen"]])
        lends, languages = np.asarray(dataset["lends"]), np.asarray(dataset["language"])
        self.worth: dict[Place, list[float]] = {}
        self.places: dict[int, list[Place]] = {}
        of_language: dict[str, list[Place]] = {str(language): [] for language in np.unique(languages)}
        for start, utilities in enumerate(dataset["utilities"]):
            if lends[start]:
                self.places[start] = [(start, action) for action in range(len(utilities))]
                of_language[str(languages[start])] += self.places[start]
                self.worth |= dict(zip(self.places[start], utilities, strict=True))
        self.of_language = of_language
        self.numbers: Sequence[int] | None = None
        self.longest = max(self.places, key=lambda row: dataset[row]["length"])

    def of_rows(self, rows: Sequence[int]) -> "Alternatives":
        """The same for a data set that holds these rows alone: what is asked for by its row numbers, all may lend."""
        self.numbers = rows
        return self

    def deed(self, record: dict[str, Any]) -> list[float | None] | None:
        """What it is worth in each view; None where nothing is known of it."""
        if record["chosen"] is not None:
            return record["utilities"][record["chosen"]]
        circumstances = record["circumstances"]
        if circumstances is None or len(record["sequences"]) != 1:  # a pair or a dialogue is no deed
            return None
        worth: list[float | None] = [None] * len(VIEWS)
        worth[NEUTRAL] = utility_of(circumstances, self.weights)
        return worth

    def lent(self, row: int, record: dict[str, Any], count: int, epoch: int) -> list[Place]:
        """Up to `count` actions of other cases."""
        if count <= 0:
            return []
        if self.near is not None:
            found = [place for case in self.near[row]["near"] for place in self.places[case]]
            return found[:count]
        known = self.of_language[record["language"]]
        spare = len(record["utilities"] or ())  # its own may be among those drawn
        random = np.random.default_rng((self.seed, STREAM, epoch, row))
        drawn = random.choice(len(known), size=min(count + spare, len(known)), replace=False)
        return [known[place] for place in drawn if known[place][0] != row][:count]

    def added(
        self, records: Sequence[dict[str, Any]], rows: Sequence[int], epoch: int
    ) -> tuple[list[dict[str, Any]], Counted]:
        """The records, each with its alternatives, and what was done."""
        rows = rows if self.numbers is None else [self.numbers[row] for row in rows]
        counted, worths = Counted(), [self.deed(record) for record in records]
        lent: list[list[Place]] = []
        for record, row, worth in zip(records, rows, worths, strict=True):
            count = self.wanted - self.own(record)
            lent.append([] if worth is None else self.lent(row, record, count, epoch))
            counted.without_target += max(0, count - len(lent[-1]))
        return self.joined(records, worths, lent, counted), counted

    def widest(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """As `added`, with the longest alternatives there are: what a plan goes by."""
        worths = [self.deed(record) for record in records]
        counts = [worth and self.wanted - self.own(record) for record, worth in zip(records, worths, strict=True)]
        longest = self.places[self.longest]
        lent = [[longest[place % len(longest)] for place in range(count or 0)] for count in counts]
        return self.joined(records, worths, lent, Counted())

    def sizes(self, sequences: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sequences of each row, and tokens of its longest one, at most once others lend."""
        lacks = np.zeros_like(sequences)
        lacks[self.deeds] = np.maximum(0, self.wanted - np.maximum(0, sequences[self.deeds] - 2))
        return sequences + lacks, np.where(lacks > 0, np.maximum(lengths, lengths[self.longest]), lengths)

    def own(self, record: dict[str, Any]) -> int:
        """Other actions that the record itself has."""
        return max(0, len(record["utilities"] or ()) - 1)

    def joined(self, records, worths, lent: list[list[Place]], counted: Counted) -> list[dict[str, Any]]:
        needed = sorted({row for places in lent for row, _ in places})
        sources = dict(zip(needed, self.rows(needed), strict=True))
        return [
            record if worth is None else self.with_alternatives(record, worth, places, sources, counted)
            for record, worth, places in zip(records, worths, lent, strict=True)
        ]

    def rows(self, needed: list[int]) -> list[dict[str, Any]]:
        """Read at once: one row after another takes several times as long."""
        if not needed:
            return []
        found = self.sequences[needed]
        return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]

    def with_alternatives(self, record, worth, places: list[Place], sources, counted: Counted) -> dict[str, Any]:
        own = record["utilities"] or []
        others = [utility for action, utility in enumerate(own) if action != record["chosen"]]
        lent = [self.seen(self.worth[place]) for place in places]
        regrets = self.regrets([*others, *lent], worth)
        counted.samples += 1
        counted.alternatives += len(regrets)
        counted.lent += len(lent)
        counted.calculations += int(np.isfinite(regrets).sum())
        found = dict(record)
        found["utilities"] = [*own, *lent]
        found["sequences"] = record["sequences"] + [sources[row]["sequences"][1 + action] for row, action in places]
        if record["segments"] is not None:
            found["segments"] = record["segments"] + [sources[row]["segments"][1 + action] for row, action in places]
        if WEIGHTS in record:
            found["lent_weights"] = [sources[row][WEIGHTS] for row, _ in places]
        if places or record["regret"] is None:  # beside its own alternatives alone, what was said of it stands
            found["among"] = [None if np.isnan(value) else float(value) for value in greatest(regrets)]
        return found

    def seen(self, utility: Sequence[float]) -> list[float | None]:
        """What is calculated with; the rest is not told."""
        return [value if view in self.views else None for view, value in enumerate(utility)]

    def regrets(self, others: Sequence[Sequence[float | None]], worth: Sequence[float | None]) -> np.ndarray:
        """(alternatives, views): of the deed beside each; NaN where the worth of one of the two is not known, in all
        of a view where that is not calculated."""
        known = np.full((len(others), len(VIEWS)), np.nan)
        for view in self.views:
            known[:, view] = [np.nan if other[view] is None else other[view] for other in others]
        missed = known - np.asarray([np.nan if value is None else value for value in worth])
        return regret_of(np.maximum(missed, 0.0), self.aversion)  # type: ignore[return-value]


def greatest(regrets: np.ndarray) -> np.ndarray:
    """(views,): the greatest of each view; NaN where one of them is not known, or there are none."""
    return regrets.max(axis=0) if len(regrets) else np.full(len(VIEWS), np.nan)


def utility_of(circumstances: Sequence[float], weights: np.ndarray) -> float:
    """Bentham's sum (redheart_hf/modeling_head_ethics.py): intensity, and intensity times each of the others."""
    intensity, *others = circumstances
    return float(weights @ np.asarray([intensity, *(intensity * other for other in others)]))
