"""pipeline("red-heart"): the answers of the command, whatever else is asked, however long, in order, as plain data.

In    the tiny model; the shipped scenarios, Korean and English.
Out   nothing.
Run   `pytest tests/test_model_pipeline.py`
"""

import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from redheart_hf import RedHeartPipeline
from redheart_hf.labels import VIEWS
from redheart_hf.pipeline_reading import OVERLAP
from training.loading import load_model
from training.prediction import predict

WALLET = {"text": "He found a wallet.", "actions": ["Hand it in", "Keep the money", "그냥 두고 간다"], "chosen": 1}
DIALOGUE = {"text": "괜찮아.", "turns": ["무슨 일 있어?", "아니, 아무 일도."]}
ELSEWHERE = """
import json, sys
from transformers import pipeline
ask = pipeline("red-heart", model=sys.argv[1], trust_remote_code=True)
print(json.dumps(ask(json.loads(sys.argv[2]))))
"""


@pytest.fixture(scope="module")
def ask(tiny_model_dir: Path) -> RedHeartPipeline:
    return pipeline("red-heart", model=str(tiny_model_dir))


def numbers(found, path=()):
    """Every number of an answer by its path."""
    if isinstance(found, dict):
        return {name: value for key in found for name, value in numbers(found[key], (*path, key)).items()}
    if isinstance(found, list):
        return {name: value for at, one in enumerate(found) for name, value in numbers(one, (*path, at)).items()}
    return {path: found}


def assert_close(one, other) -> None:
    left, right = numbers(one), numbers(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert right[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value), name


@pytest.mark.parametrize("asked", ["면접에서 또 떨어졌다.", WALLET, {**WALLET, "chosen": None}, DIALOGUE])
def test_it_says_what_the_command_says(asked, ask, tiny_model_dir: Path):
    given = {"text": asked} if isinstance(asked, str) else asked
    model, tokenizer = load_model(tiny_model_dir)
    actions, turns = list(given.get("actions", ())), given.get("turns", ())
    expected = predict(model, tokenizer, given["text"], actions, given.get("chosen"), turns)
    found = ask(asked)
    assert found.pop("windows") == 1
    assert not expected.pop("truncated")
    if turns:
        dialogue, said = found.pop("dialogue"), expected.pop("turns")
        assert [turn["text"] for turn in dialogue] == [*said, given["text"]]
        assert dialogue[-1]["turn_vad"] == found["turn_vad"]
        # What was said before the first turn is nothing: its state is that of this turn alone.
        assert_close(dialogue[0]["turn_vad"], ask({"text": said[0], "turns": [said[0]]})["dialogue"][0]["turn_vad"])
    assert_close(found, expected)


def test_an_answer_does_not_depend_on_what_else_is_asked(ask, dev):
    asked = [*(record.text for record in dev), WALLET, DIALOGUE, "x " * 400, dev[0].text]
    alone = [ask(one) for one in asked]
    order = list(range(len(asked)))
    random.Random(0).shuffle(order)
    for batch_size in (1, 7, 64):
        for place, found in zip(order, ask([asked[place] for place in order], batch_size=batch_size), strict=True):
            assert_close(found, alone[place])


def test_korean_in_single_jamo_is_the_same_text(ask):
    text = "할머니 김치를 마지막으로 꺼내 먹었다."
    apart = unicodedata.normalize("NFD", text)
    assert apart != text
    assert ask(f" {apart}\r\n") == ask(text)


def test_windows_are_averaged_by_their_tokens(ask, scenarios):
    text = " ".join(record.text for record in scenarios[:12])
    found = ask(text)
    (units,) = ask.preprocess(([text], ["it"]))
    windows = [ask.reader.tokenizer.decode(unit.coded[0][0], skip_special_tokens=True) for unit in units]
    assert found["windows"] == len(windows) > 2
    assert max(unit.length for unit in units) <= ask.model.config.max_length
    tokens = len(ask.reader.tokenizer(text)["input_ids"])
    assert sum(unit.weight for unit in units) == pytest.approx(tokens * (1 + 1 / (OVERLAP - 1)), rel=0.1)
    for first, second in zip(windows, windows[1:], strict=False):
        assert second[:20] in first  # they overlap
    assert windows[0][:40] == text[:40]
    assert windows[-1][-40:] == text[-40:]
    each = [ask(window) for window in windows]
    share = np.array([unit.weight for unit in units]) / sum(unit.weight for unit in units)
    for name in ("joy", "anger"):
        expected = float(share @ [one["basic_emotions"][name] for one in each])
        assert found["basic_emotions"][name] == pytest.approx(expected, abs=1e-4)
    means = np.array([one["vad"]["valence"] for one in each])
    squares = np.array([one["vad_standard_deviation"]["valence"] ** 2 for one in each]) + means**2
    assert found["vad_standard_deviation"]["valence"] ** 2 == pytest.approx(
        share @ squares - (share @ means) ** 2, abs=1e-4
    )
    assert sum(found["contributions"].values()) == pytest.approx(found["utility"], abs=1e-5)


def test_a_long_scenario_has_each_action_beside_each_window(ask, scenarios):
    text = " ".join(record.text for record in scenarios[:12])
    found = ask({**WALLET, "text": text})
    assert found["windows"] > 2
    utilities = [action["utility"]["neutral"] for action in found["actions"]]
    assert found["best"] == int(np.argmax(utilities))
    assert [action["text"] for action in found["actions"]] == WALLET["actions"]


def test_the_regret_of_each_action_is_that_of_having_chosen_it(ask):
    """The model, asked once for each choice, is the reference."""
    found = ask(WALLET)
    sequences = [(WALLET["text"],), *((WALLET["text"], action) for action in WALLET["actions"])]
    coded = [ask.tokenizer(ask.reader.prefix + first, *rest) for first, *rest in sequences]
    batch = ask.tokenizer.pad(coded, return_tensors="pt")
    rows = torch.tensor([[*range(1, len(sequences))]])
    for place, action in enumerate(found["actions"]):
        with torch.inference_mode():
            expected = ask.model(**batch, alternatives=rows, chosen=torch.tensor([place])).regret.regret[0]
        assert [action["regret"][view] for view in VIEWS] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_hundred_actions_go_through_the_model_once(ask, monkeypatch):
    passes = []
    forward = type(ask.model).forward
    monkeypatch.setattr(
        type(ask.model),
        "forward",
        lambda self, **given: passes.append(len(given["input_ids"])) or forward(self, **given),
    )
    found = ask({"text": "Where to?", "actions": [f"street {place}" for place in range(100)]})
    assert len(found["actions"]) == 100
    assert passes == [101]


def test_streams_are_read_as_they_are_asked_for_and_answered_in_order(ask, dev):
    read = []

    def texts():
        for record in dev:
            read.append(record.id)
            yield record.text

    answers = ask(texts(), batch_size=1)
    assert read == []
    assert next(answers)["text"] == dev[0].text
    assert len(read) < len(dev)
    assert [answer["text"] for answer in answers] == [record.text for record in dev[1:]]
    rows = Dataset.from_dict({"text": [record.text for record in dev], "label": list(range(len(dev)))})
    assert [answer["text"] for answer in ask(KeyDataset(rows, "text"))] == rows["text"]
    assert ask([]) == []
    assert list(ask(iter(()))) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["fine", ""], "input 1 is empty"),
        (["fine", 3], "input 1 is of type int; give a text"),
        ({"txt": "x"}, "the key 'txt'; did you mean 'text'?"),
        ({"text": "x", "action": ["a", "b"]}, "did you mean 'actions'?"),
        ({"text": "x", "actions": "ab"}, "actions must be a list of texts"),
        ({"text": "x", "actions": ["a"]}, "one action; a choice needs two"),
        ({"text": "x", "actions": ["a", " "]}, "the action is empty"),
        ({"text": "x", "actions": ["a", "b"], "chosen": 2}, "chosen is 2, and the actions are 0 to 1"),
        ({"text": "x", "actions": ["a", "b"], "chosen": True}, "chosen is True"),
        ({"text": "x", "chosen": 0}, "chosen is 0, and there are no actions"),
        ({"text": "x", "actions": [f"act {place}" for place in range(101)]}, "101 actions; 100 are read at once"),
        ({"text": "x", "turns": ["a"] * 1001}, "1,001 turns"),
        (b"abc", "input is of type bytes"),
        (None, "input is of type NoneType"),
        (5, "input is of type int"),
        ({"text": "x", "actions": ["a", "b"], "turns": ["c"]}, "actions and turns"),
        ({"turns": ["c"]}, "None and no text"),
        ("a\x00b", r"'\x00' at 1"),
        ("e" + "\u0301\u0323" * 200_000, "400000 combining marks in a row"),
        ("a\udc80", r"'\udc80' at 1"),
        ("x" * 10_000_000, "10,000,000 characters; max_characters allows 1,000,000"),
        (["x"] * 100_001, "100,001 answers at once"),
        ({"text": "x", "actions": ["a", "b " * 500]}, "leaves no room for the text"),
        ({"text": "x", "turns": ["b " * 500]}, "a turn has more than"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_where_and_why(asked, said: str, ask):
    with pytest.raises(ValueError, match="^") as error:
        ask(asked)
    assert said in str(error.value)


@pytest.mark.parametrize("size", [0, -1, 1.5, "8", True])
def test_a_size_that_is_none_is_refused(size, ask):
    with pytest.raises(ValueError, match="batch_size is .*; give a whole number, 1 or more"):
        ask("x", batch_size=size)
    with pytest.raises(ValueError, match="max_characters is None"):
        ask("x", max_characters=None)


def test_an_unknown_option_is_refused(ask):
    with pytest.raises(ValueError, match="no option 'top_k'"):
        ask("x", top_k=3)


def test_answers_are_plain_data_and_what_was_never_learned_is_null(tiny_model_dir: Path):
    ask = pipeline("red-heart", model=str(tiny_model_dir))
    ask.model.config.trained_labels = ["basic_emotions"]
    found = ask([WALLET, DIALOGUE])
    assert json.loads(json.dumps(found)) == found
    assert found[0]["utility"] is None
    assert found[0]["best"] is None
    assert found[0]["actions"][0]["regret"] == {"optimistic": None, "neutral": None, "pessimistic": None}
    assert found[1]["dialogue"][0]["turn_vad"] is None
    assert found[0]["basic_emotions"]["joy"] > 0


def test_it_comes_with_the_model_for_those_who_have_no_package(ask, tiny_model_dir: Path, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    given = [sys.executable, "-c", ELSEWHERE, str(tiny_model_dir), json.dumps([WALLET, "안녕"])]
    ended = subprocess.run(given, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert_close(json.loads(ended.stdout), ask([WALLET, "안녕"]))


def test_it_says_why_where_it_is_asked(ask):
    found = ask("I never called her back.", explain=True)["explanation"]
    words = [word for part in found["attribution"]["parts"] for word in part["words"]]
    assert [word["text"] for word in words][:2] == ["I", "never"]
    with pytest.raises(ValueError, match="index=FOLDER"):
        ask("x", similar=2)
