"""The steps of a job by name, made from its settings.

In    a JobConfig.
Out   its steps, in the order that it names them.
Run   through preprocessing/pipeline.py
"""

import difflib
from collections.abc import Callable

from preprocessing.errors import UserError
from preprocessing.settings import JobConfig
from preprocessing.steps import Step

STEPS: dict[str, Callable[[JobConfig], Step]] = {}


def steps_of(config: JobConfig) -> list[Step]:
    """Raises UserError for a step that is not known."""
    for name in config.steps:
        if name not in STEPS:
            near = difflib.get_close_matches(name, STEPS, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(STEPS)}"
            raise UserError(f"there is no step {name!r}; {meant}")
    return [STEPS[name](config) for name in config.steps]
