"""Everything a model says about one text, under the names that people use for it.

In    a model and its tokenizer; a text, maybe actions and the one chosen, or the turns before it.
Out   a dict as JSON has it; null in place of what the model never saw a label of.
Run   through training/predict.py and training/explain.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from preprocessing.errors import UserError
from preprocessing.metrics import DEFAULT_THRESHOLD
from preprocessing.records import Action, Record, cleaned, first_fault
from redheart_hf import RedHeartForMultiTask
from redheart_hf.labels import CIRCUMSTANCES, CULTURE, EMOTION_FIELDS, ETHICS_EXPERTS, POLARITIES, VAD, VIEWS
from training.inference import Predictions, predict_records

LABEL_BEHIND = dict.fromkeys(("polarity", "basic_emotions"), "basic_emotions") | {
    "fine_emotions": "fine_emotions",
    "korean_emotions": "korean_emotions",
    "vad": "vad",
    "vad_standard_deviation": "vad",
    "turn_vad": "vad",
    "turn_vad_standard_deviation": "vad",
    "culture": "culture",
    "text_regret": "regret",
    "circumstances": "circumstances",
    "contributions": "circumstances",
    "utility": "utility",
}


def make_record(text: str, actions: list[str], chosen: int | None, turns: Sequence[str] = ()) -> Record:
    """The text as a record without labels; raises UserError when it cannot be read."""
    korean = any("가" <= letter <= "힣" for letter in text)
    record = Record(
        id="predict",
        reader="predict",
        language="ko" if korean else "en",
        text=text,
        # The labels of an action are not read here, but a record has to have them.
        actions=[Action(text=action, utility=[0.0] * len(VIEWS)) for action in actions] or None,
        chosen=chosen,
        turns=list(turns) or None,
        source="command line",
        row=1,
    )
    if problem := first_fault(record):
        raise UserError(f"cannot read the text {text[:40]!r}: {problem.partition(': ')[2]}")
    return cleaned(record)


def predict(
    model: RedHeartForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    actions: list[str] | None = None,
    chosen: int | None = None,
    turns: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything the model says about one text, as JSON has it; see `as_text` for people."""
    actions = actions or []
    # The first record answers for the text or the chosen action; one more for each action that could be chosen.
    records = [make_record(text, actions if chosen is not None else [], chosen, turns)]
    records += [make_record(text, actions, position) for position in range(len(actions))]
    arrays = predict_records(model, tokenizer, records, progress=False, cache=False)
    result = {"text": records[0].text} | describe_text(arrays, model.config.thresholds or {})
    result |= describe_deed(arrays)
    if turns:
        result |= describe_dialogue(arrays, records[0].turns or [])
    if actions:
        result["actions"] = [
            {
                "text": action.text,
                "utility": named(VIEWS, arrays["utility_views"][1, position]),
                "regret": named(VIEWS, arrays["regret"][1 + position]),
            }
            for position, action in enumerate(records[1].actions or [])
        ]
        result |= {"best": int(arrays["best"][1]), "chosen": chosen}
        result["regret"] = None if chosen is None else result["actions"][chosen]["regret"]
    result["truncated"] = bool(arrays["truncated"].any())
    return keep_back(result, model.config.trained_labels)


def taught_views(trained_labels: list[str] | None) -> tuple[str, ...]:
    """Views of utility that were learned: pairs teach the neutral one alone. A config that is silent is believed."""
    if trained_labels is None or "utility_views" in trained_labels:
        return VIEWS
    return ("neutral",) if "utility" in trained_labels else ()


def keep_back(result: dict[str, Any], trained_labels: list[str] | None) -> dict[str, Any]:
    """Null in place of what the model never saw a label of: a number there would be made up."""
    if trained_labels is None:
        return result
    for name, label in LABEL_BEHIND.items():
        if name in result and label not in trained_labels:
            result[name] = None
    experts = result["acceptability"]
    result["acceptability"] = {
        expert: value if f"acceptability/{expert}" in trained_labels else None for expert, value in experts.items()
    }
    untaught = [view for view in VIEWS if view not in taught_views(trained_labels)]
    for action in result.get("actions", ()):
        for quantity in ("utility", "regret"):
            action[quantity] |= dict.fromkeys(untaught)
    if "actions" in result and "neutral" in untaught:
        result["best"] = None
    result["present"] = {field: names for field, names in result["present"].items() if result[field] is not None}
    return result


def describe_text(arrays: Predictions, thresholds: dict[str, list[float]]) -> dict[str, Any]:
    """Emotions, those present, VAD with standard deviations, culture, regret: of the first record's text."""
    result: dict[str, Any] = {"polarity": named(POLARITIES, arrays["polarity"][0])}
    result |= {field: named(names, arrays[field][0]) for field, names in EMOTION_FIELDS.items()}
    result["present"] = {
        field: [
            name
            for name, probability, threshold in zip(
                names, arrays[field][0], thresholds.get(field, [DEFAULT_THRESHOLD] * len(names)), strict=True
            )
            if probability >= threshold
        ]
        for field, names in EMOTION_FIELDS.items()
    }
    deviations = [math.exp(value / 2) for value in arrays["vad_log_variance"][0]]
    result["vad"] = named(VAD, arrays["vad_mean"][0])
    result["vad_standard_deviation"] = named(VAD, deviations)
    result["culture"] = named(CULTURE, arrays["culture"][0])
    result["text_regret"] = named(VIEWS, arrays["text_regret"][0])
    return result


def describe_dialogue(arrays: Predictions, turns: list[str]) -> dict[str, Any]:
    """VAD of the first record's text given the turns before it, with standard deviations."""
    deviations = [math.exp(value / 2) for value in arrays["turn_vad_log_variance"][0]]
    return {
        "turns": turns,
        "turn_vad": named(VAD, arrays["turn_vad_mean"][0]),
        "turn_vad_standard_deviation": named(VAD, deviations),
    }


def describe_deed(arrays: Predictions) -> dict[str, Any]:
    """Circumstances, what each adds to utility, and the four experts: of the first record."""
    return {
        "circumstances": named(CIRCUMSTANCES, arrays["circumstances"][0]),
        "contributions": named(CIRCUMSTANCES, arrays["contributions"][0]),
        "utility": float(arrays["utility"][0]),
        "acceptability": named(ETHICS_EXPERTS, arrays["acceptability"][0]),
    }


def named(names: tuple[str, ...], values: np.ndarray | list[float]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
