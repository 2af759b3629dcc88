"""What a checkpoint costs the steps of training: written while they wait, and beside them.

In    --hidden-size and --layers of the model (about 100M parameters by default), --steps between two saves.
Out   seconds of a blocking save; what a save beside the steps adds to the slowest of them, and what of it the loop
      itself waited; all in one process, save about, so that both see the same machine.
Run   python benchmarks/async_save.py

A step's pause is its time less the median of the steps in which nothing was written. `waited` is what the loop stood
still for: starting the save, and what was left of the copy when weights were to move. What a step takes longer beside
that is the processor, the memory and the disk being shared; the spread of quiet steps says how much is noise. Every
step reads the same case, so that no longer text is taken for a pause.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from tiny_run import build_loop, tiny_config  # noqa: E402

from preprocessing.readers import parse_source, read  # noqa: E402
from training.loop import TrainLoop  # noqa: E402
from training.saving import Saver  # noqa: E402
from training.train_tokenizer import texts_of, train_tokenizer  # noqa: E402


class TimedSaver(Saver):
    """Saves beside the steps and blocking ones by turns; how long the loop stood still for each."""

    def __init__(self):
        super().__init__(beside=True)
        self.waited, self.number = 0.0, 0

    def save(self, files, write, wait=False) -> None:
        began = time.perf_counter()
        super().save(files, write, wait=self.number % 2 == 0)
        self.number += 1
        self.waited += time.perf_counter() - began

    def wait_for_copy(self) -> None:
        began = time.perf_counter()
        super().wait_for_copy()
        self.waited += time.perf_counter() - began

    @property
    def writes(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class TimedLoop(TrainLoop):
    """Notes of each step: its seconds up to the next one, what stood still, whether a save was on its way."""

    def __init__(self, *given):
        super().__init__(*given)
        self.saver = TimedSaver()
        self.notes: list[dict] = []
        self.last = time.perf_counter()

    def take_step(self, group):
        now = time.perf_counter()
        if self.notes:
            self.notes[-1]["seconds"] = now - self.last
        self.last = now
        self.notes.append({"step": self.step + 1, "writes": self.saver.writes, "waited": -self.saver.waited})
        if len(self.notes) > 1:
            self.notes[-2]["waited"] += self.saver.waited
        result = super().take_step(group)
        self.notes[-1]["writes"] |= self.saver.writes
        return result


def run(asked: argparse.Namespace) -> dict:
    records = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}")).records
    tokenizer = train_tokenizer(texts_of(records), 2000, 96)
    records = [records[0]] * len(records)
    sizes = {"hidden_size": asked.hidden_size, "num_hidden_layers": asked.layers, "num_attention_heads": 8}
    sizes |= {"intermediate_size": 4 * asked.hidden_size, "modules": []}
    every, rounds = asked.steps, asked.rounds
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        config = tiny_config(
            Path(folder) / "run",
            max_steps=2 * rounds * every + every // 2,
            save_steps=every,
            batch_size=asked.batch_size,
            save_async="on",
            keep_complete=2,
            save_total_limit=2,
            log_steps=10_000,
            eval_steps=10_000,
        )
        loop = build_loop(tokenizer, config, records, TimedLoop, **sizes)
        loop.evaluate = None
        loop.saver.number = 0
        loop.train()
    notes = [note for note in loop.notes[2:] if "seconds" in note]
    quiet = [note["seconds"] for note in notes if not note["writes"] and note["step"] % every]
    median = statistics.median(quiet)
    saves = [note for note in notes if note["step"] % every == 0]
    blocking = [note["seconds"] - median for note in saves[0::2]]
    beside = [note for note in notes if note["writes"] or note in saves[1::2]]
    pauses = [note["seconds"] - median for note in beside]
    block = statistics.median(blocking)
    return {
        "parameters": sum(parameter.numel() for parameter in loop.bare_model.parameters()),
        "quiet_step": round(median, 3),
        "quiet_steps_slowest": round(max(quiet), 3),
        "blocking_saves": [round(value, 2) for value in blocking],
        "steps_beside_a_save": len(beside),
        "longest_wait": round(max(note["waited"] for note in beside), 4),
        "longest_wait_of_a_blocking_save": round(max(note["waited"] for note in beside) / block, 4),
        "longest_pause": round(max(pauses), 3),
        "longest_pause_of_a_blocking_save": round(max(pauses) / block, 3),
        "noise_of_a_blocking_save": round((max(quiet) - median) / block, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help="between two saves (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of a blocking save and one beside (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write; by default the system's folder for such files")
    torch.set_num_threads(1)
    print(json.dumps(run(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
