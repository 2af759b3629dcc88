"""What can be explained: each number of an answer by its name, and whether the model was ever taught it.

In    a name as people give it (joy, valence, utility, acceptability/justice, korean_emotions/기쁨); a prediction.
Out   a Target, which reads its number from the model's output; UserError for a name that is unknown or untrained.
Run   through training/explain.py.

A name without its group means the first group that has it, in the order of GROUPS: `joy` is the basic emotion,
`fine_emotions/joy` GoEmotions' own. A target's number is the one `training.predict` shows, calibration included.

Letters: B sequences, L labels of a group.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from preprocessing.errors import UserError
from redheart_hf import RedHeartConfig
from redheart_hf.answers import LABEL_BEHIND
from redheart_hf.calibration import calibrated
from redheart_hf.labels import (
    BASIC_EMOTIONS,
    CIRCUMSTANCES,
    CULTURE,
    ETHICS_EXPERTS,
    FINE_EMOTIONS,
    KOREAN_EMOTIONS,
    POLARITIES,
    VAD,
    VIEWS,
)
from redheart_hf.outputs import RedHeartOutput

Calibration = Mapping[str, list[list[float]]]


@dataclass(frozen=True)
class Group:
    """Labels that are read from one tensor of the output, by `read` (B, L)."""

    names: tuple[str, ...]
    scale: str
    """What kind of number it is, for people."""
    of_deed: bool
    """Whether it is about the chosen action, where there is one, and not about the text."""
    read: Callable[[RedHeartOutput, Calibration], torch.Tensor]


GROUPS = {
    "basic_emotions": Group(
        BASIC_EMOTIONS,
        "probability",
        False,
        lambda output, fitted: calibrated(output.emotion.basic_logits, fitted.get("basic_emotions")),
    ),
    "vad": Group(VAD, "-1 to 1", False, lambda output, _: output.emotion.vad_mean),
    "utility": Group(("utility",), "-1 to 1", True, lambda output, _: output.ethics.utility[:, None]),
    "circumstances": Group(CIRCUMSTANCES, "0 to 1, intensity -1 to 1", True, lambda out, _: out.ethics.circumstances),
    "acceptability": Group(
        ETHICS_EXPERTS, "probability", True, lambda output, _: output.ethics.acceptability_logits.float().sigmoid()
    ),
    "culture": Group(CULTURE, "probability", False, lambda out, _: out.emotion.culture_logits.float().sigmoid()),
    "text_regret": Group(VIEWS, "0 or more", False, lambda output, _: output.regret.text_regret),
    "polarity": Group(
        POLARITIES, "probability", False, lambda output, _: output.emotion.polarity_logits.float().sigmoid()
    ),
    "fine_emotions": Group(
        FINE_EMOTIONS,
        "probability",
        False,
        lambda output, fitted: calibrated(output.emotion.fine_logits, fitted.get("fine_emotions")),
    ),
    "korean_emotions": Group(
        KOREAN_EMOTIONS,
        "probability",
        False,
        lambda output, fitted: calibrated(output.emotion.korean_logits, fitted.get("korean_emotions")),
    ),
}


@dataclass(frozen=True)
class Target:
    group: str
    name: str

    @property
    def full_name(self) -> str:
        return self.name if self.group == self.name else f"{self.group}/{self.name}"

    @property
    def scale(self) -> str:
        return GROUPS[self.group].scale

    @property
    def of_deed(self) -> bool:
        return GROUPS[self.group].of_deed

    @property
    def label(self) -> str:
        """The label of training data that teaches it."""
        return self.full_name if self.group == "acceptability" else LABEL_BEHIND[self.group]

    def values(self, output: RedHeartOutput, config: RedHeartConfig) -> torch.Tensor:
        """(B,), in float32."""
        group = GROUPS[self.group]
        return group.read(output, config.calibration or {}).float()[:, group.names.index(self.name)]


TARGETS = {
    target.full_name: target
    for group, members in GROUPS.items()
    for target in (Target(group, name) for name in members.names)
}
NAMES: dict[str, Target] = dict(TARGETS)
for _target in TARGETS.values():
    NAMES.setdefault(_target.name, _target)


def is_trained(target: Target, trained_labels: list[str] | None) -> bool:
    """A config without the list does not say, and is believed, as by `training.predict`."""
    return trained_labels is None or target.label in trained_labels


def listed(targets: Mapping[str, Target]) -> str:
    """One line a group, as they may be given."""
    lines = []
    for group in GROUPS:
        names = [target.name for target in targets.values() if target.group == group]
        if names:
            lines.append(f"  {group}" if names == [group] else f"  {group}/: {', '.join(names)}")
    return "\n".join(lines)


def find_target(name: str) -> Target:
    """The target of that name; raises UserError with the nearest and all known ones."""
    if name in NAMES:
        return NAMES[name]
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"no --target is called {name!r}{hint or '.'} Known are:\n{listed(TARGETS)}")


def choose_target(
    asked: str | None, prediction: Mapping[str, Any], trained_labels: list[str] | None
) -> tuple[Target, str]:
    """The target to explain and why it is this one; raises UserError where the model was never taught it."""
    trained = {name: target for name, target in TARGETS.items() if is_trained(target, trained_labels)}
    taught = f"This model was trained on:\n{listed(trained) or '  nothing that can be explained'}"
    if asked is not None:
        target = find_target(asked)
        if target.full_name not in trained:
            raise UserError(
                f"{target.full_name} was never trained: no {target.label} label was in the training data, so that "
                f"there is nothing to explain. {taught}"
            )
        return target, "asked for"
    emotions = prediction["basic_emotions"]
    if emotions is not None:
        highest = max(emotions, key=emotions.__getitem__)
        return TARGETS[f"basic_emotions/{highest}"], "no --target was given: the most probable basic emotion"
    if "vad/valence" in trained:
        return TARGETS["vad/valence"], "no --target was given, and basic emotions were not trained: valence"
    raise UserError(f"name what to explain with --target: neither emotions nor valence were trained. {taught}")
