"""Fixtures shared by the tests: the shipped scenarios, a tokenizer trained on them, a tiny model with it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from control_group import Group
from tiny_encoder import save_tiny_encoder

from preprocessing.readers import parse_source, read
from redheart_hf import RedHeartForMultiTask, preset_config
from training.train_tokenizer import texts_of, train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ROOT / "data" / "scenarios"


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # this process tells, those beside it run the tests
        config.pluginmanager.register(TellAtOnce(config), "redheart-tell-at-once")


class TellAtOnce:
    """What failed is told where it fails, too: a suite that is cut short has said it."""

    def __init__(self, config: pytest.Config):
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            terminal = self.config.pluginmanager.get_plugin("terminalreporter")
            terminal.write_line(f"\nFAILED {report.nodeid} ({report.when}, {report.duration:.0f} s)")
            terminal.write_line("\n".join(report.longreprtext.splitlines()[-30:]))


@pytest.fixture
def own_precision() -> Iterator[None]:
    """A run is a process of its own: the precision that another test's accelerator has fixed is not fixed in it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def group() -> Iterator[Group]:
    for version, root in ((2, Path("/sys/fs/cgroup")), (1, Path("/sys/fs/cgroup/memory"))):
        folder = root / f"redheart-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        found = Group(folder, version)
        if found.limit.exists() and found.events.exists():
            yield found
            folder.rmdir()
            return
        folder.rmdir()
    pytest.skip("no control group with a limit of memory can be made here: that takes root and the memory controller")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public data sets named by REDHEART_DATA_DIR."""
    folder = os.environ.get("REDHEART_DATA_DIR")
    if not folder:
        pytest.skip("REDHEART_DATA_DIR is not set: this test reads public data sets that are not in the repository")
    return Path(folder)


@pytest.fixture(scope="session")
def scenarios():
    """The training scenarios, Korean and English, as records."""
    return read(parse_source(f"scenarios={SCENARIOS / 'train.jsonl'}")).records


@pytest.fixture(scope="session")
def dev():
    """The development scenarios."""
    return read(parse_source(f"scenarios={SCENARIOS / 'dev.jsonl'}")).records


@pytest.fixture(scope="session")
def encoder(tokenizer, tmp_path_factory) -> Path:
    """Folder of a text encoder with random weights. To be read only."""
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny", tokenizer)


@pytest.fixture(scope="session")
def tokenizer(scenarios):
    """Byte-level BPE of 1,024 entries over the shipped scenarios."""
    return train_tokenizer(texts_of(scenarios), vocab_size=1024, max_length=512)


@pytest.fixture(scope="session")
def tokenizer_dir(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tokenizer, tmp_path_factory) -> Path:
    """redheart-tiny as initialised with seed 0, saved with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = preset_config("redheart-tiny", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    RedHeartForMultiTask(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
