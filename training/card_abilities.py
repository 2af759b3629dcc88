"""What a model can say, in the words of its card: what it was taught, and what it was not.

In    a config with `trained_labels`, `surd_found` and `modules`; languages of the data.
Out   two sections of Markdown.
Run   through training/model_card.py.
"""

from collections.abc import Sequence

from redheart_hf import RedHeartConfig
from redheart_hf.labels import EMOTION_FIELDS, ETHICS_EXPERTS

LANGUAGES = {"en": "English", "ko": "Korean"}
# Label of the training data -> what it teaches.
ABILITIES = {
    "basic_emotions": "4 polarities and 7 basic emotions",
    "fine_emotions": "GoEmotions' 28 emotions",
    "korean_emotions": "KOTE's 44 emotions",
    "vad": "valence, arousal and dominance, each with a variance",
    "culture": "jeong, han and chemyeon",
    "circumstances": "Bentham's seven circumstances, and what each adds to utility",
    "utility": "utility: which of two texts or actions is worth more",
    "utility_views": "utility as an optimist, a neutral judge and a pessimist see it",
    **{f"acceptability/{expert}": f"acceptability to the {expert} expert" for expert in ETHICS_EXPERTS},
    "regret": "regret, from the text and against the alternatives",
}
SURD = "SURD: shares of a verdict that valence, utility and regret tell together, alone or only jointly"
HIERARCHY = "Emotions are probabilities; no child's exceeds its parent's, until each is calibrated by itself."
KEPT_BACK = "Not taught: these outputs exist but mean nothing, and `training.predict` keeps them back:"


def abilities(config: RedHeartConfig, languages: Sequence[str]) -> str:
    """What it does, as far as it was taught; then what it was not."""
    read_in = " or ".join(LANGUAGES.get(tag, tag) for tag in languages) or "a language that its data does not name"
    labels = config.trained_labels if config.trained_labels is not None else list(ABILITIES)
    taught = [text for label, text in ABILITIES.items() if label in labels]
    untaught = [text for label, text in ABILITIES.items() if label not in labels]
    if "surd_head" in config.modules:
        (untaught if config.surd_found is None else taught).append(SURD)
    lines = ["# Red Heart", "", f"Reads a text in {read_in} and answers, in one pass:", ""]
    lines += [*(f"- {text}" for text in taught), ""]
    if set(EMOTION_FIELDS) & set(labels):
        lines += [HIERARCHY, ""]
    if untaught:
        lines += [KEPT_BACK, "", *(f"- {text}" for text in untaught), ""]
    return "\n".join(lines)
