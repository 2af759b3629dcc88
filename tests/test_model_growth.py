"""Growth: a wider or deeper model answers as the small one did, and its copies come to differ.

In    tiny models of both kinds of block with all modules, whose weights are moved away from their start.
Out   answers before and after compared; copies compared after training.
Run   `pytest tests/test_model_growth.py`
"""

import json

import pytest
import torch

from preprocessing.encode import encode
from preprocessing.folders import verify
from redheart_hf import RedHeartForMultiTask, preset_config
from redheart_hf.growth import grow, grown_config
from training.collator import MODEL_INPUTS, Collator
from training.grow import main
from training.tokenizer_files import save_tokenizer

PRESET_OF = {"pre_ln_gelu": "redheart-tiny", "post_ln_swiglu": "redheart-tiny-stable"}


@pytest.fixture(scope="module")
def batch(scenarios, tokenizer, tmp_path_factory):
    rows = encode(scenarios[:3], tokenizer, max_length=48, cache_dir=tmp_path_factory.mktemp("encoded"))
    return Collator(tokenizer)(list(rows))


def trained_like(kind: str, tokenizer, **changes) -> RedHeartForMultiTask:
    """Every weight away from zero and one, norms included, as after training."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "layer_norm_eps": 1e-6, "initialization": "normal"}
    model = RedHeartForMultiTask(preset_config(PRESET_OF[kind], **(sizes | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def answers(model, batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        output = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
    parts = {}
    for name in ("emotion", "ethics", "regret", "surd", "dynamics"):
        parts |= {f"{name}.{key}": value.float() for key, value in (getattr(output, name) or {}).items()}
    return parts


def furthest(found, expected) -> float:
    return max(float((found[key] - expected[key]).abs().max()) for key in expected)


@pytest.mark.parametrize("kind", PRESET_OF)
@pytest.mark.parametrize(("width", "depth"), [(2, 1), (1, 2), (2, 2), (3, 1)])
def test_a_grown_model_answers_as_the_small_one(kind, width, depth, batch, tokenizer):
    model = trained_like(kind, tokenizer)
    grown = grow(model, width, depth)
    assert grown.config.hidden_size == width * model.config.hidden_size
    assert len(grown.model.blocks) == depth * len(model.model.blocks)
    assert not grown.training
    assert furthest(answers(grown, batch), answers(model, batch)) < 1e-5
    if depth == 1:  # nothing but rounding: in double precision there is less of it (heads answer in single)
        assert furthest(answers(grown.double(), batch), answers(model.double(), batch)) < 2e-6


def test_deeper_with_norms_in_front_is_the_same_to_the_bit(batch, tokenizer):
    model = trained_like("pre_ln_gelu", tokenizer)
    assert furthest(answers(grow(model, 1, 3), batch), answers(model, batch)) == 0


def test_what_a_text_encoder_reads_stays_as_it_is(batch, tokenizer):
    bert = {"model_type": "bert", "vocab_size": len(tokenizer), "hidden_size": 24, "num_hidden_layers": 1}
    bert |= {"num_attention_heads": 3, "intermediate_size": 40}
    model = trained_like("pre_ln_gelu", tokenizer, text_encoder_config=bert, text_encoder_standardize=True)
    model.model.embeddings.standardization.fit(torch.linspace(-1, 1, 24), torch.tensor(0.5))
    grown = grow(model, 2)
    assert grown.config.text_encoder_config.hidden_size == 24
    assert furthest(answers(grown, batch), answers(model, batch)) < 1e-5


def test_what_was_read_goes_past_the_projection_of_a_grown_model_too(batch, tokenizer):
    model = trained_like("pre_ln_gelu", tokenizer, input_residual=True)
    assert furthest(answers(grow(model, 2), batch), answers(model, batch)) < 1e-5
    model = trained_like("pre_ln_gelu", tokenizer, task_residual=True, task_size=128)
    assert furthest(answers(grow(model, 2), batch), answers(model, batch)) < 1e-5
    bert = {"model_type": "bert", "vocab_size": len(tokenizer), "hidden_size": 128, "num_hidden_layers": 1}
    reading = trained_like(
        "pre_ln_gelu", tokenizer, input_residual=True, text_encoder_config=bert | {"num_attention_heads": 4}
    )
    for width in (2, 3):
        grown = grow(reading, width)
        assert grown.config.text_encoder_config.hidden_size == 128
        assert furthest(answers(grown, batch), answers(reading, batch)) < 1e-5


@pytest.mark.parametrize("kind", PRESET_OF)
def test_what_large_answers_move_by_is_rounding(kind, batch, tokenizer):
    """Logits near 30 move by more than 1e-5 in float32; in float64 the noise's own rounding is left, 2^-24."""
    model = trained_like(kind, tokenizer)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    grown = grow(model, 2)
    before = answers(model, batch)
    largest = max(float(part.abs().max()) for part in before.values())
    assert largest > 20
    assert furthest(answers(grown, batch), before) < 1e-5 * largest
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model.double().model(**inputs).task_states
        found = grown.double().model(**inputs).task_states
    assert float((found - expected.repeat(1, 1, 2)).abs().max()) < 5e-7 * float(expected.abs().max())


@pytest.mark.parametrize("noise", [float("nan"), float("inf"), -0.1, 1.5])
def test_noise_that_would_not_cancel_is_refused(noise, tokenizer):
    with pytest.raises(ValueError, match=rf"noise must lie in \[0, 1\].*got {noise}"):
        grow(trained_like("pre_ln_gelu", tokenizer), 2, noise=noise)


def copies_differ(model: RedHeartForMultiTask) -> float:
    """How far the two halves of the first block's inner layer are from each other, over their size."""
    one, other = model.model.blocks[0].mlp.up_proj.weight.detach().chunk(2, dim=0)
    one, other = (half[:, : half.shape[1] // 2] + half[:, half.shape[1] // 2 :] for half in (one, other))
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize(("noise", "differ"), [(0.0, False), (0.1, True)])
def test_copies_learn_different_things_when_noise_told_them_apart(noise, differ, batch, tokenizer):
    """What a unit and its copy compute from what came twice is their weights' sum; at first it is equal in both."""
    calm = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    grown = grow(trained_like("pre_ln_gelu", tokenizer, **calm), 2, noise=noise).train()
    assert copies_differ(grown) < 1e-5
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.05)
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    for _ in range(5):
        optimizer.zero_grad()
        grown(**inputs, labels=batch["labels"]).loss.backward()
        torch.nn.utils.clip_grad_norm_(grown.parameters(), 1.0)
        optimizer.step()
    assert (copies_differ(grown) > 1e-5) == differ


def test_the_grown_330m_is_the_1_3b():
    grown = grown_config(preset_config("redheart-330m"), width=2).to_dict()
    named = preset_config("redheart-1.3b").to_dict()
    assert {name: (grown[name], named[name]) for name in named if grown[name] != named[name]} == {}


@pytest.mark.parametrize(("width", "depth"), [(0, 1), (1, 0), (-2, 1), (2.0, 1)])
def test_growing_by_less_than_one_is_refused(width, depth):
    with pytest.raises(ValueError, match=f"got {width} and {depth}"):
        grown_config(preset_config("redheart-tiny"), width, depth)


def test_the_command_grows_a_folder_and_refuses_to_write_over_one(tokenizer, tmp_path, monkeypatch, capsys):
    model = trained_like("post_ln_swiglu", tokenizer)
    model.save_pretrained(tmp_path / "small")
    save_tokenizer(tokenizer, tmp_path / "small")
    (tmp_path / "small" / "README.md").write_text("# Red Heart\n", encoding="utf-8")
    arguments = ["grow", "--model", str(tmp_path / "small"), "--output", str(tmp_path / "large"), "--width", "2"]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    assert "answers moved by" in capsys.readouterr().out
    large = RedHeartForMultiTask.from_pretrained(tmp_path / "large")
    assert large.config.hidden_size == 256
    card = (tmp_path / "large" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# Red Heart\n")
    assert "Grown from `small`, whose card this is so far: every width 2 times, blocks 1 times as many" in card
    verify(tmp_path / "large")
    saved = [json.loads((tmp_path / name / "tokenizer.json").read_text()) for name in ("small", "large")]
    assert saved[0] == saved[1]
    with pytest.raises(Exception, match="exists already"):
        main()
