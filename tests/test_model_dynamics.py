"""Emotion in time: the filters over tokens are the recurrence they claim to be, the affect filter is Kalman's.

In    tiny modules with moved weights; the shipped scenarios' token ids.
Out   outputs compared with loops and formulas written out.
Run   `pytest tests/test_model_dynamics.py`
"""

import numpy as np
import pytest
import torch
from test_model_modules import config_of, perturbed

from preprocessing.encode import encode
from redheart_hf import RedHeartForMultiTask
from redheart_hf.kalman import kalman_filter, ornstein_uhlenbeck
from redheart_hf.losses import gaussian_nll
from redheart_hf.modeling_dynamics import AffectFilter, SignalSimulator
from training.collator import Collator


@pytest.fixture(scope="module")
def batch(scenarios, tokenizer, tmp_path_factory):
    rows = encode(scenarios[:4], tokenizer, max_length=48, cache_dir=tmp_path_factory.mktemp("encoded"))
    return Collator(tokenizer)(list(rows))


def simulator() -> SignalSimulator:
    torch.manual_seed(0)
    model = RedHeartForMultiTask(config_of(hidden_size=32, num_filters=16, modules=["signal_simulator"]))
    return perturbed(model.model.signal_simulator).eval()


def embedded(batch, size: int) -> torch.Tensor:
    """Real token ids as vectors, by a fixed table."""
    table = torch.randn(4096, size, generator=torch.Generator().manual_seed(2))
    return table[batch["input_ids"] % 4096]


def test_filters_agree_with_their_recurrence_written_out(batch):
    bank, hidden = simulator().double(), embedded(batch, 32)[:2].double()
    mask = batch["attention_mask"][:2]
    with torch.no_grad():
        driven = bank.in_proj(bank.norm(hidden)).numpy()
        driven = driven[..., 0::2] + 1j * driven[..., 1::2]
        decay = np.exp(bank.log_decay.numpy())
        pole = np.exp(-decay + 1j * bank.angle.numpy())
        state = np.zeros_like(driven[:, 0])
        states = []
        for step in range(driven.shape[1]):
            state = pole * state + np.sqrt(1 - np.exp(-2 * decay)) * driven[:, step]
            states.append(state)
        _, found = bank(hidden, mask)
    last = mask.sum(dim=1).tolist()
    expected = np.stack([states[last[row] - 1][row] for row in range(2)])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_text_in_pieces_gives_the_numbers_of_the_whole(batch):
    bank, hidden = simulator(), embedded(batch, 32)
    ones = torch.ones(hidden.shape[:2])
    with torch.no_grad():
        whole, end = bank(hidden, ones)
        state, pieces = None, []
        for start in (0, 1, 7, 20):
            stop = {0: 1, 1: 7, 7: 20, 20: hidden.shape[1]}[start]
            piece, state = bank(hidden[:, start:stop], ones[:, start:stop], state)
            pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, end, atol=1e-5, rtol=1e-5)


def test_a_filter_hears_nothing_of_what_comes_later(batch):
    bank, hidden = simulator(), embedded(batch, 32)
    ones = torch.ones(hidden.shape[:2])
    later = hidden.clone()
    later[:, 10:] = later[:, 10:].flip(1)
    with torch.no_grad():
        torch.testing.assert_close(bank(later, ones)[0][:, :10], bank(hidden, ones)[0][:, :10], atol=1e-5, rtol=0)
        assert not torch.allclose(bank(later, ones)[0][:, 10:], bank(hidden, ones)[0][:, 10:], atol=1e-3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_silence_to_the_filters(side):
    bank = simulator()
    hidden = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(4))
    parts, mask = (hidden, noise), [1] * 6 + [0] * 3
    padded = torch.cat(parts[::-1] if side == "left" else parts, dim=1)
    mask = torch.tensor([mask[::-1] if side == "left" else mask])
    with torch.no_grad():
        (expected, state), (found, padded_state) = bank(hidden, torch.ones(1, 6)), bank(padded, mask)
    kept = found[:, 3:] if side == "left" else found[:, :6]
    torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded_state, state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_move_what_a_text_in_pieces_has_come_to(side):
    """The second piece of a batch is shorter in one row and absent in another."""
    bank = simulator()
    first, second = torch.randn(3, 6, 32, generator=torch.Generator().manual_seed(5)).split((2, 4), dim=1)
    lengths = (4, 2, 0)
    mask = torch.tensor([[1] * length + [0] * (4 - length) for length in lengths])
    rows = second
    if side == "left":
        mask = mask.flip(1)
        rows = torch.stack([row.roll(4 - length, dims=0) for row, length in zip(second, lengths, strict=True)])
    with torch.no_grad():
        _, state = bank(first, torch.ones(3, 2))
        answers, ends = bank(rows, mask, state)
        torch.testing.assert_close(ends[2], state[2])
        for row, length in enumerate(lengths[:2]):
            alone, end = bank(second[row : row + 1, :length], torch.ones(1, length), state[row : row + 1])
            torch.testing.assert_close(answers[row, mask[row] == 1], alone[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(ends[row], end[0], atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- the affect filter


def affect_filter() -> AffectFilter:
    torch.manual_seed(0)
    return perturbed(RedHeartForMultiTask(config_of(modules=["affect_filter"])).affect_filter).eval()


def test_a_single_turn_is_weighed_against_the_home_base():
    module = affect_filter()
    task = torch.linspace(-1, 1, 2 * 96).reshape(2, 96)
    mean, log_variance = torch.tensor([[0.4, -0.2, 0.1], [0.9, 0.0, -0.5]]), torch.full((2, 3), -2.0)
    with torch.no_grad():
        moved, doubt = module.observer(task).chunk(2, dim=-1)
        found = module(task, mean, log_variance)
        stationary = module.log_variability.exp() ** 2 / (2 * module.log_return_rate.exp())
        precision = torch.exp(-(log_variance + doubt)) + 1 / stationary
        expected = ((mean + moved) * torch.exp(-(log_variance + doubt)) + module.home_base / stationary) / precision
    torch.testing.assert_close(found.vad_mean, expected)
    torch.testing.assert_close(found.vad_log_variance, -precision.log())


def test_turns_of_a_dialogue_are_followed_and_the_rest_stands_alone():
    module = affect_filter()
    task = torch.linspace(-1, 1, 5 * 96).reshape(5, 96)
    mean, log_variance = torch.linspace(-0.8, 0.8, 15).reshape(5, 3), torch.full((5, 3), -1.0)
    turns = torch.tensor([[3, 0, 4], [1, -1, -1]])
    with torch.no_grad():
        alone = module(task, mean, log_variance)
        found = module(task, mean, log_variance, turns)
        moved, doubt = module.observer(task).chunk(2, dim=-1)
        rows = [3, 0, 4]
        noise = torch.diag_embed(torch.exp(log_variance + doubt)[rows])[None]
        process = ornstein_uhlenbeck(
            module.log_return_rate.exp(), module.home_base, module.log_variability.exp(), observation_noise=noise
        )
        expected = kalman_filter(process, (mean + moved)[rows][None])
    torch.testing.assert_close(found.vad_mean[rows], expected.means[0])
    variances = expected.covariances[0].diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(found.vad_log_variance[rows], variances.log())
    assert torch.equal(found.vad_mean[[1, 2]], alone.vad_mean[[1, 2]])


def simulated(dialogues: int, turns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States (G, S, 3) of Ornstein-Uhlenbeck processes, one step a turn, and what is seen of them."""
    random = np.random.default_rng(seed)
    carried = np.exp(-RETURN_RATE)
    stationary = VARIABILITY / np.sqrt(2 * RETURN_RATE)
    state = HOME_BASE + stationary * random.standard_normal((dialogues, 3))
    states = [state]
    for _ in range(turns - 1):
        spread = stationary * np.sqrt(1 - carried**2)
        state = HOME_BASE + carried * (state - HOME_BASE) + spread * random.standard_normal(state.shape)
        states.append(state)
    true = np.stack(states, axis=1)
    seen = true + NOISE * random.standard_normal(true.shape)
    return torch.from_numpy(true).float(), torch.from_numpy(seen).float()


HOME_BASE, RETURN_RATE = np.array([0.2, -0.1, 0.05]), np.array([0.25, 0.7, 0.4])
VARIABILITY, NOISE = np.array([0.2, 0.3, 0.25]), 0.12


def test_the_affect_filter_finds_the_process_behind_simulated_dialogues():
    """Home base, inertia and variability come out as they went in, and the variances it states are honest."""
    module = affect_filter()
    module.init_own_weights(0.02)
    own = [module.home_base, module.log_return_rate, module.log_variability]
    optimizer = torch.optim.Adam(own, lr=0.05)
    true, seen = simulated(dialogues=400, turns=16, seed=0)
    turns = torch.arange(seen.shape[0] * seen.shape[1]).reshape(seen.shape[:2])
    noise = torch.full_like(seen.flatten(0, 1), NOISE**2)

    def follow(seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return module.follow(seen.flatten(0, 1), noise, turns)

    for _ in range(120):
        mean, variance = follow(seen)
        optimizer.zero_grad()
        gaussian_nll(mean, variance.log(), true).mean().backward()
        optimizer.step()
    with torch.no_grad():
        np.testing.assert_allclose(module.home_base, HOME_BASE, atol=0.03)
        np.testing.assert_allclose(module.log_return_rate.exp(), RETURN_RATE, rtol=0.15)
        np.testing.assert_allclose(module.log_variability.exp(), VARIABILITY, rtol=0.1)
        true, seen = simulated(dialogues=400, turns=16, seed=1)
        mean, variance = follow(seen)
        squares = (true - mean) ** 2 / variance
    assert float(squares.sum(dim=-1).mean()) == pytest.approx(3, rel=0.05)
    assert float((squares <= 1.6449**2).float().mean()) == pytest.approx(0.9, abs=0.01)
    # The turns before are worth something: one turn alone, weighed against the home base, errs more.
    alone, _ = module.follow(seen.flatten(0, 1), noise, turns.flatten()[:, None])
    error, error_alone = ((m - true).pow(2).mean() for m in (mean, alone.reshape(true.shape)))
    assert error < 0.95 * error_alone
