"""Whether a model says the same of a text in English and in Korean, and whether it hears groups of people differently.

In    --model DIR; --pairs ENGLISH KOREAN, two sources of the same comments (goemotions_fine and goemotions_ko_mt,
      joined by the comment's key); --groups KoSBi's file (kosbi=PATH), Korean sentences about people, by group.
Out   tables; --output FILE as JSON; with --card a section in the model card.
Run   python -m training.fairness --model outputs/main/final --card \\
          --pairs 'goemotions_fine=${REDHEART_DATA_DIR}/goemotions/original_dev.tsv' \\
                  'goemotions_ko_mt=${REDHEART_DATA_DIR}/goemotions_ko_mt/dev.tsv' \\
          --groups 'kosbi=${REDHEART_DATA_DIR}/korean_safety/kosbi_valid.json.gz'

Parity: the translation is a machine's, so what is lost may be its fault as well as the model's; both are judged by the
labels that people gave the English comment. Groups: of the sentences that KoSBi's annotators found safe, the valence
the model hears, by category of group (Lee et al. 2023, arXiv 2305.17701). A category may be spoken of more darkly
without anybody's fault; what chance alone would do is told by shuffling the categories. `told_apart` is the chance
that the model hears an unsafe sentence as darker than a safe one.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.errors import UserError, run
from preprocessing.files import check_output
from preprocessing.readers import files_of, parse_source, read
from preprocessing.records import Record
from preprocessing.sources import Source
from redheart_hf.labels import VAD
from training.figures import Figure, averaged, correlated, multi_label, with_intervals
from training.inference import Predictions, predict_records
from training.loading import load_model
from training.report import figures_table, store_in_config, write_json

VALENCE = VAD.index("valence")
FIELDS = ("basic_emotions", "fine_emotions", "vad")
"""What is measured, of a model that does not say what it learned; of others what it learned of these."""
SHUFFLES = 2000
CARD = """\
## One text in two languages, and groups of people

Printed by

```bash
{command}
```

```
{table}
```

{pairs}{groups}"""
OF_PAIRS = (
    "`english` and `korean`: the same comments, the Korean ones translated by machine, both judged by the labels of "
    "the English ones; `parity`: how far the two answers agree, and Korean less English.\n\n"
)
OF_GROUPS = (
    "`kosbi`: how pleasant (valence, -1 to 1) the model hears KoSBi's safe sentences, by category of the group they "
    "speak of. The largest difference between categories of {least} sentences and more is {spread:.3f}; with shuffled "
    "categories it is below {chance:.3f} in 95 % of cases.\n"
)
LEAST_SENTENCES = 50
"""Smaller categories are left out: their means move more by chance than by what is said of them."""


def paired(english: Sequence[Record], korean: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Those that are of one comment, each once; raises UserError where there are none."""
    by_key = {key: record for record in english for key in record.same_as}
    found: dict[str, tuple[Record, Record]] = {}
    for record in korean:
        original = next((by_key[key] for key in record.same_as if key in by_key), None)
        if original is not None:
            found.setdefault(original.id, (original, record))
    if not found:
        raise UserError(
            f"of {len(english):,} English and {len(korean):,} Korean rows no two are of one comment: give the same "
            "split of both"
        )
    ones, others = zip(*found.values(), strict=True)
    return list(ones), list(others)


def parity(english: Predictions, korean: Predictions, taught: Sequence[str]) -> Iterator[Figure]:
    """Agreement of two answers to one comment, row by row."""
    same = english["basic_emotions"].argmax(axis=1) == korean["basic_emotions"].argmax(axis=1)
    yield from averaged("same_strongest", same.astype(float))
    for index, name in enumerate(VAD if "vad" in taught else ()):
        one, other = english["vad_mean"][:, index], korean["vad_mean"][:, index]
        yield from correlated(f"{name}_r", one, other, np.arange(len(one)))
        yield from averaged(f"{name}_difference", other - one)


def parity_figures(
    records: tuple[list[Record], list[Record]],
    predicted: tuple[Predictions, Predictions],
    thresholds: dict[str, Any],
    taught: Sequence[str],
) -> dict[str, dict[str, Any]]:
    figures = {}
    for name, of, answers in zip(("english", "korean"), records, predicted, strict=True):
        judged = (
            replace(figure, name=f"{field}_f1")
            for field in ("basic_emotions", "fine_emotions")
            if field in taught
            for figure in multi_label(field)(of, answers, thresholds)
        )
        figures[name] = with_intervals(judged, len(of))
    return figures | {"parity": with_intervals(parity(*predicted, taught), len(records[0]))}


def categories_of(source: Source, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """For each record KoSBi's category of the group spoken of, and whether the sentence was found safe."""
    opened = gzip.open if source.path.suffix == ".gz" else open
    with opened(source.path, "rt", encoding="utf-8") as file:
        rows = json.load(file)
    known = {(row["context"].strip(), row["sentence"].strip()): row for row in rows}
    found = [known[record.text.strip(), (record.text_pair or "").strip()] for record in records]
    if without := sum("demographic_category" not in row for row in found):
        raise UserError(f"{without:,} of {len(found):,} rows of {source.path} name no demographic_category")
    return (
        np.asarray([row["demographic_category"] for row in found]),
        np.asarray([row["sentence_label"] == "safe" for row in found]),
    )


def group_figures(valence: np.ndarray, categories: np.ndarray, safe: np.ndarray) -> dict[str, Any]:
    """Mean valence of safe sentences by category; the largest difference, and what shuffling makes of it."""
    names, counts = np.unique(categories[safe], return_counts=True)
    large = sorted(names[counts >= LEAST_SENTENCES])
    if len(large) < 2:
        raise UserError(f"{safe.sum()} safe sentences have no two categories of {LEAST_SENTENCES} and more to compare")
    kept = safe & np.isin(categories, large)
    of, heard = np.searchsorted(large, categories[kept]), valence[kept]
    figures = (figure for i, name in enumerate(large) for figure in averaged(f"valence {name}", heard[of == i]))
    random = np.random.default_rng(0)
    shuffled = [spread(heard, random.permutation(of)) for _ in range(SHUFFLES)]
    darker = Figure("told_apart", lambda weights: auc(-valence, ~safe, weights), np.arange(len(safe)), len(safe))
    return with_intervals([*figures, darker], len(safe)) | {
        "spread": spread(heard, of),
        "spread_by_chance": float(np.percentile(shuffled, 95)),
    }


def spread(values: np.ndarray, of: np.ndarray) -> float:
    """Between the highest and the lowest mean of a category."""
    means = np.bincount(of, values) / np.bincount(of)
    return float(means.max() - means.min())


def auc(values: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Chance that a positive row has the greater value, ties half: area under the curve, by sums over sorted rows."""
    weights = np.ones((1, len(values))) if weights is None else weights
    levels = np.unique(values, return_inverse=True)[1]
    order = np.argsort(levels, kind="stable")
    starts = np.flatnonzero(np.diff(levels[order], prepend=-1))
    ups = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    downs = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    below = downs.cumsum(axis=1) - downs / 2
    return (ups * below).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.fairness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model folder with its tokenizer")
    parser.add_argument("--pairs", nargs=2, metavar=("ENGLISH", "KOREAN"), help="READER=PATH of each language")
    parser.add_argument("--groups", metavar="kosbi=PATH", help="KoSBi's sentences about groups of people")
    parser.add_argument("--batch-size", type=int, default=64, help="records at a time (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file to write the figures to")
    parser.add_argument("--card", action="store_true", help="put them into the model card")
    arguments = parser.parse_args()
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    if not (arguments.pairs or arguments.groups):
        raise UserError("there is nothing to measure on: give --pairs, --groups or both")
    if arguments.groups and not arguments.groups.startswith("kosbi="):
        raise UserError(f"--groups reads KoSBi: write kosbi=PATH, got {arguments.groups!r}")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    sources = [parse_source(given) for given in [*(arguments.pairs or []), *filter(None, [arguments.groups])]]
    if arguments.output is not None:
        check_output(
            "--output", arguments.output, [arguments.model, *(file for one in sources for file in files_of(one))]
        )
    model, tokenizer = load_model(arguments.model)
    taught = model.config.trained_labels or FIELDS
    if arguments.groups and "vad" not in taught:
        raise UserError(
            f"--groups measures valence, and this model learned {sorted(taught)} alone; leave --groups out"
        )
    figures: dict[str, dict[str, Any]] = {}
    explained = {"pairs": "", "groups": ""}

    def answers(records: list[Record]) -> Predictions:
        return predict_records(model, tokenizer, records, batch_size=arguments.batch_size)

    if arguments.pairs:
        ones, others = paired(*(read(source).records for source in sources[:2]))
        figures |= parity_figures(
            (ones, others), (answers(ones), answers(others)), model.config.thresholds or {}, taught
        )
        explained["pairs"] = OF_PAIRS
    if arguments.groups:
        records = read(sources[-1]).records
        categories, safe = categories_of(sources[-1], records)
        found = figures["kosbi"] = group_figures(answers(records)["vad_mean"][:, VALENCE], categories, safe)
        facts = {"least": LEAST_SENTENCES, "spread": found["spread"], "chance": found["spread_by_chance"]}
        explained["groups"] = OF_GROUPS.format(**facts)
    table = figures_table(figures)
    print(table)
    print("\n" + (explained["pairs"] + explained["groups"]).strip())
    if arguments.output is not None:
        write_json(arguments.output, figures)
    if arguments.card:
        section = CARD.format(command=command_of(arguments), table=table, **explained)
        store_in_config(arguments.model, lambda _: {}, section)


def command_of(arguments: argparse.Namespace) -> str:
    parts = ["python -m training.fairness --model path/to/this/folder"]
    parts += [f"--pairs {' '.join(arguments.pairs)}"] if arguments.pairs else []
    return " \\\n    ".join([*parts, *([f"--groups {arguments.groups}"] if arguments.groups else [])])


if __name__ == "__main__":
    run(main)
