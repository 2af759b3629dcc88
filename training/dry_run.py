"""How loud a run is, and the proof that one which may not move its weights has moved none.

In    a TrainConfig; a model.
Out   libraries that say more, steps that are looked into; a digest of all weights.
Run   through training/train.py: --verbose true, --debug true, --update_weights false
"""

import faulthandler
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import datasets
import torch
import transformers

from redheart_hf import RedHeartForMultiTask
from training.config import TrainConfig


@contextmanager
def as_loud_as_asked(config: TrainConfig) -> Iterator[None]:
    """`verbose` lets the libraries speak; `debug` names the operation behind a NaN and shows where an error began."""
    if config.verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
        transformers.logging.set_verbosity_info()
        datasets.logging.set_verbosity_info()
    if not config.debug:
        yield
        return
    faulthandler.enable()
    try:
        with torch.autograd.set_detect_anomaly(True):
            yield
    except Exception:
        traceback.print_exc()
        raise


def digest_of(model: RedHeartForMultiTask) -> str:
    """Of every weight and buffer that is saved, by name, shape and bits."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def unmoved(model: RedHeartForMultiTask, config: TrainConfig) -> Iterator[None]:
    """Around the steps of a run that may move nothing; raises RuntimeError where a weight is another afterwards."""
    if config.update_weights:
        yield
        return
    before = digest_of(model)
    yield
    if (after := digest_of(model)) != before:
        raise RuntimeError(f"update_weights is off, but weights have moved: {before} before, {after} after")
    print(f"weights unchanged: {before}")
