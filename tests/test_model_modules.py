"""The modules beside backbone and heads: each starts without effect, can be left out, and does what its name says.

In    redheart-tiny and the shipped scenarios.
Out   outputs compared bit by bit, with loops written out, and with formulas.
Run   `pytest tests/test_model_modules.py`
"""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from preprocessing.encode import encode
from redheart_hf import RedHeartForMultiTask, preset_config
from redheart_hf.labels import MODULES, MODULES_OF_MODE, SURD_TERMS
from redheart_hf.modeling_analyzers import rivals_of
from redheart_hf.modeling_memory import ScenarioMemory
from training.collator import MODEL_INPUTS, Collator


def config_of(**changes):
    return preset_config("redheart-tiny", **({"vocab_size": 4096, "hidden_dropout": 0.0} | changes))


@pytest.fixture(scope="module")
def batch(scenarios, tokenizer, tmp_path_factory):
    rows = encode(scenarios[:4], tokenizer, max_length=48, cache_dir=tmp_path_factory.mktemp("encoded"))
    return Collator(tokenizer)(list(rows))


def inputs_of(batch):
    return {name: batch[name] for name in MODEL_INPUTS if name in batch}


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """As after training: nothing is exactly zero any more."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def parts_of(output) -> dict[str, torch.Tensor]:
    parts = {"task_states": output.task_states}
    for name in ("emotion", "ethics", "regret"):
        parts |= {f"{name}.{key}": value for key, value in getattr(output, name).items()}
    return parts


@pytest.mark.parametrize("name", MODULES)
def test_a_new_module_changes_nothing_and_a_trained_one_does(name, batch):
    torch.manual_seed(0)
    needed = ["surd_head", name] if name == "surd_analyzer" else [name]
    model = RedHeartForMultiTask(config_of(modules=needed)).eval()
    without = RedHeartForMultiTask(config_of(modules=[part for part in needed if part != name])).eval()
    missing, unexpected = without.load_state_dict(model.state_dict(), strict=False)
    assert missing == []
    assert {key.removeprefix("model.").split(".")[0] for key in unexpected} == {name}
    with torch.no_grad():
        expected, found = without(**inputs_of(batch)), model(**inputs_of(batch))
        for key, value in parts_of(expected).items():
            assert torch.equal(parts_of(found)[key], value), key
        if name == "surd_analyzer":
            assert torch.equal(found.surd.terms, expected.surd.terms)
        found = perturbed(model)(**inputs_of(batch))
        without.load_state_dict(model.state_dict(), strict=False)
        expected = without(**inputs_of(batch))
    if name in ("surd_head", "affect_filter"):  # their answers are their own, and nothing hangs on them
        assert all(torch.equal(parts_of(found)[key], value) for key, value in parts_of(expected).items())
        assert (expected.surd, expected.dynamics) == (None, None)
    elif name == "surd_analyzer":
        assert not torch.equal(found.surd.terms, expected.surd.terms)
    else:
        assert any(not torch.equal(parts_of(found)[key], value) for key, value in parts_of(expected).items())


def test_zero_rounds_of_the_triangle_are_none_and_more_rounds_are_more(batch):
    torch.manual_seed(0)
    model = perturbed(RedHeartForMultiTask(config_of(modules=["triangle"]))).eval()
    plain = RedHeartForMultiTask(config_of(modules=[])).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    said = {}
    with torch.no_grad():
        for rounds in (0, 1, 2):
            model.config.feedback_steps = rounds
            said[rounds] = parts_of(model(**inputs_of(batch)))
        expected = parts_of(plain(**inputs_of(batch)))
    assert all(torch.equal(said[0][key], value) for key, value in expected.items())
    for key in ("emotion.vad_mean", "ethics.utility", "regret.utility_views"):
        assert not torch.equal(said[1][key], said[0][key])
        assert not torch.equal(said[2][key], said[1][key])


def test_every_weight_learns_within_two_labelled_steps(batch):
    """No filler: but for experts that none of these texts is sent to, all weights get a gradient; and but for one
    number: the bias of SURD's analyzer is added to all logits of a softmax. The networks that stay what they were have
    it (tests/golden/legacy.json)."""
    torch.manual_seed(0)
    model = RedHeartForMultiTask(config_of()).train()
    labels = {name: torch.nan_to_num(value, 0.3) for name, value in batch["labels"].items() if name != "preference"}
    rows = len(batch["input_ids"])
    labels |= {"surd_terms": torch.full((rows, len(SURD_TERMS)), 1 / len(SURD_TERMS))}
    labels |= {"fine_emotions": torch.full((rows, 28), 0.1), "korean_emotions": torch.full((rows, 44), 0.1)}
    labels["preference"] = torch.tensor([[0, 1]])
    labels["surd_terms"][:, 0] = 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    moved = set()
    for _ in range(2):
        model.zero_grad()
        model(**inputs_of(batch), labels=labels).loss.backward()
        moved |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        optimizer.step()
    still = {name for name, _ in model.named_parameters()} - moved
    assert {name for name in still if "mixture.experts" not in name} <= {"surd_analyzer.answer.bias"}


# ---------------------------------------------------------------- rivals and memory


def test_rivals_are_the_other_actions_of_the_same_choice():
    found = rivals_of(torch.tensor([[1, 2, 3], [5, 4, -1]]), num_rows=7)
    sets = [sorted(row[row >= 0].tolist()) for row in found]
    assert sets == [[], [2, 3], [1, 3], [1, 2], [5], [4], []]


def test_an_action_is_judged_beside_its_rivals_in_whatever_order_they_come(batch):
    torch.manual_seed(0)
    model = perturbed(RedHeartForMultiTask(config_of(modules=["regret_analyzer"]))).eval()
    inputs = inputs_of(batch)
    assert (inputs["alternatives"] >= 0).sum(dim=1).min() >= 2
    turned = inputs | {"alternatives": inputs["alternatives"].flip(1)}
    turned["chosen"] = inputs["alternatives"].shape[1] - 1 - inputs["chosen"]
    with torch.no_grad():
        first, second = model(**inputs).regret, model(**turned).regret
        alone = model(**{name: inputs[name] for name in ("input_ids", "attention_mask")}).regret
    torch.testing.assert_close(second.utility_views, first.utility_views)
    rows = inputs["alternatives"][inputs["alternatives"] >= 0]
    assert not torch.allclose(alone.utility_views[rows], first.utility_views[rows], atol=1e-6)
    others = [row for row in range(len(inputs["input_ids"])) if row not in rows.tolist()]
    torch.testing.assert_close(alone.text_regret[others], first.text_regret[others])


def test_memory_finds_the_scenario_it_was_filled_with(batch):
    torch.manual_seed(0)
    model = RedHeartForMultiTask(config_of(modules=["scenario_memory"])).eval()
    memory: ScenarioMemory = model.model.scenario_memory
    with torch.no_grad():
        hidden = model.model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).last_hidden_state
        states = hidden.mean(dim=1)
        memory.fill(states)
        weights = memory.attention(states)
    assert weights.argmax(dim=1).tolist() == list(range(len(states)))
    assert set(memory.least_used(states, 10).tolist()).isdisjoint(range(len(states)))
    with pytest.raises(ValueError, match=r"300 states do not fit .* 256"):
        memory.fill(torch.zeros(300, 128))
    before = memory.keys.clone()
    with pytest.raises(ValueError, match=r"different ones of 0..255, got \[3, 3\]"):
        memory.fill(states[:2], torch.tensor([3, 3]))
    with pytest.raises(ValueError, match=r"got \[3, 999\]"):
        memory.fill(states[:2], torch.tensor([3, 999]))
    with pytest.raises(ValueError, match="1 of the states are not finite"):
        memory.fill(torch.stack((states[0], states[0] / 0)))
    assert torch.equal(memory.keys, before)


# ---------------------------------------------------------------- loading some of them


def test_modules_are_chosen_when_loading(batch, tmp_path):
    torch.manual_seed(0)
    model = perturbed(RedHeartForMultiTask(config_of(modules=["surd_head", "emotion_analyzer", "triangle"]))).eval()
    model.save_pretrained(tmp_path)
    inference = RedHeartForMultiTask.from_pretrained(tmp_path, modules="inference")
    assert inference.config.modules == ["emotion_analyzer", "triangle"]
    plain = RedHeartForMultiTask.from_pretrained(tmp_path, modules=[])
    with torch.no_grad():
        expected, found = parts_of(model(**inputs_of(batch))), parts_of(inference(**inputs_of(batch)))
        dropped = parts_of(plain(**inputs_of(batch)))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    assert not torch.equal(dropped["emotion.basic_logits"], expected["emotion.basic_logits"])


def all_parts_of(output) -> dict[str, torch.Tensor]:
    """What the modules say that have answers of their own, too."""
    own = {"surd": output.surd, "dynamics": output.dynamics}
    said = {f"{name}.{key}": value for name, head in own.items() if head is not None for key, value in head.items()}
    return parts_of(output) | said


@pytest.mark.parametrize("name", [*MODULES, "inference", "training"])
def test_what_a_model_is_loaded_with_anew_changes_none_of_its_answers(name, batch, tmp_path):
    """One module added to a trained model that has all others, or all those of a mode to one that has the triangle."""
    torch.manual_seed(0)
    gone = {name, "surd_analyzer"} if name == "surd_head" else {name}
    kept = ["triangle"] if name in MODULES_OF_MODE else [part for part in MODULES if part not in gone]
    asked = name if name in MODULES_OF_MODE else [*kept, name]
    perturbed(RedHeartForMultiTask(config_of(modules=kept))).save_pretrained(tmp_path)
    model = RedHeartForMultiTask.from_pretrained(tmp_path)  # read, too: where weights lie in memory decides last bits
    found = RedHeartForMultiTask.from_pretrained(tmp_path, modules=asked, new_modules=True)
    added = {key.removeprefix("model.").split(".")[0] for key in found.state_dict().keys() - model.state_dict().keys()}
    assert found.config.modules == list(MODULES_OF_MODE.get(name, asked))
    assert added == set(found.config.modules) - set(kept)
    with torch.no_grad():
        expected, answers = all_parts_of(model(**inputs_of(batch))), all_parts_of(found(**inputs_of(batch)))
    for key, value in expected.items():
        assert torch.equal(answers[key], value), key


def test_modules_are_chosen_through_the_auto_classes_and_in_subfolders(tmp_path):
    RedHeartForMultiTask(config_of(modules=["surd_head", "triangle"])).save_pretrained(tmp_path / "inner")
    found = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "inner", trust_remote_code=True, modules="inference"
    )
    assert found.config.modules == ["triangle"]
    assert RedHeartForMultiTask.from_pretrained(tmp_path, subfolder="inner", modules=[]).config.modules == []
    for wrong in (["emotion_analyser"], ["regret_analyzer"]):
        with pytest.raises(ValueError, match=wrong[0]):
            AutoModelForSequenceClassification.from_pretrained(
                tmp_path / "inner", trust_remote_code=True, modules=wrong
            )


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["emotion_analyser"], "no module is called emotion_analyser; known: surd_head"),
        ([None], "no module is called None; known: surd_head"),
        (3, "modules is 3: give a list, or a mode of training"),
        (["regret_analyzer"], "the saved model has no regret_analyzer; it has: surd_head"),
        ("inferring", "no mode is called 'inferring'; known: training"),
    ],
)
def test_a_module_that_is_not_there_is_refused(modules, message, tmp_path):
    RedHeartForMultiTask(config_of(modules=["surd_head"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        RedHeartForMultiTask.from_pretrained(tmp_path, modules=modules)


def test_an_analyzer_of_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="surd_analyzer corrects the surd_head"):
        config_of(modules=["surd_analyzer"])


def test_weights_that_the_folder_lacks_are_named_and_not_made_up(tmp_path):
    model = RedHeartForMultiTask(config_of(modules=["triangle"]))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["modules"]  # as before there were modules: all of them would be expected
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"lack \d+ tensors of RedHeartForMultiTask, the first is affect_filter"):
        RedHeartForMultiTask.from_pretrained(tmp_path)
    assert RedHeartForMultiTask.from_pretrained(tmp_path, modules=["triangle"]).config.modules == ["triangle"]
