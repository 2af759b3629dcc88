"""The scenarios that the project ships keep what their dataset card promises.

In    data/scenarios/{train,dev,test}.jsonl, read as plain JSON: the checks share no code with the reader.
Out   one test a promise; each check is also shown a broken copy, so that none of them passes on everything.
Run   `pytest tests/test_prep_scenarios.py`
"""

import copy
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from preprocessing.readers import parse_source, read

FOLDER = Path(__file__).parent.parent / "data" / "scenarios"
SPLITS = ("train", "dev", "test")
KEYS = {
    "id", "language", "domain", "text", "actions", "chosen", "emotions", "vad", "culture", "circumstances",
    "acceptability", "regret", "reason",
}  # fmt: skip
VIEWS = ("optimistic", "neutral", "pessimistic")
SMALLER = ("duration", "certainty", "propinquity", "fecundity", "purity", "extent")
RANGES = {
    "emotions": dict.fromkeys(("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"), (0, 1)),
    "vad": dict.fromkeys(("valence", "arousal", "dominance"), (-1, 1)),
    "culture": dict.fromkeys(("jeong", "han", "chemyeon"), (0, 1)),
    "circumstances": {"intensity": (-1, 1), **dict.fromkeys(SMALLER, (0, 1))},
    "acceptability": dict.fromkeys(("utilitarian", "deontology", "justice", "virtue"), (0, 1)),
    "regret": dict.fromkeys(VIEWS, (0, 6)),
}
WORDS_IN_COMMON = 8
Scenario = dict[str, Any]


def load(split: str) -> list[Scenario]:
    with (FOLDER / f"{split}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    return [scenario for split in SPLITS for scenario in load(split)]


def shape_faults(scenario: Scenario) -> Iterator[str]:
    if set(scenario) != KEYS:
        yield f"keys {sorted(set(scenario) ^ KEYS)} are too many or missing"
        return
    for name, ranges in RANGES.items():
        if set(scenario[name]) != set(ranges):
            yield f"{name} has keys {sorted(scenario[name])}"
        elif bad := [key for key, (low, high) in ranges.items() if not low <= scenario[name][key] <= high]:
            yield f"{name} is out of range at {bad}"
    if abs(sum(scenario["emotions"].values()) - 1) > 0.005:
        yield f"emotions sum to {sum(scenario['emotions'].values())}"
    if not 2 <= len(scenario["actions"]) <= 4 or scenario["chosen"] not in range(len(scenario["actions"])):
        yield f"{len(scenario['actions'])} actions, chosen is {scenario['chosen']}"
    for action in scenario["actions"]:
        views = [action["utility"][view] for view in VIEWS]
        if set(action) != {"text", "utility"} or set(action["utility"]) != set(VIEWS) or not action["text"].strip():
            yield f"malformed action {action}"
        elif not 1 >= views[0] >= views[1] >= views[2] >= -1:
            yield f"views out of order or range {views}"
    if not scenario["text"].strip() or not scenario["reason"].strip() or "\n" in scenario["reason"]:
        yield "text or reason is empty, or the reason has more than a line"


def utility_faults(scenario: Scenario) -> Iterator[str]:
    """The chosen action's utility is what its circumstances add up to."""
    given = scenario["actions"][scenario["chosen"]]["utility"]["neutral"]
    parts = scenario["circumstances"]
    derived = parts["intensity"] * (1 + sum(parts[name] for name in SMALLER)) / 7
    if abs(given - derived) > 0.1:
        yield f"neutral utility {given}, but its circumstances give {derived:.3f}"


def regret_faults(scenario: Scenario) -> Iterator[str]:
    """Regret is Q(d) = d + d^3 / 2 of what the best action would have brought more, in each view."""
    for view in VIEWS:
        utilities = [action["utility"][view] for action in scenario["actions"]]
        missed = max(utilities) - utilities[scenario["chosen"]]
        derived = missed + 0.5 * missed**3
        if abs(scenario["regret"][view] - derived) > 0.02:
            yield f"{view} regret {scenario['regret'][view]}, but utilities {utilities} give {derived:.3f}"


def shared_sequences(scenarios: list[Scenario]) -> list[tuple[str, str, str]]:
    """Pairs of texts with a sequence of eight words in common: the mark of a template."""
    owner: dict[str, str] = {}
    found = []
    for scenario in scenarios:
        words = scenario["text"].split()
        sequences = {" ".join(words[i : i + WORDS_IN_COMMON]) for i in range(len(words) - WORDS_IN_COMMON + 1)}
        found += [(owner[item], scenario["id"], item) for item in sequences if item in owner]
        owner.update(dict.fromkeys(sequences, str(scenario["id"])))
    return found


@pytest.mark.parametrize("check", [shape_faults, utility_faults, regret_faults])
def test_labels_are_whole_in_range_and_agree_with_each_other(
    check: Callable[[Scenario], Iterator[str]], scenarios: list[Scenario]
) -> None:
    assert {item["id"]: faults for item in scenarios if (faults := list(check(item)))} == {}


def _break_utility(scenario: Scenario) -> None:
    scenario["circumstances"]["intensity"] *= -1


def _break_regret(scenario: Scenario) -> None:
    scenario["regret"]["neutral"] += 0.03


def _break_emotions(scenario: Scenario) -> None:
    scenario["emotions"]["joy"] += 0.2


def _break_keys(scenario: Scenario) -> None:
    del scenario["vad"]["arousal"]


@pytest.mark.parametrize(
    ("check", "spoil"),
    [
        (utility_faults, _break_utility),
        (regret_faults, _break_regret),
        (shape_faults, _break_emotions),
        (shape_faults, _break_keys),
    ],
)
def test_checks_see_a_broken_scenario(
    check: Callable[[Scenario], Iterator[str]], spoil: Callable[[Scenario], None], scenarios: list[Scenario]
) -> None:
    broken = copy.deepcopy(max(scenarios, key=lambda item: abs(item["circumstances"]["intensity"])))
    assert not list(check(broken))
    spoil(broken)
    assert list(check(broken))


def test_no_two_texts_come_from_one_template(scenarios: list[Scenario]) -> None:
    assert shared_sequences(scenarios) == []
    long = next(item for item in scenarios if len(item["text"].split()) > WORDS_IN_COMMON + 1)
    copied = {**long, "id": "copy", "text": "Well, " + " ".join(long["text"].split()[1:])}
    assert shared_sequences([long, copied])


def test_both_languages_have_enough_and_every_emotion_is_met(scenarios: list[Scenario]) -> None:
    languages = Counter(item["language"] for item in scenarios)
    assert set(languages) == {"en", "ko"}
    assert min(languages.values()) >= 160
    strongest: dict[str, Counter[str]] = defaultdict(Counter)
    for item in scenarios:
        strongest[item["language"]][max(item["emotions"], key=item["emotions"].get)] += 1
    few = {
        (language, emotion): counts[emotion]
        for language, counts in strongest.items()
        for emotion in RANGES["emotions"]
        if counts[emotion] < 20
    }
    assert few == {}


def test_korean_is_korean_and_english_is_not(scenarios: list[Scenario]) -> None:
    def hangul(text: str) -> int:
        return sum("가" <= letter <= "힣" for letter in text)

    misfiled = [item["id"] for item in scenarios if (hangul(item["text"]) > 5) != (item["language"] == "ko")]
    assert misfiled == []


def test_splits_share_no_text_and_ids_are_unique(scenarios: list[Scenario]) -> None:
    texts = Counter("".join(filter(str.isalnum, item["text"].casefold())) for item in scenarios)
    assert [text for text, count in texts.items() if count > 1] == []
    assert len({item["id"] for item in scenarios}) == len(scenarios)


@pytest.mark.parametrize("split", SPLITS)
def test_reader_takes_every_scenario_with_its_labels_in_order(split: str) -> None:
    result = read(parse_source(f"scenarios={FOLDER / f'{split}.jsonl'}"))
    scenarios = load(split)
    assert result.rejected == []
    assert [record.text for record in result.records] == [item["text"].strip() for item in scenarios]
    for record, item in zip(result.records, scenarios, strict=True):
        assert record.language == item["language"]
        assert record.basic_emotions == [item["emotions"][name] for name in RANGES["emotions"]]
        assert record.circumstances == [item["circumstances"][name] for name in ("intensity", *SMALLER)]
        assert record.actions is not None
        chosen = record.actions[record.chosen or 0]
        assert chosen.utility == [item["actions"][item["chosen"]]["utility"][view] for view in VIEWS]
        assert record.regret == [item["regret"][view] for view in VIEWS]
