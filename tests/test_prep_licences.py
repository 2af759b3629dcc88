"""What a data set card says of licences: every public source has one, as its publishers give it; none is guessed.

In    the readers; where REDHEART_DATA_DIR is set, the PROVENANCE.json and LICENSE files beside the public files.
Out   nothing.
Run   `pytest tests/test_prep_licences.py`
"""

import json
from pathlib import Path

import pytest

from preprocessing.licences import ANY_ORIGIN, LICENCES, card_lines, share_alike
from preprocessing.readers import READERS


def card(*readers: str) -> str:
    return "\n".join(card_lines(readers))


def test_every_public_source_has_a_licence() -> None:
    assert set(LICENCES) == set(READERS) - set(ANY_ORIGIN)
    assert set(ANY_ORIGIN) <= set(READERS)


@pytest.mark.parametrize("reader", [reader for reader, licence in LICENCES.items() if licence.folder])
def test_a_licence_is_the_one_beside_the_files(data_dir: Path, reader: str) -> None:
    licence = LICENCES[reader]
    provenance = json.loads((data_dir / licence.folder / "PROVENANCE.json").read_text(encoding="utf-8"))
    said = provenance["licence"].replace(" ", "-")
    assert said.startswith(licence.spdx)
    assert licence.share_alike == ("-SA-" in said)
    text = (data_dir / licence.folder / "LICENSE").read_text(encoding="utf-8")
    names = {"MIT": "MIT", "Apache-2.0": "Apache License", "CC0-1.0": "CC0 1.0", "CC-BY-SA-4.0": "CC-BY-SA 4.0"}
    assert names[licence.spdx] in text
    if provenance["repo"] not in ("oughtinc/ice", "sperelgut/CS272-Final-Project"):  # copies of what others publish
        assert licence.url == f"https://github.com/{provenance['repo']}"


def test_share_alike_is_said_of_the_whole_data_set() -> None:
    assert share_alike(["kote", "emobank", "goemotions"]) == ["CC-BY-SA-4.0"]
    text = card("kote", "emobank")
    assert "passed on under CC-BY-SA-4.0 only" in text
    assert "name Buechel and Hahn 2017, JULIELab/EmoBank" in text
    assert share_alike(["kote", "csv"]) == []
    assert "Share-alike" not in card("kote", "csv")


def test_what_may_come_from_anywhere_is_warned_of_and_not_guessed() -> None:
    text = card("csv", "kote")
    assert "What `csv` read may come from anywhere" in text
    assert "| `csv`" not in text
    assert "What `kote`" not in text
    assert card("a_reader_of_yours").startswith("\n**Licence unknown.** What `a_reader_of_yours`")


def test_doubts_of_a_licence_and_of_a_translation_are_passed_on() -> None:
    text = card("ethics_util", "ethics_virtue", "goemotions_ko_mt", "nsmc")
    assert text.count("another host of the data calls its licence ambiguous") == 1
    assert "translated by machine" in text
    assert "the dedication is the collector's" in text
    assert "licence files, with their copyright notices, of ETHICS, GoEmotions-Korean, and" in text
