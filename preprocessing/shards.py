"""Records as Parquet, and back: the form in which a finished data set lies on the disk.

In    records; or a folder that a preprocessing job has written.
Out   data/train-00000-of-00003.parquet ...; the same records.
Run   `python -c "from preprocessing.shards import SCHEMA; print(SCHEMA)"`

Every column has its type whether or not a record has a value, so that all shards agree and `datasets.load_dataset`
reads them as one. The bytes follow from the records alone: no date, no name of a machine.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.origin_weights import LABELS
from preprocessing.records import RANGES, Record

GROUP_ROWS = 2_000
"""Rows that are in memory at a time, and a row group of the file."""
_ACTION = pa.struct([("text", pa.string()), ("utility", pa.list_(pa.float64()))])
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "reader", "language", "text", "text_pair", "worse")),
        ("turns", pa.list_(pa.string())),
        *((name, pa.list_(pa.float64())) for name in RANGES),
        ("actions", pa.list_(_ACTION)),
        ("chosen", pa.int64()),
        ("reason", pa.string()),
        ("source", pa.string()),
        ("row", pa.int64()),
        ("split", pa.string()),
        ("same_as", pa.list_(pa.string())),
        ("group", pa.string()),
        ("weight", pa.float64()),
        ("origins", pa.struct([(name, pa.string()) for name in LABELS])),
        ("confidence", pa.struct([(name, pa.float64()) for name in LABELS])),
    ]
)


class ShardWriter:
    """Writes `folder`/train-*.parquet with `rows_per_shard` records each, the last one with what is left."""

    def __init__(self, folder: Path, rows_per_shard: int):
        self.folder, self.rows_per_shard = folder, rows_per_shard
        self.rows = 0
        self._waiting: list[dict[str, Any]] = []
        self._file: pq.ParquetWriter | None = None
        self._paths: list[Path] = []
        folder.mkdir(parents=True)

    def write(self, record: Record) -> None:
        self._waiting.append(_row(record))
        self.rows += 1
        ends = self.rows % self.rows_per_shard == 0
        if ends or len(self._waiting) == GROUP_ROWS:
            self._flush()
        if ends:
            self._end_shard()

    def close(self) -> None:
        """Write what waits, and give the files their names, which tell how many there are."""
        self._flush()
        self._end_shard()
        for number, path in enumerate(self._paths):
            path.rename(self.folder / f"train-{number:05d}-of-{len(self._paths):05d}.parquet")

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._file is None:
            self._paths.append(self.folder / f"part-{len(self._paths):05d}")
            self._file = pq.ParquetWriter(self._paths[-1], SCHEMA, compression="zstd")
        self._file.write_table(pa.Table.from_pylist(self._waiting, SCHEMA))
        self._waiting = []

    def _end_shard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def shards_in(folder: Path) -> list[Path]:
    return sorted((folder / "data").glob("train-*.parquet"))


def rows_in(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Rows as `Record.to_dict` gives them, a row group in memory at a time."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(GROUP_ROWS):
                yield from map(_plain, batch.to_pylist())


def lines_of(records: Iterable[Record]) -> Iterator[str]:
    """JSON, one record a line, as preprocessing jobs keep them between their steps."""
    return (json.dumps(record.to_dict(), ensure_ascii=False) for record in records)


def record_of(line: str) -> Record:
    return Record.from_dict(json.loads(line))


def _row(record: Record) -> dict[str, Any]:
    return asdict(record)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("origins", "confidence"):
        row[name] = {label: value for label, value in (row[name] or {}).items() if value is not None}
    return {name: value for name, value in row.items() if value not in (None, [], {})}
