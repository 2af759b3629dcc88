"""What tests of rows share: rows in the original form, and a way to read a few of them.

In    nothing.
Out   `SCENARIO`, `EMOBANK` (a header), `read_text` and `write_goemotions`.
Run   imported by tests
"""

from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.readers import ReadResult, parse_source, read
from redheart_hf.labels import BASIC_EMOTIONS

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "scenarios" / "train.jsonl"
EMOBANK = "id,split,V,A,D,text\n"
SCENARIO: dict[str, Any] = {
    "id": "s1",
    "language": "ko",
    "domain": "work",
    "text": "상사가 회의에서 내 이름을 뺐다.",
    "actions": [
        {"text": "말한다", "utility": {"optimistic": 0.6, "neutral": 0.25, "pessimistic": -0.4}},
        {"text": "참는다", "utility": {"optimistic": 0.1, "neutral": -0.2, "pessimistic": -0.5}},
    ],
    "chosen": 1,
    "emotions": dict(zip(BASIC_EMOTIONS, [0.6, 0.1, 0.0, 0.0, 0.1, 0.2, 0.0], strict=True)),
    "vad": {"valence": -0.6, "arousal": 0.4, "dominance": -0.5},
    "culture": {"jeong": 0.1, "han": 0.7, "chemyeon": 0.8},
    "circumstances": {
        "intensity": -0.3,
        "duration": 0.4,
        "certainty": 0.6,
        "propinquity": 0.8,
        "fecundity": 0.3,
        "purity": 0.2,
        "extent": 0.2,
    },
    "acceptability": {"utilitarian": 0.4, "deontology": 0.6, "justice": 0.3, "virtue": 0.5},
    "regret": {"optimistic": 0.56, "neutral": 0.5, "pessimistic": 0.1},
    "reason": "참으면 억울함이 남는다.",
}


def read_text(folder: Path, reader: str, content: str | bytes, name: str = "rows", split: str = "") -> ReadResult:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(parse_source(f"{reader}={path}{split}"))


def write_goemotions(path: Path) -> Path:
    """The shipped scenarios' texts in the form of GoEmotions, each with its strongest emotion."""
    records = read(parse_source(f"scenarios={SHIPPED}")).records[:80]
    lines = [
        f"{' '.join(record.text.split())}\t{int(np.argmax(record.basic_emotions))}\tc{number}"
        for number, record in enumerate(records)
        if '"' not in record.text
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
