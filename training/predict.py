"""What a trained model says about a text: emotions, what is felt, the ethics of it, regret.

In    --model DIR (the folder final/ of a run); one or more texts, or "-" for one text from stdin; maybe --action twice
      or more, the things that could be done, and --chosen, the position (from 0) of the one that was; or --turn, what
      was said before in a dialogue whose last turn is the text.
Out   for people by default; with --json one JSON object a text, one text a line.
Run   python -m training.predict --model outputs/main/final "I never called her back."
      python -m training.predict --model outputs/main/final "면접에서 또 떨어졌다." --json
      python -m training.predict --model outputs/main/final "He found a wallet." \\
          --action "Hand it in" --action "Keep the money" --chosen 1
      python -m training.predict --model DIR "괜찮아." --turn "무슨 일 있어?" --turn "아니, 아무 일도."

An emotion counts as present from its threshold in the model's config (0.5 where it has none). Valence, arousal and
dominance come with the model's own standard deviation. Utility is the sum of the seven contributions. Circumstances,
utility and acceptability are those of the chosen action, without --chosen those of the text. Each action's regret is
what having chosen it would cost against the best of them. What the model was never trained on is null.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from preprocessing.errors import UserError, run
from preprocessing.records import Action, Record, cleaned, first_fault
from redheart_hf import RedHeartForMultiTask
from redheart_hf.labels import (
    BASIC_EMOTIONS,
    CIRCUMSTANCES,
    CULTURE,
    ETHICS_EXPERTS,
    FINE_EMOTIONS,
    KOREAN_EMOTIONS,
    POLARITIES,
    VAD,
    VIEWS,
)
from training.inference import Predictions, predict_records
from training.loading import load_model
from training.metrics import DEFAULT_THRESHOLD
from training.predict_text import as_text

EMOTION_FIELDS = {
    "basic_emotions": BASIC_EMOTIONS,
    "fine_emotions": FINE_EMOTIONS,
    "korean_emotions": KOREAN_EMOTIONS,
}

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


def read_stdin() -> str:
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"stdin is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}; convert it first, for "
            "example with iconv -f CP949 -t UTF-8"
        ) from error


def check_choice(actions: list[str], chosen: int | None) -> None:
    """Raises UserError when --action and --chosen do not name a choice."""
    if chosen is not None and not actions:
        raise UserError(f"--chosen {chosen} names an action, but there are none; give --action twice or more")
    if len(actions) == 1:
        raise UserError("there is one --action; a choice needs two or more")
    if chosen is not None and not 0 <= chosen < len(actions):
        raise UserError(f"--chosen {chosen} is not among the actions 0 to {len(actions) - 1}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model folder with its tokenizer")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help='texts; "-" is one text read from stdin')
    parser.add_argument(
        "--action", action="append", default=[], metavar="TEXT", help="what could be done; two or more"
    )
    parser.add_argument("--chosen", type=int, metavar="N", help="position of the action that was chosen, from 0")
    parser.add_argument(
        "--turn", action="append", default=[], metavar="TEXT", help="what was said before the text, the oldest first"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a text, one a line")
    arguments = parser.parse_intermixed_args()
    check_choice(arguments.action, arguments.chosen)
    if arguments.texts.count("-") > 1:
        raise UserError('"-" stands for stdin and can be read once, but is given more often')
    return arguments


def main() -> None:
    arguments = parse_arguments()
    texts = [read_stdin() if text == "-" else text for text in arguments.texts]
    for text in texts:
        make_record(text, arguments.action, 0 if arguments.action else None, arguments.turn)
    model, tokenizer = load_model(arguments.model)
    for text in texts:
        result = predict(model, tokenizer, text, arguments.action, arguments.chosen, arguments.turn)
        if result["truncated"]:
            limit = f"the {model.config.max_length} tokens the model reads"
            print(f"note: {text[:40]!r} is longer than {limit}; the rest was cut off", file=sys.stderr)
        print(json.dumps(result, ensure_ascii=False) if arguments.json else as_text(result))


if __name__ == "__main__":
    run(main)
