"""A tokenizer's files without what the last call left in it.

In    a tokenizer.
Out   its files, as bytes by name or in a folder; the same ones whatever it was asked before.
Run   through training/run_state.py and training/final_model.py

A call that cuts texts, or fills them up, leaves that set in a fast tokenizer, and `save_pretrained` writes it. Who
reads the file with the package tokenizers would have texts cut by chance, and a run that was resumed, which finds its
texts encoded, would write another file than one that was not.
"""

import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerBase


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Not while another thread calls it."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    for name, content in tokenizer_files(tokenizer).items():
        (folder / name).write_bytes(content)
