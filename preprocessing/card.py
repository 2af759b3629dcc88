"""The README.md of a finished data set: what was read, dropped and filled in, on what terms, and what to think of it.

In    the facts of the job: counts of reading and of each step, of labels by origin, the language model.
Out   Markdown with the front matter that the Hugging Face Hub reads.
Run   through preprocessing/pipeline.py
"""

from collections.abc import Mapping
from typing import Any

import yaml

from preprocessing.licences import LICENCES, card_lines, share_alike
from preprocessing.origin_weights import LABELS
from preprocessing.origins import RETRIEVED

_HUB_LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", "CC0-1.0": "cc0-1.0", "CC-BY-SA-4.0": "cc-by-sa-4.0"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card(facts: Mapping[str, Any]) -> str:
    """Nothing in it but what the rows and settings say: two runs of a job write the same bytes."""
    parts = [
        front_matter(facts),
        "# Data set for Red Heart HF",
        *_counts(facts),
        *_labels(facts),
        *_retrieved(facts),
        *_retrieved(facts),
        *_model(facts),
        *_balance(facts),
    ]
    parts += ["## Licences", "\n".join(card_lines(facts["readers"])), "## Using it", _USE.strip()]
    return "\n\n".join(part for part in parts if part) + "\n"


_USE = """
`training/train.py --train '["enriched=FOLDER"]'` trains on it; `datasets.load_dataset("FOLDER")` loads it elsewhere. A
row is a record as docs/data.md explains it. `origins` says of each label where it comes from, null being its source;
`confidence` how far the language model agreed with itself about it. Rows that were set aside are in rejected.jsonl
with their reasons; manifest.json has the size and SHA-256 of every file.
"""


def front_matter(facts: Mapping[str, Any]) -> str:
    fields = {
        "license": licence_of(facts["readers"]),
        "language": sorted(facts["languages"]),
        "size_categories": [next((name for limit, name in _SIZES if facts["rows"] < limit), "n>1M")],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]},
        ],
    }
    return "---\n" + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True) + "---"


def licence_of(readers: list[str]) -> str:
    """As the Hub names it: the one that share-alike asks for, or that all have; else other, or unknown."""
    if any(name not in LICENCES for name in readers):
        return "unknown"
    names = set(share_alike(readers)) or {LICENCES[name].spdx for name in readers}
    return _HUB_LICENCES.get(next(iter(names)), "other") if len(names) == 1 else "other"


def _counts(facts: Mapping[str, Any]) -> list[str]:
    lines = ["| Step | Rows | |", "|---|---:|---|"]
    for source, counts in facts["read"].items():
        refused = sum(counts["rejected"].values())
        lines.append(f"| read `{source}` | {counts['records'] + refused:,} | |")
        lines += [f"| | −{count:,} | {reason} |" for reason, count in counts["rejected"].items()]
    for step in facts["steps"]:
        lines.append(f"| {step['name']} | {step['in']:,} | |")
        lines += [f"| | −{count:,} | {reason} |" for reason, count in step["set_aside"].items()]
        lines += [f"| | {count:,} | ({what}) |" for what, count in step.get("notes", {}).items()]
    lines.append(f"| written | {facts['rows']:,} | in {', '.join(sorted(facts['languages']))} |")
    told = f"{facts['rows_read']:,} rows read = {facts['rows']:,} written + {facts['rows_rejected']:,} rejected."
    return ["## Rows", told, "\n".join(lines)]


def _labels(facts: Mapping[str, Any]) -> list[str]:
    """Label by origin, and how many rows have none."""
    origins = sorted({origin for counts in facts["labels"].values() for origin in counts} - {"human"})
    short = [f"`{origin}`" for origin in origins]
    lines = [
        f"| Label | {' | '.join(['as the source gives it', *short, 'none'])} |",
        "|---|" + "---:|" * (len(origins) + 2),
    ]
    for label in LABELS:
        counts = facts["labels"].get(label, {})
        mark = " (unreliable)" if label in facts["unreliable"] else ""
        cells = [counts.get(origin, 0) for origin in ("human", *origins)]
        lines.append(f"| `{label}`{mark} | {' | '.join(f'{n:,}' for n in [*cells, facts['rows'] - sum(cells)])} |")
    return ["## Labels, by where they come from", "\n".join(lines)]


def _balance(facts: Mapping[str, Any]) -> list[str]:
    if not facts["balance"]:
        return []
    lines = ["| Reader | Label | Rows | Weight | Drawn in an epoch |", "|---|---|---:|---:|---:|"]
    for line in facts["balance"]:
        lines.append(
            f"| `{line['reader']}` | {line['label']} | {line['rows']:,} | {line['weight']:.4g} | {line['drawn']:,} |"
        )
    return ["## Balance", "Each row's `weight` is how often it comes in an epoch of training.", "\n".join(lines)]


def _retrieved(facts: Mapping[str, Any]) -> list[str]:
    if not any(origin.startswith(f"{RETRIEVED}:") for origin in facts["labels"].get("actions", {})):
        return []
    said = (
        "Actions of the origin `retrieved:...` are those of a like case, found by the cosine of two texts' vectors: "
        "people gave them to another text than the one they stand beside, and what was chosen there says nothing of "
        "what was done here. `origins` names that case row by row, `confidence` is the cosine, and regret is derived "
        "from them. They are suggestions of what could be done, not judgements of these rows."
    )
    return ["## What was taken from like cases", said]


def _model(facts: Mapping[str, Any]) -> list[str]:
    model = facts["model"]
    if model is None:
        return [
            "No language model was asked: every label is as its source gives it."
            if not _retrieved(facts)
            else "No language model was asked: every other label is as its source gives it."
        ]
    prompts = ", ".join(f"`{name}` (file {digest})" for name, digest in model["prompts"].items())
    decoding = model["decoding"]
    said = (
        f"`{model['model']}`, weights as {model['quantization']}, was asked {prompts}. Its answers are guesses of a "
        "program, not what people felt or judged. Labels that a source gave were kept as they are. Numbers are "
        "expected values over its probabilities, not draws; a label stays empty where it abstained, where the text is "
        f"longer than {decoding['max_tokens']} tokens, or where its confidence (how far its answers to several "
        f"wordings of a question agree) is below {decoding['threshold']}. Confidence is not accuracy: a model can "
        "agree with itself and be wrong. How well it agrees with people is told by `python -m "
        "preprocessing.judge`; before that has been looked at, take these labels for no more than what such a "
        "model says."
    )
    marked = (
        f"**Unreliable: {', '.join(facts['unreliable'])}.** What the model said of these was found no better than "
        "chance. It is in the rows, and training leaves it out unless told otherwise (`@unreliable=keep`)."
        if facts["unreliable"]
        else ""
    )
    return ["## What a language model filled in", said, marked]
