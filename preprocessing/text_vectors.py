"""Texts as vectors: the mean of a text encoder's states over the tokens, of length one.

In    the folder of a Hugging Face encoder, or package:NAME/FOLDER; texts.
Out   vectors (texts, D) as NumPy arrays; a hash by which an encoder is told from any other.
Run   `python -c "from preprocessing.text_vectors import *; print(of_folder('FOLDER')(['I am glad.']).shape)"`

The mean over tokens is how sentence encoders such as all-MiniLM and E5 were trained to be used (arXiv 1908.10084).
Computed in fp32 on the CPU, in batches of texts of like length; other texts in a batch change a vector by rounding
only. Letters: B texts, T tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from preprocessing.errors import DoesNotFit, UserError
from preprocessing.memory_room import room
from preprocessing.model_files import (
    files_beside,
    hash_of,
    kind_of,
    place_of,
    refuse_remote_code,
    weights_in,
    what_loading_raises,
)
from preprocessing.records import LANGUAGES

BATCH_TOKENS = 2_048
"""Of a batch, its padding counted: what is held at a time must not grow with the length of texts. On one
core all-MiniLM read 247 comments of GoEmotions a second so, and 176 in batches of 64 texts."""
RECENT = 1_024
"""Texts of which the vectors are kept: two steps of a job ask for the same ones, a batch apart."""
MOST_TOKENS = 512
PROBES = {
    "en": "I wanted to call my mother back yesterday evening, but the shop was full and I forgot about it again.",
    "ko": "어제 저녁에 어머니께 다시 전화를 드리려고 했는데 가게에 손님이 많아서 또 깜빡 잊어버리고 말았다.",
}
"""Everyday words of each language."""
MOST_TOKENS_A_LETTER, MOST_UNKNOWN = 1.5, 0.02
"""An encoder whose tokenizer spells words out, or does not know them, was not taught to read them: all-MiniLM makes
1.7 tokens of a Korean syllable, and texts of which it knows no word are one to it (docs/preprocessing-steps.md)."""
Read = Callable[..., torch.Tensor]


class TextVectors:
    """Call it with texts. `encoder` is a hash: vectors of two encoders have nothing to say to each other."""

    def __init__(
        self,
        module: nn.Module,
        read: Read,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        encoder: str,
        prefix: str = "",
    ) -> None:
        """`read` gives the states (B, T, D) of what the tokenizer gives; `module` is put into evaluation mode."""
        self.module, self.read, self.tokenizer = module.eval(), read, tokenizer
        self.max_length, self.encoder, self.prefix = max_length, encoder, prefix
        self._recent: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, D), float32, in the order of the texts, of which there must be one at least."""
        new = list(dict.fromkeys(text for text in texts if text not in self._recent))
        whole = [self.prefix + text for text in new]
        ids = self.tokenizer(whole, truncation=True, max_length=self.max_length)["input_ids"] if new else []
        for batch in _batches([len(row) for row in ids]):
            vectors = self._batch([ids[number] for number in batch])
            self._recent.update(zip((new[number] for number in batch), vectors, strict=True))
        vectors = np.stack([self._recent[text] for text in texts])
        for text in list(self._recent)[:-RECENT]:
            del self._recent[text]
        return vectors

    def whole(self, texts: Sequence[str]) -> list[bool]:
        """Which of the texts are read to their end; of the others a vector is that of their beginning."""
        most = self.max_length + 1
        ids = self.tokenizer([self.prefix + text for text in texts], truncation=True, max_length=most)["input_ids"]
        return [len(row) < most for row in ids]

    def _batch(self, ids: list[list[int]]) -> np.ndarray:
        device = next(self.module.parameters()).device
        read = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(device)
        mask_BT1 = read["attention_mask"].unsqueeze(-1)
        with torch.inference_mode():
            states_BTD = self.read(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).float()
            mean_BD = (states_BTD * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1)
            return nn.functional.normalize(mean_BD, dim=-1).cpu().numpy()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of rows of like length, the longest first: what does not fit is seen at once."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


@dataclass(frozen=True)
class EncoderFolder:
    """An encoder that has not been read yet: its weights are in memory only while somebody holds what `open` gives."""

    folder: Path
    prefix: str
    hash: str
    """Twelve hexadecimal digits of all that decides its vectors: weights, tokenizer, config, prefix."""
    languages: frozenset[str]
    """Of the texts that are to become vectors."""

    def open(self) -> TextVectors:
        """Raises UserError for what is no text encoder, DoesNotFit where memory is short."""
        vectors = _OPEN.get((self.folder, self.hash))
        if vectors is None:
            vectors = _OPEN[self.folder, self.hash] = _opened(self)
        return vectors

    def whole(self, texts: Sequence[str]) -> list[bool]:
        """Which of the texts, of which there must be one at least, are read to their end."""
        return self.open().whole(texts)

    def reads(self, language: str) -> bool:
        """Whether texts in it are to become vectors; raises UserError where the tokenizer does not know its words."""
        if language not in self.languages:
            return False
        text, tokenizer = PROBES[language], self.open().tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        a_letter = len(ids) / len(text.replace(" ", ""))
        unknown = ids.count(tokenizer.unk_token_id) / len(ids)
        if a_letter > MOST_TOKENS_A_LETTER or unknown > MOST_UNKNOWN:
            raise UserError(
                f"{self.folder} does not read {language!r}: its tokenizer makes {a_letter:.2f} tokens of a letter, "
                f"{unknown:.0%} of them unknown, and unlike texts would be alike to it; take an encoder of that "
                "language, or leave it out of text_encoder_languages: its rows pass as they are"
            )
        return True


_OPEN: "WeakValueDictionary[tuple[Path, str], TextVectors]" = WeakValueDictionary()


def encoder_folder(name: str, prefix: str = "", languages: Iterable[str] = LANGUAGES) -> EncoderFolder:
    """Checked and hashed, not read; `prefix` is what an encoder wants before each text, as E5's "query: "."""
    if unknown := sorted(set(languages) - set(LANGUAGES)):
        raise UserError(f"text_encoder_languages names {unknown}; known are {', '.join(LANGUAGES)}")
    folder = place_of(name, "text_encoder")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} (looked from {Path.cwd()}); name one of a text encoder")
    if kind_of(folder) == "redheart":
        raise UserError(f"{folder} holds a Red Heart model; a job takes the folder of a Hugging Face encoder")
    refuse_remote_code(folder)
    made_of = hash_of([*weights_in(folder), *files_beside(folder)], prefix)
    return EncoderFolder(folder, prefix, made_of, frozenset(languages))


def of_folder(name: str, prefix: str = "") -> TextVectors:
    return encoder_folder(name, prefix).open()


def _opened(source: EncoderFolder) -> TextVectors:
    folder, told = source.folder, {"trust_remote_code": False, "local_files_only": True}
    transformers_logging.disable_progress_bar()
    _check_memory(folder)
    with what_loading_raises(folder, "a text encoder"):
        tokenizer = AutoTokenizer.from_pretrained(folder, **told)
        if tokenizer.pad_token_id is None:
            raise ValueError("its tokenizer has no padding token")
        encoder, report = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **told
        )
        if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
            raise ValueError(f"{len(missing)} of its weights are not in the folder, the first is {missing[0]}")
    longest = getattr(encoder.config, "max_position_embeddings", MOST_TOKENS)

    def read(**inputs: torch.Tensor) -> torch.Tensor:
        return encoder(**inputs).last_hidden_state

    most = min(MOST_TOKENS, longest, tokenizer.model_max_length)
    return TextVectors(encoder.requires_grad_(False), read, tokenizer, most, source.hash, source.prefix)


def _check_memory(folder: Path) -> None:
    """Weights as fp32, which may be stored in half of that, and a batch of long texts."""
    need = 2 * sum(file.stat().st_size for file in weights_in(folder)) + 2**29
    found = room()
    if need > found.free:
        raise DoesNotFit(
            f"the text encoder {folder} needs {need / 2**30:.1f} GiB, and {found.free / 2**30:.1f} GiB are left "
            f"({found.limited_by}); close other programs or take a smaller encoder"
        )
