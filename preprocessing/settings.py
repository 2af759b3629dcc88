"""JobConfig: all that is needed to repeat a preprocessing job. Recipes (YAML) and the command line are made from it.

In    `[recipe.yaml] [--field value ...]`; later ones win.
Out   a JobConfig, its values checked.
Run   `python -m preprocessing.pipeline --help`
"""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from preprocessing.command_line import parser_of, values_of
from preprocessing.decoding import Decoding
from preprocessing.errors import UserError
from preprocessing.origin_weights import LABELS

COMMAND = "python -m preprocessing.pipeline"
FREE_TO_CHANGE = {"output", "num_proc", "answers", "overwrite", "judged"}
"""Fields that change how a job runs, never what it writes; what `judged` holds is told apart by its content."""
STEP_FIELDS = (
    "steps",
    "languages",
    "least_characters",
    "most_characters",
    "near_threshold",
    "other_labels",
    "text_encoder",
    "text_encoder_prefix",
    "text_encoder_languages",
    "meaning_threshold",
    "retrieve_from",
    "retrieve_least",
)
MEANING_STEPS = ("near-in-meaning", "retrieve")
LISTS = ("--data", "--retrieve_from")
"""Options of which a shell user gives the items one after another."""
DECODING = ("threshold", "tolerance", "calibrate", "samples", "temperature", "seed", "batch_size", "max_tokens")


@dataclass(kw_only=True)
class JobConfig:
    """One preprocessing job."""

    data: list[str]
    """Sources as READER=PATH or READER=PATH@SPLIT (docs/data.md); ${VARIABLES} of the environment are filled in."""
    output: str
    """Folder of the finished data set. It appears whole, when all is done; what is kept until then lies beside it."""
    overwrite: bool = False
    """Replace a finished data set that was made with other settings."""
    num_proc: int = 1
    """Processes that make the signatures of near-duplicates; the result is the same for every number. The other steps
    take a row in less time than it takes to hand it to another process."""
    steps: list[str] = field(
        default_factory=lambda: ["language", "length", "personal-data", "duplicates", "near-duplicates"]
    )
    """What rows go through before anything is asked, in this order; [] lets all pass (preprocessing/step_table.py)."""
    sample_rows: int | None = None
    """Rows that are drawn of each source; by default all are read."""
    languages: list[str] = field(default_factory=lambda: ["en", "ko"])
    """For language: which ones are wanted."""
    least_characters: int = 2
    """For length: texts with fewer are set aside."""
    most_characters: int = 4_000
    """For length: texts with more are set aside."""
    near_threshold: float = 0.8
    """For near-duplicates: texts are alike that share this part of their letter sequences, or more."""
    other_labels: Literal["keep", "drop"] = "keep"
    """For near-duplicates: what becomes of a row like an earlier one that has labels which that one lacks."""
    text_encoder: str | None = None
    """For near-in-meaning and retrieve: folder of a Hugging Face encoder, or package:NAME/FOLDER."""
    text_encoder_prefix: str = ""
    """What the encoder wants before each text, as "query: " for E5."""
    text_encoder_languages: list[str] = field(default_factory=lambda: ["en", "ko"])
    """Which ones it reads; rows in another pass near-in-meaning and retrieve as they are."""
    meaning_threshold: float = 0.97
    """For near-in-meaning: texts say the same whose vectors have this cosine, or more."""
    retrieve_from: list[str] = field(default_factory=list)
    """For retrieve: sources with actions, as READER=PATH; a record without any gets those of the nearest case, which
    training counts half (origin_weights: retrieved)."""
    retrieve_least: float = 0.8
    """For retrieve: the least cosine of a case that is near enough; another encoder, another bound."""
    rows_per_shard: int = 50_000
    """Rows of one Parquet file."""

    enrich: str | None = None
    """Language model that fills in missing labels: a model folder, a GGUF file, or package:NAME/FOLDER."""
    quantization: Literal["nf4", "nf4-packed", "bf16", "fp32"] = "nf4"
    """How its weights are held (preprocessing/llm.py)."""
    prompts: list[str] = field(default_factory=lambda: ["affect@1", "circumstances@1", "culture@1", "alternatives@1"])
    """What is asked, as NAME@VERSION of preprocessing/prompts/."""
    threshold: float = 0.5
    """Values of which the model is less sure stay empty."""
    tolerance: float = 0.25
    """Two answers agree that lie this part of their scale apart, or less."""
    calibrate: bool = True
    """Divide its probabilities by those for texts that say nothing."""
    samples: int = 1
    """Alternatives written for a record, of which the likeliest are kept."""
    temperature: float = 0.7
    """Of what it writes; numbers are not drawn."""
    seed: int = 0
    """Of what is drawn: rows by sample, and what the language model writes."""
    batch_size: int = 8
    """Rows that are asked about at a time."""
    max_tokens: int = 512
    """Longer texts are not asked about."""
    answers: str | None = None
    """File of answers, kept for other jobs and settings too; by default OUTPUT.answers, beside the data set."""
    shares: dict[str, float] = field(default_factory=dict)
    """READER: SHARE of an epoch, whatever its rows; those not named share the rest (preprocessing/balance.py)."""
    temperature_of_sources: float = 1.0
    """1 leaves sources as large as they are; higher makes them more alike in an epoch."""
    balance_label: str | None = None
    """Label by which the rows of a source are balanced, as basic_emotions."""
    temperature_of_labels: float = 1.0
    """The same between the rows of a source that differ in it."""

    unreliable: list[str] = field(default_factory=list)
    """Labels that preprocessing.judge found no better than chance: the card marks them, and training leaves out what
    the language model said of them."""
    judged: str | None = None
    """Folder that preprocessing.judge wrote of this model: what it found to be no better than chance is unreliable."""

    def __post_init__(self) -> None:
        check(self)

    def step_settings(self) -> dict[str, Any]:
        """The fields that decide which rows reach the language model."""
        sample = (self.sample_rows, self.seed) if self.sample_rows is not None else None
        return {name: getattr(self, name) for name in STEP_FIELDS} | {"sample": sample}

    def decoding(self) -> Decoding:
        """Shapes are fixed: an answer must not depend on which rows happen to share its batch."""
        return Decoding(fixed_shapes=True, **{name: getattr(self, name) for name in DECODING})

    def answers_file(self) -> Path:
        return Path(self.answers or f"{self.output.rstrip('/')}.answers")

    def deciding(self) -> dict[str, Any]:
        """The fields that decide what is written."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in FREE_TO_CHANGE}


def check(config: JobConfig) -> None:
    if not config.data:
        raise UserError("data names no source; give at least one READER=PATH")
    if not config.output.strip():
        raise UserError("output names no folder; give one")
    if config.sample_rows is not None and config.sample_rows < 1:
        raise UserError(f"sample_rows must be at least 1, got {config.sample_rows}")
    for name in ("num_proc", "rows_per_shard"):
        if not 1 <= getattr(config, name) < math.inf:
            raise UserError(f"{name} must be at least 1, got {getattr(config, name)}")
    if unknown := sorted(set(config.unreliable) - set(LABELS)):
        raise UserError(f"unreliable names {unknown}; known are {', '.join(LABELS)}")
    check_meaning(config)
    if config.enrich is None:
        idle = [name for name in ("answers", "unreliable", "judged") if getattr(config, name)]
        if idle:
            raise UserError(f"{idle[0]} is set, but nothing is asked without enrich; set enrich, or leave it out")
    elif not config.prompts:
        raise UserError("prompts is empty, so enrich would ask nothing; name a prompt, or leave enrich out")
    config.decoding()


def check_meaning(config: JobConfig) -> None:
    """Raises UserError where a step by meaning lacks what it needs, or something is set that no step uses."""
    wanting = [step for step in MEANING_STEPS if step in config.steps]
    if wanting and not config.text_encoder:
        raise UserError(f"step {wanting[0]} needs text_encoder: give the folder of a Hugging Face encoder")
    if "retrieve" in wanting and not config.retrieve_from:
        raise UserError("step retrieve needs retrieve_from: give sources with actions, as READER=PATH")
    if config.retrieve_from and "retrieve" not in wanting:
        raise UserError("retrieve_from is set, but steps does not name retrieve; name it, or leave retrieve_from out")
    if (config.text_encoder or config.text_encoder_prefix) and not wanting:
        raise UserError(f"a text_encoder is set, but steps names none of {', '.join(MEANING_STEPS)}")


def build_parser() -> ArgumentParser:
    return parser_of(
        JobConfig,
        prog=COMMAND,
        description="Make a data set ready for training from texts: read, filter, let a language model fill in "
        f"missing labels, write. {COMMAND} [recipe.yaml] [--data READER=PATH ...] [--field value ...]. "
        "Stopped at any moment, the same command goes on where it was; started twice, the two share the work.",
        epilog="Readers: python -m preprocessing.readers --help. Docs: docs/preprocessing.md. Exit codes: 0 done, 1 a "
        "fault of the program, 2 something you can mend, 3 more memory than there is.",
    )


def parse_config(arguments: list[str]) -> JobConfig:
    """The config from command-line arguments, the first of which may be a recipe's path."""
    return JobConfig(**values_of(JobConfig, build_parser(), as_typed(arguments), COMMAND))


def as_typed(arguments: list[str]) -> list[str]:
    """`--data a b` is a list of two, `--num-proc` is num_proc, `--overwrite` alone is true: as a shell user writes."""
    spread: list[str] = []
    option = ""
    for place, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            option = "--" + name[2:].replace("-", "_")
            alone = place + 1 == len(arguments) or arguments[place + 1].startswith("--")
            if option in LISTS and not equals:
                if alone:
                    raise UserError(f"{option} names no source; give at least one READER=PATH")
                continue
            spread += [
                option + equals + value,
                *(["true"] if option == "--overwrite" and alone and not equals else []),
            ]
        elif option in LISTS:
            spread += [option if argument.startswith("[") else f"{option}+", argument]
        else:
            spread.append(argument)
    return spread
