"""AdamW whose two moments take a byte each: 2 bytes a parameter where float32 takes 8, in one pass over memory.

In    parameters on the CPU with float32 or bfloat16 weights, their gradients.
Out   weights and moments, moved in place by a compiled kernel (training/kernels/adamw_8bit.cpp).
Run   `optimizer: adamw_8bit` in a recipe; `python benchmarks/optimizer.py` measures it beside others.

256 neighbours share an exponent, their floor. Above it the first moment has a sign, 4 bits of exponent and 3 of
mantissa, the second moment 5 bits of exponent and 3 of mantissa: every number down to 2^-15 (2^-31) of the greatest in
its block is known to an eighth, whatever its size. It is rounded to one of its two neighbours by chance, the nearer
the more likely: on average nothing is lost, and an average over 1,000 steps does not stand still, as it would where a
step's thousandth is less than half of a byte's last bit. bfloat16 weights are rounded in the same way. Chance is a
function of (seed, step, parameter, element): a resumed run repeats it, on any number of threads. What lies below the
floor is lost: a first moment becomes zero, a second moment the least number above it, so that no step grows by it.

Block-wise 8-bit moments: Dettmers et al. 2021 (arXiv 2110.02861), there by a table of 256 numbers; stochastic rounding
of weights: Zamirai et al. 2020 (arXiv 2010.06192).
"""

import ctypes
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from training.native import load_kernel

BLOCK = 256
BYTES = ("exp_avg", "exp_avg_sq", "exp_avg_floor", "exp_avg_sq_floor")
LEAST_ELEMENTS = 4096  # smaller parameters keep moments in float32: they weigh nothing, and norms and biases matter
KINDS = (torch.float32, torch.bfloat16)
JOB = np.dtype(
    [(name, np.uint64) for name in ("weight", "gradient", "first", "second", "first_floor", "second_floor")]
    + [("count", np.int64), ("weight_is_bfloat16", np.int32), ("gradient_is_bfloat16", np.int32), ("key", np.uint32)]
    + [(name, np.float32) for name in ("rate", "beta1", "beta2", "epsilon", "shrink", "scale")],
    align=True,
)
"""The kernel's `Job`, field by field."""


class AdamW8bit(torch.optim.Optimizer):
    """As torch.optim.AdamW. Matrices of at least 4,096 elements have moments of a byte, all else in float32.

    Raises ValueError for a parameter that is not on the CPU, not contiguous, or neither float32 nor bfloat16.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        seed: int = 0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.kernel, self.seed = load_kernel("adamw_8bit"), seed
        self.numbers = {parameter: number for number, parameter in enumerate(self.parameters())}
        for parameter in self.numbers:
            check(parameter)

    def parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step of every parameter that has a gradient; gradients must be finite."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in moving:
                self.begin(parameter)
            self.step_in_bytes(group, [parameter for parameter in moving if in_bytes(parameter)])
            self.step_in_floats(group, [parameter for parameter in moving if not in_bytes(parameter)])
        return loss

    @torch.no_grad()
    def step_alone(self, group: dict[str, Any], parameter: nn.Parameter, scale: float, share: float) -> None:
        """One step of one parameter of `group`, its gradient taken `scale` times and what moves it `share` times."""
        self.begin(parameter)
        if in_bytes(parameter):
            self.step_in_bytes(group, [parameter], scale, share)
        else:
            if parameter.grad is not None and scale != 1.0:
                parameter.grad.mul_(scale)
            # Decay is by the rate itself, whatever share of the step is taken.
            moving = {"lr": group["lr"] * share, "weight_decay": group["weight_decay"] / share}
            self.step_in_floats(group | moving, [parameter])

    @torch.no_grad()
    def measure(self, group: dict[str, Any], parameter: nn.Parameter, moves: bool) -> tuple[float, float]:
        """Sums of squares: of a parameter's gradient, and, with `moves`, of what `step_alone` would move it by at a
        rate of one, without decay, `eps` taken under the root (so that it is no less); else zero. Nothing is written;
        a gradient that is not finite shows in the first."""
        self.begin(parameter)
        group = group | {"lr": 1.0, "weight_decay": 0.0}
        if in_bytes(parameter):
            return self.measure_in_bytes(group, parameter, moves)
        state, gradient, (beta1, beta2) = self.state[parameter], parameter.grad, group["betas"]
        assert gradient is not None
        of_gradient, step = float(gradient.square().sum()), int(state["step"]) + 1
        if not moves:
            return of_gradient, 0.0
        mean = torch.lerp(state["exp_avg"], gradient, 1 - beta1) / (1 - beta1**step)
        square = torch.lerp(state["exp_avg_sq"], gradient.square(), 1 - beta2) / (1 - beta2**step)
        return of_gradient, float((mean.square() / (square + group["eps"] ** 2)).sum())

    def begin(self, parameter: nn.Parameter) -> None:
        """Moments of zero before a parameter's first step."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            if in_bytes(parameter):
                blocks = torch.Size([-(-parameter.numel() // BLOCK)])
                shapes = (parameter.shape, parameter.shape, blocks, blocks)
                state |= {name: torch.zeros(size, dtype=torch.uint8) for name, size in zip(BYTES, shapes, strict=True)}
            else:
                state |= {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}

    def step_in_bytes(
        self, group: dict[str, Any], parameters: list[nn.Parameter], scale: float = 1.0, share: float = 1.0
    ) -> None:
        gradients = [parameter.grad.contiguous() for parameter in parameters if parameter.grad is not None]
        pairs = zip(parameters, gradients, strict=True)
        jobs = np.array([self.job(group, *pair, scale, share) for pair in pairs], dtype=JOB)
        threads = ctypes.c_int64(torch.get_num_threads())
        self.kernel.adamw_8bit(ctypes.c_void_p(jobs.ctypes.data), ctypes.c_int64(len(jobs)), threads)
        for parameter in parameters:
            self.state[parameter]["step"] += 1

    def measure_in_bytes(self, group: dict[str, Any], parameter: nn.Parameter, moves: bool) -> tuple[float, float]:
        assert parameter.grad is not None
        gradient = parameter.grad.contiguous()
        job, sums = np.array([self.job(group, parameter, gradient, 1.0, 1.0)], dtype=JOB), np.zeros(2)
        if not moves:
            job["first"] = job["second"] = 0
        places = ctypes.c_void_p(job.ctypes.data), ctypes.c_void_p(sums.ctypes.data)
        self.kernel.adamw_8bit_measure(places[0], ctypes.c_int64(torch.get_num_threads()), places[1])
        return float(sums[0]), float(sums[1])

    def job(
        self, group: dict[str, Any], parameter: nn.Parameter, gradient: Tensor, scale: float, share: float
    ) -> tuple[float, ...]:
        """What the kernel is to do for one parameter's next step, in the order of JOB."""
        state = self.state[parameter]
        step, rate, (beta1, beta2) = int(state["step"]) + 1, group["lr"], group["betas"]
        known = math.sqrt(1 - beta2**step)
        tensors = (parameter, gradient, *(state[name] for name in BYTES))
        return (
            *(tensor.data_ptr() for tensor in tensors),
            parameter.numel(),
            parameter.dtype == torch.bfloat16,
            gradient.dtype == torch.bfloat16,
            key_of(self.seed, step, self.numbers[parameter]),
            rate * share * known / (1 - beta1**step),
            beta1,
            beta2,
            group["eps"] * known,
            1 - rate * group["weight_decay"],
            scale,
        )

    def step_in_floats(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        if parameters:
            adamw(
                list(parameters),
                [parameter.grad for parameter in parameters if parameter.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which would make floats of the bytes."""
        ours, given = [len(group["params"]) for group in self.param_groups], state_dict["param_groups"]
        if ours != [len(group["params"]) for group in given]:
            raise ValueError(
                f"the state is of groups of {[len(group['params']) for group in given]}, these are {ours}"
            )
        for group, saved in zip(self.param_groups, given, strict=True):
            group |= {name: value for name, value in saved.items() if name != "params"}
        indices = (index for group in given for index in group["params"])
        self.state.clear()
        for index, parameter in zip(indices, self.parameters(), strict=True):
            if index in state_dict["state"]:
                self.state[parameter] = {name: value.clone() for name, value in state_dict["state"][index].items()}


def check(parameter: nn.Parameter) -> None:
    """Raises ValueError for a parameter that the kernel cannot move."""
    of = f"a parameter of shape {tuple(parameter.shape)}"
    if parameter.device.type != "cpu":
        raise ValueError(f"AdamW8bit runs on the CPU, but {of} is on {parameter.device}")
    if parameter.dtype not in KINDS:
        raise ValueError(f"AdamW8bit moves float32 and bfloat16, but {of} is {parameter.dtype}")
    if not parameter.is_contiguous():
        raise ValueError(f"AdamW8bit needs contiguous weights, but {of} has strides {parameter.stride()}")


def in_bytes(parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and parameter.numel() >= LEAST_ELEMENTS


def key_of(seed: int, step: int, number: int) -> int:
    """32 bits that differ for each seed, step and parameter (the finaliser of SplitMix64, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    bits = 0
    for part in (seed, step, number):
        bits = (bits + part + 0x9E3779B97F4A7C15) & mask
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & mask
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & mask
        bits ^= bits >> 31
    return bits >> 32
