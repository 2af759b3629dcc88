"""The hybrid trainer by the name its first guide gave it: a model of which one part is on the CPU, the other on a GPU.

In    HybridConfig, with the fields and values of that guide.
Out   (report, checkpoint): the run's figures, and the folder of its newest checkpoint.
Run   from training.hybrid_distributed_trainer import HybridConfig, HybridDistributedTrainer
      report, checkpoint = HybridDistributedTrainer(HybridConfig(gpu_layers_ratio=0.0)).train()

It is training/train.py with other names: docs/modes.md has them side by side. Without a GPU a part of the model on one
is refused, as everywhere; `gpu_layers_ratio=0.0` is the CPU alone.
"""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError
from preprocessing.memory_room import room
from redheart_hf.presets import PRESETS, describe
from training.checkpoint import checkpoints
from training.config import TrainConfig
from training.modes import ROOT, TOKENIZER, make_tokenizer
from training.train import run_config

GIB_OF_GB = 1e9 / 2**30
SIZES = {"hidden_dim": "hidden_size", "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
SIZES |= {"intermediate_size": "intermediate_size", "sequence_length": "max_length"}
TOLERANCE = 0.05


@dataclass(kw_only=True)
class HybridConfig:
    """Fields of the guide (seed 003), and those that its successor added (004); None: as the preset or run has it."""

    target_params: int = 200_000_000
    """Weights of the model, without its token embeddings: the preset within 5 % of it is taken."""
    gpu_memory_gb: float | None = 8.0
    """Of the GPU, in 10^9 bytes; not looked at where no layer is on one."""
    cpu_memory_gb: float | None = 128.0
    """Main memory, in 10^9 bytes; a machine with less refuses the run when it does not fit."""
    gpu_layers_ratio: float = 0.6
    regrets_per_step: int = 7
    bentham_calculations_per_regret: int = 3
    epochs: int = 3
    batch_size: int = 8
    """Records a step: micro_batch_size times gradient_accumulation_steps, where those are not given."""
    micro_batch_size: int | None = 2
    gradient_accumulation_steps: int | None = None
    num_workers: int = 4
    """Processes that prepare alternatives and their regret."""
    use_mixed_precision: bool = True
    max_grad_norm: float = 1.0
    learning_rate: float = 1e-4
    optimizer: str = "adamw"
    log_every_n_steps: int = 5
    save_checkpoint_every: int = 20
    hidden_dim: int | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    intermediate_size: int | None = None
    sequence_length: int | None = None
    train: list[str] = field(default_factory=lambda: ["scenarios=data/scenarios/train.jsonl"])
    dev: list[str] = field(default_factory=lambda: ["scenarios=data/scenarios/dev.jsonl"])
    output_dir: str = "runs/hybrid_200m"
    more: dict[str, Any] = field(default_factory=dict)
    """Fields of TrainConfig, put over what follows from the others."""


def preset_of(target_params: int) -> str:
    """The preset of the present kind whose weights are nearest; raises UserError where none is within 5 %."""
    totals = {name: describe(name)["total"] for name in PRESETS if "legacy" not in name and "tiny" not in name}
    nearest = min(totals, key=lambda name: abs(totals[name] - target_params))
    if abs(totals[nearest] / target_params - 1) > TOLERANCE:
        raise UserError(
            f"target_params is {target_params:,}, and no preset is within {TOLERANCE:.0%} of it; the nearest is "
            f"{nearest} with {totals[nearest]:,}. `python -m redheart_hf.presets` lists them"
        )
    return nearest


def train_config(config: HybridConfig) -> TrainConfig:
    """The same run in the words of training/train.py."""
    micro = min(config.micro_batch_size or config.batch_size, config.batch_size)
    accumulation = config.gradient_accumulation_steps or config.batch_size // micro
    if config.gradient_accumulation_steps is None and micro * accumulation != config.batch_size:
        raise UserError(f"batch_size {config.batch_size} is no multiple of micro_batch_size {micro}: change one")
    model = {ours: value for theirs, ours in SIZES.items() if (value := getattr(config, theirs)) is not None}
    fields: dict[str, Any] = {
        "output_dir": config.output_dir,
        "train": config.train,
        "dev": config.dev,
        "tokenizer": str(ROOT / TOKENIZER),
        "preset": preset_of(config.target_params),
        "model": {"max_length": 160} | model,
        "epochs": config.epochs,
        "batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "mixed_precision": "auto" if config.use_mixed_precision else "no",
        "max_grad_norm": config.max_grad_norm,
        "learning_rate": config.learning_rate,
        "optimizer": config.optimizer,
        "log_steps": config.log_every_n_steps,
        "save_steps": config.save_checkpoint_every,
        "num_regrets": config.regrets_per_step,
        "num_bentham": config.bentham_calculations_per_regret,
        "num_workers": config.num_workers,
    }
    if config.gpu_layers_ratio > 0:
        fields |= {"gpu_layers_ratio": config.gpu_layers_ratio}
        fields |= {"vram_gib": config.gpu_memory_gb * GIB_OF_GB} if config.gpu_memory_gb else {}
    if config.cpu_memory_gb is not None and config.cpu_memory_gb * GIB_OF_GB * 2**30 < room().free:
        fields["ram_gib"] = config.cpu_memory_gb * GIB_OF_GB
    return TrainConfig(**fields | config.more)


class HybridDistributedTrainer:
    """One run of a HybridConfig, from this checkout."""

    def __init__(self, config: HybridConfig):
        self.config = train_config(config)

    def train(self) -> tuple[dict[str, Any], Path]:
        """All of it, or what is left of it where it was begun before. Raises as training/train.py does."""
        tokenizer = ROOT / TOKENIZER
        if self.config.tokenizer == str(tokenizer) and not (tokenizer / "tokenizer.json").is_file():
            subprocess.run(make_tokenizer(tokenizer), check=True, cwd=ROOT)
        run_config(self.config)
        folder = Path(self.config.output_dir)
        figures = json.loads((folder / "final" / "metrics.json").read_text(encoding="utf-8"))
        memory = json.loads((folder / "memory_report.json").read_text(encoding="utf-8"))
        return {"metrics": figures, "memory": memory, "final": str(folder / "final")}, checkpoints(folder)[-1]
