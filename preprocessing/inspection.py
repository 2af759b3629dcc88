"""Prints what files hold before anything is trained on them.

In    sources on the command line, READER=PATH or READER=PATH@split.
Out   a table: records, groups and label coverage per source, rejected rows by reason, texts that sources share.
Run   `python -m preprocessing.readers goemotions=ekman_train.tsv emobank=emobank.csv@dev`
"""

import argparse
from collections import Counter
from pathlib import Path

from preprocessing.files import check_output
from preprocessing.overlap import find_overlaps
from preprocessing.readers import READERS, ReadResult, files_of, parse_source, read, write_rejected
from preprocessing.records import NULLABLE, RANGES, Record
from preprocessing.sources import refuse_repeated
from redheart_hf.labels import ETHICS_EXPERTS, VAD

LABELS = (*RANGES, "worse", "actions", "reason")


def inspect() -> None:
    arguments = _parser().parse_args()
    sources = [parse_source(argument) for argument in arguments.sources]
    refuse_repeated(sources)
    if arguments.rejected:
        check_output("--rejected", arguments.rejected, [file for source in sources for file in files_of(source)])
    results = [read(source) for source in sources]
    for result in results:
        print("\n".join(_describe(result)), end="\n\n")
    print(find_overlaps(record for result in results for record in result.records))
    if arguments.rejected:
        rejected = [item for result in results for item in result.rejected]
        write_rejected(arguments.rejected, rejected)
        print(f"\n{len(rejected):,} rejected rows written to {arguments.rejected}")


def _parser() -> argparse.ArgumentParser:
    forms = "\n".join(f"  {name:18} {reader.form}" for name, reader in READERS.items())
    parser = argparse.ArgumentParser(
        prog="python -m preprocessing.readers",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Read data files and print what they hold: records, labels, rejected rows, shared texts.",
        epilog=f"readers and the form of file each expects:\n{forms}\n\n"
        "${NAME} in a path is replaced by that environment variable (quote it from the shell).\n"
        "example: python -m preprocessing.readers scenarios=data/scenarios/train.jsonl\n"
        "The forms are explained in docs/data.md.",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="READER=PATH[@SPLIT]",
        help="one file and how to read it; @SPLIT takes only the rows of that split, for files that hold several",
    )
    parser.add_argument("--rejected", type=Path, metavar="PATH", help="write the rejected rows there, as JSON lines")
    return parser


def _describe(result: ReadResult) -> list[str]:
    records = result.records
    groups = len({record.group for record in records})
    lines = [f"{result.source}", f"  {len(records):,} records in {groups:,} groups, {len(result.rejected):,} rejected"]
    for name in LABELS:
        if filled := sum(getattr(record, name) is not None for record in records):
            lines.append(f"  {name:16} on {filled:,}{_item_note(name, records)}")
    return lines + result.reason_lines()


def _item_note(name: str, records: list[Record]) -> str:
    """Acceptability has four items of which a source may fill one, VAD three; said where not all are there."""
    if name not in NULLABLE:
        return ""
    items = {"acceptability": ETHICS_EXPERTS, "vad": VAD}[name]
    known = Counter(
        item
        for record in records
        for item, value in zip(items, getattr(record, name) or [], strict=False)
        if value is not None
    )
    if len(known) == len(items) and len(set(known.values())) == 1:
        return ""
    return " (" + ", ".join(f"{item}: {count:,}" for item, count in known.items()) + ")"
