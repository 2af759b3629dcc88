"""Gives a record without alternatives those of the case that is nearest in meaning, as people named them there.

In    records, one after another; sources of which records have actions (scenarios); a text encoder.
Out   the same records; where a case is near enough, with its actions, what they are worth, the choice, and regret.
Run   through preprocessing/pipeline.py, as the step `retrieve`

What such labels are worth: people gave them, but to another text. The actions fit as far as the cases are alike, and
what was done in the one says nothing of what was done in the other. Between nearest neighbours among the shipped
scenarios neither regret nor what the best action is worth agreed better than by chance (docs/preprocessing-steps.md).
Hence the origin, retrieved:ENCODERHASH/READER/FILE:ROW, by which training weighs them (`origin_weights`); the
confidence, which is the cosine; and a bound that few texts reach. Regret is derived from the actions, as everywhere.

Nothing that a source says is overwritten, and only what people said is taken. A case is in the same language, and may
have the same text: the best match there is. It is never the record itself, which has the same id and text.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

from preprocessing.alternatives import may_be_given_actions
from preprocessing.errors import UserError
from preprocessing.origins import DERIVED, RETRIEVED, origin_faults
from preprocessing.readers import Rejected, parse_source, read
from preprocessing.records import Action, Record
from preprocessing.regret import regret_of
from preprocessing.retrieval import Embed, Encoder, Retrieval, in_memory
from preprocessing.sources import refuse_repeated

BATCH = 256


class SimilarActions:
    """Sets nothing aside. Memory: the cases, and 4 bytes for each of D numbers of each of them.

    Records and cases longer than the encoder reads are left out: it would compare how they begin.
    """

    name = "retrieve"

    def __init__(self, sources: Sequence[str], encoder: Encoder, least: float) -> None:
        """Raises UserError for sources that cannot be read; they are read when the step runs."""
        if not 0 < least <= 1:
            raise UserError(f"retrieve_least must be above 0 and 1 at most, got {least}")
        self.sources = [parse_source(source) for source in sources]
        refuse_repeated(self.sources)
        self.encoder, self.least = encoder, least
        self.made_of = encoder.hash
        self.counts: Counter[str] = Counter()

    def __call__(self, records: Iterable[Record]) -> Iterator[Record | Rejected]:
        remaining = iter(records)
        embed = self.encoder.open()
        cases = self._cases()
        indexed = cache(lambda language: self._indexed(cases.get(language, []), embed))
        reads = cache(self.encoder.reads)
        while batch := list(islice(remaining, BATCH)):
            found: dict[int, Record | str] = {}
            for language in sorted({record.language for record in batch}):
                places = [
                    place
                    for place, record in enumerate(batch)
                    if record.language == language and may_be_given_actions(record)
                ]
                if not places:
                    continue
                if not reads(language):
                    found.update(dict.fromkeys(places, "in a language that the encoder does not read"))
                elif (known := indexed(language)) is None:
                    found.update(dict.fromkeys(places, "no case in their language"))
                else:
                    found.update(zip(places, self._found(known, [batch[p] for p in places], embed), strict=True))
            for place, record in enumerate(batch):
                yield self._counted(record, found.get(place))

    def _found(self, known: "_Cases", records: list[Record], embed: Embed) -> Iterator[Record | str]:
        """Each record with its actions, or why it has none."""
        whole = self.encoder.whole([record.text for record in records])
        texts = [record.text for record, is_whole in zip(records, whole, strict=True) if is_whole]
        near = iter(
            known.index.places(embed(texts), self.encoder.hash, known.enough, least=self.least) if texts else []
        )
        for record, is_whole in zip(records, whole, strict=True):
            if not is_whole:
                yield "longer than the encoder reads"
                continue
            taken = self._taken(record, known.records, next(near))
            yield taken or f"no case of a cosine of {self.least:g}"

    def _counted(self, record: Record, found: Record | str | None) -> Record:
        if isinstance(found, Record):
            self.counts["given the actions of a like case"] += 1
            return found
        why = found or ("have actions" if record.actions is not None else "no place for actions")
        self.counts[f"left as they were: {why}"] += 1
        return record

    def _cases(self) -> dict[str, list[Record]]:
        """By language, the records with actions that people gave. Raises UserError where there is none."""
        cases: dict[str, list[Record]] = {}
        for source in self.sources:
            result = read(source)
            self.counts["rows to take from that could not be read"] += len(result.rejected)
            for record in result.records:
                if record.actions is not None and "actions" not in record.origins:
                    cases.setdefault(record.language, []).append(record)
                    self.counts["cases to take from"] += 1
        self.counts = +self.counts
        if not cases:
            named = ", ".join(map(str, self.sources))
            raise UserError(f"no record of {named} has actions of its source; name others in retrieve_from")
        return cases

    def _indexed(self, cases: list[Record], embed: Embed) -> "_Cases | None":
        whole = self.encoder.whole([record.text for record in cases]) if cases else []
        if long := whole.count(False):
            self.counts["cases not taken from: longer than the encoder reads"] += long
            cases = [record for record, is_whole in zip(cases, whole, strict=True) if is_whole]
        if not cases:
            return None
        for record in cases:
            origin = self._origin(record)
            if any(origin_faults({"actions": origin}, {}, {"actions"})):
                raise UserError(
                    f"{origin!r:.120} cannot stand as an origin: the id of a case must be READER/FILE:ROW; read it "
                    "by another reader"
                )
        vectors = embed([record.text for record in cases])
        same = Counter((record.id, record.text) for record in cases)
        return _Cases(cases, in_memory(cases, vectors, self.encoder.hash), 1 + max(same.values()))

    def _origin(self, case: Record) -> str:
        return f"{RETRIEVED}:{self.encoder.hash}/{case.id}"

    def _taken(self, record: Record, cases: list[Record], found: list[tuple[int, float]]) -> Record | None:
        for place, cosine in found:
            case = cases[place]
            if (case.id, case.text) != (record.id, record.text):
                return self._filled(record, case, min(cosine, 1.0))
        return None

    def _filled(self, record: Record, case: Record, cosine: float) -> Record:
        assert case.actions is not None
        assert case.chosen is not None
        return replace(
            record,
            actions=[Action(text=action.text, utility=list(action.utility)) for action in case.actions],
            chosen=case.chosen,
            regret=regret_of([action.utility for action in case.actions], case.chosen),
            origins=record.origins | {"actions": self._origin(case), "regret": DERIVED},
            confidence=record.confidence | {"actions": cosine, "regret": cosine},
        )


@dataclass(frozen=True)
class _Cases:
    records: list[Record]
    index: Retrieval
    enough: int
    """Neighbours among which one is not the record itself."""
