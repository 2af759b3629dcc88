"""A job on some rows of each source: as many as are asked for, whichever files they lie in.

In    the shipped scenarios, cut into two files by one name.
Out   nothing.
Run   `pytest tests/test_prep_sample.py`
"""

import json
from pathlib import Path

from test_prep_pipeline import ROOT, done

from preprocessing.readers import parse_source, read


def test_of_each_source_as_many_rows_are_drawn_as_are_asked_for(tmp_path: Path):
    lines = (ROOT / "data" / "scenarios" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    for folder, part in (("a", lines[:100]), ("b", lines[100:])):  # two files by one name
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    sources = [f"scenarios={tmp_path / folder / 'rows.jsonl'}" for folder in ("a", "b")]
    options = ["--steps", "[]", "--data", *sources, "--sample-rows"]
    kept = {rows: done(tmp_path / f"{rows}", *options, rows) for rows in (10, 30, 300)}
    texts = {
        rows: [record.text for record in read(parse_source(f"enriched={output}")).records]
        for rows, output in kept.items()
    }
    assert {rows: len(found) for rows, found in texts.items()} == {10: 20, 30: 60, 300: len(lines)}
    assert set(texts[10]) < set(texts[30])
    assert texts[30] == [text for text in texts[300] if text in texts[30]]
    other = done(tmp_path / "other", *options, 10, "--seed", 1)
    assert [record.text for record in read(parse_source(f"enriched={other}")).records] != texts[10]
    facts = json.loads((kept[10] / "manifest.json").read_text(encoding="utf-8"))["facts"]
    assert [item["rejected"] for item in facts["read"].values()] == [
        {"not-drawn": 90},
        {"not-drawn": len(lines) - 110},
    ]
    assert facts["rows_read"] == len(lines)
