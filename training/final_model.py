"""The folder final/: model, tokenizer, card and figures, all at once, or as it was before.

In    a model, what it was evaluated to, what it was trained on and by which settings.
Out   OUTPUT_DIR/final with its manifest; of an adapted model, adapters merged, and OUTPUT_DIR/adapter with them alone.
Run   through training/train.py and training/crossover.py
"""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from preprocessing.folders import write_folder
from redheart_hf import RedHeartForMultiTask
from redheart_hf.adapters import adapter_weights, peft_config_of, plain_weights
from training.config import TrainConfig
from training.creation import save_model
from training.data import RunData
from training.evaluate import Evaluation
from training.model_card import write_model_card
from training.report import figures_table
from training.tokenizer_files import save_tokenizer


def save_adapter(model: RedHeartForMultiTask, folder: Path, base: str | None) -> None:
    """A folder for `PeftModel.from_pretrained(base model, folder)`: a few MB."""
    settings = peft_config_of(model, base or "")
    settings.save_pretrained(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in adapter_weights(model).items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def write_final(
    config: TrainConfig,
    model: RedHeartForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    data: RunData,
    evaluation: Evaluation,
    step: int,
    seconds: float,
    identity: dict[str, str],
    weights: dict[str, Tensor] | None = None,
    parents: Sequence[str] = (),
) -> None:
    """With the chosen thresholds. `identity`: which run it is of (training/checkpoint_identity.py); `weights`: of a
    model in pieces, all of them; `parents`: the checkpoints it was put together from, if not from the last step."""
    output_dir, figures = Path(config.output_dir), evaluation.figures
    earlier_labels, earlier_data = model.config.trained_labels or [], model.config.trained_on or {}
    model.config.thresholds = evaluation.thresholds or None
    model.config.trained_labels = sorted({*earlier_labels, *data.labels})
    model.config.trained_on = earlier_data | data.counts
    if model.config.adapters is not None:
        write_folder(output_dir / "adapter", lambda folder: save_adapter(model, folder, config.start_from))
        weights, model.config.adapters = plain_weights(model), None

    def write(folder: Path) -> None:
        save_model(model, folder, weights)
        save_tokenizer(tokenizer, folder)
        (folder / "train_config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        write_model_card(folder, config, figures, model.config.trained_on, seconds, model, parents)

    write_folder(output_dir / "final", write, {"step": step, "identity": identity})
    print(figures_table(figures))
    print(f"{output_dir / 'final'} written after {seconds:.0f} s")
