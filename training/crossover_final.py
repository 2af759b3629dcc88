"""What follows the last step of a run: its sweet spots, the crossover, and the final model of it.

In    a TrainLoop that is done, or a run opened from its folder.
Out   the model holds what final/ is to hold; its parents.
Run   through training/train.py and training/crossover.py
"""

import json
from typing import TYPE_CHECKING

from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from preprocessing.errors import UserError
from training.checkpoint_metadata import regular
from training.config import TrainConfig
from training.crossover import AVERAGE, RESULT, cross_over, table_of
from training.data import RunData
from training.dev_scores import DevScores
from training.evaluate import HALVES, evaluate_dev
from training.final_model import write_final
from training.finished_run import OpenedRun, epochs_at
from training.run_log import seconds_logged
from training.sharding import is_sharded
from training.sweet_spot import FOLDER, SAMPLES, find_sweet_spots
from training.sweet_spot_measure import Measurements, step_in

if TYPE_CHECKING:
    from training.loop import TrainLoop


def refuse_in_pieces(config: TrainConfig, accelerator: Accelerator) -> None:
    """Raises UserError for a choice among checkpoints, or rates, in a run whose model is cut into pieces."""
    asked = [name for name in ("lr_sweep", "sweet_spot", "crossover") if getattr(config, name) not in (None, False)]
    if asked and is_sharded(accelerator):
        raise UserError(
            f"{', '.join(asked)} wants the whole model in one process, and FSDP2 cuts it into pieces; leave it out, "
            "and start `python -m training.lr_sweep` before the run, `python -m training.crossover` after it"
        )


def choose_final(loop: "TrainLoop", tokenizer: PreTrainedTokenizerBase, data: RunData) -> list[str]:
    """What the recipe asks for after the last step. The model then holds the winner, and its parents are given back;
    without crossover it holds what it held, and there are none."""
    config, folder = loop.config, loop.output_dir
    if not (config.sweet_spot or config.crossover):
        return []
    model, found = loop.bare_model, regular(folder)
    dev = [DevScores(model.config, tokenizer, data.dev, half, None, config.mixed_precision) for half in HALVES]
    measured = Measurements(model, dev[0], found, SAMPLES, folder / FOLDER / "measured", loop.placed.weights_moved)
    epochs = [epochs_at(loop.plan, step_in(checkpoint)) for checkpoint in found]
    spots = find_sweet_spots(measured, epochs, folder / FOLDER)
    parents = []
    if config.crossover:
        parents = cross_over(measured, spots, dev[1], AVERAGE, folder).parents
        print(table_of(json.loads((folder / RESULT).read_text(encoding="utf-8"))))
    else:
        measured.load(len(found) - 1)
    loop.placed.weights_moved()
    return parents


def write_crossed(opened: OpenedRun, parents: list[str]) -> None:
    """final/ with the weights that the model holds, as a run with crossover would have written it."""
    model, config = opened.model, opened.config
    model.config.surd_found = (opened.state["surd"] or {}).get("taught") or model.config.surd_found
    evaluation = evaluate_dev(model, opened.tokenizer, opened.data.dev, config.mixed_precision)
    seconds = seconds_logged(opened.folder)
    step, of = step_in(opened.checkpoints[-1]), opened.state["identity"]
    config.crossover = True
    write_final(config, model, opened.tokenizer, opened.data, evaluation, step, seconds, of, parents=parents)
    print(table_of(json.loads((opened.folder / RESULT).read_text(encoding="utf-8"))))
