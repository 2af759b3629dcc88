"""AdamW with moments of a byte: what torch's AdamW does, up to what an eighth more or less of a moment can change.

In    weights and gradients of a regression on shipped texts, and numbers drawn for one block.
Out   torch's float32 AdamW beside ours; moments read back by a decoder written out here.
Run   `pytest tests/test_train_adamw_8bit.py`
"""

import copy
from zlib import crc32

import numpy as np
import pytest
import torch
from commands import NEEDS_COMPILER
from torch import nn

from preprocessing.errors import UserError
from preprocessing.readers import parse_source, read
from training import native
from training.adamw_8bit import AdamW8bit
from training.native import load_kernel

pytestmark = NEEDS_COMPILER
SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.1}
SHAPE = (70, 131)  # 9,170 elements: 35 blocks and a part of one


def drawn(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Numbers whose sizes differ by some orders of magnitude, as those of gradients do."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(SHAPE, generator=generator) * torch.randn(SHAPE, generator=generator).exp()).to(dtype)


def moments(optimizer: AdamW8bit, parameter: nn.Parameter) -> tuple[np.ndarray, np.ndarray]:
    """Both moments from their bytes: a floor of the block, exponent and mantissa above it, zero for zero."""
    found = []
    for name, sign_bits in (("exp_avg", 1), ("exp_avg_sq", 0)):
        codes = optimizer.state[parameter][name].flatten().numpy().astype(int)
        floors = np.repeat(optimizer.state[parameter][f"{name}_floor"].numpy().astype(int), 256)[: len(codes)]
        sign = np.where(sign_bits * codes >= 128, -1.0, 1.0)
        codes = codes % 128 if sign_bits else codes
        values = sign * 2.0 ** (floors - 127 + codes // 8) * (1 + codes % 8 / 8)
        found.append(np.where(codes == 0, 0.0, values).reshape(SHAPE))
    return found[0], found[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_step_is_torchs(dtype: torch.dtype):
    """The moments start exact, so that only what is stored of them after it is rounded."""
    ours, torchs = nn.Parameter(drawn(0)), nn.Parameter(drawn(0))
    ours.grad_dtype = dtype
    ours.grad, torchs.grad = drawn(1, dtype), drawn(1, dtype).float()
    torch.optim.AdamW([torchs], **SETTINGS).step()
    optimizer = AdamW8bit([ours], **SETTINGS)
    optimizer.step()
    torch.testing.assert_close(ours, torchs, rtol=1e-6, atol=1e-7)


def test_moments_are_known_to_an_eighth_and_on_average_exactly():
    gradient, optimizers, parameters = drawn(1), [], []
    for seed in range(400):
        parameters.append(nn.Parameter(drawn(0)))
        parameters[-1].grad = gradient.clone()
        optimizers.append(AdamW8bit([parameters[-1]], seed=seed, **SETTINGS))
        optimizers[-1].step()
    exact = (0.1 * gradient.double().numpy(), 0.001 * gradient.double().numpy() ** 2)
    read_back = [moments(*pair) for pair in zip(optimizers, parameters, strict=True)]
    for index, reach in ((0, 2**-14), (1, 2**-30)):
        found = np.stack([both[index] for both in read_back])
        blocks = np.arange(exact[index].size) // 256
        greatest = np.array([np.abs(exact[index].ravel()[blocks == block]).max() for block in range(blocks.max() + 1)])
        within = np.abs(exact[index]) > reach * greatest[blocks].reshape(SHAPE)
        assert within.mean() > 0.99
        off = (found / exact[index] - 1)[:, within]
        assert np.abs(off).max() < 1 / 8
        assert np.abs(off).max() > 1 / 16  # not to the nearest
        # 400 draws of an error of at most .06 in root mean square: their mean is within five of its deviations.
        assert np.abs(off.mean(axis=0)).max() < 5 * 0.0625 / 20
        assert abs(off.mean()) < 1e-4


def test_bfloat16_weights_move_by_less_than_their_last_bit_on_average():
    """Near 1 their neighbours are .0078 apart: rounded to the nearest, steps of .001 would never arrive."""
    weights = nn.Parameter(torch.ones(256, 256, dtype=torch.bfloat16))
    optimizer = AdamW8bit([weights], lr=1e-3, weight_decay=0.0)
    for _ in range(20):
        weights.grad = torch.ones_like(weights)
        optimizer.step()
    assert float(weights.detach().float().mean()) == pytest.approx(1 - 20 * 1e-3, abs=2e-4)
    assert len(weights.detach().unique()) > 2


def regression(dtype: torch.dtype) -> tuple[nn.Parameter, torch.Tensor, torch.Tensor]:
    """Emotions of the shipped scenarios by how often each three letters in a row occur in a text."""
    records = read(parse_source("scenarios=data/scenarios/train.jsonl")).records
    counts = torch.zeros(len(records), 1024)
    for row, record in enumerate(records):
        for start in range(len(record.text) - 2):
            counts[row, crc32(record.text[start : start + 3].encode()) % 1024] += 1
    targets = torch.tensor([record.basic_emotions for record in records])
    return nn.Parameter(torch.zeros(1024, 7, dtype=dtype)), counts.log1p(), targets


def loss_after(optimizer_class: type, dtype: torch.dtype, steps: int = 150) -> tuple[float, float]:
    weights, inputs, targets = regression(dtype)
    optimizer = optimizer_class([weights], lr=3e-3, weight_decay=0.0)
    for step in range(steps):
        rows = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(step))[:32]
        loss = nn.functional.binary_cross_entropy_with_logits(inputs[rows] @ weights.float(), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    whole = nn.functional.binary_cross_entropy_with_logits(inputs @ weights.detach().float(), targets)
    first = nn.functional.binary_cross_entropy_with_logits(torch.zeros_like(targets), targets)
    return float(first), float(whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_learns_what_torchs_learns(dtype: torch.dtype):
    start, torchs = loss_after(torch.optim.AdamW, torch.float32)
    _, ours = loss_after(AdamW8bit, dtype)
    assert abs(ours - torchs) < 0.02 * (start - torchs)


def test_small_parameters_and_vectors_are_moved_as_torch_moves_them():
    ours = [nn.Parameter(torch.ones(5000)), nn.Parameter(torch.ones(9, 9))]
    torchs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    optimizers = AdamW8bit(ours, **SETTINGS), torch.optim.AdamW(torchs, fused=True, **SETTINGS)
    for step in range(5):
        for parameter in (*ours, *torchs):
            parameter.grad = torch.full_like(parameter, 0.1 * (step - 2))
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(ours, torchs, strict=True))


@pytest.mark.parametrize("threads", [1, 3])
def test_saved_and_loaded_it_goes_on_bit_for_bit_on_any_number_of_threads(threads: int):
    def run(steps: range, weights: nn.Parameter, state: dict | None) -> dict:
        optimizer = AdamW8bit([{"params": [weights], "peak": 1.0}], seed=3, **SETTINGS)
        if state is not None:
            optimizer.load_state_dict(state)
        for step in steps:
            weights.grad = drawn(step)
            optimizer.step()
        return copy.deepcopy(optimizer.state_dict())

    whole, parts = nn.Parameter(drawn(0)), nn.Parameter(drawn(0))
    state = run(range(6), whole, None)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        resumed = run(range(3, 6), parts, run(range(3), parts, None))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(whole, parts)
    assert all(torch.equal(resumed["state"][0][name], value) for name, value in state["state"][0].items())


def test_weights_and_moments_take_four_bytes_and_a_hundredth():
    weights = nn.Parameter(torch.ones(1024, 1024, dtype=torch.bfloat16))
    weights.grad = torch.ones_like(weights)
    optimizer = AdamW8bit([weights])
    optimizer.step()
    tensors = [weights, *optimizer.state[weights].values()]
    assert sum(tensor.nbytes for tensor in tensors) / weights.numel() < 4.01


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        (nn.Parameter(torch.ones(4, dtype=torch.float64)), r"shape \(4,\) is torch.float64"),
        (nn.Parameter(torch.ones(4, 3, device="meta")), "is on meta"),
        (nn.Parameter(torch.ones(4, 3).T), "has strides"),
    ],
)
def test_what_the_kernel_cannot_move_is_named(parameter: nn.Parameter, reason: str):
    with pytest.raises(ValueError, match=reason):
        AdamW8bit([parameter])


def test_a_state_of_other_groups_is_refused():
    one, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"groups of \[2\], these are \[1\]"):
        AdamW8bit([one]).load_state_dict(AdamW8bit([one, other]).state_dict())


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="'no-such-compiler', which is no program here.*apt install g\\+\\+"):
        load_kernel.__wrapped__("adamw_8bit")


def test_a_kernel_that_does_not_compile_says_why_and_leaves_nothing(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "broken.cpp").write_text("int main( {")
    monkeypatch.setattr(native, "KERNELS", tmp_path / "kernels")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"broken\.cpp.* failed with 1:\n.*error"):
        load_kernel("broken")
    assert list((tmp_path / "cache" / "redheart_hf").iterdir()) == []
