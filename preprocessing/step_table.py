"""The steps of a job by name, made from its settings.

In    a JobConfig.
Out   its steps, in the order that it names them; the balance, where it asks for one.
Run   through preprocessing/pipeline.py

Each is imported when it is wanted: some need packages of the extras prepare and retrieval.
"""

import difflib
from collections.abc import Callable

from preprocessing.balance import Balance
from preprocessing.errors import UserError
from preprocessing.settings import JobConfig
from preprocessing.steps import Step

_COMPARING = ("duplicates", "near-duplicates", "near-in-meaning")


def steps_of(config: JobConfig) -> list[Step]:
    """Raises UserError for a step that is not known, settings that cannot be, or a package that is not there."""
    for name in config.steps:
        if name not in STEPS:
            near = difflib.get_close_matches(name, STEPS, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(STEPS)}"
            raise UserError(f"there is no step {name!r}; {meant}")
        if config.steps.count(name) > 1:
            raise UserError(f"steps names {name} twice; once is enough")
    late = [name for name in config.steps if name in _COMPARING and "retrieve" in config.steps]
    if late and config.steps.index("retrieve") < config.steps.index(late[-1]):
        raise UserError(
            f"steps has retrieve before {late[-1]}, which would compare rows by actions of others; after it"
        )
    try:
        return [STEPS[name](config) for name in config.steps]
    except ModuleNotFoundError as error:
        extra = "retrieval" if error.name == "faiss" else "prepare"
        raise UserError(
            f"a step needs the package {error.name}: pip install -c constraints.txt -e '.[train,{extra}]', or leave "
            "the step out of steps"
        ) from error


def balance_of(config: JobConfig) -> Balance | None:
    """None where the settings leave every row at once an epoch."""
    told = (config.temperature_of_sources, config.shares, config.balance_label, config.temperature_of_labels)
    return None if told == (1.0, {}, None, 1.0) else Balance(*told)


def _language(config: JobConfig) -> Step:
    from preprocessing.filters import Language

    return Language(config.languages)


def _length(config: JobConfig) -> Step:
    from preprocessing.filters import Length

    return Length(config.least_characters, config.most_characters)


def _personal_data(config: JobConfig) -> Step:
    from preprocessing.personal_data import PersonalData

    return PersonalData()


def _duplicates(config: JobConfig) -> Step:
    from preprocessing.filters import Duplicates

    return Duplicates()


def _near_duplicates(config: JobConfig) -> Step:
    from preprocessing.near_duplicates import NearDuplicates

    return NearDuplicates(config.near_threshold, config.num_proc, config.other_labels)


def _near_in_meaning(config: JobConfig) -> Step:
    from preprocessing.near_in_meaning import NearInMeaning

    return NearInMeaning(_encoder(config), config.meaning_threshold)


def _retrieve(config: JobConfig) -> Step:
    from preprocessing.similar_actions import SimilarActions

    return SimilarActions(config.retrieve_from, _encoder(config), config.retrieve_least)


def _encoder(config: JobConfig) -> "EncoderFolder":  # type: ignore[name-defined]  # noqa: F821
    from preprocessing.text_vectors import encoder_folder

    assert config.text_encoder is not None
    return encoder_folder(config.text_encoder, config.text_encoder_prefix, config.text_encoder_languages)


STEPS: dict[str, Callable[[JobConfig], Step]] = {
    "language": _language,
    "length": _length,
    "personal-data": _personal_data,
    "duplicates": _duplicates,
    "near-duplicates": _near_duplicates,
    "near-in-meaning": _near_in_meaning,
    "retrieve": _retrieve,
}
