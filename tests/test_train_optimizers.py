"""SGD and Adafactor: what a step does by their formulas, what goes on after a kill, what is refused beside them.

In    a small model, drawn gradients; runs of a few steps on the shipped scenarios.
Out   weights beside the formulas written out in float64; losses; resumed runs beside whole ones; refusals.
Run   `pytest tests/test_train_optimizers.py`
"""

import numpy as np
import pytest
import torch
from tiny_run import build_loop, tiny_config, tiny_model

from preprocessing.errors import UserError
from training.checkpoint import checkpoint_at
from training.config import TrainConfig
from training.optim import build_optimizer
from training.run_state import load_run

OPTIMIZERS = [
    {"optimizer": "sgd", "learning_rate": 0.3},
    {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.03},
    {"optimizer": "adafactor", "learning_rate": 0.05},
]
NAMES = ["sgd", "sgd with momentum", "adafactor"]
STEPS, RATE, DECAY = 5, 0.5, 0.1


def sgd(weight: np.ndarray, gradient: np.ndarray, state: dict, decay: float, momentum: float) -> np.ndarray:
    """Decay is a part of the gradient; the first movement is the gradient itself."""
    gradient = gradient + decay * weight
    state["moved"] = momentum * state.get("moved", 0.0) + gradient
    return weight - RATE * state["moved"]


def adafactor(weight: np.ndarray, gradient: np.ndarray, state: dict, decay: float, _: float) -> np.ndarray:
    """Shazeer and Stern 2018, algorithms 4 and 5, the rate in place of their 0.01, and torch's floor of 2^-23."""
    state["step"] = step = state.get("step", 0) + 1
    new, floor, square = step**-0.8, 2.0**-23, gradient**2
    size = max(1e-3, np.sqrt(np.mean(weight**2))) * min(RATE, 1 / np.sqrt(step))
    for name, found in (("rows", square.mean(-1)), ("columns", square.mean(-2))) if square.ndim > 1 else ():
        state[name] = (1 - new) * state.get(name, 0.0) + new * found
    state["all"] = (1 - new) * state.get("all", 0.0) + new * square
    variance = state["all"]
    if square.ndim > 1:
        mean = np.maximum(state["rows"].mean(-1), floor)[..., None, None]
        variance = state["rows"][..., :, None] * state["columns"][..., None, :] / mean
    update = gradient / np.sqrt(np.maximum(variance, floor**2))
    update /= max(1.0, np.sqrt(np.mean(update**2)))
    return weight * (1 - RATE * decay) - size * update


@pytest.mark.parametrize("fields", OPTIMIZERS, ids=NAMES)
def test_steps_are_the_formulas(fields: dict, tokenizer):
    """Matrices decay and vectors do not. Every third parameter has its first gradient in the third step, as a task's
    that had no labels before; 1 / sqrt(step) falls below the rate in the fifth."""
    model = tiny_model(tokenizer)
    config = tiny_config("out", weight_decay=DECAY, **(fields | {"learning_rate": RATE}))
    optimizer, chance = build_optimizer(model, config), np.random.default_rng(0)
    formula = {"sgd": sgd, "adafactor": adafactor}[config.optimizer]
    named = dict(model.named_parameters())
    expected = {name: parameter.detach().double().numpy() for name, parameter in named.items()}
    states: dict[str, dict] = {name: {} for name in named}
    for step in range(STEPS):
        for number, (name, parameter) in enumerate(named.items()):
            parameter.grad = None
            if number % 3 or step >= 2:
                drawn = chance.normal(size=parameter.shape) * 10.0 ** chance.uniform(-3, 0, size=parameter.shape)
                parameter.grad = torch.tensor(drawn, dtype=torch.float32)
                gradient, decay = parameter.grad.double().numpy(), DECAY if parameter.ndim > 1 else 0.0
                expected[name] = formula(expected[name], gradient, states[name], decay, config.momentum)
        optimizer.step()
    for name, parameter in named.items():
        torch.testing.assert_close(
            parameter.detach().double(), torch.tensor(expected[name]), rtol=1e-4, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("fields", OPTIMIZERS, ids=NAMES)
def test_the_loss_falls_on_the_shipped_scenarios(fields: dict, tokenizer, scenarios, tmp_path):
    fields = fields | {"batch_size": 16, "max_steps": 30, "save_steps": 30, "loss_weighting": "equal"}
    loop = build_loop(tokenizer, tiny_config(tmp_path / "run", **fields), scenarios[:48])
    totals, take_step = [], loop.take_step

    def taken(group):
        losses, numbers = take_step(group)
        totals.append(losses["total"])
        return losses, numbers

    loop.take_step = taken
    loop.train()
    assert np.mean(totals[-5:]) < np.mean(totals[:5]) - 0.1 * abs(np.mean(totals[:5]))


@pytest.mark.parametrize("fields", OPTIMIZERS, ids=NAMES)
def test_a_run_taken_up_again_is_the_same_run(fields: dict, tokenizer, scenarios, tmp_path):
    """Bit for bit, what the optimizer keeps included: nothing at all for SGD without momentum."""
    whole, again = (
        build_loop(tokenizer, tiny_config(tmp_path / "run", max_steps=6, save_steps=3, **fields), scenarios[:24])
        for _ in range(2)
    )
    whole.train()
    load_run(again, checkpoint_at(tmp_path / "run", 3))
    again.train()
    for name, value in whole.bare_model.state_dict().items():
        assert torch.equal(value, again.bare_model.state_dict()[name]), name
    states, others = (loop.optimizer.state_dict()["state"] for loop in (whole, again))
    assert bool(states) == (fields["optimizer"] == "adafactor" or "momentum" in fields)
    assert states.keys() == others.keys()
    for number, state in states.items():
        assert all(torch.equal(value, others[number][name]) for name, value in state.items())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"momentum": 0.9}, "momentum is 0.9, but only optimizer sgd has one, not adamw"),
        ({"momentum": 0.9, "optimizer": "adafactor"}, "only optimizer sgd has one, not adafactor"),
        ({"momentum": 1.0, "optimizer": "sgd"}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"betas": (0.9, 0.99), "optimizer": "sgd"}, r"betas are \[0.9, 0.99\], but optimizer sgd has none"),
        ({"betas": (0.8, 0.999), "optimizer": "adafactor"}, "but optimizer adafactor has none; leave them out"),
        ({"update_in_backward": True, "optimizer": "sgd"}, "one parameter at a time, which sgd cannot"),
        ({"weight_precision": "bf16", "optimizer": "adafactor"}, "by chance, and adafactor rounds to the nearest"),
    ],
)
def test_a_setting_that_the_optimizer_does_not_know_is_refused(fields: dict, said: str):
    with pytest.raises(UserError, match=said):
        TrainConfig(output_dir="out", train=["scenarios=a.jsonl"], **fields)
