"""Curves of a run, whatever state it is in: pictures, a page that needs nobody, or one clear line.

In    a tiny run's own files; files written here, torn, empty, in Korean.
Out   PNG files that can be read, a page without links, refusals.
Run   `pytest tests/test_train_curves.py`
"""

import base64
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from matplotlib.image import imread
from tiny_run import ROOT, build_loop, tiny_config

from preprocessing.errors import UserError
from training.curves import draw_run, lines_of, main
from training.curves_text import drawable, font_with, romanized
from training.memory_monitor import MemoryMonitor
from training.memory_report import MemoryReport
from training.monitored_loop import MonitoredLoop
from training.plot_training_curves import newest_run

KOREAN = "감정 $점수$"


@pytest.fixture(scope="module")
def finished(tokenizer, scenarios, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("curves") / "run"
    config = tiny_config(folder, max_steps=6, log_steps=2, eval_steps=3, trackers=[])
    memory = MemoryReport(folder, MemoryMonitor())
    build_loop(tokenizer, config, scenarios[:24], lambda *given: MonitoredLoop(*given, memory=memory)).train()
    memory.write()
    return folder


def written(folder: Path, metrics: str, timings: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    (folder / "timings.jsonl").write_text(timings, encoding="utf-8")
    return folder


def test_every_subject_of_a_run_is_drawn_and_the_page_holds_all_of_it(finished: Path, tmp_path: Path):
    *pictures, page = draw_run(finished, tmp_path)
    assert {path.stem for path in pictures} == {
        *("losses", "score", "learning_rate", "loss_weights", "gradient_norms", "stages", "memory", "queue"),
    }
    for path in pictures:
        height, width, _ = imread(path).shape
        assert min(height, width) > 300
        assert imread(path)[..., :3].std() > 0.01  # not a blank sheet
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert [base64.b64decode(data) for data in shown] == [path.read_bytes() for path in pictures]
    assert not re.search(r"(src|href)=\"?(http|//|[a-z_]+\.png)", text)
    assert "gradient_norms/emotion_head" in text


def test_drawing_does_not_touch_the_run(finished: Path, tmp_path: Path):
    before = {path: path.read_bytes() for path in finished.glob("*.json*")}
    draw_run(finished, tmp_path)
    assert {path: path.read_bytes() for path in finished.glob("*.json*")} == before


def test_a_torn_last_line_is_left_out_and_a_step_taken_twice_is_drawn_as_it_was_last(tmp_path: Path):
    line = '{"step": %d, "loss": {"total": %f}}\n'
    text = line % (1, 3.0) + line % (2, 2.0) + '{"step": 2, "eval": {}}\n' + line % (2, 1.5) + '{"step": 3, "lo'
    folder = written(tmp_path / "run", text)
    assert [(one["step"], one.get("loss")) for one in lines_of(folder / "metrics.jsonl")] == [
        (1, {"total": 3.0}),
        (2, None),
        (2, {"total": 1.5}),
    ]
    assert [path.name for path in draw_run(folder, tmp_path / "curves")] == ["losses.png", "curves.html"]


def test_korean_and_formula_signs_in_labels_are_drawn_without_a_warning(tmp_path: Path):
    values = {"f1": 0.5, "f1_interval": [0.4, 0.6]}
    lines = [{"step": step, "loss": {KOREAN: 1.0, "𝄞": 2.0}, "eval": {KOREAN: values}} for step in (1, 2)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a letter that its fonts do not have
        *pictures, page = draw_run(written(tmp_path / "한글 폴더", text), tmp_path / "curves")
    assert {path.stem for path in pictures} == {"losses", "figures"}
    shown = page.read_text(encoding="utf-8")
    assert KOREAN in shown
    assert "<title>한글 폴더</title>" in shown


def test_where_no_font_has_hangul_it_is_written_in_latin_letters():
    """Words as the National Institute of Korean Language writes them, letter by letter."""
    words = {
        "감정": "gamjeong",
        "후회": "huhoe",
        "한글": "hangeul",
        "값": "gaps",
        "읽기": "ilggi",
        "at 7": "at 7",
    }
    assert {word: romanized(word) for word in words} == words
    if font_with(frozenset("감정")) is None:
        assert drawable(KOREAN) == r"gamjeong \$jeomsu\$"


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ("", "holds no whole line yet"),
        ('{"step": 1, "lo', "holds no whole line yet"),
        ('{"loss": 1}\n{"step": 2}\n', r"metrics.jsonl:1 is damaged: 'step'; remove that line"),
        ('{"step": 1}\n[1]\n', r"metrics.jsonl:2 is damaged"),
        ('{"step": 1}\nnothing\n{"step": 2}\n', r"metrics.jsonl:2 is damaged"),
    ],
)
def test_what_cannot_be_drawn_is_said(metrics: str, said: str, tmp_path: Path):
    with pytest.raises(UserError, match=said):
        draw_run(written(tmp_path / "run", metrics), tmp_path / "curves")
    assert not (tmp_path / "curves").exists()


def test_no_run_is_no_run(tmp_path: Path):
    with pytest.raises(UserError, match="is not a folder"):
        draw_run(tmp_path / "nowhere", tmp_path)
    with pytest.raises(UserError, match=r"has no metrics\.jsonl: no run has written into it"):
        draw_run(tmp_path, tmp_path)


def test_the_command_by_the_guides_name_takes_the_newest_run(finished: Path, tmp_path: Path):
    line = '{"step": 1, "loss": {"total": 1.0}}\n'
    older, newer = (written(tmp_path / "runs" / name, line) for name in ("a", "b"))
    os.utime(older / "metrics.jsonl", ns=(1, 1))
    assert newest_run([tmp_path / "runs"]) == newer
    command = [sys.executable, str(ROOT / "training" / "plot_training_curves.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (newer / "curves" / "losses.png").is_file()
    with pytest.raises(UserError, match="no run in .*; name its folder"):
        newest_run([tmp_path / "empty"])


def test_a_run_is_drawn_by_its_command_where_it_is_asked_for(finished: Path, tmp_path: Path, capsys):
    main([str(finished), "--output", str(tmp_path / "there")])
    assert f"{tmp_path / 'there' / 'curves.html'}: 8 pictures" in capsys.readouterr().out
