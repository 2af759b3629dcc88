"""What a step of the optimizer costs on the CPU: AdamW with moments of a byte, beside torch's and others'.

In    nothing; weights and gradients are drawn, seeded: 25 matrices of 2048 x 2048, 105 million numbers.
Out   a table: nanoseconds a parameter and step, how many times torch's fused float32 AdamW that is, bytes a parameter
      of weights and states, and how far the weights are from torch's after the same steps.
Run   python benchmarks/optimizer.py
      OMP_NUM_THREADS=1 python benchmarks/optimizer.py --matrices 6 --steps 9

All optimizers step in turn, so that a busy moment of the machine meets all of them; the least time of each counts. How
far: the root mean square of the difference from torch's weights over that of torch's movement; about 1 for SGD and
Adafactor, other algorithms, here in the forms that training takes. bitsandbytes and torchao (pip install torchao) are
measured where they are installed, and named as missing where they are not.
"""

import argparse
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from preprocessing.errors import UserError, run
from training.adamw_8bit import AdamW8bit

SIDE = 2048
SETTINGS = {"lr": 1e-4, "weight_decay": 0.01}
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def fused(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, fused=True, **SETTINGS)


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, fused=True, momentum=0.9, **SETTINGS)


def adafactor(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(parameters, foreach=False, **SETTINGS)


def ours(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return AdamW8bit(parameters, **SETTINGS)


def of_bitsandbytes(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit as TheirAdamW8bit

    return TheirAdamW8bit(parameters, **SETTINGS)


def of_torchao(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    from torchao.optim import AdamW8bit as TheirAdamW8bit

    return TheirAdamW8bit(parameters, bf16_stochastic_round=parameters[0].dtype == torch.bfloat16, **SETTINGS)


CONTESTANTS: dict[str, tuple[Make, torch.dtype, str]] = {
    "torch, fused, float32": (fused, torch.float32, "torch"),
    "torch, fused, bfloat16": (fused, torch.bfloat16, "torch"),
    "ours, 8 bits, float32 weights": (ours, torch.float32, "torch"),
    "ours, 8 bits, bfloat16 weights": (ours, torch.bfloat16, "torch"),
    "torch, SGD with momentum": (sgd, torch.float32, "torch"),
    "torch, Adafactor": (adafactor, torch.float32, "torch"),
    "bitsandbytes, 8 bits, bfloat16": (of_bitsandbytes, torch.bfloat16, "bitsandbytes"),
    "torchao, 8 bits, bfloat16": (of_torchao, torch.bfloat16, "torchao"),
}


class Contestant:
    """Parameters of its own, and the seconds that each of its steps took."""

    def __init__(self, make: Make, dtype: torch.dtype, matrices: int):
        generator = torch.Generator().manual_seed(0)
        drawn = (0.02 * torch.randn(SIDE, SIDE, generator=generator) for _ in range(matrices))
        self.parameters = [nn.Parameter(weights.to(dtype)) for weights in drawn]
        self.optimizer, self.seconds = make(self.parameters), list[float]()

    def step(self, gradients: list[torch.Tensor]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        started = time.perf_counter()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - started)
        self.optimizer.zero_grad()

    def nanoseconds(self) -> float:
        """Of a parameter in the fastest step but the first, in which states are made."""
        return 1e9 * min(self.seconds[1:]) / (len(self.parameters) * SIDE**2)

    def bytes_each(self) -> float:
        """Of a parameter: its weight and its states."""
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [*self.parameters, *(state for state in states if torch.is_tensor(state))]
        return sum(map(size_of, tensors)) / (len(self.parameters) * SIDE**2)


def size_of(tensor: torch.Tensor) -> int:
    """Bytes; of a tensor made of others (torchao's), those of its parts."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(size_of(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.nbytes


def apart(one: Contestant, other: Contestant, start: list[torch.Tensor]) -> float:
    """Root mean square of the difference of both from each other, over that of the second one's way from `start`."""
    pairs = list(zip(one.parameters, other.parameters, start, strict=True))
    between = sum(float((left.detach().float() - right.detach().float()).square().sum()) for left, right, _ in pairs)
    way = sum(float((right.detach().float() - first).square().sum()) for _, right, first in pairs)
    return (between / way) ** 0.5


def gradients_of(step: int, matrices: int) -> list[torch.Tensor]:
    """Each number's gradients have a size and a mean of their own, and noise that is larger."""
    sizes, noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(100 + step)
    drawn = []
    for _ in range(matrices):
        size = torch.randn(SIDE, SIDE, generator=sizes).mul_(2).exp_().mul_(1e-3)
        mean = torch.randn(SIDE, SIDE, generator=sizes).mul_(0.3)
        drawn.append(size.mul_(mean.add_(torch.randn(SIDE, SIDE, generator=noise))))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=int, default=25, help=f"of {SIDE} x {SIDE} (%(default)s)")
    parser.add_argument("--steps", type=int, default=7, help="steps of each optimizer (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), help="which to measure")
    arguments = parser.parse_args()
    if arguments.matrices < 1 or arguments.steps < 2:
        raise UserError(f"give --matrices of at least 1 and --steps of at least 2, got {arguments}")
    first, *others = CONTESTANTS
    asked = {name: CONTESTANTS[name] for name in (first, *others) if name == first or name in arguments.only}
    here = {
        name: Contestant(make, dtype, arguments.matrices)
        for name, (make, dtype, package) in asked.items()
        if find_spec(package)
    }
    judge = next(iter(here.values()))
    start = [parameter.detach().clone() for parameter in judge.parameters]
    for step in range(arguments.steps):
        gradients = gradients_of(step, arguments.matrices)
        for contestant in here.values():
            contestant.step(gradients)
    print(f"{len(start) * SIDE**2:,} parameters, {arguments.steps} steps, {torch.get_num_threads()} threads\n")
    print(f"{'':<32}{'ns/parameter':>14}{'x torch':>9}{'bytes':>8}{'apart':>8}")
    for name, (_, _, package) in asked.items():
        if name in here:
            found = here[name]
            ratio = found.nanoseconds() / judge.nanoseconds()
            figures = f"{found.nanoseconds():>14.2f}{ratio:>9.2f}{found.bytes_each():>8.2f}"
            print(f"{name:<32}{figures}{apart(found, judge, start):>8.3f}")
        else:
            print(f"{name:<32}not measured: {package} is not installed")


if __name__ == "__main__":
    run(main)
