"""What preprocessing.judge found of a language model, for the jobs that ask it.

In    the folder that preprocessing.judge wrote; the model and the prompts of a job.
Out   the fields whose answers are no better than chance; UserError where others were judged.
Run   through preprocessing/pipeline.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError
from preprocessing.folders import verify

FILE = "judged.json"
KIND = "judgement"
_DECIDING = ("calibrate", "tolerance", "max_tokens")
"""Of the decoding, what decides the values and confidences that are judged."""


def decided_by(decoding: Mapping[str, Any]) -> dict[str, Any]:
    return {name: decoding.get(name) for name in _DECIDING}


def unreliable_fields(folder: Path, asked: Mapping[str, Any]) -> list[str]:
    """`asked`: model, quantization, decoding and prompts (name -> hash), as a job and as the judge write them down.

    Fields of prompts that were not judged are not named: nobody knows of them.
    """
    verify(folder, what=KIND)
    judged = json.loads((folder / FILE).read_text(encoding="utf-8"))
    found, wanted = ({**facts, "decoding": decided_by(facts.get("decoding", {}))} for facts in (judged, asked))
    for name in ("model", "quantization", "decoding"):
        if found.get(name) != wanted[name]:
            raise UserError(
                f"{folder} judged {name} {found.get(name)}, and this job asks {wanted[name]}; judge that one"
            )
    prompts = judged.get("prompts", {})
    for name in sorted(set(prompts) & set(asked["prompts"])):
        if prompts[name] != asked["prompts"][name]:
            raise UserError(f"{folder} judged another text of the prompt {name} than this job asks; judge again")
    if not set(prompts) & set(asked["prompts"]):
        raise UserError(
            f"{folder} judged {', '.join(sorted(prompts)) or 'no prompt'}, and this job asks "
            f"{', '.join(sorted(asked['prompts']))}; judge these, or leave judged out"
        )
    return [str(field) for field in judged["unreliable"]]
