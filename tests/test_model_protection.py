"""The older systems stay what they are: their presets field by field, and what their kind of network answers.

In    the legacy presets, their widths cut down; weights and token ids that are formulas, so that nothing else moves
      them.
Out   tests/golden/legacy.json: answers in double precision, met within 1e-6 everywhere; and of the answers in float32
      a checksum, met bit for bit where versions and processor are those of the record.
Run   `pytest tests/test_model_protection.py`; to record anew, and say why in CHANGELOG:
      OMP_NUM_THREADS=1 PYTHONPATH=. python tests/test_model_protection.py
"""

import hashlib
import json
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from test_train_golden import one_thread  # noqa: F401
from tiny_run import ROOT

from redheart_hf import PRESETS, RedHeartForMultiTask, preset_config
from redheart_hf.presets import describe
from training.run_facts import numerics

GOLDEN = ROOT / "tests" / "golden" / "legacy.json"
LEGACY = [name for name in PRESETS if "legacy" in name]
NARROW = {
    "vocab_size": 256,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "task_size": 24,
    "task_projection_size": 28,
    "task_specialization_size": 20,
    "task_attention_size": 16,
    "num_task_attention_heads": 2,
    "emotion_trunk_sizes": [40, 24],
    "moe_intermediate_size": 16,
    "emotion_level_size": 28,
    "emotion_culture_size": 20,
    "emotion_attention_size": 16,
    "ethics_trunk_sizes": [40, 24],
    "ethics_expert_sizes": [28, 16],
    "regret_trunk_sizes": [40, 24],
    "regret_view_sizes": [28, 16],
    "surd_trunk_sizes": [40, 24],
    "surd_term_sizes": [28, 16],
    "analyzer_size": 24,
    "num_analyzer_heads": 2,
    "emotion_analyzer_intermediate_size": 32,
    "ethics_analyzer_intermediate_size": 32,
    "regret_analyzer_intermediate_size": 32,
    "surd_analyzer_intermediate_size": 32,
}


def model_of(preset: str, dtype: torch.dtype) -> RedHeartForMultiTask:
    """The preset's kind of network, narrow, each weight drawn from a seed that is its name's checksum."""
    model = RedHeartForMultiTask(preset_config(preset, **NARROW)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            drawn = torch.randn(parameter.shape, generator=generator)
            scale = 0.3 if parameter.ndim > 1 else 0.1
            parameter.copy_(scale * drawn + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model.to(dtype)


def answers_of(preset: str, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Every output of two choices and the vectors of all tasks."""
    input_ids = torch.arange(5 * 12).reshape(5, 12) * 37 % 255 + 1
    mask = torch.ones_like(input_ids)
    mask[1, 9:] = mask[3, 5:] = 0
    with torch.no_grad():
        output = model_of(preset, dtype)(
            input_ids, mask, alternatives=torch.tensor([[1, 2, -1], [3, 4, 0]]), chosen=torch.tensor([0, 2])
        )
    parts = {"task_states": output.task_states}
    for head in ("emotion", "ethics", "regret", "surd"):
        parts |= {f"{head}.{name}": value for name, value in getattr(output, head).items()}
    return {name: value.numpy() for name, value in parts.items()}


def checksum(answers: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(answers[name].tobytes() for name in sorted(answers))).hexdigest()


def recorded(preset: str) -> dict[str, Any]:
    shape, answers = describe(preset), answers_of(preset, torch.float64)
    return {
        "fields": PRESETS[preset],
        "total": shape["total"],
        "modules": shape["modules"],
        "answers": {name: values.astype(float).round(9).flatten().tolist() for name, values in answers.items()},
        "checksum": checksum(answers_of(preset, torch.float32)),
    }


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("preset", LEGACY)
def test_a_legacy_preset_is_what_it_was(preset, golden):
    expected, shape = golden["presets"][preset], describe(preset)
    assert PRESETS[preset] == expected["fields"]
    assert shape["modules"] == expected["modules"]
    assert shape["total"] == expected["total"]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("preset", LEGACY)
def test_its_kind_of_network_answers_as_it_did(preset, golden):
    expected, answers = golden["presets"][preset], answers_of(preset, torch.float64)
    assert set(answers) == set(expected["answers"])
    for name, values in answers.items():
        np.testing.assert_allclose(values.flatten(), expected["answers"][name], atol=1e-6, rtol=1e-6, err_msg=name)
    if golden["numerics"] == numerics(torch.device("cpu")):
        assert checksum(answers_of(preset, torch.float32)) == expected["checksum"]


def main() -> None:
    torch.set_num_threads(1)
    content = {"numerics": numerics(torch.device("cpu")), "presets": {preset: recorded(preset) for preset in LEGACY}}
    GOLDEN.write_text(json.dumps(content) + "\n", encoding="utf-8")
    print(f"{GOLDEN.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
