"""A job finds what is near in meaning: what says the same goes, what has no actions gets those of the nearest case.

In    shipped scenarios without their labels, a tiny encoder of random weights, real processes and signals; all-MiniLM
      where the extra encoders is installed.
Out   pass or fail.
Run   `pytest tests/test_prep_similar_actions.py`
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run_command
from test_prep_filters import parted
from tiny_encoder import minilm, plain_vectors, save_tiny_encoder

from preprocessing import pipeline, text_vectors
from preprocessing.folders import verify
from preprocessing.origin_weights import ONLY_HUMAN, counted_only
from preprocessing.overlap import without_overlaps
from preprocessing.readers import parse_source, read
from preprocessing.records import Action, Record, first_fault, write_records
from preprocessing.settings import JobConfig
from preprocessing.similar_actions import SimilarActions
from preprocessing.text_vectors import encoder_folder

ROOT = Path(__file__).resolve().parents[1]
TRAIN, DEV = (ROOT / "data" / "scenarios" / f"{name}.jsonl" for name in ("train", "dev"))
STEPS = ["--steps", "[near-in-meaning, retrieve]"]


def job(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "preprocessing.pipeline", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


def done(output: Path, *arguments: object) -> list[Record]:
    process = job(*arguments, "--output", output)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return read(parse_source(f"enriched={output}")).records


def facts_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "manifest.json").read_text(encoding="utf-8"))["facts"]


def stripped(path: Path, records: list[Record]) -> Path:
    lines = [json.dumps({"text": record.text, "language": record.language}) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def middle_of_widest_gap(values: np.ndarray) -> float:
    """A bound that no rounding of a cosine crosses."""
    inner = np.sort(values)[len(values) // 4 : -len(values) // 4]
    place = int(np.diff(inner).argmax())
    return float(inner[place : place + 2].mean())


@pytest.fixture(scope="module")
def encoder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny", tokenizer)


@pytest.fixture(scope="module")
def dev() -> list[Record]:
    return read(parse_source(f"scenarios={DEV}")).records


def step(encoder: Path, *sources: object, least: float = 0.01) -> SimilarActions:
    return SimilarActions([str(source) for source in sources], encoder_folder(str(encoder)), least)


def bare(record: Record, **values: Any) -> Record:
    """A record of the same text in another file, with nothing said of it."""
    return Record(id="a/f:1", reader="a", language=record.language, text=record.text, source="f", row=1, **values)


def test_a_job_gives_what_comparing_with_every_case_gives(
    encoder: Path, dev: list[Record], scenarios: list[Record], tmp_path: Path
) -> None:
    vectors, cases = (plain_vectors(encoder, [record.text for record in rows]) for rows in (dev, scenarios))
    same_language = np.array([[row.language == case.language for case in scenarios] for row in dev])
    cosines = np.where(same_language, vectors @ cases.T, -1)
    within = np.tril(vectors @ vectors.T, k=-1).max(axis=1)
    least, threshold = middle_of_widest_gap(cosines.max(axis=1)), middle_of_widest_gap(within)
    kept: list[int] = []
    for row in range(len(dev)):
        if all(vectors[row] @ vectors[other] < threshold for other in kept):
            kept.append(row)
    assert 5 < len(kept) < len(dev) - 5
    given = [row for row in kept if cosines[row].max() >= least]
    assert 2 < len(given) < len(kept) - 2

    source = f"jsonl={stripped(tmp_path / 'rows.jsonl', dev)}"
    arguments = ["--data", source, *STEPS, "--text-encoder", encoder, "--meaning-threshold", threshold]
    told = [*arguments, "--retrieve-from", f"scenarios={TRAIN}", "--retrieve-least", least]
    found = done(tmp_path / "out", *told)
    assert [record.text for record in found] == [dev[row].text for row in kept]
    name = encoder_folder(str(encoder)).hash
    for row, record in zip(kept, found, strict=True):
        if row not in given:
            assert (record.actions, record.regret, record.origins) == (None, None, {})
            continue
        case = scenarios[int(cosines[row].argmax())]
        assert (record.actions, record.chosen) == (case.actions, case.chosen)
        assert record.regret == pytest.approx(case.regret, abs=1e-3)  # the scenarios' own, computed elsewhere
        assert record.origins == {"actions": f"retrieved:{name}/{case.id}", "regret": "derived"}
        assert list(record.confidence.values()) == pytest.approx([cosines[row].max()] * 2, abs=1e-5)
    facts = facts_of(tmp_path / "out")
    assert facts["steps"][0]["set_aside"] == {"same-meaning": len(dev) - len(kept)}
    assert facts["steps"][1]["notes"] == {
        "cases to take from": len(scenarios),
        "given the actions of a like case": len(given),
        f"left as they were: no case of a cosine of {least:g}": len(kept) - len(given),
    }
    assert facts["labels"]["actions"] == {f"retrieved:{name}": len(given)}
    assert facts["labels"]["regret"] == {"derived": len(given)}
    assert facts["readers"] == ["jsonl", "scenarios"]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"| Label | as the source gives it | `derived` | `retrieved:{name}` | none |" in card
    assert "## What was taken from like cases" in card


def test_the_same_text_in_another_source_is_the_best_case_and_the_record_itself_is_none(
    encoder: Path, scenarios: list[Record], tmp_path: Path
) -> None:
    texts = scenarios[:40]
    kept, _ = parted(step(encoder, f"scenarios={TRAIN}", least=0.999), [bare(record) for record in texts])
    for record, original in zip(kept, texts, strict=True):
        assert (record.actions, record.chosen) == (original.actions, original.chosen)
        assert record.regret == pytest.approx(original.regret, abs=1e-3)
        assert record.confidence["actions"] == pytest.approx(1, abs=1e-5)
    # The same rows of the same file, without what was said of them.
    own = [replace(bare(record), id=record.id) for record in texts]
    write_records(tmp_path / "twice.jsonl", scenarios)
    sources = (f"scenarios={TRAIN}", f"records={tmp_path / 'twice.jsonl'}")
    kept, _ = parted(step(encoder, *sources), own)
    vectors = plain_vectors(encoder, [record.text for record in scenarios])
    for number, record in enumerate(kept):
        cosines = vectors[number] @ vectors.T
        others = [case.language == record.language and case.id != record.id for case in scenarios]
        assert record.confidence["actions"] == pytest.approx(cosines[others].max(), abs=1e-5)
        assert record.origins["actions"].partition("/")[2] != record.id


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({"turns": ["괜찮아?"]}, "no place for actions"),
        ({"worse": "It was no good."}, "no place for actions"),
        ({"text_pair": "No."}, "no place for actions"),
        ({"circumstances": [0.0] * 7}, "no place for actions"),
        ({"acceptability": [None, None, 1.0, None]}, "no place for actions"),
        ({"regret": [0.0, 0.0, 0.0]}, "no place for actions"),
        ({"actions": [Action(text=t, utility=[0, 0, 0]) for t in "ab"], "chosen": 0}, "have actions"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_source_says_is_never_overwritten_or_given_another_sense(
    encoder: Path, scenarios: list[Record], values: dict[str, Any], outcome: str
) -> None:
    record = bare(scenarios[0], **values)
    assert first_fault(record) is None
    one = step(encoder, f"scenarios={TRAIN}")
    assert parted(one, [record]) == ([record], [])
    assert one.counts[f"left as they were: {outcome}"] == 1
    labelled = bare(scenarios[0], vad=[0.1, None, None], origins={"vad": "llm:a@1/b@1"}, confidence={"vad": 0.9})
    ((given,), _) = parted(step(encoder, f"scenarios={TRAIN}"), [labelled])
    assert given.actions == scenarios[0].actions
    assert (given.vad, given.origins["vad"], given.confidence["vad"]) == ([0.1, None, None], "llm:a@1/b@1", 0.9)
    assert first_fault(given) is None


def test_only_what_people_said_is_taken_and_only_in_the_same_language(
    encoder: Path, scenarios: list[Record], tmp_path: Path
) -> None:
    english = [record for record in scenarios if record.language == "en"]
    machine = [replace(record, origins={"actions": "llm:a@1/alternatives@1"}) for record in english[:5]]
    write_records(tmp_path / "cases.jsonl", [*machine, *english[5:10]])
    one = step(encoder, f"records={tmp_path / 'cases.jsonl'}")
    korean = next(record for record in scenarios if record.language == "ko")
    kept, _ = parted(one, [bare(korean), *map(bare, english[:5])])
    assert kept[0] == bare(korean)
    people = [record.actions for record in english[5:10]]
    assert all(record.actions in people for record in kept[1:])
    assert one.counts["cases to take from"] == 5
    assert one.counts["left as they were: no case in their language"] == 1


def test_nobody_is_judged_by_them_nor_by_the_case_they_were_taken_from(
    encoder: Path, dev: list[Record], scenarios: list[Record]
) -> None:
    kept, _ = parted(step(encoder, f"scenarios={DEV}"), [bare(scenarios[0])])
    (judged,) = counted_only(kept, ONLY_HUMAN)
    assert (judged.actions, judged.chosen, judged.regret, judged.origins) == (None, None, None, {})
    left, dropped = without_overlaps(dev, kept)
    assert [record.id for record in dropped] == [kept[0].origins["actions"].partition("/")[2]]
    assert len(left) == len(dev) - 1


def test_another_encoder_or_other_cases_mean_preparing_anew(
    encoder: Path, dev: list[Record], tokenizer: Any, tmp_path: Path
) -> None:
    own = tmp_path / "encoder"
    cases = tmp_path / "cases.jsonl"
    save_tiny_encoder(own, tokenizer)
    cases.write_bytes(DEV.read_bytes())
    source = f"jsonl={stripped(tmp_path / 'rows.jsonl', dev[:6])}"
    told = ["--data", source, "--steps", "[retrieve]", "--text-encoder", own, "--retrieve-from", f"scenarios={cases}"]
    assert run_command(pipeline, *told, "--output", tmp_path / "out")[0] == 0
    before = read(parse_source(f"enriched={tmp_path / 'out'}")).records
    for change in (
        lambda: save_tiny_encoder(own, tokenizer, seed=1),
        lambda: cases.write_bytes(b"".join(DEV.read_bytes().splitlines(keepends=True)[3:])),
    ):
        change()
        code, _, err = run_command(pipeline, *told, "--output", tmp_path / "out")
        assert (code, "of other sources or settings" in err) == (2, True)
        code, _, err = run_command(pipeline, *told, "--output", tmp_path / "out", "--overwrite")
        assert code == 0, err
        after = read(parse_source(f"enriched={tmp_path / 'out'}")).records
        assert [record.origins for record in after] != [record.origins for record in before]
        before = after


@pytest.mark.slow
def test_a_job_killed_while_it_retrieves_writes_the_bytes_of_one_left_alone(encoder: Path, tmp_path: Path) -> None:
    told = ["--data", f"text={tmp_path / 'rows.txt'}@language=en", *STEPS, "--text-encoder", encoder]
    told += ["--meaning-threshold", 0.999999, "--retrieve-from", f"scenarios={TRAIN}", "--retrieve-least", 0.1]
    words = TRAIN.read_text(encoding="utf-8").split()
    lines = [" ".join(words[start : start + 40]) for start in range(0, len(words) - 40, 60)]
    (tmp_path / "rows.txt").write_text("\n".join(lines), encoding="utf-8")
    done(tmp_path / "alone", *told)
    process = job(*told, "--output", tmp_path / "out")
    staging = tmp_path / ".out.work" / ".prepared.partial"
    while not (staging.is_dir() and process.poll() is None):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    found = done(tmp_path / "out", *told)
    assert any(record.actions for record in found)
    verify(tmp_path / "out")
    names = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_the_encoder_is_not_held_once_the_steps_are_done(encoder: Path, scenarios: list[Record]) -> None:
    one = step(encoder, f"scenarios={TRAIN}")
    parted(one, map(bare, scenarios[:3]))
    assert list(text_vectors._OPEN) == []


@pytest.mark.slow
def test_a_real_encoder_finds_the_case_that_is_told_in_other_words(scenarios: list[Record], dev: list[Record]) -> None:
    told = {
        "A nurse sleeping across from us on the Yamanote train was being filmed on the phone of the man beside me, "
        "who held it low between his knees. He wears a wedding ring.": "The man next to me on the Yamanote line",
        "At dinner my stepfather read aloud from the diary of my thirteen-year-old sister and imitated her voice; now "
        "I cannot swallow the food he makes.": "My stepfather reads my little sister's diary",
    }
    everything = [f"scenarios={TRAIN.with_name(name)}" for name in ("train.jsonl", "dev.jsonl", "test.jsonl")]
    one = SimilarActions(everything, encoder_folder(minilm()), 0.7)
    records = [Record(id="a/f:1", reader="a", language="en", text=t, source="f", row=1) for t in told]
    kept, _ = parted(one, records)
    cases = {record.id: record for source in everything for record in read(parse_source(source)).records}
    for record, start in zip(kept, told.values(), strict=True):
        case = cases[record.origins["actions"].partition("/")[2]]
        assert case.text.startswith(start)
        assert record.actions == case.actions
    # Scenarios of other files, none of which is told twice.
    apart = SimilarActions([f"scenarios={TRAIN}"], encoder_folder(minilm()), JobConfig.retrieve_least)
    kept, _ = parted(apart, [bare(record) for record in dev if record.language == "en"])
    assert all(record.actions is None for record in kept)
