"""A job whose questions are asked by several processes of datatrove writes the bytes of one process.

In    shipped scenarios without their labels, a tiny language model with random weights, real processes and signals.
Out   pass or fail.
Run   `REDHEART_SLOW=1 bash run_learning.sh test tests/test_prep_scale_out.py`
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import run_command
from tiny_llm import save_tiny_llm

pytest.importorskip("llguidance", reason="llguidance comes with the extra enrich")
pytest.importorskip("datatrove", reason="datatrove comes with the extra scale")

from preprocessing import answers, pipeline, scale_out
from preprocessing.answers import AnswerCache, check_answers
from preprocessing.errors import UserError
from preprocessing.folders import read_manifest, verify, write_folder
from preprocessing.prepared import Prepared
from preprocessing.questions import open_asker
from preprocessing.scale_engines import executor_of
from preprocessing.scale_journal import Journal, answers_in, files_of
from preprocessing.scale_settings import ScaleConfig, build_parser
from preprocessing.scale_task import Plan, rows_in, share
from preprocessing.workplace import Workplace

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ROOT / "data" / "scenarios" / "train.jsonl"
ROWS = 100
KEY = "0f" * 32
GIVEN = {"vad": ([0.5, 0.25, 1.0], 0.75, "llm:a@b/affect@1")}


@pytest.fixture(scope="module")
def job(tokenizer, tmp_path_factory) -> list[str]:
    """Shipped scenarios, Korean and English: two pieces of rows. The first two lines are no JSON."""
    folder = tmp_path_factory.mktemp("job")
    rows = [json.loads(line) for line in SCENARIOS.read_text(encoding="utf-8").splitlines()[:ROWS]]
    lines = [json.dumps({"text": row["text"], "language": row["language"]}, ensure_ascii=False) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(["{", "{", *lines]) + "\n", encoding="utf-8")
    model = save_tiny_llm(folder / "tiny", tokenizer)
    return [
        *("--data", f"jsonl={folder / 'rows.jsonl'}", "--enrich", str(model), "--quantization", "fp32"),
        *("--prompts", "[culture@1, affect@1]", "--threshold", "0.3", "--rows-per-shard", "70", "--steps", "[]"),
    ]


@pytest.fixture(scope="module")
def alone(job, tmp_path_factory) -> Path:
    """What one process writes, with one thread as the workers have."""
    output = tmp_path_factory.mktemp("alone") / "out"
    ended = started("pipeline", job, output).communicate()[1]
    assert output.is_dir(), ended
    return output


def started(module: str, job: list[str], output: Path, *more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"preprocessing.{module}", *job, "--output", str(output), *map(str, more)]
    command += ["--memory-gib", "1"] * (module == "scale_out")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate()
    return process.returncode, err


def bytes_of(folder: Path) -> dict[str, bytes]:
    verify(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def worker_at_work(command: subprocess.Popen[str], output: Path) -> int:
    """The process of a worker that has written an answer, and is not done with its rows."""
    while command.poll() is None:
        for path in output.parent.glob(f".{output.name}.work/spread-*/task-*.answers"):
            if any(answers_in(path)):
                return int(path.name.split("-")[-2])
        time.sleep(0.1)
    raise AssertionError(f"it ended before a worker had written an answer: {ended(command)}")


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_write_the_bytes_of_one_process(job, alone: Path, tmp_path: Path):
    code, err = ended(started("scale_out", job, tmp_path / "both", "--tasks", 3, "--workers", 2))
    assert code == 0, err
    assert bytes_of(tmp_path / "both") == bytes_of(alone)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both", "both.answers"]
    caches = [AnswerCache(Path(f"{output}.answers")) for output in (alone, tmp_path / "both")]
    assert len(caches[0]) == len(caches[1])
    for cache in caches:
        cache.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_after_a_worker_is_killed_the_same_command_writes_the_same_bytes(job, alone: Path, tmp_path: Path):
    output = tmp_path / "out"
    process = started("scale_out", job, output, "--tasks", 2, "--workers", 2)
    os.kill(worker_at_work(process, output), signal.SIGKILL)
    code, err = ended(process)
    assert code == 2, err
    assert "ended by signal 9" in err
    assert "the same command goes on" in err
    assert not output.exists()
    # Another division of the rows: what was answered in the first is not asked again.
    code, err = ended(started("scale_out", job, output, "--tasks", 3, "--workers", 1))
    assert code == 0, err
    assert bytes_of(output) == bytes_of(alone)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_command_ends_its_workers_and_any_division_of_the_rows_knows_their_answers(
    job, alone: Path, tmp_path: Path
):
    output = tmp_path / "out"
    process = started("scale_out", job, output, "--tasks", 2, "--workers", 2)
    worker = worker_at_work(process, output)
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL
    while is_alive(worker):
        time.sleep(0.1)

    config = scale_out.parse_config([*job, "--output", str(output)])
    asker = open_asker(config.job())
    folder = Workplace(output).folder
    written = {key for answers in folder.glob("spread-*") for file in files_of(answers) for key, _ in answers_in(file)}
    scale_out.collect(folder, asker.cache)
    prepared = Prepared(folder / "prepared", read_manifest(folder / "prepared")["facts"])
    open_ = scale_out.survey(prepared, asker, 3, tmp_path)
    asker.cache.close()
    known = {key for task in range(3) for file in files_of(tmp_path, task) for key, _ in answers_in(file)}
    assert written
    assert sorted(open_) == [1, 2]  # the first of three has none of the two pieces
    assert known == written

    code, err = ended(started("scale_out", job, output, "--tasks", 3, "--workers", 1))
    assert code == 0, err
    assert bytes_of(output) == bytes_of(alone)


def test_an_answer_is_known_to_the_next_life_of_its_task_and_half_a_line_is_not(tmp_path: Path):
    first = Journal(tmp_path, 3, threads=1)
    first.put({KEY: GIVEN})
    first.did(64)
    first.close()
    with first.path.open("ab") as file:
        file.write(f'{"1e" * 32} {{"vad": [[0.1'.encode())
    second, other = Journal(tmp_path, 3, threads=1), Journal(tmp_path, 4, threads=1)
    assert second.get(KEY) == GIVEN
    assert second.get("1e" * 32) is None
    assert other.get(KEY) is None
    assert len({first.path, second.path}) == 2


@pytest.mark.parametrize("line", [b"{}", b"rows x", KEY.encode() + b' {"vad": 1}', KEY.encode() + b" {", b"\0\0\0"])
def test_a_damaged_file_of_answers_is_named(line: bytes, tmp_path: Path):
    Journal(tmp_path, 0, threads=1).close()
    (path,) = files_of(tmp_path)
    with path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(UserError, match=r"damaged in line 2: .* remove it, and what it held is asked again"):
        Journal(tmp_path, 0, threads=1)


@pytest.mark.parametrize("rows", [1, 64, 65, 4096, 4097, 10_000])
@pytest.mark.parametrize("tasks", [1, 2, 7, 200])
def test_every_row_belongs_to_one_task(rows: int, tasks: int):
    shares = [share(task, tasks, rows) for task in range(tasks)]
    assert [piece for pieces in shares for piece in pieces] == list(range(-(-rows // 64)))
    assert sum(rows_in(pieces, rows) for pieces in shares) == rows


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--executor", "k8s"], "k8s"),
        (["--machines", "3"], "--machines"),
        (["--tasks", "0"], "tasks must lie in [1, 99999], got 0"),
        (["--workers", "0"], "workers must be at least 1, got 0"),
        (["--partition", "cpu"], "partition is for --executor slurm, and the executor is local"),
        (["--executor", "slurm"], "--executor slurm needs --partition"),
        (["--executor", "slurm", "--partition", "cpu"], "there is no sbatch on this machine"),
        (["--enrich", "null"], "there is nothing to spread without enrich"),
    ],
)
def test_what_cannot_be_spread_is_refused(more: list[str], said: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    source = f"scenarios={SCENARIOS}"
    code, _, err = run_command(scale_out, "--data", source, "--enrich", "nowhere", "--output", tmp_path / "out", *more)
    assert code == 2
    assert said in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_more_workers_than_memory_holds_are_refused_before_they_start(job, tmp_path: Path):
    arguments = [*job, "--output", tmp_path / "out", "--workers", 3, "--memory-gib", 100_000]
    code, _, err = run_command(scale_out, *arguments)
    assert code == 3
    assert "3 workers of 100000 GiB each are more than" in err


def test_answers_on_a_share_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(answers, "MOUNTS", tmp_path / "mountinfo")
    check_answers(tmp_path / "out.answers")
    disk = "25 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda rw"
    share_ = f"90 25 0:44 / {tmp_path} rw,relatime shared:2 - nfs4 files:/home rw,vers=4.2"
    (tmp_path / "mountinfo").write_text(disk)
    check_answers(tmp_path / "out.answers")
    (tmp_path / "mountinfo").write_text(f"{share_}\n{disk}")
    check_answers(tmp_path.parent / "out.answers")
    with pytest.raises(UserError, match=r"share \(nfs4\).* name with --answers"):
        check_answers(tmp_path / "out.answers")
    job = ["--data", f"scenarios={SCENARIOS}", "--enrich", "nowhere", "--output", tmp_path / "out"]
    for command in (pipeline, scale_out):
        code, _, err = run_command(command, *job)
        assert (code, "would lie on a share (nfs4)" in err) == (2, True)
    assert "nowhere" in run_command(pipeline, *job, "--answers", tmp_path.parent / "out.answers")[2]


def test_as_many_tasks_as_are_admitted_do_not_wait_for_workers_that_fail(tmp_path: Path):
    """A pipe holds some 3,500 numbers: whoever fills it before looking at the workers never looks at them."""
    config = scale_out.parse_config(
        ["--data", f"scenarios={SCENARIOS}", "--enrich", "nowhere", "--output", str(tmp_path / "out")]
    )
    plan = Plan(config.job(), str(tmp_path / "no-rows"), "", {}, str(tmp_path), threads=1)
    with pytest.raises(UserError, match="no-rows"):
        executor_of(config, plan, 99_999, tmp_path / "logs").run()


def test_a_task_knows_what_was_judged_wherever_it_runs(job, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = scale_out.parse_config([*job, "--output", str(tmp_path / "out"), "--unreliable", "[culture]"])
    plain = open_asker(config.job())
    plain.cache.close()

    def write(folder: Path) -> None:
        (folder / "judged.json").write_text(json.dumps(plain.facts | {"unreliable": ["vad"]}), encoding="utf-8")

    write_folder(tmp_path / "judged", write)
    monkeypatch.setenv("WHERE", "judged")
    config.judged = "${WHERE}"
    asker = open_asker(config.job())
    assert asker.facts["unreliable"] == ["culture", "vad"]
    prepared = Prepared(tmp_path, {"fingerprint": "0" * 64})
    plan = scale_out._plan(config, prepared, asker, Workplace(tmp_path / "out"), 2)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("WHERE")
    assert open_asker(plan.job, asker.cache).facts == plan.facts == asker.facts
    asker.cache.close()


def test_every_field_is_an_option_that_explains_itself():
    shown = build_parser().format_help()
    for name in ScaleConfig.__dataclass_fields__:
        assert f"--{name}" in shown
    assert all(action.help for action in build_parser()._actions)


def test_the_job_of_a_spread_job_is_that_of_one_process(tmp_path: Path):
    arguments = ["--data", f"scenarios={SCENARIOS}", "--enrich", "model", "--output", str(tmp_path / "out")]
    assert scale_out.parse_config([*arguments, "--tasks", "9"]).job() == pipeline.parse_config(arguments)
