"""The model card: what a model folder says about itself to the person who finds it.

In    the run's config, figures by reader (training/figures.py), rows by reader, seconds, the model.
Out   README.md in the folder, its front matter in the form of the Hugging Face Hub.
Run   through training/train.py.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preprocessing.licences import LICENCES, share_alike
from redheart_hf import RedHeartForMultiTask
from redheart_hf.adapters import own_tensors
from redheart_hf.labels import BASIC_EMOTIONS
from training.card_abilities import abilities
from training.config import TrainConfig
from training.memory_report import GIB
from training.report import shown

# Reader -> language, what its rows teach, licence of the data as its publishers give it.
TEACHES = {
    "scenarios": ("en, ko", "all tasks (scenarios of this project, written and labelled by a language model)"),
    "goemotions": ("en", "7 basic emotions (GoEmotions, Demszky et al. 2020)"),
    "goemotions_fine": ("en", "28 emotions (GoEmotions, Demszky et al. 2020)"),
    "goemotions_ko_mt": ("ko", "28 emotions, on texts translated by machine (GoEmotions-Korean)"),
    "kote": ("ko", "44 emotions (KOTE, Jeon et al. 2022)"),
    "emobank": ("en", "valence, arousal, dominance (EmoBank, Buechel and Hahn 2017)"),
    "va_kor": ("ko", "valence, arousal (VA-KOR)"),
    "ethics_util": ("en", "utility from pairs (ETHICS, Hendrycks et al. 2021)"),
    "ethics_deontology": ("en", "acceptability to deontology (ETHICS, Hendrycks et al. 2021)"),
    "ethics_justice": ("en", "acceptability to justice (ETHICS, Hendrycks et al. 2021)"),
    "ethics_virtue": ("en", "acceptability to virtue (ETHICS, Hendrycks et al. 2021)"),
    "moralchoice": ("en", "utility from pairs, the less ethical as the worse (MoralChoice, Scherrer et al. 2023)"),
    "scruples_dilemmas": ("en", "utility from pairs, the less ethical as the worse (Scruples, Lourie et al. 2021)"),
}
"""Reader -> languages, what its labels teach."""
OF_UNKNOWN_SOURCE = ("not recorded", "what its records have labels for")

HOW_TO_LOAD = """\
## How to load it

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "path/to/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
out = model(**tokenizer("{prefix}I never called her back.", return_tensors="pt"))
print(out.emotion.basic_logits.sigmoid())  # {basic}
```

`trust_remote_code=True` runs the Python files of this folder: use it only with folders you trust. In a checkout of the
project, `python -m training.predict --model path/to/this/folder "I never called her back."` says everything at once.
"""

LIMITS = """\
## Limits

- Judgements about people, work, money, health or law must not rest on this model. It repeats what annotators and
  authors of its training data found, who are few and mostly of one place and time.
- A text is read up to {max_length} tokens; what follows is cut off.
- No public labels by people exist for duration, certainty, propinquity, fecundity, purity and extent, nor for jeong,
  han and chemyeon: these answers {learned}, and no figure here shows that people would agree.
- Regret and the three views of utility {regret}; they have not been compared with what people say they regret.
- ETHICS labels are the annotators' common judgement on short English texts, not a theory of what is right.
- Thresholds and figures were found on texts like those of training; other kinds of text were not tried.
- {surd}
- {dialogue}
{modules}"""

SURD_LIMIT = (
    "The shares of SURD say what valence, utility and regret tell together of a verdict of the training data; they "
    "prove no cause. Redundancy is meant as in I_min (Williams and Beer 2010)."
)
SURD_UNTAUGHT = "Its SURD head was never taught: the run saw too few verdicts to learn from."
DIALOGUE_LIMIT = (
    "What it says of a turn given the turns before it has been tried on simulated dialogues only: no dialogues with "
    "labels by people were at hand."
)
NO_DIALOGUE = "Each text is read by itself: nothing in this model follows a dialogue."
MODULES_LIMIT = (
    "- Its modules beside backbone and heads ({names}) are not known to help: taken away one at a time from a small "
    "model on 4,000 English rows, none was missed clearly beyond the spread between three seeds, and emotions were "
    "told a little better without them (the project's docs/experiments.md).\n"
)
NO_SURD = "The SURD analysis of what the judgements share is not part of this model."


def write_model_card(
    folder: Path,
    train_config: TrainConfig,
    metrics: Mapping[str, Mapping[str, Any]],
    data_counts: Mapping[str, int],
    duration_seconds: float,
    model: RedHeartForMultiTask,
    parents: Sequence[str] = (),
) -> None:
    """Write README.md: front matter, what the model does, figures, data, set-up, limits. `parents`: the checkpoints it
    was put together from, if not from the last step."""
    labels = model.config.trained_labels or []
    helpers = [name for name in model.config.modules if name not in ("surd_head", "affect_filter")]
    surd = NO_SURD
    if "surd_head" in model.config.modules:
        surd = SURD_UNTAUGHT if model.config.surd_found is None else SURD_LIMIT
    limits = LIMITS.format(
        max_length=model.config.max_length,
        learned=origin_of("circumstances" in labels or "culture" in labels, data_counts),
        surd=surd,
        dialogue=DIALOGUE_LIMIT if "affect_filter" in model.config.modules else NO_DIALOGUE,
        regret=origin_of("regret" in labels or "utility_views" in labels, data_counts),
        modules=MODULES_LIMIT.format(names=", ".join(helpers)) if helpers else "",
    )
    loading = HOW_TO_LOAD.format(prefix=model.config.text_prefix, basic=", ".join(BASIC_EMOTIONS))
    parts = [
        front_matter(data_counts),
        abilities(model.config, languages_of(data_counts)),
        loading,
        measured(metrics, train_config),
        training_data(data_counts),
        kept_apart(Path(train_config.output_dir)),
        set_up(train_config, duration_seconds, model, parents),
        limits,
    ]
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")


def origin_of(taught: bool, data_counts: Mapping[str, int]) -> str:
    """Where answers come from for which no public data has labels."""
    if not taught:
        return "were not taught"
    if "scenarios" in data_counts:
        return "were learned from this project's own scenarios, which a language model wrote and labelled"
    return "were learned from records whose labels nobody here has seen"


def front_matter(data_counts: Mapping[str, int]) -> str:
    duty = share_alike(data_counts)
    free = "apache-2.0" if all(reader in LICENCES for reader in data_counts) else "other"
    lines = ["---", f"license: {duty[0].lower() if len(duty) == 1 else 'other' if duty else free}"]
    lines += ["language:", *(f"- {tag}" for tag in languages_of(data_counts) or ["en", "ko"])]
    lines += ["library_name: transformers", "pipeline_tag: text-classification"]
    lines += ["tags:", "- emotion", "- ethics", "- regret", "- multi-task", "---", ""]
    return "\n".join(lines)


def languages_of(data_counts: Mapping[str, int]) -> list[str]:
    """Tags of the languages that the data is known to be in."""
    return sorted({tag for reader in data_counts for tag in source_of(reader)[0].split(", ") if len(tag) == 2})


def source_of(reader: str) -> tuple[str, str, str]:
    """Languages, what it teaches, licence."""
    licence = LICENCES[reader].spdx if reader in LICENCES else "see where the records come from"
    return *TEACHES.get(reader, OF_UNKNOWN_SOURCE), licence


def measured(metrics: Mapping[str, Mapping[str, Any]], train_config: TrainConfig) -> str:
    """The table of figures and the command that prints such a table."""
    lines = ["## Measured figures", ""]
    rows = []
    for reader, values in metrics.items():
        for name in (name for name in values if f"{name}_interval" in values):
            low, high = values[f"{name}_interval"]
            count = values.get(f"{name}_rows", values["rows"])
            rows.append(f"| {reader} | {name} | {shown(values[name])} | {shown(low)} to {shown(high)} | {count:,} |")
    if not rows:
        return "\n".join([*lines, "None: the run had no rows to measure on.", ""])
    lines += ["| Reader | Figure | Value | 95 % interval | Rows |", "|---|---|---:|---|---:|", *rows, ""]
    lines += [
        "Measured at the end of training on the reporting half of the dev rows, without texts that also occur in",
        "training; thresholds of emotions were chosen on the other half. Intervals are bootstrap intervals over rows,",
        "those of one group drawn together: they say how far a figure would move on other rows, not on another",
        "training run. Such a table, but with the texts that also occur in training, is printed by",
        "",
        "```bash",
        "python -m training.evaluate --model path/to/this/folder --half reporting \\",
        "    " + " ".join(f"--data '{source}'" for source in train_config.dev or ["READER=PATH"]),
        "```",
        "",
    ]
    if train_config.holdout:
        held = ", ".join(f"{count:,} of {reader}" for reader, count in train_config.holdout.items())
        lines += [
            f"Held out of training sources besides: {held}. The run's folder keeps them in holdout_READER.jsonl, for",
            "`--data records=holdout_READER.jsonl`.",
            "",
        ]
    return "\n".join(lines)


def training_data(data_counts: Mapping[str, int]) -> str:
    lines = ["## Training data", "", "| Reader | Records | Language | Teaches | Licence |", "|---|---:|---|---|---|"]
    for reader, count in data_counts.items():
        language, teaches, licence = source_of(reader)
        lines.append(f"| {reader} | {count:,} | {language} | {teaches} | {licence} |")
    lines.append("")
    for licence in share_alike(data_counts):
        titles = {LICENCES[reader].title for reader in data_counts if licence in share_alike([reader])}
        lines += [
            f"{', '.join(sorted(titles))} is share-alike ({licence}). This card therefore names that licence for "
            "weights trained on it; whoever publishes them should name the source and keep the licence.",
            "",
        ]
    return "\n".join(lines)


def kept_apart(run: Path) -> str:
    """Texts that training and evaluation shared, and what became of them."""
    if not (run / "data.json").is_file():
        return ""
    told = json.loads((run / "data.json").read_text(encoding="utf-8"))
    taken = [f"{count:,} of {reader}" for reader, count in told.get("taken_out_of_dev", {}).items() if count]
    what = "Rows of dev with a text, or a key of one, that training has too were taken out before it was measured"
    return f"{what}: {', '.join(taken) or 'there were none'}.\n"


def memory_of(run: Path) -> str | None:
    """What the run was planned to take of memory, and the most that it took."""
    if not (run / "memory_report.json").is_file():
        return None
    told = json.loads((run / "memory_report.json").read_text(encoding="utf-8"))
    planned, measured = ((told.get(name) or {}).get("peak") for name in ("planned", "measured"))
    if not (planned and measured):
        return None
    return f"planned {planned / GIB:.2f} GiB, measured {measured / GIB:.2f} GiB at most"


def set_up(
    train_config: TrainConfig, duration_seconds: float, model: RedHeartForMultiTask, parents: Sequence[str] = ()
) -> str:
    config = train_config.to_dict()
    adapters = train_config.model.get("adapters")
    merged = sum(parameter.numel() for *_, parameter in own_tensors(model)) if adapters else 0
    parameters = sum(parameter.numel() for parameter in model.parameters()) - merged
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    reader = "own token embeddings"
    if model.config.text_encoder_config is not None:
        name = Path(train_config.text_encoder).name if train_config.text_encoder else "the encoder it was started with"
        reader = f"{name} ({'kept as it was, but for adapters' if adapters else model.config.text_encoder_mode})"
    origin = "started from" if train_config.start_from else "preset"
    length = f"{config['max_steps']:,} steps" if config["max_steps"] else f"{config['epochs']} epochs"
    facts = {
        origin: Path(train_config.start_from).name if train_config.start_from else config["preset"],
        "text read by": reader,
        "adapted": ", ".join(f"{name} {value}" for name, value in adapters.items()) if adapters else None,
        "parameters": f"{parameters:,}, of which {trained:,} trained",
        "modules beside backbone and heads": ", ".join(model.config.modules) or "none",
        "length": f"{length}, {duration_seconds / 60:.1f} minutes",
        "batch": f"{config['batch_size']} records x {config['gradient_accumulation_steps']} per process",
        "learning rate": f"{config['learning_rate']:g}, cosine to {config['min_learning_rate']:g} after "
        f"{config['warmup_steps']} steps of warm-up; {optimizer_of(train_config)}",
        "precision": precision_of(train_config),
        "seed": config["seed"],
        "memory": memory_of(Path(train_config.output_dir)),
    }
    facts = {name: value for name, value in facts.items() if value is not None}
    lines = ["## Training set-up", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    if parents:
        lines += ["Chosen from the run's checkpoints by the choosing half of dev (`training.crossover`):", ""]
        lines += [*(f"- {parent}" for parent in parents), ""]
    return "\n".join([*lines, "Every setting is in train_config.json beside this file.", ""])


def precision_of(config: TrainConfig) -> str:
    arithmetic = f"{config.mixed_precision} autocast" if config.mixed_precision != "no" else "float32"
    return arithmetic + ("; matrices kept in bfloat16, rounded by chance" if config.weight_precision == "bf16" else "")


def optimizer_of(config: TrainConfig) -> str:
    names = {"adamw": "AdamW", "adamw_8bit": "AdamW with moments of a byte", "adafactor": "Adafactor"}
    name = names.get(config.optimizer, f"SGD with momentum {config.momentum:g}")
    return name + (f", clipped by {config.clipping}" if config.update_in_backward else "")
