"""Explanations for people: the page that is safe to open, the lines in a terminal, mistakes that are named.

In    a tiny model trained for some steps on shipped scenarios; texts that try to run something in a browser.
Out   the page parsed as a browser would; exit codes and messages of the command.
Run   `pytest tests/test_train_explain_page.py`
"""

import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from commands import run_command
from explained import MIXED, explained_run

from training import explain as command
from training.explain_report import MOST_BARS, as_html


@pytest.fixture(scope="module")
def run_dir(tokenizer, scenarios, tmp_path_factory) -> Path:
    return explained_run(tmp_path_factory.mktemp("explained") / "run", tokenizer, scenarios)


class Page(HTMLParser):
    """Tags with their attributes, and the text inside `.words` without what was cut."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words, self.inside = "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = self.inside or dict(attrs).get("class") == "words"

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "p"

    def handle_data(self, data: str) -> None:
        self.words += data if self.inside else ""


def drawings(page: str) -> Iterator[ElementTree.Element]:
    for piece in page.split("<svg ")[1:]:
        yield ElementTree.fromstring(f"<svg {piece.partition('</svg>')[0]}</svg>")


def test_the_page_shows_what_was_written_and_runs_none_of_it(run_dir: Path, tmp_path: Path):
    text, action = MIXED + ' "><img src=x onerror=alert(1)>', "<b onclick='x()'>간다</b>"
    target = tmp_path / "new" / "why.html"
    code, out, err = run_command(
        command, "--model", run_dir / "final", text, "--action", action, "--action", "Stay", "--chosen", 0,
        "--target", "utility", "--json", "--output", target,
    )  # fmt: skip
    assert (code, err) == (0, f"{target} written\n")
    page = target.read_text(encoding="utf-8")
    assert page == as_html(json.loads(out)) + "\n"
    seen = Page(page)
    assert seen.words == text + action
    names = {tag for tag, _ in seen.tags}
    assert not names & {"script", "img", "b", "iframe", "link", "a", "object", "form"}
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert not [name for _, attributes in seen.tags for name in attributes if name in ("src", "href")]
    labels = [element.text for drawing in drawings(page) for element in drawing.iter("text")]
    words = [word for part in json.loads(out)["attribution"]["parts"] for word in part["words"]]
    heaviest = sorted(words, key=lambda word: -abs(word["attribution"]))[:MOST_BARS]
    assert len(words) > MOST_BARS
    assert {word["text"] for word in heaviest} | {"intensity"} <= set(labels)
    assert any("가" <= label[0] <= "힣" for label in labels)
    assert f"{len(words) - MOST_BARS} lighter words, not drawn" in page


def test_for_people_the_account_and_each_part_are_there(run_dir: Path):
    text = "비가 온다. " * 60
    code, out, err = run_command(command, "--model", run_dir / "final", "-", "--target", "jeong", stdin=text.encode())
    assert code == 0
    assert "longer than the 96 tokens" in err
    for expected in ("Why culture/jeong of the text is", "not read, too long", "choice of experts", "expert 7",
                     "adds", "the sum", "give --action twice", "by chance"):  # fmt: skip
        assert expected in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text", "--target", "valance"], "did you mean 'valence'?"),
        (["text", "--target", "acceptability/love"], "acceptability/: utilitarian, deontology, justice, virtue"),
        (["  "], "empty"),
        (["text", "--action", "one"], "two or more"),
        (["text", "--chosen", "0"], "--chosen 0 names an action"),
        (["text", "--output", "why.png"], "must end in .html"),
    ],
)
def test_a_mistake_is_named(run_dir: Path, arguments: list[str], message: str):
    code, out, err = run_command(command, "--model", run_dir / "final", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_without_captum_the_command_says_how_to_get_it(run_dir: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    code, _, err = run_command(command, "--model", run_dir / "final", "text", "--output", tmp_path / "why.html")
    assert code == 2
    assert "pip install -c constraints.txt captum" in err
    assert not (tmp_path / "why.html").exists()
