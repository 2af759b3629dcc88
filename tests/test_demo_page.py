"""The page: what a person types is answered in their language, or refused with the reason; nothing typed becomes HTML.

In    the tiny model; requests as the server hands them on; a real browser, where Chromium and Playwright are there.
Out   nothing.
Run   `pytest tests/test_demo_page.py`; the browser with `-m slow`, with playwright (pip) and chromium installed
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import run_command

from demo import __main__ as command
from demo.draw import answer_html, radar
from demo.limits import Rate
from demo.page import Page, Settings, build, language_of
from demo.words import EXAMPLES, KOREAN, SAID
from redheart_hf import RedHeartPipeline
from redheart_hf.labels import (
    BASIC_EMOTIONS,
    CIRCUMSTANCES,
    CULTURE,
    ETHICS_EXPERTS,
    FINE_EMOTIONS,
    POLARITIES,
    VAD,
    VIEWS,
)
from training.loading import load_model

VISITOR = SimpleNamespace(client=SimpleNamespace(host="127.0.0.1"), headers={"accept-language": "ko-KR,ko;q=0.9"})
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def ask(tiny_model_dir: Path) -> RedHeartPipeline:
    model, tokenizer = load_model(tiny_model_dir)
    return RedHeartPipeline(model=model.eval(), tokenizer=tokenizer, task="red-heart")


@pytest.fixture
def page(ask) -> Page:
    return Page(ask, Settings())


def test_a_choice_is_answered_in_the_language_that_was_asked_for(page: Page, ask):
    question = {"text": "He found a wallet.", "actions": ["Hand it in", "Keep it"], "chosen": 1}
    expected = ask(question)
    english, nothing = page.scenario("English", question["text"], "Hand it in\n\n Keep it ", 2, VISITOR)
    korean, _ = page.scenario("한국어", question["text"], "Hand it in\nKeep it", 2, VISITOR)
    assert nothing == ""
    assert english == answer_html(expected, "en")
    assert "Seven emotions" in english
    assert "일곱 감정" in korean
    for value in expected["basic_emotions"].values():
        assert f"<span>{value:.2f}</span>" in korean
    assert re.search(r"<em>\((the best, )?chosen\)</em>", english)
    assert page.why("English", question["text"], "", 0, VISITOR).count("<mark") >= 4


def test_every_label_has_a_name_in_korean_and_every_line_two_languages():
    labels = {*POLARITIES, *BASIC_EMOTIONS, *FINE_EMOTIONS, *CULTURE, *VAD, *CIRCUMSTANCES, *ETHICS_EXPERTS, *VIEWS}
    assert labels <= set(KOREAN)
    for korean, english in SAID.values():
        assert re.search("[가-힣]", korean)
        assert korean.count("{0}") == english.count("{0}")
    assert set(EXAMPLES) == {"ko", "en"}


def test_what_is_typed_never_becomes_html(page: Page):
    hostile = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    for shown in (
        page.scenario("English", hostile, f"{hostile}\n&lt;b&gt;", 1, VISITOR)[0],
        page.why("English", hostile, "", 0, VISITOR),
        page.turn("English", hostile, [hostile], VISITOR)[2],
    ):
        assert "<script" not in shown
        assert "<img" not in shown
        assert "&lt;" in shown


@pytest.mark.parametrize(
    ("text", "actions", "chosen", "said"),
    [
        ("", "", 0, "Type a text first."),
        ("  ", "a\nb", 0, "Type a text first."),
        ("x" * 4001, "", 0, "That is 4,001 characters; 4,000 are read at once."),
        ("x" * 3000, "y\n" * 501, 0, "That is 4,002 characters"),
        ("x", "only one", 0, "a choice needs two or more"),
        ("x", "\n".join("abcdefghi"), 0, "Those are 9 alternatives; 8 can be compared."),
        ("x", "a\nb", 3, "The chosen one is 3; it is 1 to 2"),
        ("x", "a\nb", float("inf"), "The chosen one is inf"),
        ("x", "a\nb", float("nan"), "The chosen one is nan"),
        ("a\x07b", "", 0, "no character of a text"),
    ],
)
def test_what_cannot_be_answered_is_said_to_the_person(page: Page, text, actions, chosen, said):
    shown, _ = page.scenario("English", text, actions, chosen, VISITOR)
    assert 'role="alert"' in shown
    assert said in shown


def test_a_fault_of_the_program_is_logged_and_not_shown(page: Page, monkeypatch, caplog):
    monkeypatch.setattr(page, "ask", lambda *_, **__: 1 / 0)
    shown, _ = page.scenario("한국어", "글", "", 0, VISITOR)
    assert "프로그램 오류" in shown
    assert "division" not in shown
    assert "ZeroDivisionError" in caplog.text


def test_a_dialogue_carries_its_state_and_a_refused_turn_is_not_part_of_it(page: Page, ask):
    said: list[str] = []
    for turn in ("무슨 일 있어?", "아니, 아무 일도.", "괜찮아."):
        said, left, shown = page.turn("한국어", turn, said, VISITOR)
        assert left == ""
    assert said == ["무슨 일 있어?", "아니, 아무 일도.", "괜찮아."]
    expected = ask({"text": said[-1], "turns": said[:-1]})["turn_vad"]["valence"]
    assert f"{expected:+.2f}" in shown
    kept, left, shown = page.turn("한국어", " ", said, VISITOR)
    assert (kept, left) == (said, " ")
    assert 'role="alert"' in shown
    full = ["x"] * 30
    assert page.turn("English", "y", full, VISITOR)[0] == full


def test_a_visitor_is_answered_so_many_times_a_minute_and_others_are_not_kept_waiting():
    rate = Rate(3)
    assert [rate.allows("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert rate.allows("b", 0.0)
    assert not rate.allows("a", 19.0)
    assert rate.allows("a", 41.0)  # a third of a minute fills a third of the bucket
    assert [rate.allows("a", 1000.0) for _ in range(4)] == [True, True, True, False]


def test_the_browser_says_which_language_is_shown_first():
    assert language_of(VISITOR) == "한국어"
    assert language_of(SimpleNamespace(headers={})) == "English"


def test_a_radar_shows_sizes_and_tells_them_aloud():
    shown = radar({"a": 1.0, "b": 0.5, "c": -0.5, "d": 0.0}, "a +1.00, b +0.50")
    assert 'aria-label="a +1.00, b +0.50"' in shown
    assert 'points="150.0,60.0 195.0,150.0 150.0,195.0 150.0,150.0"' in shown
    assert shown.count('fill="none" stroke="#c0392b"') == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--model", "nowhere"], "no model folder at nowhere"),
        (["--model", "x", "--hub", "y"], "--repo-id is a name in a hub directory"),
        (["--repo-id", "../x", "--hub", "y"], "the repository '../x'"),
        (["--repo-id", "a/b", "--hub", "nowhere"], "has no a/b at main"),
        (["--model", "x", "--port", "0"], "--port must lie in 1 to 65535"),
        (["--model", "x", "--per-minute", "0"], "--per-minute must be at least 1"),
    ],
)
def test_a_wrong_command_is_refused_with_what_to_do(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_command(command, *given)
    assert code == 2
    assert said in err


def test_the_page_is_built_of_parts_of_this_machine_alone(ask):
    built = build(ask, Settings(), run="<html><body>curves</body></html>")
    config = json.dumps(built.get_config_file(), default=str)
    assert not re.search(r"https?://(?!127\.0\.0\.1|localhost)[^\"' ]*\.(js|css|woff2?)", config)
    assert "curves" in config


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_browser_asks_in_both_languages_and_widths_and_loads_nothing_from_elsewhere(tiny_model_dir: Path):
    browser = shutil.which("chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    if browser is None:
        pytest.skip("no chromium is installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [sys.executable, "-m", "demo", "--model", str(tiny_model_dir), "--port", str(port)]
    server = subprocess.Popen(given, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        with playwright.sync_playwright() as driver:
            started = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            for language, width, height in (("ko-KR", 390, 844), ("en-US", 1280, 900)):
                seen = started.new_context(viewport={"width": width, "height": height}, locale=language).new_page()
                elsewhere: list[str] = []
                seen.on("request", lambda request, kept=elsewhere: kept.append(request.url))
                for _ in range(120):
                    try:
                        seen.goto(f"http://127.0.0.1:{port}")
                        break
                    except playwright.Error:
                        time.sleep(1)
                seen.wait_for_function(
                    "l => document.body.innerText.includes(l)", arg="묻기" if width == 390 else "Ask"
                )
                seen.fill("#text textarea", "동생이 또 돈을 빌려 달란다.")
                seen.fill("#actions textarea", "빌려준다\n거절한다")
                seen.click("#ask")
                seen.wait_for_selector("#answer .rh section svg", timeout=60_000)
                assert seen.evaluate("document.documentElement.scrollWidth") <= width
                seen.fill("#text textarea", "")
                seen.click("#ask")
                seen.wait_for_selector("#answer [role=alert]", timeout=60_000)
                local = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")
                assert [url for url in elsewhere if not url.startswith(local)] == []
            started.close()
    finally:
        server.terminate()
        server.wait(timeout=60)
