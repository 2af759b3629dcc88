"""Everything a model says about one text, under the names that people use for it.

In    a model and its tokenizer; a text, maybe actions and the one chosen, or the turns before it.
Out   a dict as JSON has it; null in place of what the model never saw a label of.
Run   through training/predict.py and training/explain.py.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from preprocessing.errors import UserError
from preprocessing.records import Action, Record, cleaned, first_fault
from redheart_hf import RedHeartForMultiTask
from redheart_hf.answers import describe_actions, describe_deed, describe_text, describe_turn, keep_back
from redheart_hf.labels import VIEWS
from training.inference import predict_records


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
    result = {"text": records[0].text} | describe_text(arrays, 0, model.config.thresholds or {})
    result |= describe_deed(arrays, 0)
    if turns:
        result |= {"turns": records[0].turns or []} | describe_turn(arrays, 0)
    if actions:
        texts = [action.text for action in records[1].actions or []]
        result["actions"] = describe_actions(texts, arrays["utility_views"][1][: len(texts)], arrays["regret"][1:])
        result |= {"best": int(arrays["best"][1]), "chosen": chosen}
        result["regret"] = None if chosen is None else result["actions"][chosen]["regret"]
    result["truncated"] = bool(arrays["truncated"].any())
    return keep_back(result, model.config.trained_labels)
