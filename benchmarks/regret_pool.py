"""What a step waits for its batches, with alternatives prepared by a pool, when wanted, and with none to prepare.

In    the shipped scenarios; a preset; how many alternatives and workers.
Out   median seconds of a step of the same batches, made beforehand, by the pool, and in the step itself; their ratios;
      the share of a step that is waited, the depth of the queue, memory of the workers alone.
Run   OMP_NUM_THREADS=1 python benchmarks/regret_pool.py --workers 1

The three take turns, step by step, on one model: whatever else the machine does falls on all of them. `beforehand` has
the alternatives too, so that what is compared is their preparation and not what a longer batch takes to compute. A
pool keeps up where a worker has a core of its own and prepares faster than the model computes.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from preprocessing.encode import encode
from preprocessing.errors import run
from preprocessing.memory_room import numbers_in
from preprocessing.readers import parse_source, read
from redheart_hf import RedHeartForMultiTask, preset_config
from training.build import build_accelerator
from training.collator import Batch, Collator
from training.config import TrainConfig
from training.groups import Groups
from training.loop import TrainLoop
from training.regret_alternatives import alternatives_of
from training.regret_cases import with_cases
from training.regret_pool_memory import tensors_of
from training.train_tokenizer import texts_of, train_tokenizer

ROOT = Path(__file__).resolve().parents[1]


def loop_of(folder: str, given: argparse.Namespace) -> TrainLoop:
    records = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}")).records
    tokenizer = train_tokenizer(texts_of(records), vocab_size=1024, max_length=96)
    config = TrainConfig(
        output_dir=folder,
        train=["scenarios=given"],
        batch_size=given.batch_size,
        epochs=1000,
        num_regrets=given.regrets,
        num_workers=given.workers,
        queue_batches=given.queue,
    )
    sizes = preset_config(given.preset, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    model = RedHeartForMultiTask(sizes).train()
    dataset = with_cases(encode(records, tokenizer, 96), records, config)
    return TrainLoop(build_accelerator(config), model, dataset, Collator(tokenizer), config)


def groups_of(loop: TrainLoop, workers: int) -> Groups:
    alternatives = alternatives_of(loop.dataset, loop.config, loop.bare_model.config)
    apart = partial(tensors_of, loop.bare_model, loop.optimizer)
    groups = Groups(loop.dataset, loop.plan, loop.collator, loop.config, loop.placed, alternatives, apart)
    groups.pool.count = workers
    return groups


def timed(loop: TrainLoop, groups: Iterator[list[Batch]]) -> tuple[float, float, float]:
    """Seconds of a step, of these what it waited for its batch, and the processor time of the trainer."""
    started, computed = time.perf_counter(), time.process_time()
    group = next(groups)
    waited = time.perf_counter() - started
    loop.take_step(group)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, waited, time.process_time() - computed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="redheart-tiny", help="%(default)s")
    parser.add_argument("--steps", type=int, default=30, help="steps of each kind (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=8, help="%(default)s")
    parser.add_argument("--regrets", type=int, default=7, help="alternatives a sample (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="%(default)s")
    parser.add_argument("--queue", type=int, default=8, help="batches ahead (%(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        loop = loop_of(folder, given)
        steps = range(given.steps + 2)
        made = iter(list(groups_of(loop, 0).load_groups(steps)))
        pooled, direct = groups_of(loop, given.workers), groups_of(loop, 0)
        kinds = {"beforehand": made, "pool": pooled.load_groups(steps), "in the step": direct.load_groups(steps)}
        times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in kinds}
        for step, (name, groups) in itertools.product(steps, kinds.items()):
            taken = timed(loop, groups)
            if step >= 2:  # the first ones start workers and compile kernels
                times[name].append(taken)
            if step == given.steps and name == "pool":
                alone = [numbers_in(Path(f"/proc/{one.process.pid}/smaps_rollup")) for one in pooled.pool.workers]
        figures = pooled.take_figures()
    for name, found in times.items():
        pairs = list(zip(found, times["beforehand"], strict=True))
        clock, computed = (statistics.median(one[index] / other[index] for one, other in pairs) for index in (0, 2))
        share = sum(waited for _, waited, _ in found) / sum(seconds for seconds, _, _ in found)
        print(
            f"{name:<12} median step {statistics.median(seconds for seconds, _, _ in found):.4f} s, ratio to "
            f"beforehand {clock:.4f} by the clock, {computed:.4f} in the trainer's processor time, waited "
            f"{100 * share:.2f} % of it"
        )
    print(f"{figures['regret']}\n{figures['queue']}")
    print(f"memory of each worker alone: {[round(one['Private_Dirty'] / 2**20) for one in alone]} MiB")
    print(f"{torch.get_num_threads()} threads, {given.workers} workers, batches of {given.batch_size}, {given.preset}")


if __name__ == "__main__":
    run(main)
