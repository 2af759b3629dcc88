"""Explanations as data: numbers that add up to what the model answers, and what is not known left out.

In    a tiny model trained for some steps on shipped scenarios, with a SURD head; encoders and routers made by hand.
Out   attributions beside captum's own layer method and the model called directly; experts beside the mixture's output.
Run   `pytest tests/test_train_explain.py`
"""

import json
import math
from pathlib import Path

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from explained import ACTIONS, KOREAN, MIXED, explained_run
from tiny_run import tiny_model
from transformers import BertConfig

from preprocessing.encode import encode
from preprocessing.errors import UserError
from redheart_hf.labels import CIRCUMSTANCES, SURD_TERMS, VIEWS
from training.explain import explain
from training.explain_attribution import attribute, integrate
from training.explain_targets import TARGETS, choose_target, find_target
from training.explain_words import parts_with_words, read
from training.loading import load_model
from training.prediction import make_record, predict


@pytest.fixture(scope="module")
def run_dir(tokenizer, scenarios, tmp_path_factory) -> Path:
    return explained_run(tmp_path_factory.mktemp("explained") / "run", tokenizer, scenarios)


@pytest.fixture
def trained(run_dir: Path):
    return load_model(run_dir / "final")


def chosen_experts(model, reading) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**reading.inputs).emotion.router_load > 0


@pytest.mark.parametrize("name", ["joy", "valence", "jeong", "text_regret/optimistic"])
@pytest.mark.parametrize("text", [KOREAN, MIXED])
def test_words_add_up_to_what_the_model_answers(trained, name: str, text: str):
    model, tokenizer = trained
    account = explain(model, tokenizer, text, target=name)["attribution"]
    # The same two numbers straight from tokenizer and model: of the text, and with all but its ends padded.
    batch = tokenizer(text, return_tensors="pt").to(model.device)
    nothing = batch["input_ids"].clone()
    nothing[0, 1:-1] = tokenizer.pad_token_id
    with torch.no_grad():
        value, base = (
            float(find_target(name).values(model.eval()(**batch | {"input_ids": ids}), model.config))
            for ids in (batch["input_ids"], nothing)
        )
    words = [word["attribution"] for part in account["parts"] for word in part["words"]]
    assert account["value"] == pytest.approx(value, abs=1e-6)
    assert account["baseline_value"] == pytest.approx(base, abs=1e-6)
    assert sum(words) + account["expert_choice"] - account["convergence_delta"] == pytest.approx(
        value - base, abs=1e-6
    )
    assert account["complete"]
    assert abs(account["convergence_delta"]) <= 0.01 * sum(map(abs, words)) + 1e-5
    assert account["special_tokens"] == 0
    assert max(map(abs, words)) > 1e-4


def test_each_number_explained_is_the_one_predicted(trained):
    model, tokenizer = trained
    model.config.trained_labels = None
    model.config.calibration = {"basic_emotions": [[0.5, -1.0]] * 7}
    prediction = predict(model, tokenizer, KOREAN, ACTIONS, 1)
    readings = [read(model.config, tokenizer, KOREAN, action, model.device) for action in (None, ACTIONS[1])]
    with torch.no_grad():
        outputs = [model.eval()(**reading.inputs) for reading in readings]
    for target in TARGETS.values():
        said = prediction[target.group]
        expected = said if isinstance(said, float) else said[target.name]
        found = float(target.values(outputs[target.of_deed], model.config))
        assert found == pytest.approx(expected, abs=1e-5), target


def test_tokens_get_what_captums_layer_method_gives(trained):
    model, tokenizer = trained
    reading = read(model.config, tokenizer, MIXED, "간다", model.device)
    target, experts = find_target("utility"), chosen_experts(model, reading)
    inputs = reading.inputs
    reference = LayerIntegratedGradients(
        lambda ids, mask, types: model(ids, mask, types).ethics.utility, model.get_input_embeddings()
    ).attribute(
        inputs["input_ids"],
        baselines=reading.baseline_ids,
        additional_forward_args=(inputs["attention_mask"], inputs["token_type_ids"]),
        n_steps=100,
    )
    found = attribute(model, reading, target, experts)
    torch.testing.assert_close(
        torch.tensor(found.tokens).double(), reference.detach().double().sum(-1)[0].cpu(), atol=1e-4, rtol=0.02
    )


def test_a_steep_stretch_of_the_way_is_looked_at_more_closely():
    start, end = torch.zeros(4, 2), torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [2.0, 2.0]])
    found, points = integrate(lambda way_BTD: (300 * (way_BTD.mean(dim=(1, 2)) - 0.7)).sigmoid(), start, end)
    assert points > 16
    # f depends on the mean alone, so that each token has its part of it: 1, 2, 3 and 2 of 8.
    torch.testing.assert_close(found, torch.tensor([1, 2, 3, 2]).double() / 8, atol=0.01, rtol=0)


def test_what_the_choice_of_experts_accounts_for_is_stated_and_the_router_left_as_it_was(trained):
    model, tokenizer = trained
    mixture = model.emotion_head.mixture
    with torch.no_grad():
        for expert in mixture.experts:  # so that it matters who is chosen
            expert.projections[-1].weight.mul_(20)
    bias = mixture.router_bias.clone()
    reading = read(model.config, tokenizer, KOREAN, None, model.device)
    found = attribute(model, reading, find_target("arousal"), chosen_experts(model, reading))
    assert abs(found.expert_choice) > 1e-3
    total = sum(found.tokens) + found.expert_choice - found.convergence_delta
    assert total == pytest.approx(found.value - found.baseline_value, abs=1e-6)
    assert found.complete
    assert torch.equal(mixture.router_bias, bias)


@pytest.mark.parametrize("mode", ["frozen", "layers"])
def test_an_encoder_that_does_not_learn_is_explained_too(tokenizer, mode: str):
    encoder = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=16, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    changes = {"text_encoder_config": encoder, "text_prefix": "query: "}
    model = tiny_model(tokenizer, text_encoder_mode=mode, **changes).train()
    free = tiny_model(tokenizer, text_encoder_mode="trained", **changes)
    reading = read(model.config, tokenizer, KOREAN, None, model.device)
    found, expected = (
        attribute(each, reading, find_target("valence"), chosen_experts(each, reading)).tokens
        for each in (model, free)
    )
    assert found == pytest.approx(expected, abs=1e-7)
    parts = parts_with_words(reading, found)
    assert sum(word["attribution"] for word in parts[0]["words"]) == pytest.approx(sum(found), abs=1e-9)
    assert parts[0]["words"][0]["text"] == "면접에서"  # the prefix is no word of the text
    assert any(found)
    assert model.model.embeddings.mode == mode
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("text", "action"), [(KOREAN, None), (MIXED, "간다\n\n 또"), ("비가 온다. " * 60, "자다")])
def test_words_are_whole_pieces_of_the_text_and_every_token_is_in_one(trained, text: str, action: str | None):
    model, tokenizer = trained
    text = text.strip()
    reading = read(model.config, tokenizer, text, action, model.device)
    record = make_record(text, [action, "x"] if action else [], 0 if action else None)
    encoded = encode([record], tokenizer, model.config.max_length, model.config.text_prefix)[0]["sequences"]
    assert reading.inputs["input_ids"][0].tolist() == encoded[1 if action else 0]
    parts = parts_with_words(reading, [1.0] * len(reading.places))
    for part, written in zip(parts, (text, action), strict=False):
        at = 0
        for word in part["words"]:
            assert word["text"] == written[word["start"] : word["end"]]
            assert written[at : word["start"]].strip() == ""
            at = word["end"]
        assert written[at:].strip() == part["unread"].strip()
    tokens = sum(word["tokens"] for part in parts for word in part["words"])
    assert tokens == sum(place is not None for place in reading.places)
    assert sum(word["attribution"] for part in parts for word in part["words"]) == tokens


def test_letters_of_several_tokens_are_shown_whole(trained):
    model, tokenizer = trained
    reading = read(model.config, tokenizer, MIXED, None, model.device)
    words = {word["text"]: word for word in parts_with_words(reading, [0.0] * len(reading.places))[0]["words"]}
    assert len(tokenizer.tokenize("쀍")) > 1  # this letter is not in the vocabulary
    assert {"뷁", "쀍", "didn't", "나", "left"} <= set(words)
    assert words["쀍"]["tokens"] == len(tokenizer.tokenize(" 쀍"))
    sad = read(model.config, tokenizer, KOREAN, None, model.device)
    assert [word["text"] for word in parts_with_words(sad, [0.0] * len(sad.places))[0]["words"]] == [
        "면접에서", "또", "떨어졌다", ".", "엄마한테", "말하지", "못했다", "ㅠㅠ",
    ]  # fmt: skip


def test_experts_are_those_that_mixed_the_answer(trained):
    model, tokenizer = trained
    mixture, seen = model.emotion_head.mixture, {}
    with torch.no_grad():
        mixture.router_bias.copy_(torch.tensor([0, 0, 0.5, 0, 0, 0, -0.5, 0]))
    hook = mixture.register_forward_hook(lambda _, inputs, outputs: seen.update(state=inputs[0], mixed=outputs[0]))
    rows = explain(model, tokenizer, KOREAN)["experts"]["experts"]
    with torch.no_grad():
        model.eval()(**tokenizer(KOREAN, return_tensors="pt").to(model.device))
        mixed = sum(row["gate"] * mixture.experts[row["expert"]](seen["state"]) for row in rows)
    hook.remove()
    torch.testing.assert_close(mixed, seen["mixed"])
    assert rows[2]["chosen"]
    assert not rows[6]["chosen"]
    assert sum(row["chosen"] for row in rows) == model.config.num_experts_per_tok
    assert sum(row["gate"] for row in rows) == pytest.approx(1)
    assert sum(row["score"] for row in rows) == pytest.approx(1)


def test_circumstances_add_up_and_alternatives_explain_the_regret(trained):
    model, tokenizer = trained
    result = explain(model, tokenizer, KOREAN, ACTIONS, chosen=2, target="utility")
    assert [part["of"] for part in result["attribution"]["parts"]] == ["text", "action"]
    contributions = {name: row["contribution"] for name, row in result["utility"]["circumstances"].items()}
    assert list(contributions) == list(CIRCUMSTANCES)
    assert math.fsum(contributions.values()) == pytest.approx(result["attribution"]["value"], abs=1e-6)
    regret = result["regret"]
    assert regret["views"] == list(VIEWS)
    for view in VIEWS:
        utility = [action["utility"][view] for action in regret["actions"]]
        assert regret["best"][view] == utility.index(max(utility))
        for action in regret["actions"]:
            missed = max(utility) - action["utility"][view]
            assert action["regret"][view] == pytest.approx(missed + 0.5 * missed**3, abs=1e-6)
    assert regret["actions"][2]["utility"]["neutral"] == pytest.approx(result["attribution"]["value"], abs=1e-5)


def test_surd_comes_with_what_chance_finds_or_not_at_all(trained, run_dir: Path):
    model, tokenizer = trained
    surd = explain(model, tokenizer, KOREAN)["surd"]
    assert list(surd["terms"]) == list(SURD_TERMS)
    assert sum(surd["terms"].values()) == pytest.approx(1, abs=1e-5)
    logged = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    learned_from = [line["surd"] for line in logged if line.get("surd")][-2]  # the last step's own came after it
    assert {name: surd["baseline"][name] for name in learned_from} == learned_from
    model.config.surd_found = None
    result = explain(model, tokenizer, KOREAN)
    assert result["surd"] is None
    assert "never taught" in result["missing"]["surd"]


def test_what_was_never_taught_is_refused_or_null_with_the_reason(trained):
    model, tokenizer = trained
    model.config.trained_labels = ["utility", "vad", "acceptability/justice"]
    result = explain(model, tokenizer, KOREAN, ACTIONS)
    assert result["target"]["name"] == "vad/valence"
    assert "basic emotions were not trained" in result["target"]["taken_because"]
    assert result["regret"]["views"] == ["neutral"]
    assert result["utility"] is None
    assert "no circumstances label" in result["missing"]["utility"]
    assert explain(model, tokenizer, KOREAN, target="justice")["target"]["name"] == "acceptability/justice"
    for name in ("joy", "기쁨", "acceptability/virtue", "intensity"):
        with pytest.raises(UserError, match="was never trained.*\n  vad/: valence"):
            explain(model, tokenizer, KOREAN, target=name)
    with pytest.raises(UserError, match="with --target"):
        choose_target(None, {"basic_emotions": None}, ["utility"])
    model.config.trained_labels = ["utility"]
    result = explain(model, tokenizer, KOREAN, target="utility")
    assert (result["experts"], result["regret"]) == (None, None)
