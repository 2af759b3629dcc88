"""What a job holds between reading and writing: the rows that passed the filters, in pieces on the disk.

In    sources, and the steps they go through.
Out   `Prepared`: parts of JSON lines in the order of the input, rejected rows by step, counts.
Run   through preprocessing/pipeline.py

Made once, in one go, and sealed: a kill before that means reading again, which takes minutes where asking a language
model takes the night. Memory: one source as its reader gives it, and beyond that what the steps hold.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from preprocessing.errors import UserError
from preprocessing.files import write_lines
from preprocessing.folders import verify, write_folder
from preprocessing.readers import Rejected, parse_source, read
from preprocessing.records import Record
from preprocessing.sample import Sample
from preprocessing.shards import lines_of, record_of
from preprocessing.steps import Step

PART_ROWS = 4_096
"""Rows of one part, which is held in memory at a time."""
READ = "read"


@dataclass(frozen=True)
class Prepared:
    folder: Path
    facts: dict[str, Any]
    """`rows`; `read`: source -> records and rejected by reason; `steps`: name, in, out, set_aside by reason."""

    @property
    def rows(self) -> int:
        return int(self.facts["rows"])

    def part(self, number: int) -> list[Record]:
        with (self.folder / f"part-{number:05d}.jsonl").open(encoding="utf-8") as file:
            return [record_of(line) for line in file]

    @property
    def parts(self) -> range:
        return range(-(-self.rows // PART_ROWS))

    def records(self) -> Iterator[Record]:
        for number in self.parts:
            yield from self.part(number)

    def rejected(self) -> Iterator[str]:
        """Lines of rejected.jsonl: what the readers refused, then what each step set aside."""
        for path in sorted(self.folder.glob("rejected-*.jsonl")):
            with path.open(encoding="utf-8") as file:
                yield from (line.rstrip("\n") for line in file)


def found(folder: Path, fingerprint: str) -> Prepared | None:
    """What an earlier process sealed there for the same sources and steps; None where there is nothing, or other."""
    if not folder.is_dir():
        return None
    try:
        facts = verify(folder, what="preparation")
    except UserError:  # damaged: it is made again from the sources, and nothing is lost
        return None
    return Prepared(folder, facts) if facts["fingerprint"] == fingerprint else None


def prepare(
    folder: Path, sources: Sequence[str], steps: Sequence[Step], fingerprint: str, sample: Sample | None = None
) -> Prepared:
    """Read everything, or a sample of each source, send it through the steps, and seal what comes out.

    Raises UserError if nothing does.
    """
    facts: dict[str, Any] = {"fingerprint": fingerprint, "read": {}, "steps": []}

    def write(staging: Path) -> None:
        with ExitStack() as files:
            names = [READ, *(step.name for step in steps)]
            bins = [
                files.enter_context((staging / f"rejected-{number:02d}-{name}.jsonl").open("w", encoding="utf-8"))
                for number, name in enumerate(names)
            ]
            records: Iterator[Record] = _read(sources, sample, bins[0], facts["read"])
            for step, file in zip(steps, bins[1:], strict=True):
                facts["steps"].append(counts := {"name": step.name, "in": 0, "out": 0, "set_aside": {}})
                records = _through(step, records, file, counts)
            facts["rows"] = _write_parts(staging, records)
        for step, counts in zip(steps, facts["steps"], strict=True):
            counts["notes"] = dict(getattr(step, "counts", {}))
        check_counts(facts)

    write_folder(folder, write, facts)
    return Prepared(folder, facts)


def check_counts(facts: dict[str, Any]) -> None:
    """Every row that was read is there or was set aside with a reason; raises RuntimeError where one is missing."""
    rows = sum(source["records"] for source in facts["read"].values())
    for step in facts["steps"]:
        if not step["in"] == rows == step["out"] + sum(step["set_aside"].values()):
            raise RuntimeError(f"step {step['name']} was to get {rows} rows and accounts for {step}")
        rows = step["out"]
    if rows != facts["rows"]:
        raise RuntimeError(f"{rows} rows passed the last step, {facts['rows']} were written")


def _read(sources: Sequence[str], sample: Sample | None, bin_: IO[str], counts: dict[str, Any]) -> Iterator[Record]:
    for argument in sources:
        result = read(parse_source(argument))
        rows, others = (result.records, []) if sample is None else sample(result.records)
        reasons = result.reasons + Counter(item.reason for item in others)
        counts[argument] = {
            "reader": result.source.reader,
            "records": len(rows),
            "rejected": dict(sorted(reasons.items())),
        }
        bin_.writelines(_line(item) for item in [*result.rejected, *others])
        rows, result, others = rows[::-1], None, []  # type: ignore[assignment]
        while rows:
            yield rows.pop()


def _through(step: Step, records: Iterable[Record], bin_: IO[str], counts: dict[str, Any]) -> Iterator[Record]:
    reasons: Counter[str] = Counter()

    def counted() -> Iterator[Record]:
        for record in records:
            counts["in"] += 1
            yield record

    for item in step(counted()):
        if isinstance(item, Rejected):
            reasons[item.reason] += 1
            bin_.write(_line(item, f"{step.name}: "))
        else:
            counts["out"] += 1
            yield item
    counts["set_aside"] = dict(sorted(reasons.items()))


def _write_parts(staging: Path, records: Iterator[Record]) -> int:
    rows = 0
    part: list[Record] = []
    for record in records:
        part.append(record)
        rows += 1
        if len(part) == PART_ROWS:
            _write_part(staging, rows, part)
            part = []
    if part:
        _write_part(staging, rows, part)
    if not rows:
        raise UserError("no row is left after the filters; --help lists the settings of the filters")
    return rows


def _write_part(staging: Path, rows: int, part: list[Record]) -> None:
    write_lines(staging / f"part-{(rows - 1) // PART_ROWS:05d}.jsonl", lines_of(part))


def _line(item: Rejected, step: str = "") -> str:
    values = asdict(item)
    values["reason"] = step + values["reason"]
    text = json.dumps(values, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
