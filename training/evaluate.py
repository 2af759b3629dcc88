"""Measures a trained model on labelled rows, and chooses the thresholds from which an emotion counts as present.

In    --model DIR (the folder final/ of a run), --data READER=PATH (repeatable; READER=PATH@SPLIT for one split of it).
Out   a table, and --output JSON: {reader: {figure: value, figure_interval: [low, high], "rows": n, "rejected": n}}.
Run   python -m training.evaluate --model outputs/main/final --data scenarios=data/scenarios/test.jsonl \\
          --output metrics.json

Intervals are 95 % bootstrap intervals over rows, those of one group drawn together. Emotions count as present from the
thresholds in the model's config (0.5 where it has none; the output says which). --choose-thresholds chooses them on
one half of the rows, stores them in the model's config.json and measures on the other half; which half a row is in
follows from a hash of its group, or of its text where it is in none.

Measured on rows of
  goemotions, goemotions_fine, kote                 macro_f1 of the 7, 28 or 44 emotions
  emobank                                           pearson_v, pearson_a, pearson_d
  ethics_util                                       pair_accuracy
  ethics_deontology, ethics_justice, ethics_virtue  accuracy, macro_f1 of its two answers
  scenarios, records                                whatever they have labels for: emotion_accuracy, pearson_v,
      pearson_a, pearson_d, pearson_utility, choice_accuracy, pearson_regret, acceptability_mae, circumstances_mae;
      of dialogues pearson_turn_v, pearson_turn_a, pearson_turn_d, nees_turn, coverage_turn
  all of them with a verdict, if there is a SURD head  head_error beside constant_error (training/surd_figures.py)

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from preprocessing.errors import UserError, run
from preprocessing.files import check_output
from preprocessing.metrics import best_thresholds
from preprocessing.overlap import half_of
from preprocessing.readers import files_of, parse_source, read
from preprocessing.records import Record, by_reader
from preprocessing.sources import Source, refuse_repeated
from redheart_hf import RedHeartForMultiTask
from training.figures import THRESHOLD_READERS, Thresholds, check_measurable, labels_of, measure
from training.inference import Predictions, predict_records
from training.loading import load_model
from training.report import figures_table, store_thresholds, write_json
from training.score import scores
from training.surd_figures import surd_figures

Half = Literal["choosing", "reporting"]
HALVES: tuple[Half, ...] = ("choosing", "reporting")
RecordsByReader = Mapping[str, Sequence[Record]]


class Evaluation(NamedTuple):
    """What a run knows of a model after it was shown dev."""

    figures: dict[str, dict[str, Any]]
    """By reader, on the reporting half."""
    thresholds: Thresholds
    """By field, chosen on the choosing half."""
    scores: dict[Half, dict[str, float]]
    """Of each half, by task and in total (training/score.py)."""


@dataclass
class Predicted:
    """Records of one reader and, row by row, what the model says of them."""

    records: list[Record]
    arrays: Predictions

    def half(self, half: Half | None) -> "Predicted":
        """The part in that half of the data; None: everything."""
        if half is None:
            return self
        kept = [index for index, record in enumerate(self.records) if half_of(record) == half]
        return Predicted(
            [self.records[index] for index in kept], {name: values[kept] for name, values in self.arrays.items()}
        )


def predict_by_reader(
    model: RedHeartForMultiTask, tokenizer: PreTrainedTokenizerBase, records_by_reader: RecordsByReader, **options: Any
) -> dict[str, Predicted]:
    """Predictions by the reader each record first came from; `options` are those of `predict_records`."""
    groups = by_reader(record for records in records_by_reader.values() for record in records)
    return {
        reader: Predicted(records, predict_records(model, tokenizer, records, **options))
        for reader, records in groups.items()
    }


def thresholds_from(predicted: Mapping[str, Predicted]) -> Thresholds:
    """Thresholds of each field whose primary reader has rows in the choosing half."""
    thresholds = {}
    for field, reader in THRESHOLD_READERS.items():
        part = predicted[reader].half("choosing") if reader in predicted else None
        if part is not None and part.records:
            held, truth = labels_of(part.records, field)
            if len(held):
                thresholds[field] = best_thresholds(truth >= 0.5, part.arrays[field][held])
    return thresholds


def figures_from(
    predicted: Mapping[str, Predicted], thresholds: Thresholds | None, half: Half | None = None
) -> dict[str, dict[str, Any]]:
    """Figures by reader on that half of the rows; of all readers together those of SURD, if the model has its head."""
    figures = {}
    parts = {reader: whole.half(half) for reader, whole in predicted.items()}
    for reader, part in parts.items():
        figures[reader] = measure(reader, part.records, part.arrays, thresholds or {})
        fields = [field for field, primary in THRESHOLD_READERS.items() if primary == reader]
        if fields:
            figures[reader]["thresholds"] = "chosen" if fields[0] in (thresholds or {}) else "0.5, none are stored"
    surd = surd_figures((part.records, part.arrays) for part in parts.values())
    return figures if surd is None else figures | {"surd": surd}


def evaluate_records(
    model: RedHeartForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    records_by_reader: RecordsByReader,
    half: Half | None = None,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Figures by reader with the thresholds of the model's config."""
    predicted = predict_by_reader(model, tokenizer, records_by_reader, **options)
    return figures_from(predicted, model.config.thresholds, half)


def choose_thresholds(
    model: RedHeartForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    records_by_reader: RecordsByReader,
    **options: Any,
) -> Thresholds:
    """Thresholds by field, from the choosing half of the field's primary reader."""
    wanted = {
        name: rows for name, rows in records_by_reader.items() if name in {*THRESHOLD_READERS.values(), "records"}
    }
    return thresholds_from(predict_by_reader(model, tokenizer, wanted, **options))


def evaluate_dev(
    model: RedHeartForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    records_by_reader: RecordsByReader,
    mixed_precision: str = "no",
) -> Evaluation:
    """Figures on the reporting half and the thresholds they use, chosen on the choosing half, from one prediction."""
    predicted = predict_by_reader(model, tokenizer, records_by_reader, mixed_precision=mixed_precision)
    thresholds = {**(model.config.thresholds or {}), **thresholds_from(predicted)}
    scored = {half: scores(predicted, thresholds, half) for half in HALVES}
    return Evaluation(figures_from(predicted, thresholds, "reporting"), thresholds, scored)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model folder with its tokenizer")
    parser.add_argument(
        "--data", action="append", required=True, metavar="READER=PATH", help="rows to measure on; repeatable"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file to write the figures to")
    parser.add_argument(
        "--half", choices=("all", "reporting", "choosing"), help="rows to measure on (all; reporting when choosing)"
    )
    parser.add_argument(
        "--choose-thresholds",
        action="store_true",
        help="choose on one half, store in DIR/config.json, report the other",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="records at a time (%(default)s)")
    parser.add_argument(
        "--mixed-precision", choices=("no", "bf16"), default="no", help="arithmetic of the forward pass (%(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    if arguments.choose_thresholds and arguments.half not in (None, "reporting"):
        raise UserError(
            f"--choose-thresholds measures on the reporting half, --half says {arguments.half}: leave --half out"
        )
    return arguments


def read_all(sources: list[Source]) -> tuple[dict[str, list[Record]], Counter[str]]:
    """Records by the reader that was asked for, and how many rows of each were set aside."""
    records: dict[str, list[Record]] = {}
    rejected: Counter[str] = Counter()
    for source in sources:
        result = read(source)
        records.setdefault(source.reader, []).extend(result.records)
        rejected[source.reader] += len(result.rejected)
    return records, rejected


def main() -> None:
    arguments = parse_arguments()
    sources = [parse_source(argument) for argument in arguments.data]
    refuse_repeated(sources)
    if arguments.output is not None:
        read_files = [file for source in sources for file in files_of(source)]
        check_output("--output", arguments.output, [arguments.model, *read_files])
    model, tokenizer = load_model(arguments.model)
    records, rejected = read_all(sources)
    check_measurable(reader for rows in records.values() for reader in by_reader(rows))
    predicted = predict_by_reader(
        model, tokenizer, records, batch_size=arguments.batch_size, mixed_precision=arguments.mixed_precision
    )
    thresholds, half = model.config.thresholds, arguments.half
    if arguments.choose_thresholds:
        chosen, half = thresholds_from(predicted), "reporting"
        if not chosen:
            raise UserError(
                "there is nothing to choose thresholds on: give rows of one of "
                + ", ".join(THRESHOLD_READERS.values())
            )
        thresholds = {**(thresholds or {}), **chosen}
        store_thresholds(arguments.model, chosen)
    figures = figures_from(predicted, thresholds, None if half == "all" else half)
    for reader, count in rejected.items():
        # Rows of a `records` file are reported under the reader they first came from; its bad rows name none.
        if count or reader in figures:
            figures.setdefault(reader, {"rows": 0})["rejected"] = count
    print(figures_table(figures))
    if arguments.output:
        write_json(arguments.output, figures)
        print(f"{arguments.output} written")


if __name__ == "__main__":
    run(main)
