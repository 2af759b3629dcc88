"""Start the hybrid training of the first guide: 200M weights, 40 % of the layers on the CPU, 60 % on a GPU of 8 GB.

In    fields of HybridConfig as --field VALUE (training/hybrid_distributed_trainer.py).
Out   runs/hybrid_200m; the run's figures and its newest checkpoint, printed.
Run   python3 training/start_hybrid_training.py
      python3 training/start_hybrid_training.py --gpu_layers_ratio 0.0     (without a GPU)

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend, 3 more memory than there is.
"""

import sys
from pathlib import Path

if not __package__:  # run as a file: let the checkout's packages be found from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json  # noqa: E402

from preprocessing.command_line import parser_of, values_of  # noqa: E402
from preprocessing.errors import run  # noqa: E402
from training.hybrid_distributed_trainer import HybridConfig, HybridDistributedTrainer  # noqa: E402
from training.out_of_memory import without_delay  # noqa: E402


def main() -> None:
    parser = parser_of(HybridConfig, prog="training/start_hybrid_training.py", description=__doc__)
    config = HybridConfig(**values_of(HybridConfig, parser, sys.argv[1:], "training/start_hybrid_training.py"))
    report, checkpoint = HybridDistributedTrainer(config).train()
    print(json.dumps(report["metrics"], indent=2, ensure_ascii=False))
    print(f"newest checkpoint: {checkpoint}")


if __name__ == "__main__":
    with without_delay():
        run(main)
