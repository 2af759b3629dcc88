"""One large batch, several small ones, several processes: the same gradient, whatever labels each part has.

In    shipped scenarios of both languages, and records written here that have one kind of label each.
Out   the whole gradient of one optimizer step, as it stands before the update.
Run   `pytest tests/test_train_gradients.py`; as a program, `torchrun --nproc_per_node 2 tests/test_train_gradients.py
      TOKENIZER OUTPUT` writes what each process holds to OUTPUT/gradients-PROCESS.safetensors.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from commands import two_processes
from safetensors.torch import load_file, save_file
from tiny_run import ROOT, build_loop, tiny_config
from transformers import AutoTokenizer

from preprocessing.readers import parse_source, read
from preprocessing.records import Action, Record
from redheart_hf.labels import FINE_EMOTIONS, KOREAN_EMOTIONS, SURD_TERMS
from training.loop import TrainLoop
from training.sharding import is_sharded, whole
from training.surd_targets import SurdTargets

# No dropout, which would differ by batch; and the head whose targets come from predictions of all processes.
CHANGES = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "modules": ["surd_head"]}


def one_hot(size: int, *positions: int) -> list[float]:
    return [float(position in positions) for position in range(size)]


def written_here() -> list[Record]:
    """Sixteen records, each with the labels of one kind of source and none of the others."""
    joy, fear, anger = one_hot(7, 3), one_hot(7, 2), one_hot(7, 0, 5)
    fine = [one_hot(len(FINE_EMOTIONS), 17), one_hot(len(FINE_EMOTIONS), 14, 19)]
    korean = [one_hot(len(KOREAN_EMOTIONS), 4, 40), one_hot(len(KOREAN_EMOTIONS), 12)]
    choice = [
        Action(text="Ask for one more day.", utility=[0.5, 0.25, 0.0]),
        Action(text="Hand in what there is.", utility=[0.25, 0.0, -0.75]),
    ]
    labelled = [
        ("We got the flat! I danced in the stairwell.", {"basic_emotions": joy, "fine_emotions": fine[0]}),
        ("Is that smoke coming from under the door?", {"basic_emotions": fear, "fine_emotions": fine[1]}),
        ("He ate my lunch again and laughed about it.", {"basic_emotions": anger}),
        ("도와주셔서 정말 고맙습니다, 덕분에 살았어요.", {"korean_emotions": korean[0], "basic_emotions": joy}),
        ("이 가격이 맞는지 모르겠네요.", {"korean_emotions": korean[1]}),
        ("The lake lay still under the first snow.", {"vad": [0.5, -0.75, 0.25]}),
        ("Sirens, then shouting, then nothing at all.", {"vad": [-0.5, 0.75, -0.25]}),
        ("I found a coin in my coat.", {"worse": "I found a hole in my coat."}),
        ("The train came on time.", {"worse": "The train came an hour late, and it was full."}),
        ("My soup was warm.", {"worse": "My soup was cold and somebody had already eaten of it."}),
        ("I kept the change the cashier gave me by mistake.", {"acceptability": [None, None, 0.0, None]}),
        ("Could you water the plants?", {"text_pair": "No, they are silk.", "acceptability": [None, 1.0, None, None]}),
        ("She gave up her seat.", {"text_pair": "generous", "acceptability": [None, None, None, 1.0]}),
        ("할머니 댁에 가는 길은 늘 짧다.", {"culture": [0.75, 0.0, 0.25]}),
        ("I should have called her on Sunday.", {"regret": [0.25, 0.5, 1.0]}),
        ("The report is due tonight.", {"actions": choice, "chosen": 1, "regret": [0.25, 0.25, 0.75]}),
    ]
    return [
        Record(id=f"here:{row}", reader="here", language="en", text=text, source="here", row=row, **labels)
        for row, (text, labels) in enumerate(labelled, start=1)
    ]


def mixed_records() -> list[Record]:
    """Thirty-two, the kinds in one order so that neighbours have different labels, then runs of one kind."""
    scenarios = read(parse_source(f"scenarios={ROOT / 'data' / 'scenarios' / 'train.jsonl'}")).records
    return [*written_here(), *scenarios[:8], *scenarios[-8:]]


class GradientLoop(TrainLoop):
    """Keeps the gradients of a step as they stand when the update begins."""

    gradients: dict[str, torch.Tensor]

    def update(self, step_sums, counts, group):
        parameters = self.bare_model.named_parameters()
        with_one = {name: parameter.grad for name, parameter in parameters if parameter.grad is not None}
        self.gradients = {name: whole(gradient).clone() for name, gradient in with_one.items()}
        self.counts = counts
        return super().update(step_sums, counts, group)


def gradient_of_step(tokenizer, output_dir: Path, micro_batches: list[list[int]], processes: int = 1) -> GradientLoop:
    config = tiny_config(
        output_dir,
        batch_size=len(micro_batches[0]),
        gradient_accumulation_steps=len(micro_batches),
        max_grad_norm=1e9,
        loss_weights={"polarity": 2.0, "vad": 0.5},
    )
    loop = build_loop(tokenizer, config, mixed_records(), GradientLoop, **CHANGES)
    assert loop.accelerator.num_processes == processes
    # Terms' weights that differ: a factor taken twice, or not at all, would show.
    loop.term_weights.load_state_dict({term: 0.1 * i for i, term in enumerate(loop.term_weights.log_variances)})
    # As after thousands of predictions: the SURD head has something to learn.
    loop.surd_targets.terms = np.eye(2, len(SURD_TERMS))
    loop.take_step([loop.collator([loop.dataset[row] for row in rows]) for rows in micro_batches])
    return loop


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over the norm, of all gradients taken as one vector."""
    assert set(found) == set(expected)
    squares = [
        ((found[name] - expected[name]).double().pow(2).sum(), expected[name].double().pow(2).sum())
        for name in expected
    ]
    return float((sum(difference for difference, _ in squares) / sum(whole for _, whole in squares)) ** 0.5)


def test_four_micro_batches_give_the_gradient_of_one(tokenizer, tmp_path: Path):
    whole = gradient_of_step(tokenizer, tmp_path / "whole", [list(range(32))])
    assert all(count > 0 for count in whole.counts.values()), "every term must have a label somewhere"
    assert all(float(gradient.norm()) > 0 for name, gradient in whole.gradients.items() if "pooling" in name)
    parts = gradient_of_step(
        tokenizer, tmp_path / "parts", [list(range(start, start + 8)) for start in (0, 8, 16, 24)]
    )
    assert distance(parts.gradients, whole.gradients) < 1e-5
    # The comparison can tell: the mean of each micro-batch's own means would be another gradient.
    alone = gradient_of_step(tokenizer, tmp_path / "alone", [list(range(8, 16))])
    common = {name: whole.gradients[name] for name in alone.gradients}
    assert distance(alone.gradients, common) > 0.1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_two_processes_give_the_gradient_of_one(sharded: bool, tokenizer, tokenizer_dir: Path, tmp_path: Path):
    whole = gradient_of_step(tokenizer, tmp_path / "whole", [list(range(32))])
    command, environment = two_processes(__file__, tokenizer_dir, tmp_path, sharded=sharded)
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    for process in (0, 1):
        # Afterwards a step whose records have emotions only: heads without labels must neither stop the processes nor
        # move the weights apart.
        assert distance(load_file(tmp_path / f"gradients-{process}.safetensors"), whole.gradients) < 1e-5
        # Each process remembers what both predicted, in the order in which one would have seen it.
        remembered = SurdTargets()
        remembered.load(tmp_path / f"surd-{process}.safetensors")
        assert remembered.seen == whole.surd_targets.seen > 16
        np.testing.assert_array_equal(remembered.outcomes, whole.surd_targets.outcomes)
        np.testing.assert_allclose(remembered.agents, whole.surd_targets.agents, atol=1e-5)
    weights = [load_file(tmp_path / f"weights-{process}.safetensors") for process in (0, 1)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def main() -> None:
    """One of two processes: its sixteen of the thirty-two records; the first process has no scenario at all."""
    torch.set_num_threads(1)
    process = int(os.environ["RANK"])
    output_dir = Path(sys.argv[2])
    loop = gradient_of_step(
        AutoTokenizer.from_pretrained(sys.argv[1]),
        output_dir / f"process-{process}" / "run",
        [list(range(16 * process, 16 * process + 16))],
        processes=2,
    )
    if is_sharded(loop.accelerator):  # a half of all, and what makes halves even
        parameters = list(loop.bare_model.parameters())
        held = sum(parameter.to_local().numel() for parameter in parameters)
        assert held < 0.55 * sum(parameter.numel() for parameter in parameters)
    save_file(loop.gradients, output_dir / f"gradients-{process}.safetensors")
    (output_dir / f"surd-{process}.safetensors").write_bytes(loop.surd_targets.packed())
    for _ in range(2):
        loop.take_step([loop.collator([loop.dataset[row] for row in (process, 2)])])
    assert not any(name.startswith("regret_head") for name in loop.gradients)
    state = {name: whole(tensor).clone() for name, tensor in loop.bare_model.state_dict().items()}
    save_file(state, output_dir / f"weights-{process}.safetensors")
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
