"""Loads what the `datasets` library loads: a name on the Hub, a folder, a Parquet or Arrow file.

In    a source of the reader `dataset`, and the columns that may be wanted.
Out   rows, with label numbers turned into the names that the data set gives them.
Run   `python -m preprocessing.readers dataset=folder@train@text=review@language=en`

No code of a data set is run: `trust_remote_code` is never set. The library copies what it loads to its cache
(HF_DATASETS_CACHE), from where it is read row by row; HF_HUB_OFFLINE=1 keeps it from the network.
"""

from collections.abc import Callable, Iterator
from typing import Any

from preprocessing.errors import UserError
from preprocessing.sources import Source
from preprocessing.tables import Row

_FILES = {".parquet": "parquet", ".arrow": "arrow"}
_SAVED = ("state.json", "dataset_dict.json")


def dataset_rows(source: Source, wanted: set[str], check: Callable[[list[str]], None]) -> Iterator[Row]:
    """`check` raises UserError for columns that do not serve. Rows are numbered from 1 within their split."""
    data = _split_of(source, _loaded(source))
    check(data.column_names)
    data = data.select_columns([name for name in data.column_names if name in wanted])
    names = {name: found for name, kind in data.features.items() if (found := _class_names(kind))}
    for number, row in enumerate(data, start=1):
        fields = {name: _named(value, names[name]) if name in names else value for name, value in row.items()}
        yield Row(number, str(fields)[:400], fields)


def _loaded(source: Source) -> Any:
    import datasets  # takes a second, which other readers need not wait

    path, config = source.path, dict(source.options).get("config")
    try:
        if path.is_file():
            if path.suffix not in _FILES:
                kinds = ", ".join(_FILES)
                raise UserError(
                    f"{path} is a file of another kind than {kinds}; readers csv, jsonl and text read those"
                )
            return datasets.load_dataset(_FILES[path.suffix], config, data_files=str(path))
        if any((path / name).is_file() for name in _SAVED):
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path), config)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"datasets cannot load it: {said}; give a name, a folder or a file that it loads") from error


def _split_of(source: Source, data: Any) -> Any:
    import datasets

    if not isinstance(data, datasets.DatasetDict):
        if source.split is not None:
            raise UserError(f"it holds no splits, so {source.split!r} is none of them; leave it away")
        return data
    held = ", ".join(f"{split}: {len(rows):,}" for split, rows in data.items())
    if source.split is None and len(data) != 1:
        raise UserError(f"it holds several splits ({held}); name one, as in {source.reader}={source.path}@SPLIT")
    split = source.split or next(iter(data))
    if split not in data:
        raise UserError(f"it holds no split {split!r}; it holds {held}")
    return data[split]


def _class_names(kind: Any) -> list[str] | None:
    """Names of a column of label numbers, or of lists of them."""
    inner = getattr(kind, "feature", kind)
    return list(inner.names) if type(inner).__name__ == "ClassLabel" else None


def _named(value: Any, names: list[str]) -> Any:
    """-1 stands for no label."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if value is not None and 0 <= value < len(names) else None
