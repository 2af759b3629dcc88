"""Train a tokenizer of our own: byte-level BPE over Korean and English, whole words for neither.

In    --data READER=PATH (repeatable), --vocab-size, --output.
Out   a folder that `AutoTokenizer.from_pretrained` reads.
Run   python -m training.train_tokenizer --data scenarios=data/scenarios/train.jsonl --vocab-size 4096 \
          --output outputs/main/tokenizer

Bytes are the alphabet, so that no text is ever unknown. Text is brought to NFC first: decomposed Korean (as macOS file
systems write it) gives the same tokens. A pair (text, action) is `<s> text </s> action </s>`, the action of segment 1.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from preprocessing.errors import UserError, run
from preprocessing.readers import parse_source, read
from preprocessing.records import Record
from preprocessing.sources import refuse_repeated

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
LEAST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
MOST_VOCABULARY = 1_000_000
"""Four times the largest in use; the trainer sets room aside for all of it at once."""
LEAST_LENGTH, MOST_LENGTH = 4, 1_000_000
"""A pair has three special tokens, and one more is needed for a text."""


def texts_of(records: list[Record]) -> Iterator[str]:
    """Every text of the records: their own, second parts, actions, the worse of a pair, turns before."""
    for record in records:
        yield record.text
        yield from filter(None, (record.text_pair, record.worse))
        yield from (action.text for action in record.actions or [])
        yield from record.turns or []


def check_sizes(vocab_size: int, max_length: int) -> None:
    """Raises UserError for a number that no tokenizer can have."""
    if not LEAST_VOCABULARY <= vocab_size <= MOST_VOCABULARY:
        raise UserError(
            f"vocab_size must be at least {LEAST_VOCABULARY} (bytes and special tokens) and at most "
            f"{MOST_VOCABULARY:,}, got {vocab_size}"
        )
    if not LEAST_LENGTH <= max_length <= MOST_LENGTH:
        raise UserError(f"max_length must be from {LEAST_LENGTH} to {MOST_LENGTH:,} tokens, got {max_length}")


def read_records(arguments: list[str]) -> list[Record]:
    """The records of all sources; rows that were set aside are counted on stdout, as the readers command does."""
    sources = [parse_source(argument) for argument in arguments]
    refuse_repeated(sources)
    records: list[Record] = []
    for result in map(read, sources):
        records += result.records
        if result.rejected:
            print(f"{result.source}: {len(result.rejected):,} rows were set aside and not learned from")
            print("\n".join(result.reason_lines()))
            print(f"  `python -m preprocessing.readers {result.source} --rejected PATH` writes them to PATH")
    return records


def train_tokenizer(texts: Iterator[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with `vocab_size` entries at most; fewer when the texts do not hold as many pairs."""
    check_sizes(vocab_size, max_length)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),  # else its bar is empty lines
    )
    tokenizer.train_from_iterator(texts, trainer)
    start, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", start), ("</s>", end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Put the tokenizer's files into `folder`, whole or not at all; what else is there stays."""
    folder.mkdir(parents=True, exist_ok=True)  # Transformers would only log that a file is in the way
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        try:
            tokenizer.save_pretrained(partial)
        except Exception as error:  # of Tokenizers, which says in words alone that the disk is full
            if isinstance(error, OSError) or "os error" not in str(error):
                raise
            raise UserError(f"could not save the tokenizer to {folder}: {error}; make room there") from error
        for file in Path(partial).iterdir():
            file.replace(folder / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, metavar="READER=PATH", help="texts to learn from")
    parser.add_argument("--vocab-size", type=int, default=32000, help="entries, special tokens included (%(default)s)")
    parser.add_argument("--max-length", type=int, default=512, help="longest sequence the tokenizer allows")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    check_sizes(arguments.vocab_size, arguments.max_length)
    records = read_records(arguments.data)
    tokenizer = train_tokenizer(texts_of(records), arguments.vocab_size, arguments.max_length)
    save(tokenizer, arguments.output)
    print(f"{arguments.output}: {len(tokenizer)} entries from {len(records)} records")


if __name__ == "__main__":
    run(main)
