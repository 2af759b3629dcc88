"""Class-balanced weights: what is rare counts for more, as the training data's counts say.

In    counts; the shipped scenarios.
Out   weights beside the paper's formula, worked out for four classes; a loss with and without them.
Run   `pytest tests/test_train_balance.py`
"""

import pytest
import torch

from redheart_hf import RedHeartConfig, preset_config
from redheart_hf.losses import focal, loss_sums
from redheart_hf.outputs import EmotionOutput, EthicsOutput, RedHeartOutput, RegretOutput
from training.data import class_balanced_weights, count_emotions, label_weights


def test_weights_are_those_of_the_paper():
    # Normalised to the number of classes, beta .999 (the vector that Cui et al.'s formula gives for these counts).
    found = class_balanced_weights([5000, 500, 50, 5], 0.999)
    assert found == pytest.approx([0.01794, 0.04528, 0.36525, 3.57153], abs=1e-5)


def test_beta_zero_weighs_all_alike_and_an_absent_label_keeps_one():
    assert class_balanced_weights([900, 3, 40], 0.0) == [1.0, 1.0, 1.0]
    found = class_balanced_weights([900, 0, 40], 0.99)
    assert found[1] == 1.0
    assert found[0] + found[2] == pytest.approx(2)
    assert label_weights({"basic_emotions": [900, 0, 40]}, 0.99) == {"basic_emotions": found}


def test_counts_are_sums_over_the_records(scenarios):
    counts = count_emotions(scenarios)
    assert list(counts) == ["basic_emotions"]
    assert counts["basic_emotions"] == pytest.approx(
        [sum(record.basic_emotions[label] for record in scenarios) for label in range(7)]
    )


def output_with(logits: torch.Tensor) -> RedHeartOutput:
    rows = len(logits)
    emotion = EmotionOutput(
        basic_logits=logits, polarity_logits=torch.zeros(rows, 4), router_logits=torch.zeros(rows, 8)
    )
    return RedHeartOutput(
        emotion=emotion, ethics=EthicsOutput(), regret=RegretOutput(utility_views=torch.zeros(rows, 3))
    )


def test_each_labels_loss_is_multiplied_by_its_weight():
    weights = [0.5, 2.0, 3.0, 0.1, 0.2, 0.7, 0.5]
    config = preset_config("redheart-tiny", modules=[], label_weights={"basic_emotions": weights})
    logits, targets = torch.linspace(-2, 2, 21).reshape(3, 7), (torch.arange(21).reshape(3, 7) % 3 == 0).float()
    found = loss_sums(output_with(logits), {"basic_emotions": targets}, config)["basic_emotions"]
    expected = (focal(logits, targets, config.focal_gamma).sum(dim=0) * torch.tensor(weights)).sum()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "weights", [{"basic": [1.0] * 7}, {"basic_emotions": [1.0] * 6}, {"basic_emotions": [-1.0] * 7}]
)
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="label_weights"):
        RedHeartConfig(label_weights=weights)
