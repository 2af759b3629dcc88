"""Calibrates a trained model: probabilities come true as often as they say, variances are as wide as the errors.

In    --model DIR (the folder final/ of a run), --data READER=PATH (rows it did not learn from; repeatable).
Out   a table of expected calibration errors and of NEES before and after, also put into the model card; what was
      fitted, in DIR/config.json.
Run   python -m training.calibrate --model outputs/real_text/final --data goemotions=ekman_dev.tsv \\
          --data emobank=emobank.csv@dev

Fitted on one half of the rows, measured on the other; which half a text is in follows from a hash of it. Emotions need
rows of goemotions, goemotions_fine or kote, VAD those of emobank. Thresholds move with the probabilities: what counted
as present before still does.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.errors import UserError, run
from preprocessing.readers import parse_source
from preprocessing.sources import refuse_repeated
from redheart_hf.calibration import (
    expected_calibration_error,
    fit_scaling,
    normalised_squared_error,
    variance_factors,
)
from redheart_hf.labels import DEFAULT_THRESHOLD
from training.evaluate import Predicted, predict_by_reader, read_all
from training.figures import THRESHOLD_READERS, Thresholds, labels_of
from training.loading import load_model
from training.report import store_in_config

CARD = """\
## Calibration

Fitted after training (`python -m training.calibrate`) on one half of the dev rows of

{sources}

and measured on the other half:

```
{table}
```

`calibration` in config.json holds a scale and an offset for each logit, and a factor for each variance. What the model
itself gives, as in the example above, is before calibration; thresholds in config.json are meant of
sigmoid(scale * logit + offset). `training.predict` and `training.evaluate` apply both.
"""


def logit(probabilities: np.ndarray) -> np.ndarray:
    held = probabilities.clip(1e-12, 1 - 1e-12)
    return np.log(held) - np.log1p(-held)


def sigmoid(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores))


def fit_emotions(predicted: Predicted, field: str) -> tuple[np.ndarray, tuple[float, float]]:
    """(L, 2) fitted on the choosing half; the calibration error before and after on the reporting half."""
    (fit_truth, fit_logits), (truth, logits) = (
        (labels >= 0.5, logit(part.arrays[field][held]))
        for part in (predicted.half("choosing"), predicted.half("reporting"))
        for held, labels in [labels_of(part.records, field)]
    )
    try:
        scaling = fit_scaling(fit_logits, fit_truth)
    except ValueError as error:  # weights that are not numbers answer what is none
        raise UserError(f"{field} cannot be calibrated: {error}, or train the model anew") from error
    errors = [
        expected_calibration_error(sigmoid(scores), truth)
        for scores in (logits, scaling[:, 0] * logits + scaling[:, 1])
    ]
    return scaling, (errors[0], errors[1])


def fit_variance(predicted: Predicted) -> tuple[np.ndarray, tuple[float, float]]:
    """(3,) factors fitted on the choosing half; NEES before and after on the reporting half, 3 being right."""
    (fit_errors, fit_variances), (errors, variances) = (
        (labels - part.arrays["vad_mean"][held], part.arrays["vad_log_variance"][held])
        for part in (predicted.half("choosing"), predicted.half("reporting"))
        for held, labels in [labels_of(part.records, "vad")]
    )
    factors = variance_factors(fit_errors, fit_variances)
    before, after = variances, variances + np.log(factors)
    return factors, (normalised_squared_error(errors, before), normalised_squared_error(errors, after))


def moved_thresholds(thresholds: Thresholds, fitted: Mapping[str, np.ndarray]) -> Thresholds:
    """Each threshold where its probability has gone, so that it separates the same rows; .5 where none was stored."""
    moved = dict(thresholds)
    for field in THRESHOLD_READERS:
        if field in fitted:
            scales, offsets = fitted[field].T
            values = np.asarray(thresholds.get(field, [DEFAULT_THRESHOLD] * len(scales)))
            moved[field] = sigmoid(scales * logit(values) + offsets).tolist()
    return moved


def check_halves(predicted: Predicted, field: str) -> None:
    """Raises UserError when a half has no row with the label."""
    for half in ("choosing", "reporting"):
        part = predicted.half(half)
        held, _ = labels_of(part.records, field)
        if not len(held):
            raise UserError(
                f"of {len(predicted.records)} rows none with {field} is in the {half} half; both halves need some: "
                "give more rows"
            )


def calibrate(predicted: dict[str, Predicted]) -> tuple[dict[str, np.ndarray], list[str]]:
    """What was fitted by field, and the lines of the table."""
    fitted: dict[str, np.ndarray] = {}
    lines = [f"{'field':<18} {'figure':<28} {'before':>8} {'after':>8}"]
    for field, reader in THRESHOLD_READERS.items():
        if reader in predicted:
            check_halves(predicted[reader], field)
            fitted[field], (before, after) = fit_emotions(predicted[reader], field)
            lines.append(f"{field:<18} {'expected calibration error':<28} {before:>8.4f} {after:>8.4f}")
    if "emobank" in predicted:
        check_halves(predicted["emobank"], "vad")
        factors, (before, after) = fit_variance(predicted["emobank"])
        fitted["vad"] = factors[:, None]
        lines.append(f"{'vad':<18} {'NEES (3 is right)':<28} {before:>8.3f} {after:>8.3f}")
    if not fitted:
        wanted = ", ".join([*THRESHOLD_READERS.values(), "emobank"])
        raise UserError(f"there is nothing to calibrate on: give rows of one of {wanted}")
    return fitted, lines


def unless_changed(
    folder: Path, read: Mapping[str, Any], changes: Mapping[str, Any]
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """`changes`, for a config whose fields still are what was `read` of them; else UserError."""

    def checked(stored: Mapping[str, Any]) -> Mapping[str, Any]:
        for name, value in read.items():
            if (stored.get(name) or None) != (value or None):
                raise UserError(f"another command has changed `{name}` of {folder}; nothing was stored, start again")
        return changes

    return checked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model folder with its tokenizer")
    parser.add_argument("--data", action="append", required=True, metavar="READER=PATH", help="rows; repeatable")
    parser.add_argument("--batch-size", type=int, default=64, help="records at a time (%(default)s)")
    arguments = parser.parse_args()
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    sources = [parse_source(argument) for argument in arguments.data]
    refuse_repeated(sources)
    model, tokenizer = load_model(arguments.model)
    read = {"calibration": model.config.calibration, "thresholds": model.config.thresholds}
    if read["calibration"]:
        raise UserError(f"{arguments.model} is calibrated already; remove `calibration` from its config.json first")
    records, rejected = read_all(sources)
    for reader, count in rejected.items():
        if count:
            print(f"{reader}: {count:,} rows could not be read and are left out")
    fitted, lines = calibrate(predict_by_reader(model, tokenizer, records, batch_size=arguments.batch_size))
    calibration = {field: values.tolist() for field, values in fitted.items()}
    thresholds = moved_thresholds(model.config.thresholds or {}, fitted)
    sources_read = "\n".join(f"- {reader}: {len(rows):,} rows" for reader, rows in records.items())
    section = CARD.format(sources=sources_read, table="\n".join(lines))
    changes = {"calibration": calibration, "thresholds": thresholds or None}
    store_in_config(arguments.model, unless_changed(arguments.model, read, changes), section)
    print("\n".join(lines))


if __name__ == "__main__":
    run(main)
