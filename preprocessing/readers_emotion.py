"""Readers of emotion data: GoEmotions in seven and in 28 labels, EmoBank, KOTE.

In    rows of the public files in their original form.
Out   values of records: multi-hot emotions, valence, arousal and dominance.
Run   `python -m preprocessing.readers goemotions=ekman_dev.tsv`
"""

from typing import Any

from preprocessing.errors import BadRow
from preprocessing.forms import Reader, multi_hot, number, parents
from preprocessing.tables import table
from redheart_hf.labels import BASIC_EMOTIONS, FINE_EMOTIONS, FINE_TO_BASIC, KOREAN_EMOTIONS, KOREAN_TO_BASIC

_EMOBANK_SPLITS = ("train", "dev", "test")


def _comment(corpus: str, row: dict[str, str]) -> list[str]:
    """A key of the comment. Rows without its id have none, or all of them would count as one text."""
    return [f"{corpus}:{row['comment']}"] if row["comment"].strip() else []


def _goemotions(row: dict[str, str]) -> dict[str, Any]:
    return {
        "text": row["text"],
        "basic_emotions": multi_hot(row["labels"], BASIC_EMOTIONS),
        "same_as": _comment("goemotions", row),
    }


def _goemotions_fine(row: dict[str, str]) -> dict[str, Any]:
    fine = multi_hot(row["labels"], FINE_EMOTIONS)
    return {
        "text": row["text"],
        "fine_emotions": fine,
        "basic_emotions": parents(fine, FINE_TO_BASIC, BASIC_EMOTIONS),
        "same_as": _comment("goemotions", row),
    }


def _kote(row: dict[str, str]) -> dict[str, Any]:
    korean = multi_hot(row["labels"], KOREAN_EMOTIONS)
    return {
        "text": row["text"],
        "korean_emotions": korean,
        "basic_emotions": parents(korean, KOREAN_TO_BASIC, BASIC_EMOTIONS),
        "same_as": _comment("kote", row),
    }


def _emobank(row: dict[str, str]) -> dict[str, Any]:
    if row["split"] not in _EMOBANK_SPLITS:
        raise BadRow(f"unknown-split: {row['split']!r:.40}, known are {', '.join(_EMOBANK_SPLITS)}")
    # Annotators judged on five points, the middle one neutral.
    vad = [(number(row[name]) - 3) / 2 for name in "VAD"]
    return {"text": row["text"], "vad": vad, "split": row["split"]}


_numbered = table(("text", "labels", "comment"), delimiter="\t")

READERS = {
    "goemotions": Reader(
        form="text TAB label numbers (0-6) TAB comment id; GoEmotions grouped into seven",
        rows=_numbered,
        convert=_goemotions,
        language="en",
        labels=BASIC_EMOTIONS,
    ),
    "goemotions_fine": Reader(
        form="text TAB label numbers (0-27) TAB comment id; the 28 of GoEmotions, and the seven by their parents",
        rows=_numbered,
        convert=_goemotions_fine,
        language="en",
        labels=FINE_EMOTIONS,
    ),
    "emobank": Reader(
        form="id,split,V,A,D,text with a header; 1 to 5 becomes -1 to 1",
        rows=table(("id", "split", "V", "A", "D", "text"), header=True, row_start=r"[^,]+,(train|dev|test),"),
        convert=_emobank,
        language="en",
        splits=_EMOBANK_SPLITS,
    ),
    "kote": Reader(
        form="comment id TAB text TAB label numbers (0-43); the 44 of KOTE, and the seven by our mapping",
        rows=table(("comment", "text", "labels"), delimiter="\t", row_start=r"\d+\t"),
        convert=_kote,
        language="ko",
        labels=KOREAN_EMOTIONS,
    ),
}
