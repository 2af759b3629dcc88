"""A job that is killed at any moment, or shared by several processes, writes the bytes of one that was left alone.

In    real comments, a tiny language model with random weights, real processes and signals.
Out   pass or fail.
Run   `REDHEART_SLOW=1 bash run_learning.sh test tests/test_prep_killed.py`; with REDHEART_KILLED_JOBS=30 thirty
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_llm import save_tiny_llm

from preprocessing.answers import AnswerCache
from preprocessing.folders import MANIFEST, verify

pytest.importorskip("llguidance", reason="llguidance comes with the extra enrich")

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ROOT / "data" / "scenarios" / "train.jsonl"
ROWS = 90
KILLED = int(os.environ.get("REDHEART_KILLED_JOBS", 8))


@pytest.fixture(scope="module")
def job(tokenizer, tmp_path_factory) -> dict[str, Any]:
    """Situations of the shipped scenarios, without their labels, Korean and English, some of them twice; one row in
    nine is no JSON. What is written is drawn, what is judged is not."""
    folder = tmp_path_factory.mktemp("job")
    rows = [json.loads(line) for line in SCENARIOS.read_text(encoding="utf-8").splitlines()[:ROWS]]
    lines = [json.dumps({"text": row["text"], "language": row["language"]}, ensure_ascii=False) for row in rows]
    lines[::9] = ["{"] * len(lines[::9])
    lines += lines[1:9]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "data": [f"jsonl={folder / 'rows.jsonl'}"],
        "enrich": str(save_tiny_llm(folder / "tiny", tokenizer)),
        "quantization": "fp32",
        "prompts": ["culture@1", "alternatives@1"],
        "threshold": 0.3,
        "rows_per_shard": 50,
        "steps": [],
    }


def live(*specs: dict[str, Any]) -> list[dict[str, Any]]:
    """Each spec's job in processes of its own; how they ended."""
    command = [sys.executable, str(ROOT / "tests" / "job_lives.py"), *map(json.dumps, specs)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"ends')]


def bytes_of(folder: Path) -> dict[str, bytes]:
    verify(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def check_the_same(found: Path, expected: Path) -> None:
    assert bytes_of(found) == bytes_of(expected)
    assert not (found.parent / f".{found.name}.work").exists()


def test_two_workers_write_the_bytes_of_one_and_ask_nothing_twice(job, tmp_path: Path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    ends = live({"job": job | {"output": str(alone)}}, {"job": job | {"output": str(both)}, "workers": 2})
    assert [life["ends"] for life in ends] == [[0], [0, 0]]
    check_the_same(both, alone)
    cache = AnswerCache(Path(f"{both}.answers"))
    rows = json.loads((both / MANIFEST).read_text())["facts"]["rows"]
    assert rows == ROWS - ROWS // 9 + 8
    assert len(cache) == (rows - 8) * len(job["prompts"])
    cache.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_jobs_write_the_bytes_of_one_that_was_left_alone(job, tmp_path: Path):
    alone = tmp_path / "alone"
    (whole,) = live({"job": job | {"output": str(alone)}})
    drawn = random.Random(0)
    kills = [drawn.uniform(0, whole["seconds"]) for _ in range(KILLED)]
    specs = [{"job": job | {"output": str(tmp_path / f"{number}")}, "kills": [at]} for number, at in enumerate(kills)]
    ends = [life["ends"] for life in live(*specs)]
    assert ends == [[-9, 0]] * KILLED
    for number in range(KILLED):
        check_the_same(tmp_path / f"{number}", alone)
