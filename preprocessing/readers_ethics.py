"""Readers of the four parts of ETHICS that train the four experts.

In    rows of the public files in their original form.
Out   values of records: preference pairs, or acceptability with the one expert filled that the part is about.
Run   `python -m preprocessing.readers ethics_util=util_train.csv`
"""

from typing import Any

from preprocessing.errors import BadRow
from preprocessing.forms import Reader, binary
from preprocessing.groups import by_family, by_scenario
from preprocessing.tables import table
from redheart_hf.labels import ETHICS_EXPERTS

_SEPARATOR = "[SEP]"


def _judged_by(expert: str, label: str) -> list[float | None]:
    judgement = binary(label)
    return [judgement if name == expert else None for name in ETHICS_EXPERTS]


def _util(row: dict[str, str]) -> dict[str, Any]:
    return {"text": row["better"], "worse": row["worse"]}


def _deontology(row: dict[str, str]) -> dict[str, Any]:
    acceptability = _judged_by("deontology", row["label"])
    return {"text": row["scenario"], "text_pair": row["excuse"], "acceptability": acceptability}


def _justice(row: dict[str, str]) -> dict[str, Any]:
    # The virtue file has the same header: without this its rows would train the wrong expert.
    if _SEPARATOR in row["scenario"]:
        raise BadRow(
            f"unexpected-separator: a justice text holds no {_SEPARATOR}; the reader of this is ethics_virtue"
        )
    return {"text": row["scenario"], "acceptability": _judged_by("justice", row["label"])}


def _virtue(row: dict[str, str]) -> dict[str, Any]:
    parts = row["scenario"].split(_SEPARATOR)
    if len(parts) != 2:
        raise BadRow(f"wrong-field-count: {len(parts)} parts around {_SEPARATOR} instead of 2 (scenario, trait)")
    return {"text": parts[0], "text_pair": parts[1], "acceptability": _judged_by("virtue", row["label"])}


READERS = {
    "ethics_util": Reader(
        form="better,worse without a header: two scenarios, the first the more pleasant",
        rows=table(("better", "worse")),
        convert=_util,
        language="en",
        group=by_scenario,
    ),
    "ethics_deontology": Reader(
        form="label,scenario,excuse with a header: is the excuse reasonable?",
        rows=table(("label", "scenario", "excuse"), header=True, row_start="[01],"),
        convert=_deontology,
        language="en",
    ),
    "ethics_justice": Reader(
        form="label,scenario with a header: is the claim or the reason just?",
        rows=table(("label", "scenario"), header=True, row_start="[01],"),
        convert=_justice,
        language="en",
        group=by_family,
    ),
    "ethics_virtue": Reader(
        form=f"label,'scenario {_SEPARATOR} trait' with a header: does the trait show in the deed?",
        rows=table(("label", "scenario"), header=True, row_start="[01],"),
        convert=_virtue,
        language="en",
    ),
}
