"""What LoRA on a multilingual encoder costs, and reaches, beside training all of it: the same recipe, rows and seed.

In    REDHEART_DATA_DIR (GoEmotions, KOTE); --encoder, a folder of multilingual-e5-small as Transformers saves it.
Out   OUTPUT/WAY/, a run each, and a table: what learns, macro-F1 in both languages, the most memory, seconds.
Run   REDHEART_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/adapters.py \\
          --encoder outputs/encoders/multilingual-e5-small --output outputs/adapters

The recipe is real_text_ko.yaml with small heads and no block of its own, on a tenth of GoEmotions and 4,000 rows of
KOTE, so that most of what learns is the encoder. Each way has its own rate for the encoder: adapters start from
nothing and take a higher one. Figures are of the reporting half of dev, with thresholds chosen on the other half.
Ratios are to the way that trains all. What learns is what the optimizer has moments of: heads whose labels are not in
these rows have none. A run that was ended goes on.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safetensors import safe_open

from benchmarks.ablation import DATA, SMALL
from training.checkpoint import checkpoints

ROOT = Path(__file__).resolve().parents[1]
WAYS: dict[str, dict[str, Any]] = {
    "all of it": {"text_encoder_mode": "trained", "rate": 1e-4},
    "lora rank 8": {"text_encoder_mode": "lora", "lora_rank": 8, "rate": 1e-3},
    "lora rank 4": {"text_encoder_mode": "lora", "lora_rank": 4, "rate": 1e-3},
}
FIGURES = {"goemotions": "macro_f1", "kote": "macro_f1"}
GIB = 2**30


def train(way: str, encoder: Path, output: Path, epochs: int) -> dict[str, Any]:
    settings = dict(WAYS[way])
    rate = settings.pop("rate")
    small = {name: value for name, value in SMALL.items() if not name.startswith(("surd", "num_filters", "filter"))}
    model = small | {"num_hidden_layers": 0, "max_length": 64} | settings
    given = {
        "output_dir": output,
        "text_encoder": encoder,
        "train": json.dumps([f"goemotions={DATA}/goemotions/ekman_train.tsv", f"kote={DATA}/kote/val.tsv"]),
        "dev": json.dumps([f"goemotions={DATA}/goemotions/ekman_dev.tsv"]),
        "holdout": json.dumps({"kote": 1000}),
        "passes": json.dumps({"goemotions": 0.1}),
        "epochs": epochs,
        "text_encoder_learning_rate": rate,
        "warmup_steps": 30,
        "save_steps": 200,
        "lr_sweep": "null",
    }
    given |= {
        f"model.{name}": json.dumps(value) if isinstance(value, list) else value for name, value in model.items()
    }
    command = [sys.executable, "training/train.py", "training/recipes/real_text_ko.yaml"]
    command += [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    metrics = json.loads((output / "final" / "metrics.json").read_text(encoding="utf-8"))
    memory = json.loads((output / "memory_report.json").read_text(encoding="utf-8"))
    card = (output / "final" / "README.md").read_text(encoding="utf-8")
    (minutes,) = re.findall(r", ([\d.]+) minutes", card)
    return {
        "trained": moved(output),
        **{reader: metrics[reader][name] for reader, name in FIGURES.items()},
        "memory": memory["measured"]["peak"] / GIB,
        "minutes": float(minutes),
    }


def moved(output: Path) -> int:
    """Parameters that the newest checkpoint has moments of."""
    with safe_open(checkpoints(output)[-1] / "optimizer.safetensors", "pt") as moments:
        first = [name for name in moments.keys() if name.endswith(".exp_avg")]  # noqa: SIM118
        return sum(math.prod(moments.get_slice(name).get_shape()) for name in first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    found = {
        way: train(way, options.encoder.absolute(), options.output.absolute() / way.replace(" ", "_"), options.epochs)
        for way in WAYS
    }
    (options.output / "adapters.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(
        "| | what learns | GoEmotions macro-F1 | KOTE macro-F1 | memory, GiB | minutes |\n"
        "|---|---:|---:|---:|---:|---:|"
    )
    whole = found["all of it"]
    for way, values in found.items():
        ratio = {name: value / whole[name] for name, value in values.items()}
        print(
            f"| {way} | {values['trained']:,} ({ratio['trained']:.1%}) | {values['goemotions']:.3f} "
            f"({ratio['goemotions']:.1%}) | {values['kote']:.3f} ({ratio['kote']:.1%}) | {values['memory']:.2f} "
            f"({ratio['memory']:.1%}) | {values['minutes']:.1f} |"
        )


if __name__ == "__main__":
    main()
