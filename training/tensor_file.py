"""A file of safetensors written one tensor after another: no more than one of them is in memory.

In    names with dtype and shape; the tensors, in that order.
Out   the file, as safetensors reads it; or only how large it will be.
Run   through training/checkpoint_keep.py and training/disk_room.py

The library writes what is in memory, all at once. Here tensors come from another file and are rounded on the way, in a
run whose memory is planned to the last page.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

Specs = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
NAMES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""https://huggingface.co/docs/safetensors: what a header calls them."""
CALLED = {dtype: name for name, dtype in NAMES.items()}


def bytes_of(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def header_of(specs: Specs, facts: Mapping[str, str]) -> bytes:
    """The header with its length before it; tensors follow in the order of `specs`, without gaps."""
    header: dict[str, object] = {"__metadata__": dict(facts)} if facts else {}
    at = 0
    for name, (dtype, shape) in specs.items():
        after = at + bytes_of(dtype, shape)
        header[name] = {"dtype": CALLED[dtype], "shape": list(shape), "data_offsets": [at, after]}
        at = after
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def aligned(specs: Specs) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """In the order of the library's own files: wide numbers first, so that each begins at a multiple of its width."""
    return dict(sorted(specs.items(), key=lambda item: (-item[1][0].itemsize, item[0])))


def file_size(specs: Specs, facts: Mapping[str, str] | None = None) -> int:
    """Bytes of the whole file."""
    return len(header_of(aligned(specs), facts or {})) + sum(bytes_of(*spec) for spec in specs.values())


def write_tensors(path: Path, specs: Specs, tensors: Iterable[tuple[str, Tensor]], facts: Mapping[str, str]) -> int:
    """Write `tensors` (of main memory, contiguous, in the order of `specs`), and give back how many bytes they are."""
    total = 0
    with path.open("wb") as file:
        file.write(header_of(specs, facts))
        for name, tensor in tensors:
            dtype, shape = specs[name]
            assert (tensor.dtype, tuple(tensor.shape)) == (dtype, shape), name
            data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
            file.write(data.data)
            total += data.nbytes
    return total
