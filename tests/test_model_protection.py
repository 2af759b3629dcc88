"""The older systems stay what they are: their presets field by field, and what their kind of network answers.

In    the legacy presets, their widths cut down; weights and token ids that are formulas, so that nothing else moves
      them.
Out   tests/golden/legacy.json: answers in double precision, met within 1e-6 everywhere; and of the answers in float32
      a checksum for each machine it was recorded on, met bit for bit there. On other machines, and with other
      versions, that test is skipped and says so.
Run   `pytest tests/test_model_protection.py`; to record anew, with this machine alone, and say why in CHANGELOG:
      OMP_NUM_THREADS=1 PYTHONPATH=. python tests/test_model_protection.py
      to add this machine to a record that it meets within 1e-6: the same with --add-machine
"""

import json
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from golden_bits import asked_to_add, bits_on_record, checksum, with_this_machine, write_golden
from test_train_golden import one_thread  # noqa: F401
from tiny_run import ROOT

from redheart_hf import PRESETS, RedHeartForMultiTask, preset_config
from redheart_hf.labels import TASKS
from redheart_hf.presets import describe

GOLDEN = ROOT / "tests" / "golden" / "legacy.json"
LEGACY = [name for name in PRESETS if "legacy" in name]
# Weights of which one is moved: near the text, in a block, of a task, of each head and analyzer.
FELT = (
    "model.input_projection.in_proj",
    "model.blocks.0.mlp.up_proj",
    "model.task_projections.projections.emotion.projections.0",
    *(f"{task}_head.trunk.projections.0" for task in TASKS),
    *(f"{task}_analyzer.layers.0.context_attention.v_proj" for task in TASKS),
)
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


def answers_of(model: RedHeartForMultiTask) -> dict[str, np.ndarray]:
    """Every output of two choices and the vectors of all tasks."""
    input_ids = torch.arange(5 * 12).reshape(5, 12) * 37 % 255 + 1
    mask = torch.ones_like(input_ids)
    mask[1, 9:] = mask[3, 5:] = 0
    with torch.no_grad():
        output = model(
            input_ids, mask, alternatives=torch.tensor([[1, 2, -1], [3, 4, 0]]), chosen=torch.tensor([0, 2])
        )
    parts = {"task_states": output.task_states}
    for head in TASKS:
        parts |= {f"{head}.{name}": value for name, value in getattr(output, head).items()}
    return {name: value.numpy() for name, value in parts.items()}


def bits_of(model: RedHeartForMultiTask) -> str:
    answers = answers_of(model)
    return checksum(b"".join(answers[name].tobytes() for name in sorted(answers)))


def bits_of_presets() -> dict[str, str]:
    return {preset: bits_of(model_of(preset, torch.float32)) for preset in LEGACY}


def recorded(preset: str) -> dict[str, Any]:
    shape, answers = describe(preset), answers_of(model_of(preset, torch.float64))
    return {
        "fields": PRESETS[preset],
        "total": shape["total"],
        "modules": shape["modules"],
        "answers": {name: values.astype(float).round(9).flatten().tolist() for name, values in answers.items()},
    }


def check_answers(preset: str, expected: dict[str, list[float]]) -> None:
    answers = answers_of(model_of(preset, torch.float64))
    assert set(answers) == set(expected)
    for name, values in answers.items():
        np.testing.assert_allclose(values.flatten(), expected[name], atol=1e-6, rtol=1e-6, err_msg=name)


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
    check_answers(preset, golden["presets"][preset]["answers"])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("preset", LEGACY)
def test_its_kind_of_network_answers_as_it_did_bit_for_bit(preset, golden):
    assert bits_of(model_of(preset, torch.float32)) == bits_on_record(golden, __file__)[preset]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("weight", FELT)
@pytest.mark.parametrize("preset", LEGACY)
def test_one_weight_moved_by_2e_7_is_no_longer_bit_for_bit_the_same(preset, weight, golden):
    model = model_of(preset, torch.float32)
    with torch.no_grad():
        model.get_parameter(f"{weight}.weight")[0, 0] += 2e-7
    assert bits_of(model) != bits_on_record(golden, __file__)[preset]


def main() -> None:
    torch.set_num_threads(1)
    if asked_to_add():
        golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
        presets = golden["presets"]
        for preset in LEGACY:
            check_answers(preset, presets[preset]["answers"])
        machines = with_this_machine(golden["machines"], bits_of_presets())
    else:
        presets = {preset: recorded(preset) for preset in LEGACY}
        machines = with_this_machine({}, bits_of_presets())
    write_golden(GOLDEN, machines=json.dumps(machines, indent=2), presets=json.dumps(presets))


if __name__ == "__main__":
    main()
