"""The settings of a sweep over learning rates, and the rates that follow from them.

In    the recipe's `lr_sweep`, as a dictionary.
Out   SweepSettings, its values checked; a TrainConfig with all its rates multiplied.
Run   through training/lr_sweep.py
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from preprocessing.errors import UserError

if TYPE_CHECKING:
    from training.config import TrainConfig

RATES = ("learning_rate", "answer_learning_rate", "text_encoder_learning_rate", "min_learning_rate")
"""All are multiplied by the same factor: a sweep finds how fast, the recipe how fast beside each other."""
LEAST_STEPS, MOST_STEPS = 20, 200


@dataclass(frozen=True)
class SweepSettings:
    """`steps` None: a tenth of the run's, 20 to 200. `rows`: the most of dev's choosing half to judge by."""

    points: int = 5
    low: float = 1e-5
    high: float = 1e-2
    steps: int | None = None
    seeds: int = 1
    refine: bool = False
    rows: int | None = None

    def rates(self) -> list[float]:
        """Log-spaced from low to high."""
        return [spaced(self.low, self.high, index / (self.points - 1)) for index in range(self.points)]

    def steps_of(self, total_steps: int) -> int:
        """Steps of a short run."""
        usual = min(MOST_STEPS, max(LEAST_STEPS, total_steps // 10))
        return min(total_steps, self.steps or usual)


def spaced(low: float, high: float, share: float) -> float:
    """The rate that lies so far from low to high, in logarithms; of three digits, which are enough."""
    return float(f"{low * (high / low) ** share:.3g}")


def sweep_settings(values: dict[str, Any]) -> SweepSettings:
    """Raises UserError for a name or a value that cannot be."""
    known = {field.name: field for field in dataclasses.fields(SweepSettings)}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            meant = f"did you mean {near[0]}?" if near else f"it knows {', '.join(known)}"
            raise UserError(f"lr_sweep has an unknown field {name!r}; {meant}")
        kinds: tuple[type, ...] = {"low": (int, float), "high": (int, float), "refine": (bool,)}.get(name, (int,))
        missing = value is None and name in ("steps", "rows")
        if not missing and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise UserError(f"lr_sweep.{name} must be of type {kinds[-1].__name__}, got {value!r}")
    settings = SweepSettings(**values)
    if not 0 < settings.low < settings.high < math.inf:
        raise UserError(
            f"lr_sweep goes from low to high, both positive and finite, got {settings.low} and {settings.high}"
        )
    for name, least in {"points": 2, "steps": 1, "seeds": 1, "rows": 1}.items():
        found = getattr(settings, name)
        if found is not None and found < least:
            raise UserError(f"lr_sweep.{name} must be at least {least}, got {found}")
    return settings


def with_rate(config: "TrainConfig", rate: float) -> "TrainConfig":
    """The config with this learning_rate, and its other rates multiplied by the same factor."""
    factor = rate / config.learning_rate
    rates = {name: getattr(config, name) for name in RATES}
    changed = {name: value * factor for name, value in rates.items() if value is not None}
    return dataclasses.replace(config, **changed | {"learning_rate": rate})


def short(config: "TrainConfig", steps: int, total_steps: int, seed: int) -> "TrainConfig":
    """The config of a short run: its schedule ends at its last step, and its warm-up shrinks alike."""

    def shrunk(count: int) -> int:
        return math.ceil(count * steps / total_steps) if count else 0

    warmup, start = shrunk(config.warmup_steps), min(shrunk(config.text_encoder_start), steps - 1)
    return dataclasses.replace(
        config, max_steps=steps, warmup_steps=warmup, text_encoder_start=start, seed=seed, lr_sweep=None
    )
