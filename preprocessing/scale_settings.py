"""ScaleConfig: a preprocessing job, and the machines that its questions are spread over.

In    `[recipe.yaml] [--field value ...]`; later ones win.
Out   a ScaleConfig, its values checked; `ScaleConfig.job()` is the job alone.
Run   `python -m preprocessing.scale_out --help`
"""

import dataclasses
import shutil
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from jsonargparse import ArgumentParser

from preprocessing.asking import piece_count
from preprocessing.command_line import parser_of, values_of
from preprocessing.errors import UserError
from preprocessing.settings import JobConfig, as_typed

COMMAND = "python -m preprocessing.scale_out"
TASK_ROWS = 5_000
"""Rows of a task where --tasks does not tell: most of an hour by a small model on one core, and 20 MiB of answers."""
_SLURM_ONLY: dict[str, Any] = {"partition": None, "sbatch": {}}


@dataclass(kw_only=True)
class ScaleConfig(JobConfig):
    """One preprocessing job, and who asks its questions."""

    executor: Literal["local", "slurm", "ray"] = "local"
    """local: processes of this machine; slurm: an array of jobs; ray: the cluster that RAY_ADDRESS names."""
    tasks: int | None = None
    """Shares into which the rows are cut; by default one for each 5,000 rows, and no fewer than workers."""
    workers: int = 2
    """Tasks at a time. Each holds the language model and its own answers in memory."""
    threads: int = 1
    """Threads of each worker. The same number everywhere, or answers differ in their last digits."""
    memory_gib: int = 3
    """Memory of each worker: asked of slurm and ray, and looked for before local ones start (docs/scale-out.md)."""
    hours: int = 24
    """For slurm and ray: a task that takes longer is ended; the same command goes on with it."""
    partition: str | None = None
    """For slurm: the partition, which it needs."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """For slurm: more options of sbatch, as {account: mine, qos: long}."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self)

    def job(self) -> JobConfig:
        return JobConfig(**{item.name: getattr(self, item.name) for item in dataclasses.fields(JobConfig)})

    def tasks_for(self, rows: int) -> int:
        return self.tasks or min(max(self.workers, -(-rows // TASK_ROWS)), piece_count(rows))


def check_scale(config: ScaleConfig) -> None:
    """Raises UserError for what cannot be spread, before anything is read."""
    if config.enrich is None:
        raise UserError(
            "there is nothing to spread without enrich: reading and filtering go through all rows in order, in one "
            "process (python -m preprocessing.pipeline); set enrich"
        )
    for name in ("workers", "threads", "memory_gib", "hours"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.tasks is not None and not 1 <= config.tasks <= 99_999:
        raise UserError(f"tasks must lie in [1, 99999], got {config.tasks}")
    idle = [name for name, unset in _SLURM_ONLY.items() if getattr(config, name) != unset]
    if config.executor != "slurm" and idle:
        raise UserError(f"{idle[0]} is for --executor slurm, and the executor is {config.executor}; leave it out")
    if find_spec("datatrove") is None:
        raise UserError("the package datatrove is missing: pip install -c constraints.txt -e '.[train,enrich,scale]'")
    if config.executor == "ray" and find_spec("ray") is None:
        raise UserError("--executor ray needs the package ray, the version of the cluster: pip install ray==VERSION")
    if config.executor == "slurm" and config.partition is None:
        raise UserError("--executor slurm needs --partition; sinfo lists what there is")
    if config.executor == "slurm" and shutil.which("sbatch") is None:
        raise UserError("there is no sbatch on this machine; start the command where jobs are submitted")


def build_parser() -> ArgumentParser:
    return parser_of(
        ScaleConfig,
        prog=COMMAND,
        description="A preprocessing job whose language model is asked by many processes or machines; the data set "
        f"has the bytes that python -m preprocessing.pipeline would write. {COMMAND} [recipe.yaml] [--field value "
        "...]. Reading, filtering and writing happen here, and this command stays until all is done. --output must "
        "lie on a disk that all machines see under the same path. Stopped at any moment, the same command goes on.",
        epilog="Docs: docs/scale-out.md. Exit codes: 0 done, 1 a fault of the program, 2 something you can mend, 3 "
        "more memory than there is.",
    )


def parse_config(arguments: list[str]) -> ScaleConfig:
    """The config from command-line arguments, the first of which may be a recipe's path."""
    return ScaleConfig(**values_of(ScaleConfig, build_parser(), as_typed(arguments), COMMAND))
