"""Why a trained model answers as it does: words, experts, circumstances, alternatives, SURD.

In    --model DIR (the folder final/ of a run); a text, or "-" for stdin; maybe --action twice or more, and --chosen,
      the position (from 0) of the one that was; --target, the number to explain (joy, valence, utility,
      acceptability/justice, korean_emotions/기쁨, ...).
Out   for people by default, as one JSON object with --json; with --output also a page that any browser shows.
Run   python -m training.explain --model outputs/main/final "I never called her back." --target valence
      python -m training.explain --model outputs/main/final "면접에서 또 떨어졌다." --output why.html
      python -m training.explain --model outputs/main/final "He found a wallet." \\
          --action "Hand it in" --action "Keep the money" --chosen 1 --target utility --json

Words: integrated gradients (explain_attribution.py) from a text of masks to this one; with what no word accounts for,
they add up to the number that `training.predict` shows. Without --target it is the most probable basic emotion, else
valence. Ethics are those of the chosen action, without --chosen those of the text. They explain what this model
computes, not what is so. What the model was never taught is null, and `missing` says why. Words are those of one
sequence, read without the other actions: where a regret analyzer and two or more rounds of feedback let these into an
action's utility, `attribution` explains what it is without them. Needs captum.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from preprocessing.errors import UserError, run
from preprocessing.files import check_output
from redheart_hf import RedHeartForMultiTask
from redheart_hf.outputs import RedHeartOutput
from training.explain_attribution import attribute, load_captum
from training.explain_parts import NothingToShow, alternatives, expert_use, surd_terms, utility_parts
from training.explain_report import as_html
from training.explain_targets import Target, choose_target, find_target
from training.explain_text import as_text
from training.explain_words import Reading, parts_with_words, read
from training.inference import evaluation_mode
from training.loading import load_model
from training.predict import check_choice, read_stdin
from training.prediction import make_record, predict
from training.rewrite import write_whole

OF_ACTIONS = ("actions", "best", "chosen", "regret")


def explain(
    model: RedHeartForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    actions: list[str] | None = None,
    chosen: int | None = None,
    target: str | None = None,
) -> dict[str, Any]:
    """Everything there is to say about one answer, as JSON has it.

    See `as_text` and `as_html` for people. Raises UserError for a target that is unknown or was never trained.
    """
    load_captum()
    prediction = predict(model, tokenizer, text, actions, chosen)
    wanted, reason = choose_target(target, prediction, model.config.trained_labels)
    deed = None if chosen is None else prediction["actions"][chosen]["text"]
    readings = [read(model.config, tokenizer, prediction["text"], action, model.device) for action in (None, deed)]
    outputs = [output_for(model, reading) for reading in readings]
    of = ("the text", "the text" if chosen is None else f"action {chosen}")
    of_target = of[wanted.of_deed]
    result = {
        "text": prediction["text"],
        "target": {"name": wanted.full_name, "taken_because": reason, "scale": wanted.scale, "of": of_target},
        "attribution": describe_attribution(model, readings[wanted.of_deed], outputs[wanted.of_deed], wanted),
    }
    mixture = model.emotion_head.mixture
    result |= parts_or_reasons(
        {
            "experts": lambda: expert_use(outputs[0], mixture, model.config),
            "utility": lambda: utility_parts(prediction, of[1], model.config),
            "regret": lambda: alternatives(prediction, model.config),
            "surd": lambda: surd_terms(outputs[1], of[1], model.config),
        }
    )
    result["prediction"] = {name: value for name, value in prediction.items() if name not in OF_ACTIONS}
    return result


def parts_or_reasons(parts: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, Any]:
    """Each part, or null where there is nothing to show and under `missing` the reason."""
    result: dict[str, Any] = {"missing": {}}
    for name, part in parts.items():
        try:
            result[name] = part()
        except NothingToShow as why:
            result[name], result["missing"][name] = None, str(why)
    return result


def output_for(model: RedHeartForMultiTask, reading: Reading) -> RedHeartOutput:
    with evaluation_mode(model):
        return model(**reading.inputs)


def describe_attribution(
    model: RedHeartForMultiTask, reading: Reading, output: RedHeartOutput, target: Target
) -> dict[str, Any]:
    """Words with their numbers, and the account in which nothing is left out."""
    found = attribute(model, reading, target, output.emotion.router_load > 0)
    parts = parts_with_words(reading, found.tokens)
    return {
        "method": f"integrated gradients of the word embeddings, {found.points} points, captum {load_captum()[1]}",
        "statement": "value = baseline_value + sum_of_words + special_tokens + expert_choice - convergence_delta",
        "baseline": f"every token of the text is {reading.baseline_token}",
        "value": found.value,
        "baseline_value": found.baseline_value,
        "sum_of_words": sum(word["attribution"] for part in parts for word in part["words"]),
        "special_tokens": sum(
            number for place, number in zip(reading.places, found.tokens, strict=True) if place is None
        ),
        "expert_choice": found.expert_choice,
        "convergence_delta": found.convergence_delta,
        "complete": found.complete,
        "parts": parts,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.explain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model folder with its tokenizer")
    parser.add_argument("text", metavar="TEXT", help='the text; "-" reads it from stdin')
    parser.add_argument(
        "--action", action="append", default=[], metavar="TEXT", help="what could be done; two or more"
    )
    parser.add_argument("--chosen", type=int, metavar="N", help="position of the action that was chosen, from 0")
    parser.add_argument("--target", metavar="NAME", help="the number whose words are weighed (the likeliest emotion)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--output", type=Path, metavar="FILE.html", help="a page to be written")
    arguments = parser.parse_intermixed_args()
    check_choice(arguments.action, arguments.chosen)
    if arguments.target is not None:
        find_target(arguments.target)
    if arguments.output is not None:
        if arguments.output.suffix.lower() not in (".html", ".htm"):
            raise UserError(
                f"--output {arguments.output} must end in .html: the report is a page, print it from there"
            )
        check_output("--output", arguments.output, [arguments.model])
    return arguments


def main() -> None:
    arguments = parse_arguments()
    text = read_stdin() if arguments.text == "-" else arguments.text
    make_record(text, arguments.action, 0 if arguments.action else None)
    load_captum()
    model, tokenizer = load_model(arguments.model)
    result = explain(model, tokenizer, text, arguments.action, arguments.chosen, arguments.target)
    if result["prediction"]["truncated"]:
        limit = f"the {model.config.max_length} tokens the model reads"
        print(f"note: {text[:40]!r} is longer than {limit}; the rest was cut off", file=sys.stderr)
    if not result["attribution"]["complete"]:
        delta = result["attribution"]["convergence_delta"]
        print(f"note: the words' numbers are off by {delta:+.4f} in all; take them as rough", file=sys.stderr)
    if arguments.output is not None:
        write_whole(arguments.output, as_html(result))
        print(f"{arguments.output} written", file=sys.stderr)
    print(json.dumps(result, ensure_ascii=False) if arguments.json else as_text(result))


if __name__ == "__main__":
    run(main)
