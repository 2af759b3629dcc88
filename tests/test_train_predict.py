"""Predictions and the command that prints them, on a tiny model of random weights.

In    the fixtures `tiny_model_dir` and `scenarios`.
Out   failures where a prediction would mislead its reader or the command end in a traceback.
Run   pytest tests/test_train_predict.py
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run_command

from preprocessing.records import Record
from redheart_hf import RedHeartForMultiTask, preset_config
from redheart_hf.labels import BASIC_EMOTIONS, CIRCUMSTANCES, KOREAN_EMOTIONS, MODULES, VIEWS
from training import predict, prediction
from training.inference import predict_records
from training.loading import load_model

TEXT = "면접에서 또 떨어졌다. I did not tell my mother."


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load_model(tiny_model_dir)


def test_batches_give_each_record_its_own_answer_in_its_own_place(loaded, scenarios):
    model, tokenizer = loaded
    records = scenarios[:7] + [pair("The sun came out after lunch.", "It rained on the tents.")] + scenarios[-5:]
    together = predict_records(model, tokenizer, records, batch_size=4, progress=False, cache=False)
    for index, record in enumerate(records):
        alone = predict_records(model, tokenizer, [record], progress=False, cache=False)
        for name, values in alone.items():
            if name == "utility_views":
                actions = len(record.actions or [])
                assert np.isnan(together[name][index, actions:]).all()
                np.testing.assert_allclose(together[name][index, :actions], values[0], atol=1e-5)
            else:
                np.testing.assert_allclose(together[name][index], values[0], atol=1e-5, err_msg=name)


def test_arrays_are_what_the_model_itself_answers(loaded, scenarios):
    """Read straight from the tokenizer and the model, without collator and encoding."""
    model, tokenizer = loaded
    # Short enough that nothing is cut: this reading knows nothing of max_length.
    record = next(
        record
        for record in scenarios
        if record.chosen and len(tokenizer(record.text, record.actions[record.chosen].text)["input_ids"]) <= 128
    )
    arrays = predict_records(model, tokenizer, [record], progress=False, cache=False)
    model.eval()
    with torch.no_grad():
        of_text = model(**tokenizer(record.text, return_tensors="pt").to(model.device))
        of_deed = model(
            **tokenizer(record.text, record.actions[record.chosen].text, return_tensors="pt").to(model.device)
        )
    expected = of_text.emotion.basic_logits.sigmoid().cpu().numpy()
    np.testing.assert_allclose(arrays["basic_emotions"], expected, atol=1e-5)
    np.testing.assert_allclose(arrays["circumstances"], of_deed.ethics.circumstances.cpu().numpy(), atol=1e-5)
    np.testing.assert_allclose(arrays["utility"], of_deed.ethics.utility.cpu().numpy(), atol=1e-5)
    np.testing.assert_allclose(
        arrays["utility_views"][0, record.chosen], of_deed.regret.utility_views[0].cpu().numpy(), atol=1e-5
    )


def test_a_training_model_is_left_training(loaded, scenarios):
    model, tokenizer = loaded
    model.train()
    first = predict_records(model, tokenizer, scenarios[:2], progress=False, cache=False)
    second = predict_records(model, tokenizer, scenarios[:2], progress=False, cache=False)
    assert model.training
    assert model.emotion_head.training
    np.testing.assert_array_equal(first["vad_mean"], second["vad_mean"])


def test_a_mode_reads_only_the_modules_it_needs_and_answers_the_same(tmp_path, tiny_model_dir):
    _, tokenizer = load_model(tiny_model_dir)
    torch.manual_seed(0)
    RedHeartForMultiTask(preset_config("redheart-tiny", vocab_size=len(tokenizer))).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    of_surd = {"surd_head", "surd_analyzer"}
    whole, _ = load_model(tmp_path)
    assert set(whole.config.modules) == set(MODULES)
    for mode, names in {"inference": of_surd | {"affect_filter"}, "dialogue": of_surd}.items():
        model, _ = load_model(tmp_path, mode=mode)
        assert {name for name in MODULES if name not in model.config.modules} == names
        assert not [name for name, _ in model.named_parameters() if name.split(".")[0] in names]
        assert prediction.predict(model, tokenizer, TEXT) == prediction.predict(whole, tokenizer, TEXT)


def test_json_adds_up(tiny_model_dir):
    code, out, _ = run_command(predict, "--model", tiny_model_dir, TEXT, "Second text.", "--json")
    assert code == 0
    results = [json.loads(line) for line in out.splitlines()]
    assert [result["text"] for result in results] == [TEXT, "Second text."]
    for result in results:
        assert list(result["contributions"]) == list(CIRCUMSTANCES)
        assert sum(result["contributions"].values()) == pytest.approx(result["utility"], abs=1e-6)
        assert list(result["basic_emotions"]) == list(BASIC_EMOTIONS)
        assert all(value > 0 for value in result["vad_standard_deviation"].values())
        assert "actions" not in result


def test_the_best_choice_is_not_regretted_and_the_worst_is_most(tiny_model_dir):
    actions = ["Call her tonight", "다음 주에 말한다", "Say nothing at all"]
    arguments = [part for action in actions for part in ("--action", action)]
    code, out, _ = run_command(predict, "--model", tiny_model_dir, TEXT, *arguments, "--json")
    assert code == 0
    free = json.loads(out)
    assert [action["text"] for action in free["actions"]] == actions
    assert free["chosen"] is None
    utility = [action["utility"]["neutral"] for action in free["actions"]]
    regret = [action["regret"]["neutral"] for action in free["actions"]]
    best = free["best"]
    assert utility[best] == max(utility)
    assert regret[best] == 0
    assert np.argsort(regret).tolist() == np.argsort(utility)[::-1].tolist()
    # Q(d) = d + c d^3 with c = 0.5, of the utility that was missed.
    missed = [max(utility) - value for value in utility]
    assert regret == pytest.approx([d + 0.5 * d**3 for d in missed], abs=1e-6)
    code, out, _ = run_command(predict, "--model", tiny_model_dir, TEXT, *arguments, "--chosen", best, "--json")
    chosen = json.loads(out)
    assert (code, chosen["chosen"], chosen["regret"]["neutral"]) == (0, best, 0)
    assert chosen["utility"] == pytest.approx(utility[best], abs=1e-5)


def test_for_people_korean_and_english_stand_in_the_same_columns(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    set_thresholds(folder, {"korean_emotions": [0.0] * 44, "fine_emotions": [0.0] * 28})
    code, out, _ = run_command(predict, "--model", folder, TEXT, "--action", "간다", "--action", "Stay", "--chosen", 1)
    assert code == 0
    for expected in (TEXT, "Circumstances of action 1", "Action 0: 간다", *KOREAN_EMOTIONS):
        assert expected in out
    bars = [line for line in out.splitlines() if re.search(r" [#.]{20} \d\.\d\d$", line)]
    assert len(bars) == 44 + 28 + 3 + 4
    # A Korean letter takes two columns of a terminal.
    starts = {len(line[:-25]) + sum("가" <= letter <= "힣" for letter in line) for line in bars}
    assert len(starts) == 1
    assert sum("  adds " in line for line in out.splitlines()) == len(CIRCUMSTANCES)


def test_present_emotions_follow_the_stored_thresholds(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    set_thresholds(folder, {"basic_emotions": [0.0] + [1.0] * 6})
    _, out, _ = run_command(predict, "--model", folder, TEXT, "--json")
    assert json.loads(out)["present"]["basic_emotions"] == ["anger"]
    _, out, _ = run_command(predict, "--model", folder, TEXT)
    lines = out.splitlines()
    assert lines[lines.index("Basic emotions") + 1].split()[0] == "anger"


def test_text_comes_from_stdin_and_a_cut_is_said(tiny_model_dir):
    text = "비가 온다. " * 200
    code, out, err = run_command(predict, "--model", tiny_model_dir, "-", "--json", stdin=text.encode())
    assert code == 0
    assert json.loads(out)["truncated"] is True
    assert "longer than the 128 tokens" in err
    code, out, err = run_command(predict, "--model", tiny_model_dir, "short", "--json")
    assert (json.loads(out)["truncated"], err) == (False, "")


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["", "--json"], b"", "empty"),
        (["-"], b"  \n", "empty"),
        (["-"], b"\xb0\xa1\xb3\xaa", "not UTF-8: byte 0xb0 at position 0"),
        (["-"], b"a" * 20_001, "20,001 characters; at most 20,000"),
        (["text", "--chosen", "0"], b"", "--chosen 0 names an action"),
        (["text", "--action", "one"], b"", "two or more"),
        (["text", "--action", "one", "--action", "two", "--chosen", "2"], b"", "0 to 1"),
        (["text", "--action", "one", "--action", " "], b"", "action 1 is empty"),
    ],
)
def test_a_text_that_cannot_be_read_is_named(tiny_model_dir, arguments, stdin, message):
    code, out, err = run_command(predict, "--model", tiny_model_dir, *arguments, stdin=stdin)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no model folder at"),
        (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "it has no tokenizer_config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no *.safetensors"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "'bert', not redheart"),
        (lambda folder: (folder / "config.json").write_text("{"), "could not be loaded"),
        (lambda folder: cut(folder / "model.safetensors"), "could not be loaded"),
    ],
)
def test_a_folder_that_holds_no_whole_model_is_named(tiny_model_dir, tmp_path, damage, message):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    damage(folder)
    code, _, err = run_command(predict, "--model", folder, "text")
    assert code == 2
    assert str(folder) in err
    assert message in err


def pair(better: str, worse: str) -> Record:
    return Record(id="p:1", reader="ethics_util", language="en", text=better, worse=worse, source="p", row=1)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def set_thresholds(folder: Path, thresholds: dict[str, list[float]]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"thresholds": thresholds}))


def test_what_was_never_trained_is_null_and_said_to_be_so(tiny_model_dir):
    """A head without labels answers by chance; a number from it would be made up."""
    model, tokenizer = load_model(tiny_model_dir)
    model.config.trained_labels = ["basic_emotions", "utility", "acceptability/virtue"]
    result = prediction.predict(model, tokenizer, "Nobody told me the shop had closed.")
    for name in ("fine_emotions", "korean_emotions", "vad", "culture", "circumstances", "text_regret"):
        assert result[name] is None
    assert sum(value is not None for value in result["acceptability"].values()) == 1
    assert set(result["basic_emotions"]) == set(BASIC_EMOTIONS)
    assert set(result["present"]) == {"basic_emotions"}
    text = predict.as_text(result)
    assert text.count("not trained") == 5 + 3 + 1
    assert f"{result['acceptability']['virtue']:.2f}" in text


@pytest.mark.parametrize(
    ("trained_labels", "taught"),
    [(["utility"], {"neutral"}), (["utility", "utility_views"], set(VIEWS)), (["basic_emotions"], set())],
)
def test_views_that_pairs_do_not_teach_are_kept_back(trained_labels, taught, tiny_model_dir):
    model, tokenizer = load_model(tiny_model_dir)
    model.config.trained_labels = trained_labels
    result = prediction.predict(model, tokenizer, TEXT, ["말한다", "Say nothing"], chosen=1)
    for action in result["actions"]:
        for quantity in ("utility", "regret"):
            assert {view for view, value in action[quantity].items() if value is not None} == taught
    assert result["regret"] == result["actions"][1]["regret"]
    assert (result["best"] is None) == (not taught)
    lines = predict.as_text(result).splitlines()
    of_actions = [line for line in lines if line.startswith(("  utility  ", "  regret if chosen"))]
    assert [line.count("not trained") for line in of_actions[-4:]] == [3 - len(taught)] * 4
