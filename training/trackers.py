"""Who else is given a run's numbers, through Accelerate's trackers: TensorBoard and trackio, into the run's folder.

In    names, the run's folder, the step it goes on from; numbers by name.
Out   OUTPUT_DIR/tensorboard, OUTPUT_DIR/trackio (an SQLite file).
Run   `tensorboard --logdir outputs/main/tensorboard`; `TRACKIO_DIR=outputs/main/trackio trackio show`

Both write files and nothing else: trackio starts no server and asks no network unless TRACKIO_SPACE_ID or
TRACKIO_SERVER_URL say so, and what it would measure of the machine every ten seconds is turned off, since
timings.jsonl has it. A step that is taken twice, since the run was killed between, is in trackio twice.
"""

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker

from preprocessing.errors import UserError

if TYPE_CHECKING:
    from training.config import TrainConfig

MODULES = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio"}
EXTRAS = {"tensorboard": "train", "trackio": "track"}


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError for one that is not known, or not installed."""
    for name in names:
        if name not in MODULES:
            raise UserError(f"trackers names {name!r}; there are: {', '.join(MODULES)}")
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"trackers names {name}, which is not installed: pip install -c constraints.txt -e "
                f"'.[{EXTRAS[name]}]', or leave it out"
            )
    if len(set(names)) < len(names):
        raise UserError(f"trackers names one of them twice: {', '.join(names)}")


def import_trackers(config: "TrainConfig") -> None:
    """Before memory is planned, so that what they take is in the plan; trackio reads its folder when imported."""
    if "trackio" in config.trackers:
        os.environ.setdefault("TRACKIO_DIR", str(Path(config.output_dir).absolute() / "trackio"))
    for name in config.trackers:
        importlib.import_module(MODULES[name])


class Trackers:
    """All that are named, as one."""

    def __init__(self, names: Sequence[str], output_dir: Path, start_step: int):
        self.all = [self.opened(name, output_dir, start_step) for name in names]

    def opened(self, name: str, output_dir: Path, start_step: int) -> GeneralTracker:
        settings: dict[str, Any]
        if name == "tensorboard":
            tracker: GeneralTracker = TensorBoardTracker(name, output_dir, purge_step=start_step + 1)
        else:
            settings = {"name": output_dir.resolve().name, "resume": "allow", "embed": False}
            settings |= {"auto_log_gpu": False, "auto_log_cpu": False}
            tracker = TrackioTracker("red-heart", **settings)
        tracker.start()
        return tracker

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for tracker in self.all:
            tracker.log(dict(numbers), step=step)

    def finish(self) -> None:
        for tracker in self.all:
            tracker.finish()
