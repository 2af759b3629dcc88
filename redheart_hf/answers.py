"""What a model says, under the names that people use for it.

In    a RedHeartOutput; the config's calibration, thresholds and trained_labels.
Out   arrays by name, one row a sequence; dictionaries of plain numbers, null in place of what was never learned.
Run   through pipeline_redheart.py

Letters: N sequences, G groups of alternatives, A alternatives.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .calibration import calibrated
from .labels import CIRCUMSTANCES, CULTURE, DEFAULT_THRESHOLD, EMOTION_FIELDS, ETHICS_EXPERTS, POLARITIES, VAD, VIEWS
from .outputs import RedHeartOutput

Arrays = dict[str, np.ndarray]

LABEL_BEHIND = dict.fromkeys(("polarity", "basic_emotions"), "basic_emotions") | {
    "fine_emotions": "fine_emotions",
    "korean_emotions": "korean_emotions",
    "vad": "vad",
    "vad_standard_deviation": "vad",
    "turn_vad": "vad",
    "turn_vad_standard_deviation": "vad",
    "culture": "culture",
    "text_regret": "regret",
    "circumstances": "circumstances",
    "contributions": "circumstances",
    "utility": "utility",
}
"""Answer -> the label without which it was never learned."""


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy().astype(float)


def arrays_of_sequences(output: RedHeartOutput, calibration: Mapping[str, list[list[float]]]) -> Arrays:
    """Of every sequence: basic_emotions (N, 7), fine_emotions (N, 28), korean_emotions (N, 44), polarity (N, 4),
    culture (N, 3) and acceptability (N, 4) as probabilities; vad_mean and vad_log_variance (N, 3); text_regret and
    utility_views (N, 3); circumstances and contributions (N, 7), utility (N,). With an affect filter turn_vad_mean and
    turn_vad_log_variance (N, 3)."""
    emotion, ethics, regret = output.emotion, output.ethics, output.regret
    widening = np.log(np.asarray(calibration.get("vad", [[1.0]] * len(VAD))))[:, 0]
    arrays = {
        "polarity": to_numpy(emotion.polarity_logits.float().sigmoid()),
        "basic_emotions": to_numpy(calibrated(emotion.basic_logits, calibration.get("basic_emotions"))),
        "fine_emotions": to_numpy(calibrated(emotion.fine_logits, calibration.get("fine_emotions"))),
        "korean_emotions": to_numpy(calibrated(emotion.korean_logits, calibration.get("korean_emotions"))),
        "vad_mean": to_numpy(emotion.vad_mean),
        "vad_log_variance": to_numpy(emotion.vad_log_variance) + widening,
        "culture": to_numpy(emotion.culture_logits.float().sigmoid()),
        "text_regret": to_numpy(regret.text_regret),
        "circumstances": to_numpy(ethics.circumstances),
        "contributions": to_numpy(ethics.contributions),
        "utility": to_numpy(ethics.utility),
        "acceptability": to_numpy(ethics.acceptability_logits.float().sigmoid()),
        "utility_views": to_numpy(regret.utility_views),
    }
    if output.dynamics is not None:
        arrays["turn_vad_mean"] = to_numpy(output.dynamics.vad_mean)
        arrays["turn_vad_log_variance"] = to_numpy(output.dynamics.vad_log_variance)
    return arrays


def named(names: Sequence[str], values: np.ndarray | Sequence[float]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def describe_text(arrays: Arrays, row: int, thresholds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Emotions, those present, VAD with standard deviations, culture, regret: of one row."""
    result: dict[str, Any] = {"polarity": named(POLARITIES, arrays["polarity"][row])}
    result |= {field: named(names, arrays[field][row]) for field, names in EMOTION_FIELDS.items()}
    result["present"] = {
        field: [
            name
            for name, probability, threshold in zip(
                names, arrays[field][row], thresholds.get(field, [DEFAULT_THRESHOLD] * len(names)), strict=True
            )
            if probability >= threshold
        ]
        for field, names in EMOTION_FIELDS.items()
    }
    result["vad"] = named(VAD, arrays["vad_mean"][row])
    result["vad_standard_deviation"] = named(VAD, deviations(arrays["vad_log_variance"][row]))
    result["culture"] = named(CULTURE, arrays["culture"][row])
    result["text_regret"] = named(VIEWS, arrays["text_regret"][row])
    return result


def describe_deed(arrays: Arrays, row: int) -> dict[str, Any]:
    """Circumstances, what each adds to utility, and the four experts: of one row."""
    return {
        "circumstances": named(CIRCUMSTANCES, arrays["circumstances"][row]),
        "contributions": named(CIRCUMSTANCES, arrays["contributions"][row]),
        "utility": float(arrays["utility"][row]),
        "acceptability": named(ETHICS_EXPERTS, arrays["acceptability"][row]),
    }


def describe_turn(arrays: Arrays, row: int) -> dict[str, Any]:
    """VAD of one row given the turns before it, with standard deviations."""
    return {
        "turn_vad": named(VAD, arrays["turn_vad_mean"][row]),
        "turn_vad_standard_deviation": named(VAD, deviations(arrays["turn_vad_log_variance"][row])),
    }


def describe_actions(texts: Sequence[str], utility_views: np.ndarray, regret: np.ndarray) -> list[dict[str, Any]]:
    """`utility_views` and `regret` (A, 3): of each action, and of having chosen it."""
    return [
        {"text": text, "utility": named(VIEWS, utility), "regret": named(VIEWS, cost)}
        for text, utility, cost in zip(texts, utility_views, regret, strict=True)
    ]


def deviations(log_variance: np.ndarray) -> list[float]:
    return [math.exp(value / 2) for value in log_variance]


def taught_views(trained_labels: list[str] | None) -> tuple[str, ...]:
    """Views of utility that were learned: pairs teach the neutral one alone. A config that is silent is believed."""
    if trained_labels is None or "utility_views" in trained_labels:
        return VIEWS
    return ("neutral",) if "utility" in trained_labels else ()


def keep_back(result: dict[str, Any], trained_labels: list[str] | None) -> dict[str, Any]:
    """Null in place of what the model never saw a label of: a number there would be made up."""
    if trained_labels is None:
        return result
    for part in (result, *result.get("dialogue", ())):
        part |= {name: None for name, label in LABEL_BEHIND.items() if name in part and label not in trained_labels}
    experts = result["acceptability"]
    result["acceptability"] = {
        expert: value if f"acceptability/{expert}" in trained_labels else None for expert, value in experts.items()
    }
    untaught = [view for view in VIEWS if view not in taught_views(trained_labels)]
    for action in result.get("actions", ()):
        for quantity in ("utility", "regret"):
            action[quantity] |= dict.fromkeys(untaught)
    if "actions" in result and "neutral" in untaught:
        result["best"] = None
    result["present"] = {field: names for field, names in result["present"].items() if result[field] is not None}
    return result
