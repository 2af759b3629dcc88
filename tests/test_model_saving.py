"""A saved folder is the whole model: it answers bit for bit the same where redheart_hf cannot be imported.

In    tiny models, with their own embeddings and with a nested encoder; Korean and English texts.
Out   equal answers in another process; parameters that learn, and those that may not.
Run   pytest tests/test_model_saving.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, Trainer, TrainingArguments

from preprocessing.encode import encode
from preprocessing.errors import UserError
from redheart_hf import RedHeartForMultiTask, preset_config
from training.collator import Collator
from training.loading import load_model

TEXTS = [
    "할머니가 싸 주신 반찬을 버스에 두고 내렸다.",
    "She kept the ring.",
    "왜 아무 말도 안 했을까? I still wonder.",
]

# `import redheart_hf` fails here even where the package is installed in the environment.
STRANGER = """
import importlib.util, json, sys
import torch

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("redheart_hf", "preprocessing", "training"):
            raise ModuleNotFoundError(f"{name} is blocked in this process")

sys.meta_path.insert(0, Blocker())
try:
    import redheart_hf
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("redheart_hf can be imported: this process shows nothing")

import transformers
from safetensors.torch import save_file

folder, entry, texts, target = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
if entry == "last":
    entry = list(transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True).auto_map)[-1]
torch.set_num_threads(1)
model = getattr(transformers, entry).from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(texts, padding=True, return_tensors="pt")
assert "token_type_ids" in inputs, list(inputs)
with torch.no_grad():
    output = model(**inputs)
if hasattr(output, "emotion"):
    parts = {**output.emotion, **output.ethics, **output.regret}
    parts["task_states"] = output.task_states
else:
    parts = {"last_hidden_state": output.last_hidden_state, "task_states": output.task_states}
save_file({name: value.contiguous().clone() for name, value in parts.items()}, target)
print(type(model).__name__, type(model).__module__)
"""


def encoder_config() -> BertConfig:
    return BertConfig(
        vocab_size=1024, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40
    )


def tiny(tokenizer, **changes) -> RedHeartForMultiTask:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": len(tokenizer)}
    return RedHeartForMultiTask(preset_config("redheart-tiny", **(sizes | changes))).eval()


def answers(model, tokenizer) -> dict[str, torch.Tensor]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        output = model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))
    torch.set_num_threads(threads)
    parts = {**output.emotion, **output.ethics, **output.regret}
    return parts | {"task_states": output.task_states, "last_hidden_state": output.last_hidden_state}


def ask_a_stranger(folder: Path, entry: str, tmp_path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    elsewhere, target = tmp_path / "elsewhere", tmp_path / f"{entry}.safetensors"
    elsewhere.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), entry, json.dumps(TEXTS), str(target)],
        cwd=elsewhere,
        stdin=subprocess.DEVNULL,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip(), load_file(target)


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def answers_once_loaded(folder: Path, model, tokenizer) -> dict[str, torch.Tensor]:
    """Of the model loaded here; its weights are those of `model` to the bit, its answers up to the order of sums.

    Loaded weights lie in memory as they lie in the file, and matrix products sum in an order that depends on that.
    """
    loaded = RedHeartForMultiTask.from_pretrained(folder).eval()
    assert_same_bits(loaded.state_dict(), model.state_dict())
    found, expected = answers(loaded, tokenizer), answers(model, tokenizer)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5, msg=name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "kind"), [("AutoModelForSequenceClassification", "pre_ln_gelu"), ("last", "post_ln_swiglu")]
)
def test_a_saved_model_answers_the_same_where_the_package_is_unknown(entry, kind, tokenizer, tmp_path):
    model = tiny(tokenizer, block_type=kind)
    model.update_router_bias(torch.tensor([9.0, 1, 4, 4, 0, 3, 5, 6]))  # state that no optimizer holds
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    described, found = ask_a_stranger(folder, entry, tmp_path)
    assert described.startswith("RedHeartForMultiTask transformers_modules")
    assert "korean_logits" in found
    assert "text_regret" in found
    assert_same_bits(found, answers_once_loaded(folder, model, tokenizer))


@pytest.mark.slow
def test_auto_model_gives_the_backbone(tokenizer, tmp_path):
    model = tiny(tokenizer)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    described, found = ask_a_stranger(folder, "AutoModel", tmp_path)
    assert described.startswith("RedHeartModel transformers_modules")
    assert_same_bits(found, answers_once_loaded(folder, model, tokenizer))


class Writes:
    """Run when it is unpickled."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


@pytest.mark.parametrize("harmful", [True, False])
def test_a_pickle_in_the_place_of_weights_is_refused_and_never_opened(harmful, tokenizer, tmp_path):
    model = tiny(tokenizer)
    folder, ran = tmp_path / "model", tmp_path / "ran"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(Writes(ran) if harmful else model.state_dict(), folder / "pytorch_model.bin")
    for kind in (RedHeartForMultiTask, AutoModelForSequenceClassification):
        with pytest.raises(OSError, match="model.safetensors"):
            kind.from_pretrained(folder)
    with pytest.raises(ValueError, match="can run code"):
        RedHeartForMultiTask.from_pretrained(folder, use_safetensors=False)
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle"):
        load_model(folder)
    assert not ran.exists()


def test_adapters_change_nothing_before_they_learn(tokenizer, tmp_path):
    encoder = BertModel(encoder_config()).eval()
    encoder.save_pretrained(tmp_path)
    config = tiny(tokenizer, text_encoder_config=encoder_config(), text_encoder_mode="lora").config
    model = RedHeartForMultiTask.from_text_encoder(str(tmp_path), config).eval()
    inputs = tokenizer(["아무 일도 없었다.", "Nothing happened."], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        found = model.model.embeddings(inputs["input_ids"], inputs["attention_mask"])
    torch.testing.assert_close(found, expected)
    adapters = [name for name, parameter in model.named_parameters() if "lora_" in name and parameter.requires_grad]
    assert len(adapters) > 4


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["frozen", "trained", "lora"])
def test_a_nested_encoder_travels_with_the_model(mode, tokenizer, tmp_path):
    model = tiny(tokenizer, text_encoder_config=encoder_config(), text_encoder_mode=mode)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, so that a lost adapter would go unnoticed
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    expected = answers_once_loaded(folder, model, tokenizer)
    _, found = ask_a_stranger(folder, "AutoModelForSequenceClassification", tmp_path)
    assert_same_bits(found, expected)


@pytest.mark.parametrize(
    ("mode", "learns"),
    [
        ("frozen", lambda name: False),
        ("trained", lambda name: True),
        ("layers", lambda name: not name.endswith("word_embeddings.weight")),
        ("lora", lambda name: "lora_" in name),
    ],
)
def test_what_learns_in_each_mode_also_after_loading(mode, learns, tokenizer, tmp_path):
    model = tiny(tokenizer, text_encoder_config=encoder_config(), text_encoder_mode=mode)
    model.save_pretrained(tmp_path)
    for candidate in (model, RedHeartForMultiTask.from_pretrained(tmp_path)):
        candidate.train()
        inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
        labels = {"basic_emotions": torch.full((3, 7), 0.5), "circumstances": torch.full((3, 7), 0.5)}
        candidate(**inputs, labels=labels | {"regret": torch.ones(3, 3)}).loss.backward()
        inside = {n: p for n, p in candidate.named_parameters() if ".encoder." in n}
        outside = {n: p for n, p in candidate.named_parameters() if ".encoder." not in n}
        assert {name for name, p in inside.items() if p.grad is not None} == {name for name in inside if learns(name)}
        assert all(parameter.requires_grad for parameter in outside.values())
        assert outside["model.input_projection.in_proj.weight"].grad.abs().sum() > 0
        encoder = candidate.model.embeddings.encoder
        assert encoder.training == (mode != "frozen")


def test_hugging_faces_trainer_can_train_it(tokenizer, scenarios, tmp_path):
    model = tiny(tokenizer, hidden_dropout=0.0, attention_dropout=0.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    rows = encode(scenarios[:4], tokenizer, max_length=48, cache_dir=tmp_path / "encoded")
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=Collator(tokenizer))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    still = {name for name, parameter in model.named_parameters() if torch.equal(before[name], parameter)}
    # Scenarios have neither pairs, nor fine or Korean labels, nor regret of a text alone, and only a loop knows SURD's
    # terms; every other weight moves, but those of experts that none of these texts was sent to.
    unasked = ("log_preference_scale", "fine_", "korean_", "regret_head.", "emotion_head.mixture.experts.", "surd_")
    assert {name for name in still if not any(part in name for part in unasked)} == set()
    assert "emotion_head.korean_proj.weight" in still
