"""How often each source's records come in an epoch: by its size, as a temperature has it, or as the recipe says.

In    the reader of each record, `passes` and `sampling_temperature`; for `passes` of a source, the sources.
Out   passes by reader, and by source, for `BatchPlan`.
Run   through training/weights.py and training/data.py

With a temperature T a source of n records gives a share of the epoch in proportion to n^(1/T) (Devlin's multilingual
BERT; arXiv 1910.10683, section 3.5.2): at 1 each record comes once, towards infinity all sources give alike. An epoch
keeps as many records as there are.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from preprocessing.errors import UserError
from preprocessing.records import Record

if TYPE_CHECKING:
    from training.config import TrainConfig

Passes = dict[str, float | list[float]]


def passes_of(readers: Sequence[str], config: "TrainConfig") -> Passes:
    """Of each reader that is not drawn once an epoch. Raises UserError for one with no record in the first epoch."""
    said: Passes = {name: passes for name, passes in config.passes.items() if "=" not in name}
    if config.sampling_temperature == 1.0:
        return said
    rows = Counter(readers)
    shares = {name: count ** (1 / config.sampling_temperature) for name, count in rows.items()}
    scale = rows.total() / sum(shares.values())
    return {name: scale * share / rows[name] for name, share in shares.items()}


def of_source(records: list[Record], source: str, config: "TrainConfig") -> list[Record]:
    """Records of one source, READER=PATH, as it is written in `train`, with the weight that `passes` gives it."""
    times = config.passes.get(source)
    if times is None:
        return records
    assert isinstance(times, int | float)
    return [replace(record, weight=times * (1.0 if record.weight is None else record.weight)) for record in records]


def check_sampling(config: "TrainConfig") -> None:
    """Raises UserError for passes and a temperature that both say how often a source comes, and for unknown ones."""
    temperature = config.sampling_temperature
    if temperature < 1 or temperature == float("inf"):
        raise UserError(f"sampling_temperature must be at least 1 and finite, got {temperature}")
    if temperature != 1 and config.passes:
        raise UserError(
            f"sampling_temperature {temperature:g} says how often each source comes, and so does passes of "
            f"{', '.join(config.passes)}; leave one of them out"
        )
    for source, times in config.passes.items():
        if "=" not in source:
            continue
        if source not in config.train:
            raise UserError(f"passes names {source!r}, which is not among train: {', '.join(config.train)}")
        if not isinstance(times, int | float) or not times > 0:
            raise UserError(
                f"passes of a source must be one number above 0, got {times} of {source}; by epoch they can be given "
                "for a reader"
            )
        if (reader := source.partition("=")[0]) in config.passes:
            raise UserError(f"passes names {source!r} and its reader {reader!r} too; give one of them")
