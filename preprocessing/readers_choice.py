"""Readers of dilemmas and deeds: MoralChoice, the dilemmas of Scruples, Event2Mind.

In    rows of the public files in their original form.
Out   values of records: preference pairs where the source says which of two deeds is better, else the text alone.
Run   `python -m preprocessing.readers scruples_dilemmas=dev.scruples-dilemmas.jsonl`

These sources give two actions and no utilities, so they are not `actions` of a record. A pair is made only where the
annotations say which is better; where they do not, the row is set aside as `no-preference`, or gives its situation.
Being less ethical or breaking more rules is not the same as being less pleasant, which the pairs of ETHICS are about:
who trains utility on all of them mixes these questions.
"""

import json
from typing import Any

from preprocessing.errors import BadRow
from preprocessing.forms import Reader, held, one_of, whole
from preprocessing.groups import by_scenario
from preprocessing.tables import json_lines, table

RULES = (
    "death",
    "pain",
    "disable",
    "freedom",
    "pleasure",
    "deceive",
    "cheat",
    "break_promise",
    "break_law",
    "duty",
)
_BROKEN = ("Yes", "No", "No Agreement")
_AMBIGUITY = ("low", "high")
_SOURCES = "it_events|ngram|rocstory|spinn3r|idioms"


def _moralchoice(row: dict[str, str]) -> dict[str, Any]:
    broken = []
    for action in ("a1", "a2"):
        answers = {rule: one_of(row[f"{action}_{rule}"], _BROKEN, f"{action}_{rule}") for rule in RULES}
        broken.append([rule for rule, answer in answers.items() if answer == "Yes"])
    if one_of(row["ambiguity"], _AMBIGUITY, "ambiguity") == "high":
        return {"text": row["context"]}
    first, second = map(set, broken)
    if not (first < second or second < first):
        raise BadRow(
            f"no-preference: action 1 breaks {', '.join(broken[0]) or 'no rule'}, action 2 "
            f"{', '.join(broken[1]) or 'no rule'}; neither breaks all that the other does and more"
        )
    better, worse = (0, 1) if first < second else (1, 0)
    return {
        "text": f"{row['context']} {row[f'action{better + 1}']}",
        "worse": f"{row['context']} {row[f'action{worse + 1}']}",
        "reason": f"the worse breaks {', '.join(broken[worse])}; the better {', '.join(broken[better]) or 'no rule'}",
    }


def _dilemma(row: dict[str, Any]) -> dict[str, Any]:
    actions, label, gold, second = held(row, "actions", "gold_label", "gold_annotations", "human_perf_annotations")
    if not (isinstance(actions, list) and len(actions) == 2 and all(isinstance(item, dict) for item in actions)):
        raise BadRow(f"wrong-type: actions are {actions!r:.80}, not two objects")
    texts = [held(action, "description")[0] for action in actions]
    votes = [_votes(gold, "gold_annotations"), _votes(second, "human_perf_annotations")]
    worse = whole(label, 0, 1, "gold_label")
    better = 1 - worse
    if votes[0][worse] < votes[0][better]:
        raise BadRow(f"contradicting-labels: gold_label is {worse} but gold_annotations are {votes[0]}")
    counts = [sum(column) for column in zip(*votes, strict=True)]
    if counts[worse] <= counts[better]:
        raise BadRow(
            f"no-preference: {counts[0]} of {sum(counts)} call the first less ethical, {counts[1]} the second, and "
            f"the label says the {('first', 'second')[worse]}"
        )
    return {
        "text": texts[better],
        "worse": texts[worse],
        "reason": f"{counts[worse]} of {sum(counts)} annotators called the worse less ethical",
    }


def _votes(value: Any, name: str) -> list[int]:
    if not (isinstance(value, list) and len(value) == 2):
        raise BadRow(f"wrong-type: {name} are {value!r:.80}, not two counts")
    return [whole(count, 0, 1000, name) for count in value]


def _event(row: dict[str, str]) -> dict[str, Any]:
    for name in ("Xsent", "Osent"):
        if row[name]:
            whole(row[name].removesuffix(".0"), 1, 5, name)
    said = (
        ("PersonX wants", _phrases(row, "Xintent")),
        ("PersonX feels", _phrases(row, "Xemotion")),
        ("others feel", _phrases(row, "Otheremotion")),
    )
    reason = "; ".join(f"{who} {', '.join(phrases)}" for who, phrases in said if phrases)
    return {"text": row["Event"], "reason": reason or None}


def _phrases(row: dict[str, str], name: str) -> list[str]:
    """What an annotator wrote, a list in JSON; "none" is nothing."""
    try:
        values = json.loads(row[name])
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not-json: {name} is {row[name]!r:.40}: {error}") from None
    if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
        raise BadRow(f"wrong-type: {name} is {row[name]!r:.40}, not a list of phrases")
    return [" ".join(value.split()) for value in values if value.strip() not in ("", "none")]


READERS = {
    "moralchoice": Reader(
        form="MoralChoice's 27 columns with a header: a pair where ambiguity is low, else the situation",
        rows=table(
            (
                *("scenario_id", "ambiguity", "generation_type", "generation_rule", "context", "action1", "action2"),
                *(f"{action}_{rule}" for action in ("a1", "a2") for rule in RULES),
            ),
            header=True,
            row_start=r"[A-Z]_\d+,",
        ),
        convert=_moralchoice,
        language="en",
        group=by_scenario,
    ),
    "scruples_dilemmas": Reader(
        form="one JSON object a line: two actions and how many called each the less ethical; a pair",
        rows=json_lines,
        convert=_dilemma,
        language="en",
        group=by_scenario,
    ),
    "event2mind": Reader(
        form="Source,Event,Xintent,Xemotion,Otheremotion,Xsent,Osent with a header, perhaps in gzip; the event",
        rows=table(
            ("Source", "Event", "Xintent", "Xemotion", "Otheremotion", "Xsent", "Osent"),
            header=True,
            row_start=f"({_SOURCES}),",
        ),
        convert=_event,
        language="en",
    ),
}
