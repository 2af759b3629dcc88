"""One value and a confidence from the answers to several wordings of one question.

In    for each wording the probabilities of the digits and of null, from preprocessing/score.py.
Out   the expected value, and how far the wordings agree.
Run   through preprocessing/enrichment.py.

Value: the expected value of the digit over all wordings together, given that a digit was answered. Sampling answers
and taking their mean would give the same but for chance.

Confidence: draw one answer to each of two different wordings; the chance that both are numbers and lie no farther
apart than `tolerance` of the scale. It is computed from the probabilities, so it is what self-consistency over
endlessly many samples comes to. Where there is one wording only, both answers are to that one. Null agrees with
nothing: a model that abstains half the time has a confidence of a quarter at most. Digits told at random have 0.48
(nine of them) and 0.44 (ten), at a tolerance of a quarter.
"""

from collections.abc import Sequence

import torch

from preprocessing.schema import SCALES, value_of


def judged(wordings: Sequence[torch.Tensor], scale: str, tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """From tables (rows, digits + 1), one a wording: expected values and confidences, (rows,) each in 64 bits."""
    first, last, low, high = SCALES[scale]
    values = torch.tensor([value_of(digit, scale) for digit in range(first, last + 1)], dtype=torch.float64)
    tables = [table.double() for table in wordings]
    told = torch.stack(tables).sum(0)[:, :-1]
    expected = (told @ values) / told.sum(-1)
    # A hair more than the tolerance: 0.5 apart is within 0.5 also where rounding says 0.5000000001.
    near = ((values[:, None] - values[None, :]).abs() <= tolerance * (high - low) + 1e-9).double()
    pairs = [
        (one, other) for i, one in enumerate(tables) for j, other in enumerate(tables) if i != j or len(tables) == 1
    ]
    agreement = sum(((one[:, :-1] @ near) * other[:, :-1]).sum(-1) for one, other in pairs)
    assert isinstance(agreement, torch.Tensor)
    return expected, agreement / len(pairs)


def falling(values: Sequence[float]) -> list[float]:
    """The nearest values, by squares, that never rise: those that rise are replaced by their mean."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and _mean(blocks[-2]) < _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [_mean(block) for block in blocks for _ in block]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
