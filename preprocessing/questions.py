"""The questions of a job: each prompt of its recipe to its language model.

In    a JobConfig with `enrich`.
Out   an `Asker`, or a UserError for a model or a prompt that does not serve.
Run   through preprocessing/pipeline.py
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preprocessing.answers import AnswerCache, Given
from preprocessing.asking import Answers, Asker
from preprocessing.errors import UserError
from preprocessing.judged import unreliable_fields
from preprocessing.merging import Answer, merged
from preprocessing.records import Record
from preprocessing.schema import Prompt
from preprocessing.settings import JobConfig
from preprocessing.sources import expand

if TYPE_CHECKING:
    from preprocessing.enrichment import Enricher

_NEEDED = ("bitsandbytes", "gguf", "llguidance")


def open_asker(config: JobConfig, cache: Answers | None = None) -> Asker:
    """Loads the model first of all: what it lacks is said before hours of reading, not after.

    Answers are kept in `cache`, or in the file that the config names.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UserError(f"enrich needs {', '.join(missing)}: pip install -c constraints.txt -e '.[train,enrich]'")
    from preprocessing.enrichment import Enricher, wants
    from preprocessing.llm import load_llm

    assert config.enrich is not None
    llm = load_llm(config.enrich, config.quantization)
    enricher = Enricher(llm, config.prompts, config.decoding())
    enricher.check(config.languages)
    questions = [_Question(enricher, prompt, wants) for prompt in enricher.prompts]
    # What was done goes before how it is judged: circumstances are those of the chosen action.
    questions.sort(key=lambda question: not question.prompt.writes)
    facts: dict[str, Any] = {
        "model": f"{llm.name}@{llm.hash}",
        "quantization": llm.quantization,
        "prompts": {question.name: question.prompt.hash for question in questions},
        "decoding": asdict(config.decoding()),
    }
    judged = unreliable_fields(Path(expand(config.judged)), facts) if config.judged else []
    facts["unreliable"] = sorted({*config.unreliable, *judged})
    if cache is None:
        cache = AnswerCache(config.answers_file())
    return Asker(questions, cache, facts)  # type: ignore[arg-type]


class _Question:
    """One prompt, as preprocessing/asking.py puts it."""

    def __init__(self, enricher: "Enricher", prompt: Prompt, wants: Callable[[Record, Prompt], bool]):
        self.enricher, self.prompt, self.name = enricher, prompt, prompt.name
        self._wants = wants

    def wants(self, record: Record) -> bool:
        return self._wants(record, self.prompt)

    def key(self, record: Record) -> str:
        return self.enricher.key(record, self.prompt)

    def ask(self, records: Sequence[Record]) -> list[Given]:
        """Of all fields of the prompt, labelled or not: the answer may serve another record with the same text."""
        return [
            {field: (answer.value, answer.confidence, answer.origin) for field, answer in answers.items()}
            for answers in self.enricher.answer(records, only_missing=False, prompts=[self.prompt])
        ]

    def merged(self, record: Record, given: Given) -> Record:
        return merged(record, {field: Answer(*values) for field, values in given.items()})
