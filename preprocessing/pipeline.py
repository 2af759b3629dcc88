"""One job: texts with few labels go in, a data set ready for training comes out.

In    sources, a language model's folder if labels are to be filled in; recipe or options (preprocessing/settings.py).
Out   OUTPUT with Parquet shards, README.md, rejected.jsonl and manifest.json; OUTPUT.answers beside it.
Run   `python -m preprocessing.pipeline --data scenarios=data/scenarios/train.jsonl --output outputs/mine`

read → filter → retrieve → enrich → merge → balance → encode, in this order, below. A process that is killed at any
moment leaves what it did to the next; two that run at a time share the rows between them. Either way the data set has
the same bytes as from one process that was left alone.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from preprocessing.answers import check_answers
from preprocessing.asking import Asker, ask_all
from preprocessing.card import card
from preprocessing.errors import UserError, run
from preprocessing.folders import file_digest, write_folder
from preprocessing.origin_weights import LABELS
from preprocessing.origins import in_short, taken_from
from preprocessing.prepared import Prepared, check_counts, found, prepare
from preprocessing.readers import files_of, parse_source
from preprocessing.readers_enriched import KIND
from preprocessing.records import Record, first_fault
from preprocessing.sample import Sample
from preprocessing.settings import JobConfig, parse_config
from preprocessing.shards import ShardWriter
from preprocessing.sources import refuse_repeated
from preprocessing.step_table import balance_of, steps_of
from preprocessing.steps import Step
from preprocessing.workplace import Workplace

_FORM = 2
"""Raised by hand when the same sources and settings would give other rows."""


def ask_here(prepared: Prepared, asker: Asker, place: Workplace) -> None:
    with place.claims() as claims:
        ask_all(prepared, asker, claims)


def run_job(config: JobConfig, ask: Callable[[Prepared, Asker, Workplace], None] = ask_here) -> None:
    """Do the job, or what is left of it; when it returns the data set is whole.

    `ask` sees to it that every prepared row is answered: in this process, or as preprocessing/scale_out.py does.
    """
    check_sources(config)
    steps = steps_of(config)
    if config.enrich is None:
        make(config, steps, None)
        return
    from preprocessing.questions import open_asker

    asker = open_asker(config)
    try:
        make(config, steps, asker, ask)
    finally:
        asker.cache.close()


def make(
    config: JobConfig,
    steps: list[Step],
    asker: Asker | None,
    ask: Callable[[Prepared, Asker, Workplace], None] = ask_here,
) -> None:
    made_of = [getattr(step, "made_of", None) for step in steps]
    rows_of = fingerprint(_FORM, sources_of(config), config.step_settings(), made_of)
    whole = fingerprint(rows_of, config.deciding(), asker and asker.facts)
    place = Workplace(Path(config.output))
    said = f"{config.output} is finished, and was made with these settings"
    if place.finished(whole, config.overwrite) and not place.folder.exists():
        print(said)
        return
    with place:  # also where a kill has left some of the work behind a data set that is whole: it is cleared away
        with place.alone("another process reads the sources; waiting for it"):
            place.join(whole)
            # Whoever was waited for may have been at the end of the job, not at its beginning.
            if place.finished(whole, config.overwrite):
                place.leave()
                print(said)
                return
            prepared = found(place.prepared, rows_of)
            if prepared is None:
                prepared = prepare(place.prepared, config.data, steps, rows_of, sample_of(config))
        if asker is not None:
            ask(prepared, asker, place)
        with place.alone("another process writes the data set; waiting for it"):
            if not place.finished(whole, config.overwrite):
                publish(place.output, config, prepared, asker, whole)
            place.leave()
    print(f"{config.output}: {prepared.rows:,} rows; README.md in it says what they are")


def publish(output: Path, config: JobConfig, prepared: Prepared, asker: Asker | None, whole: str) -> None:
    """Write the data set from what was prepared and answered. Raises RuntimeError where a row is unaccounted for."""
    facts: dict[str, Any] = {
        "kind": KIND,
        "fingerprint": whole,
        "settings": config.deciding(),
        "read": prepared.facts["read"],
        "steps": prepared.facts["steps"],
        "model": asker and asker.facts,
        "unreliable": asker.facts["unreliable"] if asker else [],
    }

    balance = balance_of(config)

    def write(staging: Path) -> None:
        tally = Tally()
        writer = ShardWriter(staging / "data", config.rows_per_shard)
        records: Iterator[Any] = parsed(prepared.records(), asker)
        if balance is not None:
            records = balance(records)
        for record in tally.of(records):
            writer.write(record)
        writer.close()
        rejected = write_counted(staging / "rejected.jsonl", prepared.rejected())
        facts.update(tally.facts(), rows=writer.rows, rows_rejected=rejected)
        facts["balance"] = [asdict(line) for line in balance.table] if balance is not None else None
        check_sums(facts)
        (staging / "README.md").write_text(card(facts), encoding="utf-8")

    write_folder(output, write, facts)


def parsed(records: Iterable[Record], asker: Asker | None) -> Iterator[Record]:
    """The records with their answers. An answer that would make a record wrong is a fault of the program."""
    for record in records:
        filled = record if asker is None else asker.filled(record)
        if filled is None:
            raise RuntimeError(f"{record.id} was asked about, and its answers are gone: was their file removed?")
        if fault := first_fault(filled):
            raise RuntimeError(f"{record.id} with its answers: {fault}")
        yield filled


class Tally:
    """Counts records as they pass: what the card says of them."""

    def __init__(self) -> None:
        self.labels: dict[str, Counter[str]] = {label: Counter() for label in LABELS}
        self.languages: Counter[str] = Counter()
        self.readers: set[str] = set()

    def of(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            self.languages[record.language] += 1
            self.readers.update((record.reader, *(reader for _, reader in taken_from(record.origins))))
            for label, counts in self.labels.items():
                if getattr(record, label) is not None:
                    counts[in_short(record.origins.get(label, "human"))] += 1
            yield record

    def facts(self) -> dict[str, Any]:
        return {
            "labels": {label: dict(sorted(counts.items())) for label, counts in self.labels.items()},
            "languages": dict(sorted(self.languages.items())),
            "readers": sorted(self.readers),
        }


def check_sums(facts: dict[str, Any]) -> None:
    """read = written + rejected, over the whole job; raises RuntimeError otherwise, and nothing is published."""
    check_counts(facts)
    read = sum(item["records"] + sum(item["rejected"].values()) for item in facts["read"].values())
    facts["rows_read"] = read
    if read != facts["rows"] + facts["rows_rejected"]:
        raise RuntimeError(f"{read} rows read are not {facts['rows']} written and {facts['rows_rejected']} rejected")


def sample_of(config: JobConfig) -> Sample | None:
    return None if config.sample_rows is None else Sample(config.sample_rows, config.seed)


def write_counted(path: Path, lines: Iterable[str]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count


def check_sources(config: JobConfig) -> None:
    """Raises UserError for sources or answers that do not serve, before anything is loaded or written."""
    sources = [parse_source(argument) for argument in config.data]
    refuse_repeated(sources)
    output = Path(config.output).resolve()
    for source in [*sources, *map(parse_source, config.retrieve_from)]:
        if source.path.exists() and output in (source.path.resolve(), *source.path.resolve().parents):
            raise UserError(f"{source} lies in the output {config.output}; name another --output")
    if config.answers is not None and output in Path(config.answers).resolve().parents:
        raise UserError(
            f"answers {config.answers} lies in the output, which is replaced as a whole; name another place"
        )
    if config.enrich is not None:
        check_answers(config.answers_file())


def sources_of(config: JobConfig) -> list[Any]:
    """What tells the sources' content: of each file its size and hash, of what is elsewhere its name."""
    described = []
    for argument in [*config.data, *config.retrieve_from]:
        named = [file for path in files_of(parse_source(argument)) for file in _files_in(path)]
        described.append([argument, [file_digest(file) for file in named]])
    return described


def _files_in(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path] * path.is_file()


def fingerprint(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def main() -> None:
    run_job(parse_config(sys.argv[1:]))


if __name__ == "__main__":
    run(main)
