"""A run small enough to be killed and repeated: a model of a few thousand weights on some of the shipped scenarios.

In    a tokenizer's folder, an output folder, fields of TrainConfig; as a program, these as JSON objects, one a run.
Out   a TrainLoop; as a program, the finished run in its output folder, taken up where an earlier call of it ended.
Run   python tests/tiny_run.py '{"tokenizer": DIR, "config": {"output_dir": DIR}, "kill_in_flush": 3}'
      with "kills": [4, 7] the run is done in processes that are killed after these steps, and one that ends it.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from preprocessing import folders
from preprocessing.encode import encode
from preprocessing.errors import run
from preprocessing.readers import parse_source, read
from preprocessing.records import Record
from redheart_hf import RedHeartConfig, RedHeartForMultiTask
from training.build import build_accelerator
from training.checkpoint_choice import find_checkpoint
from training.collator import Collator
from training.config import TrainConfig
from training.creation import create_model
from training.evaluate import Evaluation
from training.inference import predict_records
from training.loop import TrainLoop
from training.run_state import load_run

os.environ["ACCELERATE_USE_CPU"] = "true"
ROOT = Path(__file__).resolve().parents[1]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "task_size": 32,
    "task_projection_size": 32,
    "task_specialization_size": 32,
    "task_attention_size": 32,
    "num_task_attention_heads": 2,
    "emotion_trunk_sizes": [32],
    "moe_intermediate_size": 16,
    "emotion_level_size": 32,
    "emotion_culture_size": 16,
    "emotion_attention_size": 16,
    "ethics_trunk_sizes": [32],
    "ethics_expert_sizes": [16],
    "regret_trunk_sizes": [32],
    "regret_view_sizes": [16],
    "max_length": 96,
    "modules": [],
}
SMALL_MODULES: dict[str, Any] = {
    "surd_trunk_sizes": [16],
    "surd_term_sizes": [16],
    "analyzer_size": 16,
    "num_analyzer_heads": 2,
    **{f"{task}_analyzer_intermediate_size": 16 for task in ("emotion", "ethics", "regret", "surd")},
    "num_filters": 8,
    "filter_mixer_size": 16,
    "affect_observer_sizes": [16],
    "memory_slots": 16,
}


def tiny_model(tokenizer: PreTrainedTokenizerBase, precision: str = "fp32", **changes: Any) -> RedHeartForMultiTask:
    """The same weights on every call, in training mode."""
    set_seed(0)
    sizes = SIZES | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id} | changes
    return create_model(RedHeartConfig(**sizes), precision).train()


def as_said_by(
    model: RedHeartForMultiTask, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
) -> list[Record]:
    """Those with actions, their utilities and regret what `model` says: rows that it knows without having learned."""
    chosen = [record for record in records if record.actions]
    said = predict_records(model, tokenizer, chosen, progress=False)
    return [
        replace(
            record,
            actions=[replace(action, utility=said["utility_views"][row, at].tolist()) for at, action in actions],
            regret=said["regret"][row].tolist(),
        )
        for row, record in enumerate(chosen)
        for actions in [list(enumerate(record.actions or []))]
    ]


def tiny_config(output_dir: Path | str, **changes: Any) -> TrainConfig:
    fields: dict[str, Any] = {
        "batch_size": 4,
        "warmup_steps": 2,
        "learning_rate": 1e-2,
        "log_steps": 1,
        "save_steps": 2,
    }
    return TrainConfig(output_dir=str(output_dir), train=["scenarios=given"], **(fields | changes))


def build_loop(
    tokenizer: PreTrainedTokenizerBase,
    config: TrainConfig,
    records: Sequence[Record],
    kind: type[TrainLoop] = TrainLoop,
    **model_changes: Any,
) -> TrainLoop:
    model = tiny_model(tokenizer, config.weight_precision, **model_changes)
    cache = Path(config.output_dir).parent / "encoded"
    dataset = encode(records, tokenizer, model.config.max_length, cache_dir=cache)
    collator = Collator(tokenizer)
    dev = collator([dataset[row] for row in range(3)])

    def evaluate() -> Evaluation:
        model.eval()
        with torch.inference_mode():
            output = model(**{name: dev[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
        utility = float(output.ethics.utility.mean())
        return Evaluation({"given": {"mean_utility": utility}}, {}, {"choosing": {"score": utility}})

    return kind(build_accelerator(config), model, dataset, collator, config, evaluate)


def one_life(spec: dict[str, Any]) -> None:
    """Start or go on, as training/train.py does, until the run is done or something ends this process."""
    torch.set_num_threads(1)
    if spec.get("kill_in_flush"):
        kill_in_flush(spec["kill_in_flush"])
    config = tiny_config(**spec["config"])
    records = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}")).records
    loop = build_loop(AutoTokenizer.from_pretrained(spec["tokenizer"]), config, records[:24])
    found = find_checkpoint(Path(config.output_dir), config.resume)
    if found is not None:
        load_run(loop, found)
    loop.train()


def kill_in_flush(number: int) -> None:
    """End this process at its `number`-th flush of a file: somewhere inside a save."""
    flush, calls = folders.flush_to_disk, [0]

    def flush_or_die(path: Path) -> None:
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(path)

    folders.flush_to_disk = flush_or_die


def wait_for_line(process: int, metrics: Path, lines: int) -> None:
    """Until `process` has written so many lines of metrics; raises when it ends before."""
    while not metrics.exists() or len(metrics.read_bytes().splitlines()) < lines:
        if os.waitpid(process, os.WNOHANG) != (0, 0):
            raise RuntimeError(f"process {process} ended before line {lines} of {metrics}")
        time.sleep(0.001)


def many_lives(spec: dict[str, Any]) -> None:
    """One process after the other, each killed a random moment after it wrote its line, and one that may end.

    They are forks of this one, which has imported all and computed nothing: starting Python anew takes seconds. With
    `may_end` a life may be over before its flush comes.
    """
    metrics = Path(spec["config"]["output_dir"]) / "metrics.jsonl"
    for kill in [*spec["kills"], None]:
        process = os.fork()
        if process == 0:
            one_life(spec | ({"kill_in_flush": -kill} if kill is not None and kill < 0 else {}))
            os._exit(0)
        if kill is not None and kill > 0:
            wait_for_line(process, metrics, kill)
            time.sleep(random.uniform(0, 0.1))
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        expected = {0} if kill is None else {0, signal.SIGKILL} if spec.get("may_end") else {signal.SIGKILL}
        if status not in expected:
            raise RuntimeError(f"the process to be ended by {kill} ended with status {status}")
        if status == signal.SIGKILL:
            print("killed", flush=True)


def main() -> None:
    for spec in map(json.loads, sys.argv[1:]):
        if "kills" in spec:
            many_lives(spec)
        else:
            one_life(spec)


if __name__ == "__main__":
    run(main)
