"""The ledger of a pretended computation: bytes as they are when it is really made.

In    small computations whose tensors can be counted by hand.
Out   ledger.live and the most; sizes written out.
Run   `pytest tests/test_train_memory_ledger.py`
"""

import pytest
import torch
from torch import nn

from training.devices import planned_gpu
from training.memory_ledger import PAGE, Ledger, held

MIB = 1 << 20
ROWS, WIDTH = 256, 1024  # a float32 matrix of one MiB


def matrix() -> torch.Tensor:
    return torch.empty(ROWS, WIDTH)


def test_a_tensor_counts_from_its_making_to_its_end_and_a_view_counts_nothing():
    with Ledger() as ledger:
        first = matrix()
        assert ledger.live == MIB
        view = first.T[3:]
        second = first + 1
        assert ledger.live == 2 * MIB
        del first
        assert ledger.live == 2 * MIB  # the view still stands on it
        del view
        assert ledger.live == MIB
        second += 1
        assert (ledger.live, ledger.take_most(), ledger.take_most()) == (MIB, 2 * MIB, MIB)


def test_what_the_backward_pass_needs_is_kept_until_it_ran():
    """sum(gelu(x W^T)): W, x and what gelu was given are kept; the last has gone when W's gradient comes."""
    with Ledger() as ledger:
        layer, inputs = nn.Linear(WIDTH, WIDTH, bias=False), matrix()
        assert ledger.live == (4 + 1) * MIB
        loss = nn.functional.gelu(layer(inputs)).sum()
        assert ledger.live == (5 + 1) * MIB + 4
        ledger.take_most()
        loss.backward()
        assert ledger.take_most() == (4 + 1 + 1 + 4) * MIB + 4 + 4  # the loss and its gradient
        del loss
        assert ledger.live == (5 + 4) * MIB


def test_no_memory_is_taken_and_nothing_is_computed():
    with Ledger() as ledger:
        vast = torch.empty(1 << 40, 1024)
        assert (vast @ vast.T[:, :1]).shape == (1 << 40, 1)
        assert ledger.live == 4 * 1024 << 40


def test_what_follows_from_real_tensors_alone_is_computed():
    rows = torch.tensor([[0, 1, -1], [2, -1, -1]])
    with Ledger() as ledger:
        ledger.computes = True
        held_rows = rows[rows >= 0]  # its length depends on its values
        assert held_rows.tolist() == [0, 1, 2]
        assert bool(rows.max() > torch.arange(2).max())


@pytest.mark.parametrize("answer", [True, False])
def test_the_value_of_what_was_not_computed_is_the_answer_given(answer):
    with Ledger() as ledger:
        ledger.answer = answer
        assert bool(torch.isfinite(matrix().sum())) is answer
        assert float(matrix().sum()) == float(answer)


def test_large_tensors_take_whole_pages_and_small_ones_what_they_are():
    assert [held(size) for size in (7, (1 << 17) - 1, 1 << 17, (1 << 17) + 1)] == [
        7,
        (1 << 17) - 1,
        1 << 17,
        (1 << 17) + PAGE,
    ]


def test_what_is_computed_may_be_asked_onto_a_gpu_that_is_none():
    """As Transformers asks: the device by its place."""
    device = planned_gpu()
    with Ledger() as ledger:
        ledger.computes = True
        mask = torch.ones(4, 8, dtype=torch.long)
        moved = torch.ops.aten.to.device(mask, device, torch.bool)
        assert (moved.shape, moved.dtype, bool(moved.all())) == ((4, 8), torch.bool, True)
