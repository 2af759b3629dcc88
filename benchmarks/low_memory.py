"""What the low-memory way of a step costs over the matrix products that it cannot do without.

In    a recipe with its data (REDHEART_DATA_DIR), and fields of it, as training/train.py takes them.
Out   seconds of a training step; seconds of its matrix products alone, blocks' second time included; their ratio.
Run   REDHEART_DATA_DIR=/path/to/data OMP_NUM_THREADS=2 python benchmarks/low_memory.py
      OMP_NUM_THREADS=2 python benchmarks/low_memory.py training/recipes/stable_4b3_cpu.yaml --preset redheart-800m

The step is TrainLoop's own, on the recipe's own texts: forward, backward with blocks computed again, clipping, the
optimizer. While it runs, every call of a linear layer is written down. Then the same products are made alone, with
the same weights and shapes: forward, again forward where a block was computed again, and in the backward pass those
for the weight's and the input's gradient. Steps and products take turns, so that a busy moment meets both.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from accelerate.utils import set_seed
from torch import nn
from torch.nn import functional as F

from preprocessing.errors import run
from preprocessing.memory_room import most_resident
from training.build import build_accelerator, build_model, read_architecture
from training.collator import Collator
from training.command_line import parse_config
from training.data import prepare_data
from training.loop import TrainLoop
from training.memory_run import hold

RECIPE = "training/recipes/stable_4b3_cpu.yaml"
TURNS = 4  # of which the first, in which kernels are compiled and pages are made, does not count
Product = tuple[nn.Linear, int, str]  # a layer, its rows, and "forward", "weight" or "input"


def write_down(model: nn.Module, loop: TrainLoop) -> list[Product]:
    """Fills the list with each product of the steps to come."""
    products: list[Product] = []
    backward, in_backward = loop.backward, [False]

    def backward_marked(loss: torch.Tensor) -> None:
        in_backward[0] = True
        backward(loss)
        in_backward[0] = False

    def called(layer: nn.Linear, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        rows = inputs[0].numel() // layer.in_features
        products.append((layer, rows, "forward"))
        if not in_backward[0] and layer.weight.requires_grad:  # a second time, its backward products were counted
            products.append((layer, rows, "weight"))
            if inputs[0].requires_grad:
                products.append((layer, rows, "input"))

    loop.backward = backward_marked  # type: ignore[method-assign]
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(called)
    return products


def multiply(products: list[Product]) -> None:
    """Each product in the precision that its layer has under autocast."""
    for layer, rows, kind in products:
        weight = layer.weight.detach().to(torch.bfloat16)
        read = torch.ones(rows, layer.in_features, dtype=torch.bfloat16)
        slope = torch.ones(rows, layer.out_features, dtype=torch.bfloat16)
        if kind == "forward":
            F.linear(read, weight)
        elif kind == "input":
            slope @ weight
        else:
            slope.T @ read


def seconds_of(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    arguments = sys.argv[1:] if sys.argv[1:] and not sys.argv[1].startswith("-") else [RECIPE, *sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        config = parse_config([*arguments, "--output_dir", folder, "--resume", "never"])
        accelerator = build_accelerator(config)
        hold(config, accelerator)
        tokenizer, model_config = read_architecture(config)
        data = prepare_data(config, model_config, tokenizer, write=True)
        _, model = build_model(config)
        loop = TrainLoop(accelerator, model, data.train, Collator(tokenizer), config)
        groups, times = loop.groups(), []
        products = write_down(model, loop)
        loop.model.train()
        for _ in range(TURNS):
            group = next(groups)
            products.clear()
            set_seed(loop.seed_of_step())
            of_step = seconds_of(lambda group=group: loop.take_step(group))  # type: ignore[misc]
            loop.step += 1
            times.append((of_step, seconds_of(lambda: multiply(list(products)))))
            tokens = sum(batch["input_ids"].numel() for batch in group)
            print(f"{tokens} tokens: step {of_step:.2f} s, its {len(products)} products alone {times[-1][1]:.2f} s")
    step, alone = (min(column) for column in zip(*times[1:], strict=True))
    print(f"least of each: {step:.2f} s, {alone:.2f} s, ratio {step / alone:.2f}; {torch.get_num_threads()} threads")
    print(f"most resident {most_resident() / 2**30:.2f} GiB")


if __name__ == "__main__":
    run(main)
