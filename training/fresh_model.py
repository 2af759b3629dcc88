"""A run's model as it is before its first step.

In    a TrainConfig, the tokenizer and config that were read for it, its data.
Out   a model with the run's weights of labels; its text encoder's states measured, where they are to be standardized.
Run   through training/train.py, training/lr_sweep.py and training/preflight.py
"""

from accelerate import Accelerator

from redheart_hf import RedHeartForMultiTask
from training.build import Architecture, build_model
from training.collator import Collator
from training.config import TrainConfig
from training.data import RunData, label_weights
from training.standardize import fit_standardization, wants_standardization


def unmeasured_model(config: TrainConfig, architecture: Architecture, data: RunData) -> RedHeartForMultiTask:
    """What a checkpoint can be read into."""
    _, model = build_model(config, architecture)
    if config.class_balance is not None:
        model.config.label_weights = label_weights(data.emotion_counts, config.class_balance)
    return model


def measure(
    model: RedHeartForMultiTask,
    config: TrainConfig,
    data: RunData,
    collator: Collator,
    accelerator: Accelerator,
    progress: bool = False,
) -> None:
    """What the text encoder's states have in common, of a model that is to be without it."""
    if wants_standardization(model):
        fit_standardization(model, data.train, collator, config, accelerator.device, progress)


def fresh_model(
    config: TrainConfig, architecture: Architecture, data: RunData, collator: Collator, accelerator: Accelerator
) -> RedHeartForMultiTask:
    """Both, for a run that begins."""
    model = unmeasured_model(config, architecture, data)
    measure(model, config, data, collator, accelerator)
    return model
