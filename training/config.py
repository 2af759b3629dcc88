"""TrainConfig: all that is needed to repeat a run. Recipes (YAML) and the command line are made from it.

In    fields, as training/command_line.py reads them from a recipe and the command line.
Out   a TrainConfig, its values checked; it is saved in every checkpoint and beside the final model.
Run   `python training/train.py --help`

What belongs to the network is in `RedHeartConfig` and reached here as `--model.FIELD VALUE`; what belongs to the
machine is in accelerate_config.yaml.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from preprocessing.errors import UserError
from redheart_hf import RedHeartConfig
from redheart_hf.losses import terms_of
from training.config_checks import check, refuse_idle_with_adapters, refuse_without_dropout
from training.run_facts import native_precision

# Fields that may differ when a run goes on: they change what is written and when, never the weights.
FREE_ON_RESUME = {"output_dir", "log_steps", "save_steps", "save_total_limit", "resume", "num_workers", "num_proc"}
FREE_ON_RESUME |= {"ram_gib", "vram_gib", "memory_fraction", "plan_memory", "hold_memory", "swap", "swap_room_gib"}
FREE_ON_RESUME |= {"watch_memory", "save_epochs", "keep_complete", "save_async", "sweet_spot", "crossover"}
FREE_ON_RESUME |= {"preflight", "debug", "verbose", "force_preprocess", "queue_batches", "trackers"}


@dataclass(kw_only=True)
class TrainConfig:
    """One training run."""

    output_dir: str
    """Folder of the run: checkpoints, metrics.jsonl, rejected.jsonl, TensorBoard files, final/."""
    train: list[str]
    """Sources as READER=PATH or READER=PATH@SPLIT; ${VARIABLES} of the environment are filled in."""
    dev: list[str] = field(default_factory=list)
    """Sources to evaluate on; texts that also occur in training are taken out of them and counted."""
    holdout: dict[str, int] = field(default_factory=dict)
    """READER: ROWS to take out of a training source for dev; rows that share a scenario stay together."""

    train_rows: int | None = None
    """Train on no more than so many records, drawn from all of them by the seed; dev stays whole."""
    force_preprocess: bool = False
    """Encode the records anew, whatever was kept of an earlier run."""
    passes: dict[str, float | list[float]] = field(default_factory=dict)
    """READER: PASSES over its records in one epoch; 1 by default, 0.3 takes other records each epoch. A list is by
    epoch and its last number holds from there on: [4, 0.5] begins with four, [0, 1] leaves the first epoch out. Of one
    source of several by READER=PATH, written as in train, one number."""
    sampling_temperature: float = 1.0
    """T: a reader of n records gives a share of each epoch in proportion to n^(1/T); 1 takes each record once."""
    chunk_rows: int | None = None
    """Go through the data in chunks of so many records, encoded apart and done with one by one (incremental training):
    for data that memory does not hold. By default all at once."""

    num_regrets: int = 0
    """Alternatives beside each deed, of which its regret is computed (training/regret_alternatives.py): what its
    record has, then actions that others lend. 0: the record's own alone, and the regret its source gives."""
    num_bentham: Literal[1, 3] = 3
    """With num_regrets: calculations for each alternative, in the neutral view (1) or in all (3)."""
    regret_alternatives: Literal["data", "retrieved", "enriched"] = "data"
    """With num_regrets: who lends. data: any case of the training data; retrieved: the cases nearest in meaning, by
    the run's text encoder; enriched: cases whose actions a language model wrote."""

    preset: str = "redheart-tiny"
    """Name of the architecture to start from (python -m redheart_hf.presets)."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of RedHeartConfig put over the preset, as in --model.hidden_size 256."""
    text_encoder: str | None = None
    """Folder of a Hugging Face encoder, or package:NAME/SUBFOLDER inside an installed Python package."""
    tokenizer: str | None = None
    """Folder of the tokenizer; by default the text encoder's."""
    start_from: str | None = None
    """Folder of a trained model to go on from, in place of preset, text_encoder and tokenizer; `model` may change what
    its weights allow, and add modules."""

    epochs: int = 1
    """Passes over the training data."""
    max_steps: int | None = None
    """Stop after so many optimizer steps; the schedule then ends there."""
    batch_size: int = 32
    """Records per process and micro-batch; a preference pair or a scenario with its actions is one record."""
    gradient_accumulation_steps: int = 1
    """Micro-batches per optimizer step; the gradient is that of one large batch, whatever labels each one has."""
    bucket_batches: int = 50
    """Batches are cut from pools of so many batches, sorted by length, to spare padding; 1 leaves pure chance."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "no"
    """Arithmetic of the forward pass; of weights see weight_precision. auto: bf16 where the processor multiplies
    in it (elsewhere it is emulated, at a third of float32's speed), else no; the run keeps what was found."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""

    weight_precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the matrices of the network are kept in two bytes a number and rounded by chance when they move; norms,
    biases, the router, answers, dynamics and a text encoder stay in float32. It wants optimizer adamw_8bit and
    mixed_precision bf16."""
    update_in_backward: bool = False
    """Move each weight as soon as its gradient is there, and free the gradient: none of them wait for the others. It
    wants optimizer adamw_8bit and one process."""
    clipping: Literal["global", "per_parameter", "previous_norm"] = "global"
    """How max_grad_norm is kept to with update_in_backward (training/in_backward.py). global: exactly, going through
    each step twice; per_parameter: no update has a root mean square above 1 (max_grad_norm is not used);
    previous_norm: by the norm of the step before."""
    optimizer: Literal["adamw", "adamw_8bit", "sgd", "adafactor"] = "adamw"
    """adamw_8bit: the moments of matrices take a byte each instead of four, on the CPU; it needs a C++ compiler.
    adafactor keeps a row and a column for each matrix, sgd nothing or its momentum; their rates mean something else
    (training/optim.py)."""
    learning_rate: float = 1e-4
    """Peak rate of the optimizer for what has none of its own."""
    text_encoder_learning_rate: float | None = None
    """Peak rate of the text encoder's weights; by default as `learning_rate`."""
    answer_learning_rate: float | None = None
    """Peak rate of the layers that answer (the last of each head); by default as `learning_rate`."""
    text_encoder_start: int = 0
    """Steps in which the text encoder stays as it is, while the heads learn what to ask of it (arXiv 2202.10054)."""
    min_learning_rate: float = 1e-6
    """Where the cosine ends."""
    warmup_steps: int = 100
    """Steps of linear rise to the peak."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    momentum: float = 0.0
    """How much of its last movement sgd repeats; above 0 it takes four bytes a weight."""
    weight_decay: float = 0.01
    """Decay of matrices, decoupled but in sgd, where it is added to the gradient; norms, biases and single numbers are
    spared."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are cut to it."""
    update_weights: bool = True
    """Whether weights move. Without, a step does everything but that, and the run proves in the end that none has."""
    loss_weighting: Literal["equal", "uncertainty", "famo"] = "uncertainty"
    """equal: the terms' losses are added as they are; uncertainty: each is weighed by what it has learned (arXiv
    1705.07115); famo: so that all fall at the same rate (arXiv 2306.03792), for one more forward pass a step, or two
    (training/famo.py)."""
    loss_weights: dict[str, float] = field(default_factory=dict)
    """TERM: FACTOR, fixed and besides the above; terms are listed in redheart_hf/losses.py."""

    label_smoothing: float = 0.0
    """Labels of emotions, polarity and acceptability are trained on as t (1 - e) + e / 2, pairs as if their order held
    with probability 1 - e / 2. Other terms, and evaluation, see labels as they are."""
    rdrop_alpha: float = 0.0
    """R-Drop (arXiv 2106.14448): above 0 each text is read twice in a step, with different dropout, and answers that
    differ cost alpha / 2 times their divergence (training/rdrop.py)."""
    ema_decay: float | None = None
    """Decay of an average of the weights, such as 0.999, which is then what is evaluated and what final/ holds; four
    bytes for each trained number (training/ema.py)."""
    early_stopping_patience: int | None = None
    """The run ends after so many evaluations in a row that are no better than the best before them
    (training/early_stopping.py)."""
    early_stopping_min_delta: float = 0.0
    """By how much a score must exceed the best one to be better."""

    origin_weights: dict[str, float] = field(default_factory=dict)
    """ORIGIN: WEIGHT of labels by where they come from: human (1 by default), llm (0.5), retrieved from a like case
    (0.5), derived (0.5). At 0 they are left out. Only what people or a source gave is judged by, whatever is set."""

    memory_refresh_steps: int = 100
    """Steps between refreshes of the scenario memory, if the model has one: texts of that step take the place of what
    is looked at least; 0 leaves it to learn by itself."""

    class_balance: float | None = None
    """Beta of class-balanced weights (Cui et al. 2019, arXiv 1901.05555) for the labels of each kind of emotion, from
    their counts in the training data: 0 weighs all alike, towards 1 as the inverse of the counts."""

    preflight: bool = False
    """Whether three runs of ten records have to pass before this one begins (training/preflight.py)."""
    debug: bool = False
    """Look for the operation behind a NaN in the backward pass (slow), and show where an error came from."""
    verbose: bool = False
    """Let Transformers, Datasets and Accelerate say all they have to say."""
    seed: int = 0
    """Decides initial weights, order of the data and dropout."""
    log_steps: int = 5
    """Steps between lines of metrics.jsonl and timings.jsonl: losses, gradient norms, times, memory, queue."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Who else is given these numbers: tensorboard, trackio; [] for none."""
    eval_steps: int | None = None
    """Steps between evaluations on dev; by default after each epoch."""
    save_steps: int = 200
    """Steps between checkpoints, where save_epochs does not say otherwise."""
    save_epochs: int | None = None
    """Epochs between checkpoints: 2 saves after each even one. The end of the run is saved always."""
    save_total_limit: int = 30
    """Checkpoints kept; the oldest go first, but neither the best one nor those a sweet spot was found in."""
    keep_complete: int = 2
    """Of these, how many of the newest are kept as they are, so that a run can go on from them; the best one is too.
    The others keep their weights alone, in two bytes a number. From save_total_limit on nothing is thinned."""
    save_async: Literal["auto", "on", "off"] = "auto"
    """on: a checkpoint is written from a copy in memory while the next steps are taken (training/saving.py). auto:
    where the plan of the run's memory has room for the copy; the run says so where it has not."""
    resume: str = "auto"
    """auto: go on from the newest checkpoint in output_dir, if any; latest: refuse where there is none; never: refuse
    to start over one; or a checkpoint's folder, or its name (training/checkpoint_choice.py)."""
    num_workers: int = 0
    """Processes that prepare batches ahead, with their alternatives (training/regret_pool.py); 0 prepares each when it
    is wanted."""
    queue_batches: int = 8
    """With num_workers: micro-batches that may be in work or lie ready."""
    num_proc: int = 1
    """Processes that tokenize."""

    lr_sweep: dict[str, Any] | None = None
    """A few short runs choose learning_rate first: {points: 5, low: 1e-5, high: 1e-2} and steps, seeds, refine, rows
    as `python -m training.lr_sweep --help` tells them; {} takes what is usual."""
    sweet_spot: bool = False
    """After the last step, find for each module the checkpoint at which it was best (training/sweet_spot.py)."""
    crossover: bool = False
    """After that, put final/ together from modules of the checkpoints, where dev's choosing half gains by it
    (training/crossover.py)."""

    gpu_layers_ratio: float | None = None
    """The share of the blocks, 0.0 to 1.0, that is on the GPU: the last ones, and what follows them. What reads the
    text and the first blocks are on the CPU (training/placement.py)."""
    heads_device: Literal["gpu", "cpu"] = "gpu"
    """With gpu_layers_ratio: where what follows the blocks is. cpu: three stages, CPU, GPU, CPU."""
    swap: Literal["off", "on", "auto"] = "off"
    """on: weights, gradients and moments live in main memory, and weights visit the GPU while they are in use
    (training/swap.py). auto: where the plan does not fit the GPU without; the run says so before it begins."""
    swap_room_gib: float = 0.0
    """With swap: weights that may stay on the GPU after use, in GiB."""

    ram_gib: float | None = None
    """Memory that this run may take, in GiB, to be used whole. A run whose plan is larger does not start."""
    vram_gib: float | None = None
    """The same of the GPU's memory."""
    memory_fraction: float = 0.8
    """Without ram_gib (vram_gib): what part of the memory that is free (other processes and limits counted) it may
    take."""
    plan_memory: bool = True
    """Whether the run's memory is planned before its model is made (one process); see training.memory."""
    hold_memory: Literal["auto", "on", "off"] = "auto"
    """Whether tensors are held to what they need (training/held_memory.py). auto: where there is a C++ compiler."""
    watch_memory: bool = True
    """Whether the machine's memory is watched (training/watchdog.py): where others take it, the run saves and ends."""

    def __post_init__(self):
        if self.mixed_precision == "auto":
            self.mixed_precision = native_precision()
        if isinstance(adapters := self.model.get("adapters"), dict) and True in adapters:
            adapters["on"] = adapters.pop(True)  # as YAML reads a key that is `on`
        check(self)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"betas": list(self.betas)}

    def refuse_idle_settings(self, model: RedHeartConfig) -> None:
        """Raises UserError for a setting that would do nothing in a run of this model."""
        if idle := sorted(set(self.loss_weights) - set(terms_of(model))):
            raise UserError(
                f"loss_weights weighs {idle}, which this model does not learn: it has the modules {model.modules}"
            )
        if model.text_encoder_config is None:
            for name in ("text_encoder_start", "text_encoder_learning_rate"):
                if value := getattr(self, name):
                    raise UserError(f"{name} is {value}, but the model reads without a text encoder; leave it out")
            if fields := [name for name in self.model if name.startswith(("text_encoder_", "lora_"))]:
                raise UserError(f"model.{fields[0]} is set, but the model reads without a text encoder; leave it out")
        refuse_idle_with_adapters(self, model)
        for name in ("vocab_size", "pad_token_id"):
            if name in self.model:
                raise UserError(f"model.{name} follows from the tokenizer; leave it out")
        for name in ("eval_steps", "early_stopping_patience"):
            if (value := getattr(self, name)) and not (self.dev or self.holdout):
                raise UserError(f"{name} is {value}, but neither dev nor holdout gives anything to judge by")
        refuse_without_dropout(self, model)

    def refuse_idle_encoder(self, total_steps: int) -> None:
        """Raises UserError when the run ends before the text encoder begins to learn."""
        if self.text_encoder_start >= total_steps:
            raise UserError(
                f"text_encoder_start {self.text_encoder_start} lies beyond the run's {total_steps} steps: the encoder "
                "would never learn; set model.text_encoder_mode to frozen if that is meant"
            )

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """Fields in which a saved run differs from this one so that going on would not be the same run."""
        mine = self.to_dict()
        defaults = {item.name: item.default for item in dataclasses.fields(self)}
        saved = {name: saved.get(name, defaults[name]) for name in mine}  # a run from before a field had its default
        return [
            f"{name}: {saved[name]!r} in the checkpoint, {mine[name]!r} now"
            for name in mine
            if name not in FREE_ON_RESUME and saved[name] != mine[name]
        ]
