"""Why this answer, from the model's own intermediate results: experts, circumstances, alternatives, SURD.

In    the output for one sequence, the dict of `training.prediction.predict`, the config.
Out   a dict each, or NothingToShow with the reason: what was never taught would be made up.
Run   through training/explain.py.

Letters: E experts.
"""

import math
from collections.abc import Mapping
from typing import Any

from redheart_hf import RedHeartConfig
from redheart_hf.answers import taught_views
from redheart_hf.labels import CIRCUMSTANCES, EMOTION_FIELDS, SURD_AGENTS, SURD_TERMS, VIEWS
from redheart_hf.modeling_head_emotion import MixtureOfExperts
from redheart_hf.outputs import RedHeartOutput

ADDS_UP = (
    "the contributions add up to the utility; each is weight x value, times intensity for all but intensity itself"
)


class NothingToShow(Exception):
    """There is nothing to show; the message says why."""


def teaches(config: RedHeartConfig, *labels: str) -> bool:
    """Whether any of the labels was in the training data; a config that does not say is believed."""
    return config.trained_labels is None or any(label in config.trained_labels for label in labels)


def expert_use(output: RedHeartOutput, mixture: MixtureOfExperts, config: RedHeartConfig) -> dict[str, Any]:
    """Of one text: each expert's score, the bias that keeps the load even, who was chosen and with what gate."""
    if not teaches(config, *EMOTION_FIELDS, "vad"):
        raise NothingToShow("no label that the experts answer for was in the training data")
    logits_E, chosen_E = output.emotion.router_logits[0].float(), output.emotion.router_load > 0
    columns = (mixture.scores(logits_E), mixture.router_bias, chosen_E, mixture.gates(logits_E, chosen_E))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {
        "of": "the text",
        "statement": f"the {config.num_experts_per_tok} experts with the highest score + bias answer for the "
        "emotions and VAD; their gates sum to one, and the bias decides on the choice alone",
        "experts": [
            {"expert": index, "score": score, "bias": bias, "chosen": chosen, "gate": gate}
            for index, (score, bias, chosen, gate) in enumerate(rows)
        ],
    }


def utility_parts(prediction: Mapping[str, Any], of: str, config: RedHeartConfig) -> dict[str, Any]:
    """What each circumstance adds to the utility."""
    if prediction["utility"] is None:
        raise NothingToShow("neither pairs nor actions were in the training data, so utility was never trained")
    if prediction["contributions"] is None:
        raise NothingToShow(
            "no circumstances label was in the training data: utility was learned as a whole, and its parts have no "
            "meaning of their own"
        )
    contributions = prediction["contributions"]
    return {
        "of": of,
        "statement": ADDS_UP,
        "utility": prediction["utility"],
        "sum_of_contributions": math.fsum(contributions.values()),
        "circumstances": {
            name: {"value": prediction["circumstances"][name], "weight": weight, "contribution": contributions[name]}
            for name, weight in zip(CIRCUMSTANCES, config.circumstance_weights, strict=True)
        },
    }


def alternatives(prediction: Mapping[str, Any], config: RedHeartConfig) -> dict[str, Any]:
    """Of each action its utility, what it misses against the best, and the regret of having chosen it, by view."""
    if "actions" not in prediction:
        raise NothingToShow("there are no actions to compare; give --action twice or more")
    views = taught_views(config.trained_labels)
    if not views:
        raise NothingToShow("neither pairs nor actions were in the training data, so utility was never trained")
    actions = prediction["actions"]
    most = {view: max(action["utility"][view] for action in actions) for view in views}
    return {
        "statement": f"regret = Q(d) = d + {config.regret_aversion:g} d^3, d = the best action's utility - this one's",
        "views": list(views),
        "left_out": None if views == VIEWS else "the optimistic and the pessimistic view were never trained",
        "best": {
            view: next(index for index, action in enumerate(actions) if action["utility"][view] == most[view])
            for view in views
        },
        "chosen": prediction["chosen"],
        "actions": [
            {
                "text": action["text"],
                "utility": {view: action["utility"][view] for view in views},
                "missed": {view: most[view] - action["utility"][view] for view in views},
                "regret": {view: action["regret"][view] for view in views},
            }
            for action in actions
        ],
    }


def surd_terms(output: RedHeartOutput, of: str, config: RedHeartConfig) -> dict[str, Any]:
    """The twelve terms of this prediction, never without what chance alone found."""
    if output.surd is None:
        raise NothingToShow("the model has no SURD head")
    if config.surd_found is None:
        raise NothingToShow("the SURD head was never taught: its run saw too few verdicts to learn from")
    return {
        "of": of,
        "statement": "shares of what is to be known of the verdict that are redundant (R), unique (U) or "
        "synergistic (S) in the agents, and the share none of them tells (leak); they sum to one and prove no cause",
        "agents": {str(number): name for number, name in enumerate(SURD_AGENTS, start=1)},
        "terms": dict(zip(SURD_TERMS, output.surd.terms[0].tolist(), strict=True)),
        "baseline": {
            "statement": "what the decomposition it learned from found over thousands of predictions, in bits, and "
            "what it finds with the verdicts shuffled (by_chance): terms are worth no more than that distance",
            **config.surd_found,
        },
    }
