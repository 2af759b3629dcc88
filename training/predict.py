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
      python -m training.predict --model DIR --similar INDEX "He found a wallet."

An emotion counts as present from its threshold in the model's config (0.5 where it has none). Valence, arousal and
dominance come with the model's own standard deviation. Utility is the sum of the seven contributions. Circumstances,
utility and acceptability are those of the chosen action, without --chosen those of the text. Each action's regret is
what having chosen it would cost against the best of them. With --similar the nearest texts of an index
(training/similar.py) are shown with their labels, which take no part in the prediction. What the model was never
trained on is null.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from preprocessing.errors import UserError, run
from redheart_hf import RedHeartForMultiTask
from training.loading import load_model
from training.predict_text import as_text
from training.prediction import make_record, predict


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


def similar_texts(
    folder: Path | str, model: RedHeartForMultiTask, tokenizer: PreTrainedTokenizerBase
) -> Callable[[str], list[dict[str, Any]]]:
    """What finds a text's nearest in the index, with the encoder that the model reads with."""
    from preprocessing.retrieval import load  # the extra retrieval, which others need not have
    from training.text_vectors import of_model

    index, vectors = load(Path(folder)), of_model(model, tokenizer)
    return lambda text: [asdict(near) for near in index.search(vectors([text]), vectors.encoder)[0]]


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
    parser.add_argument("--similar", type=Path, metavar="INDEX", help="show the nearest texts of an index")
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
    model, tokenizer = load_model(arguments.model, mode="dialogue" if arguments.turn else "inference")
    find = None if arguments.similar is None else similar_texts(arguments.similar, model, tokenizer)
    for text in texts:
        result = predict(model, tokenizer, text, arguments.action, arguments.chosen, arguments.turn)
        if find is not None:
            result["similar"] = find(text)
        if result["truncated"]:
            limit = f"the {model.config.max_length} tokens the model reads"
            print(f"note: {text[:40]!r} is longer than {limit}; the rest was cut off", file=sys.stderr)
        print(json.dumps(result, ensure_ascii=False) if arguments.json else as_text(result))


if __name__ == "__main__":
    run(main)
