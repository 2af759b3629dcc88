"""Readers of Korean texts: reviews, norms of words, questions and answers, safety sets, a translation of GoEmotions.

In    rows of the public files in their original form; for the translation, GoEmotions itself beside it.
Out   values of records. Most of these sources have labels that are none of ours: their rows are texts without labels.
Run   `python -m preprocessing.readers va_kor=va_kor_clean.csv`

A label is taken over only where it says what our field means. How many stars a film got is a judgement of the film,
not the valence of a text; a topic (everyday, parting, love) is no emotion; whether a sentence is biased is none of the
four experts' questions. Such labels are read to see that the row is what it should be, and are not kept.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from preprocessing.cutters import json_array
from preprocessing.errors import BadRow, UserError
from preprocessing.forms import Reader, held, multi_hot, number, one_of, parents, whole
from preprocessing.readers_emotion import READERS as EMOTION_READERS
from preprocessing.sources import Source, Takes
from preprocessing.tables import Row, RowCutter, read_lines, table
from redheart_hf.labels import BASIC_EMOTIONS, FINE_EMOTIONS, FINE_TO_BASIC

_SAFETY = ("safe", "unsafe", "undecided")
_QUESTIONS = ("contentious", "ethical", "predictive", "etc", None)
_VA_END = 3.0
"""All norms in the file are scaled to -3 ... 3."""


def _nsmc(row: dict[str, str]) -> dict[str, Any]:
    whole(row["rating"], 1, 10, "rating")
    return {"text": row["text"]}


def _va_kor(row: dict[str, str]) -> dict[str, Any]:
    # Dominance was not asked for.
    return {"text": row["word"], "vad": [number(row["V"]) / _VA_END, number(row["A"]) / _VA_END, None]}


def _songys(row: dict[str, str]) -> dict[str, Any]:
    # One of the published rows has spaces after its label.
    one_of(row["label"].strip(), ("0", "1", "2"), "label")
    return {"text": row["A"], "turns": [row["Q"]]}


def _kosbi(row: dict[str, Any]) -> dict[str, Any]:
    context, sentence, *labels = held(row, "context", "sentence", "context_label", "sentence_label")
    for label in labels:
        one_of(label, _SAFETY, "label")
    return {"text": context, "text_pair": sentence}


def _square(row: dict[str, Any]) -> dict[str, Any]:
    question, sensitive, category = held(row, "question", "sensitive?", "category")
    whole(sensitive, 0, 1, "sensitive?")
    if category not in _QUESTIONS:
        raise BadRow(f"unknown-label: category is {category!r:.40}, known are {_QUESTIONS}")
    return {"text": question}


def _translated(row: dict[str, str]) -> dict[str, Any]:
    fine = multi_hot(row["labels"], FINE_EMOTIONS)
    comment = row.get("comment", "").strip()
    return {
        "text": row["text"],
        "fine_emotions": fine,
        "basic_emotions": parents(fine, FINE_TO_BASIC, BASIC_EMOTIONS),
        "same_as": [f"goemotions:{comment}"] if comment else [],
    }


def _beside_original(source: Source) -> Reader:
    """The reader of a file whose rows get the comment ids of the original's rows, line by line."""
    original = _original_of(source)
    return replace(_TRANSLATION, rows=_with_comments(original), beside=(original,))


def _original_of(source: Source) -> Path:
    given = dict(source.options).get("original")
    name, folder = f"original_{source.path.name}", source.path.parent
    places = [Path(given)] if given else [folder / name, folder.parent / "goemotions" / name]
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"{source.path} is a translation without comment ids, which GoEmotions has: without them a text and its "
        f"translation would not be kept on one side of train and dev. None of {', '.join(map(str, places))} is there: "
        f"put it there, or name it, as in {source.reader}={source.path}@original=PATH"
    )


def _with_comments(original: Path) -> RowCutter:
    def cut(lines: list[str]) -> Iterator[Row]:
        theirs = read_lines(original)
        if len(theirs) != len(lines):
            raise UserError(
                f"it has {len(lines):,} lines but its original {original} has {len(theirs):,}; give its own"
            )
        # Neither file has a row of several lines, so that lines of both are the same comment.
        comments = {row.number: row.fields for row in EMOTION_READERS["goemotions_fine"].rows(theirs)}
        for row in _TRANSLATION.rows(lines):
            comment = comments.get(row.number)
            if isinstance(row.fields, dict):
                if not isinstance(comment, dict):
                    raise UserError(
                        f"line {row.number} of its original {original} is no row of GoEmotions; give its own"
                    )
                if comment["labels"] != row.fields["labels"]:
                    raise UserError(
                        f"line {row.number} has labels {row.fields['labels']!r:.40}, but the same line of its "
                        f"original {original} has {comment['labels']!r:.40}: one is no translation of the other"
                    )
                row.fields["comment"] = comment["comment"]
            yield row

    return cut


_TRANSLATION = Reader(
    form="text TAB label numbers (0-27): GoEmotions in Korean by machine; @original=PATH unless original_* is near",
    rows=table(("text", "labels"), delimiter="\t", quoted=False),
    convert=_translated,
    language="ko",
    labels=FINE_EMOTIONS,
    takes=Takes(options=("original",)),
    bind=_beside_original,
)

READERS = {
    "nsmc": Reader(
        form="review_id TAB movie_id TAB rating (1-10) TAB text with a header; the text alone",
        rows=table(("review_id", "movie_id", "rating", "text"), delimiter="\t", header=True, quoted=False),
        convert=_nsmc,
        language="ko",
    ),
    "va_kor": Reader(
        form="source,word,V,A with a header; -3 to 3 becomes -1 to 1; valence and arousal of a word, no dominance",
        rows=table(("source", "word", "V", "A"), header=True, row_start=r"[A-Z]+\d{4},"),
        convert=_va_kor,
        language="ko",
    ),
    "songys_chatbot": Reader(
        form="Q,A,label with a header: what was said and what is answered; the turns alone",
        rows=table(("Q", "A", "label"), header=True),
        convert=_songys,
        language="ko",
    ),
    "kosbi": Reader(
        form="a JSON array of objects with context and sentence (KoSBi); the texts alone",
        rows=json_array,
        convert=_kosbi,
        language="ko",
    ),
    "square": Reader(
        form="a JSON array of objects with question (SQuARe); the texts alone",
        rows=json_array,
        convert=_square,
        language="ko",
    ),
    "goemotions_ko_mt": _TRANSLATION,
}
