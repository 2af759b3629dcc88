"""A job that finds what is near in meaning: what says the same goes, what has no actions gets those of a like case.

In    shipped scenarios without their labels, a tiny encoder of random weights, real processes and signals.
Out   pass or fail.
Run   `pytest tests/test_prep_meaning_job.py`
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run_command
from tiny_encoder import plain_vectors, save_tiny_encoder
from tiny_llm import save_tiny_llm

from preprocessing import pipeline
from preprocessing.answers import AnswerCache
from preprocessing.folders import verify
from preprocessing.readers import parse_source, read
from preprocessing.records import Record, write_records
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


def test_a_language_model_is_asked_for_alternatives_only_where_no_case_gave_any_and_there_is_a_place(
    encoder: Path, dev: list[Record], tokenizer: Any, tmp_path: Path
) -> None:
    pytest.importorskip("llguidance", reason="llguidance comes with the extra enrich")
    llm = save_tiny_llm(tmp_path / "tiny", tokenizer)
    record = {"reader": "a", "language": "en", "source": "f"}
    english = [row.text for row in dev if row.language == "en"][:3]
    more: list[dict[str, Any]] = [{}, {"text_pair": "No."}, {"regret": [0.1, 0.1, 0.1]}]
    rows = [
        Record(id=f"a/f:{number}", row=number, text=text, **record, **values)
        for number, (text, values) in enumerate(zip(english, more, strict=True), start=1)
    ]
    write_records(tmp_path / "rows.jsonl", [*rows, Record(id="a/f:9", row=9, text="가나다라", **record)])
    code, _, err = run_command(
        pipeline,
        *("--data", f"records={tmp_path / 'rows.jsonl'}", "--output", tmp_path / "out", "--steps", "[retrieve]"),
        *("--text-encoder", encoder, "--retrieve-from", f"scenarios={DEV}", "--retrieve-least", 0.999),
        *("--enrich", llm, "--quantization", "fp32", "--prompts", "[alternatives@1]", "--threshold", 0),
    )
    assert code == 0, err
    given, paired, judged, far = read(parse_source(f"enriched={tmp_path / 'out'}")).records
    assert given.origins["actions"].startswith("retrieved:")
    assert given.confidence["actions"] == pytest.approx(1, abs=1e-5)
    assert (paired.actions, judged.actions, judged.regret) == (None, None, [0.1, 0.1, 0.1])
    assert far.origins.get("actions", "llm:tiny@").startswith("llm:tiny@")
    cache = AnswerCache(Path(f"{tmp_path / 'out'}.answers"))
    assert len(cache) == 1
    cache.close()


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
