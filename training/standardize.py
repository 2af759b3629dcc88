"""Measures what a text encoder's states have in common, before a run's first step.

In    a model whose config says `text_encoder_standardize`; the encoded training rows, a collator, a TrainConfig.
Out   the mean and spread of the states, in the model's buffers (they are saved with its weights).
Run   through training/train.py.
"""

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from redheart_hf import RedHeartForMultiTask
from redheart_hf.modeling_embeddings import Standardization, TextEncoder
from training.batch_plan import BatchPlan
from training.collator import Collator
from training.config import TrainConfig

ROWS = 512


@torch.inference_mode()
def fit_standardization(
    model: RedHeartForMultiTask, dataset: Dataset, collator: Collator, config: TrainConfig, progress: bool = True
) -> None:
    """Over the tokens of the first 512 rows that the run will read, so that readers count as they do in the run."""
    encoder = model.model.embeddings
    assert isinstance(encoder, TextEncoder)
    standardization = encoder.standardization
    assert isinstance(standardization, Standardization)
    plan = BatchPlan(dataset["length"], dataset["reader"], config.batch_size, config.seed, config.passes)
    steps = min(-(-ROWS // config.batch_size), plan.first_step(1))
    count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    learning = encoder.training
    encoder.eval()
    for step in tqdm(range(steps), desc="measure the text encoder", unit="batch", leave=False, disable=not progress):
        (rows,) = plan.step(step)
        batch = collator([dataset[row] for row in rows])
        inputs = [batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch]
        states_ND = encoder(*inputs)[batch["attention_mask"].bool()].double()
        count, total = count + len(states_ND), total + states_ND.sum(dim=0)
        squares = squares + states_ND.square().sum(dim=0)
    mean = total / count
    standardization.fit(mean, (squares / count - mean.square()).mean().sqrt())
    encoder.train(learning)
