"""Records that wait on the disk for a step that must have seen all of them before it can judge the first.

In    records, one after another.
Out   the same records, in their order, as often as wanted; a text of each by its number.
Run   through preprocessing/near_duplicates.py and preprocessing/balance.py

The file lies in the folder for temporary files (TMPDIR) and has no name: it is gone with the process, however that
ends. In memory stay 8 bytes a record.
"""

import json
import os
import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import fields
from types import TracebackType

from preprocessing.records import Action, Record

_BLOCK = 2**20
_ENCODE = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
_FIELDS = tuple(item.name for item in fields(Record))


class Spool:
    """Open until closed; `with Spool() as spool` does it."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=_BLOCK)  # noqa: SIM115 - closed by __exit__
        self._starts = array("Q", [0])

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, record: Record) -> None:
        values = {name: value for name in _FIELDS if (value := getattr(record, name)) is not None}
        if record.actions is not None:
            values["actions"] = [(action.text, action.utility) for action in record.actions]
        line = _ENCODE(values).encode("utf-8", "surrogatepass") + b"\n"
        self._file.write(line)
        self._starts.append(self._starts[-1] + len(line))

    def __getitem__(self, number: int) -> Record:
        """Record `number`, from 0."""
        self._file.flush()
        start, end = self._starts[number], self._starts[number + 1]
        return _record(os.pread(self._file.fileno(), end - start, start))

    def __iter__(self) -> Iterator[Record]:
        """From the first on; others may be asked for in between."""
        self._file.flush()
        first, last = 0, 0
        while first < len(self):
            # As many as a block holds, one at least.
            while last < len(self) and (last == first or self._starts[last + 1] - self._starts[first] <= _BLOCK):
                last += 1
            start, end = self._starts[first], self._starts[last]
            yield from map(_record, os.pread(self._file.fileno(), end - start, start).splitlines())
            first = last


def _record(line: bytes) -> Record:
    values = json.loads(line.decode("utf-8", "surrogatepass"))
    if (actions := values.get("actions")) is not None:
        values["actions"] = [Action(text=text, utility=utility) for text, utility in actions]
    return Record(**values)
