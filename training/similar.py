"""Makes an index of texts by meaning, for `training.predict --similar` and for finding what was like a case.

In    --model DIR, a trained model with a text encoder, or the folder of an encoder; --data READER=PATH, once or more.
Out   --output DIR, the index (preprocessing/retrieval.py says what it holds).
Run   python -m training.similar --model outputs/main/final --data scenarios=data/scenarios/train.jsonl --output INDEX
      python -m training.predict --model outputs/main/final --similar INDEX "I never called her back."

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
from pathlib import Path

from preprocessing.errors import run
from preprocessing.readers import parse_source, read
from preprocessing.retrieval import FACTORIES, build
from training.text_vectors import of_folder


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.similar", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="whose text encoder makes the vectors"
    )
    parser.add_argument(
        "--data", action="append", required=True, metavar="READER=PATH", help="the texts; once for each source"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a folder that is not there yet")
    parser.add_argument("--kind", choices=sorted(FACTORIES), default="flat", help="flat misses none, hnsw is faster")
    parser.add_argument("--prefix", help='what an encoder wants before each text, as "query: " for E5')
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    records = [record for source in map(parse_source, arguments.data) for record in read(source).records]
    vectors = of_folder(arguments.model, arguments.prefix)
    found = build(
        records,
        vectors([record.text for record in records]),
        vectors.encoder,
        arguments.output,
        arguments.kind,
    )
    print(f"{arguments.output}: {len(found.texts):,} texts, {arguments.kind}, by the encoder {found.encoder}")


if __name__ == "__main__":
    run(main)
