"""Eight publish and eight load at the same time, publishers killed at random: every load is of one whole version.

In    versions of a tiny model, each with its number in config, card and every weight.
Out   nothing.
Run   `pytest -m slow tests/test_train_publish_killed.py`; REDHEART_PUBLISHED_ROUNDS=200 for as many (default 10)
"""

import os
import random
import signal
import time
from pathlib import Path

import hub_round
import pytest
import torch

from redheart_hf import RedHeartModel, preset_config
from training.hub_check import problems_of, prune
from training.hub_repo import HubRepo

MANY = 8
SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "modules": []}


def versions(folder: Path, count: int) -> list[Path]:
    """Folders of a backbone, all of whose weights are the version's number."""
    torch.manual_seed(0)
    made = []
    for number in range(1, count + 1):
        model = RedHeartModel(preset_config("redheart-tiny", **SMALL, rope_theta=float(number)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(number)
        made.append(folder / f"version-{number}")
        model.save_pretrained(made[-1])
        (made[-1] / "README.md").write_text(str(number), encoding="utf-8")
    return made


def forked(work, *given) -> int:
    """This process has imported all: starting Python anew takes seconds."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work(*given)
            code = 0
        finally:
            os._exit(code)
    return process


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_load_is_of_one_whole_version(tmp_path: Path):
    rounds = int(os.environ.get("REDHEART_PUBLISHED_ROUNDS", 10))
    seed = random.randrange(2**32)
    print(f"kills follow from seed {seed}")  # shown when the test fails
    chance, hub, folders = random.Random(seed), tmp_path / "hub", versions(tmp_path, 12)
    hub_round.publish(hub, folders[:1])
    for _ in range(rounds):
        loading = [forked(hub_round.load, hub, 0.3) for _ in range(MANY)]
        # Every second one has more to publish than it will live for.
        counts = [4, 10_000] * (MANY // 2)
        publishing = [forked(hub_round.publish, hub, chance.choices(folders, k=count)) for count in counts]
        time.sleep(chance.uniform(0, 0.5))
        for process in publishing[1::2]:
            os.kill(process, signal.SIGKILL)
        ends = [os.waitpid(process, 0)[1] for process in publishing]
        assert ends == [0, signal.SIGKILL] * (MANY // 2)
        assert [os.waitpid(process, 0)[1] for process in loading] == [0] * MANY
        if chance.random() < 0.1:
            prune(HubRepo(hub, hub_round.NAME), keep=1)
    assert problems_of(HubRepo(hub, hub_round.NAME), progress=False) == []
