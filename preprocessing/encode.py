"""Turns records into token ids once: an Arrow dataset with one row a record, cached under what produced it.

In    records and the tokenizer of the model that will read them.
Out   a `datasets.Dataset`: token ids, token types, how much was cut, and every label (None = absent).
Run   `python -c "from preprocessing.encode import FEATURES; print(FEATURES)"`

A record gives the sequences [text + text_pair]; a preference pair [better, worse]; a record with actions [text,
text + action 0, text + action 1, ...]; one with turns [text, oldest turn, ..., latest turn]. The second of two parts
is the tokenizer's second segment.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from preprocessing.errors import UserError
from preprocessing.records import RANGES, Record

_FORM = "2"
"""Raised by hand when the same records would be encoded otherwise: it makes caches of earlier code miss."""

FEATURES = Features(
    {
        "id": Value("string"),
        "reader": Value("string"),
        "language": Value("string"),
        "is_pair": Value("bool"),
        "sequences": List(List(Value("int32"))),
        "segments": List(List(Value("int32"))),
        "length": Value("int32"),
        "truncated": Value("int32"),
        **{name: List(Value("float32")) for name in RANGES},
        "utilities": List(List(Value("float32"))),
        "chosen": Value("int32"),
        "num_turns": Value("int32"),
    }
)

Part = tuple[str, str | None]


def encode(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    text_prefix: str = "",
    num_proc: int = 1,
    cache_dir: str | Path | None = None,
    anew: bool = False,
) -> Dataset:
    """Rows in the order of `records`. A second call with the same records and tokenizer reads the first one's file,
    unless it is to be made `anew`."""
    if not records:
        raise UserError("there are no records to encode; every source was empty or held out")
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if max_length <= special:
        raise UserError(f"max_length is {max_length}, but this tokenizer adds {special} tokens of its own; raise it")
    plain = [_plain(record) for record in records]
    arguments = {"tokenizer": tokenizer, "max_length": max_length, "text_prefix": text_prefix}
    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "redheart_hf")
    path = folder / f"encoded-{_fingerprint(plain, tokenizer, max_length, text_prefix)}"
    if anew:
        shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        try:
            return _loaded(path, len(records))
        except (OSError, ValueError, LookupError, TypeError) as error:  # cleaned away in part, or cut short
            print(f"{path} is damaged and is made anew: {error}", file=sys.stderr)
            shutil.rmtree(path)
    _save(_encoded(plain, arguments, num_proc), path)
    return _loaded(path, len(records))


def encode_in_chunks(
    records: Sequence[Record],
    rows: int | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    text_prefix: str = "",
    num_proc: int = 1,
    anew: bool = False,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """The same, `rows` records at a time, each lot in a file of its own, all of them mapped: what encoding takes does
    not grow with the data, and where some is added only the last lot is encoded anew. With None all at once."""
    settings = (tokenizer, max_length, text_prefix, num_proc, cache_dir, anew)
    if rows is None or len(records) <= rows:
        return encode(records, *settings)
    lots = [encode(records[start : start + rows], *settings) for start in range(0, len(records), rows)]
    whole = datasets.concatenate_datasets(lots)
    names = "".join(lot.info.description for lot in lots)
    whole.info.description = f"encoded-{hashlib.blake2b(names.encode(), digest_size=16).hexdigest()}-in-{rows}"
    return whole


def _loaded(path: Path, rows: int) -> Dataset:
    dataset = Dataset.load_from_disk(str(path))
    if len(dataset) != rows:
        raise ValueError(f"it has {len(dataset)} rows, not {rows}")
    dataset.info.description = path.name  # tells one content from another, as checkpoints do
    return dataset


def _encoded(plain: list[dict[str, Any]], arguments: dict[str, Any], num_proc: int) -> Dataset:
    labels = Features({name: kind for name, kind in FEATURES.items() if name in plain[0]})
    source = Dataset.from_list(plain, features=Features({**labels, "parts": List(List(Value("string")))}))
    return source.map(
        _encode_batch,
        batched=True,
        fn_kwargs=arguments,
        remove_columns=["parts"],
        features=FEATURES,
        num_proc=min(num_proc, len(plain)) if num_proc > 1 else None,
        load_from_cache_file=False,
        desc="Encoding",
    )


def _plain(record: Record) -> dict[str, Any]:
    """The columns that need no tokenizer, and the parts of text that do."""
    text = record.text
    if record.worse is not None:
        parts: list[Part] = [(text, None), (record.worse, None)]
    else:
        parts = [(text, record.text_pair), *((text, action.text) for action in record.actions or [])]
        parts += [(turn, None) for turn in record.turns or []]
    return {
        "id": record.id,
        "reader": record.reader,
        "language": record.language,
        "is_pair": record.worse is not None,
        "parts": [list(part) for part in parts],
        **{name: getattr(record, name) for name in RANGES},
        "utilities": record.actions and [action.utility for action in record.actions],
        "chosen": record.chosen,
        "num_turns": len(record.turns or []),
    }


def _encode_batch(
    batch: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int, text_prefix: str
) -> dict[str, list[Any]]:
    flat = [(text_prefix + text, second) for parts in batch["parts"] for text, second in parts]
    coded = iter(_tokenize(flat, tokenizer, max_length))
    rows = [[next(coded) for _ in parts] for parts in batch["parts"]]
    typed = "token_type_ids" in tokenizer.model_input_names
    return {
        "sequences": [[ids for ids, _, _ in row] for row in rows],
        "segments": [[types for _, types, _ in row] if typed else None for row in rows],
        "length": [max(len(ids) for ids, _, _ in row) for row in rows],
        "truncated": [sum(cut for _, _, cut in row) for row in rows],
    }


def _tokenize(
    parts: Sequence[Part], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[tuple[list[int], list[int] | None, bool]]:
    """Token ids, token types and whether something was cut, for every part.

    Everything is tokenized whole first, because a truncated encoding does not tell whether it was cut.
    """
    coded: dict[int, tuple[list[int], list[int] | None, bool]] = {}
    typed = "token_type_ids" in tokenizer.model_input_names
    positions = range(len(parts))
    for paired in (False, True):
        todo = [position for position in positions if (parts[position][1] is not None) == paired]
        for truncation in (False, True):
            if not todo:
                break
            firsts = [parts[position][0] for position in todo]
            seconds = [parts[position][1] or "" for position in todo] if paired else None
            found = tokenizer(
                firsts,
                seconds,
                truncation=truncation,
                max_length=max_length if truncation else None,
                return_attention_mask=False,
                return_token_type_ids=typed,
                verbose=False,
            )
            types = found["token_type_ids"] if typed else [None] * len(todo)
            coded.update(zip(todo, zip(found["input_ids"], types, [truncation] * len(todo), strict=True), strict=True))
            todo = [position for position in todo if len(coded[position][0]) > max_length]
    return [coded[position] for position in positions]


def _fingerprint(plain: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, *settings: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (_FORM, _tokenizer_content(tokenizer), settings, *plain):
        digest.update(json.dumps(part, ensure_ascii=True, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> Any:
    """What decides token ids; truncation and padding are left out, because calling a tokenizer changes them."""
    if not tokenizer.is_fast:
        raise UserError(f"{type(tokenizer).__name__} has no tokenizer.json; save it in the fast form first")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return [
        {key: value for key, value in content.items() if key not in ("truncation", "padding")},
        tokenizer.model_input_names,
    ]


def _save(dataset: Dataset, path: Path) -> None:
    """All or nothing: a half-written folder never gets the name that a later call looks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = tempfile.mkdtemp(prefix="writing-", dir=path.parent)
    try:
        dataset.save_to_disk(work)
        os.replace(work, path)
    except OSError as error:
        # Another process that encoded the same was faster: its folder holds the same bytes.
        if not path.exists():
            raise UserError(f"cannot write the encoded data to {path}: {error}; free some space there") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
