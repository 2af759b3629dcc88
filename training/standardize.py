"""Measures what a text encoder's states have in common, before a run's first step.

In    a model whose config says `text_encoder_standardize`; the encoded training rows, a collator, a TrainConfig.
Out   the mean and spread of the states, in the model's buffers (they are saved with its weights).
Run   through training/train.py.
"""

import dataclasses

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from preprocessing.errors import UserError
from redheart_hf import RedHeartForMultiTask
from redheart_hf.modeling_embeddings import Standardization, TextEncoder
from training.collator import Collator, to_device
from training.config import TrainConfig
from training.weights import batches_of

ROWS = 512


def wants_standardization(model: RedHeartForMultiTask) -> bool:
    """Whether the config asks for it and no run before has measured it."""
    standardization = getattr(model.model.embeddings, "standardization", None)
    return isinstance(standardization, Standardization) and not standardization.fitted


@torch.no_grad()  # not inference_mode, which makes what it moves useless for learning
def fit_standardization(
    model: RedHeartForMultiTask,
    dataset: Dataset,
    collator: Collator,
    config: TrainConfig,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> None:
    """Over the tokens of 512 rows, drawn as the run draws them, so that readers count as they do in it.

    Moves the text encoder to `device`. Raises UserError when its states do not differ, or are not finite.
    """
    reader = model.model.embeddings.to(device)
    assert isinstance(reader, TextEncoder)
    assert isinstance(reader.standardization, Standardization)
    drawn = dataclasses.replace(config, gradient_accumulation_steps=1, bucket_batches=1, chunk_rows=None)
    plan = batches_of(dataset, drawn)
    steps = min(-(-ROWS // config.batch_size), plan.first_step(1))
    count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    learning = reader.training
    reader.eval()
    for step in tqdm(range(steps), desc="measure the text encoder", unit="batch", leave=False, disable=not progress):
        (rows,) = plan.step(step)
        batch = to_device(collator([dataset[row] for row in rows]), torch.device(device))
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
        states_ND = reader.read(**inputs)[batch["attention_mask"].bool()].double().cpu()
        count, total = count + len(states_ND), total + states_ND.sum(dim=0)
        squares = squares + states_ND.square().sum(dim=0)
    reader.train(learning)
    mean = total / count
    try:
        reader.standardization.fit(mean, (squares / count - mean.square()).mean().clamp(min=0).sqrt())
    except ValueError as error:
        raise UserError(str(error)) from error
