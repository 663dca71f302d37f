"""tritonclient.http unmodified, sync and asyncio: every call that applies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as sync_http
import tritonclient.http.aio as aio_http
from tritonclient.utils import InferenceServerException

from smartbatch.worker.models.simulated import expected
from tests.brokers import eventually
from tests.system.stack import Stack

# Its own annotations say that any answer may be None.
Client = Any

X = np.array([[1, -2], [3, 4]], np.float32)
TYPES = {
    "BOOL": np.array([[True, False, True]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT16": np.array([[0, 65535]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, 127]], np.int8),
    "INT16": np.array([[-(2**15), 2**15 - 1]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "FP16": np.array([[0.5, -65504, np.inf]], np.float16),
    "FP32": np.array([[0.1, -3.4e38, np.nan]], np.float32),
    "FP64": np.array([[0.1, 1e308, -np.inf]], np.float64),
}


@pytest.fixture
def client(system: Stack) -> Iterator[Client]:
    with sync_http.InferenceServerClient(_address(system), concurrency=8) as client:
        yield client


@pytest.fixture
async def aio_client(system: Stack) -> AsyncIterator[Client]:
    async with aio_http.InferenceServerClient(_address(system)) as client:
        yield client


def tensor(name: str, array: np.ndarray, datatype: str, *, binary: bool = True) -> sync_http.InferInput:
    made = sync_http.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def texts(*values: bytes) -> np.ndarray:
    return np.array(values, dtype=object)


def test_server_metadata(client: Client) -> None:
    assert client.is_server_live() and client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "smartbatch"
    assert {"binary_tensor_data", "statistics", "model_configuration"} <= set(metadata["extensions"])


def test_model_metadata_and_config(client: Client) -> None:
    assert client.get_model_metadata("arithmetic", "1") == {
        "name": "arithmetic",
        "versions": ["1"],
        "platform": "pytorch",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [
            {"name": "double", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "half", "datatype": "FP16", "shape": [-1, 2]},
            {"name": "positive", "datatype": "BOOL", "shape": [-1, 2]},
        ],
        "alternative_inputs": [],
    }
    photo = client.get_model_metadata("efficientnet_lite0")
    assert photo["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3, 224, 224]}]
    assert photo["alternative_inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1, 1]}]
    config = client.get_model_config("arithmetic")
    assert (config["max_batch_size"], config["dynamic_batching"]) == (8, {})
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}]
    assert config["instance_group"] == [{"name": "workers", "count": 1, "kind": "KIND_CPU"}]
    any_body = client.get_model_config("simulated")
    assert (any_body["max_batch_size"], any_body["input"][0]["dims"]) == (0, [1])


def test_repository_index_lists_ready_models(client: Client) -> None:
    index = client.get_model_repository_index()
    assert [entry["name"] for entry in index] == ["arithmetic", "echo", "efficientnet_lite0", "simulated"]
    assert {(entry["version"], entry["state"]) for entry in index} == {("1", "READY")}
    assert client.is_model_ready("echo") and client.is_model_ready("echo", "1")


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary in", "JSON in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "JSON out"])
@pytest.mark.parametrize("datatype", TYPES)
def test_every_datatype_makes_the_round_trip(client: Client, datatype: str, binary_in: bool, binary_out: bool) -> None:
    array = TYPES[datatype]
    binary_in = binary_in or datatype == "FP16"  # the client itself sends it as binary only
    if not binary_in and datatype.startswith("FP"):
        array = array[:, :2]  # JSON has no word for the rest
    wanted = [sync_http.InferRequestedOutput("output", binary_data=binary_out)]
    result = client.infer("echo", [tensor("input", array, datatype, binary=binary_in)], outputs=wanted).as_numpy(
        "output"
    )
    assert result is not None and result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("binary", [True, False])
def test_texts_are_bytes_tensors(client: Client, binary: bool) -> None:
    sent = texts("Käse".encode(), b"", b"x" * 300_000)
    result = client.infer(
        "echo",
        [tensor("text", sent, "BYTES", binary=binary)],
        outputs=[sync_http.InferRequestedOutput("output", binary_data=binary)],
    )
    assert [bytes(text) if binary else str(text).encode() for text in result.as_numpy("output")] == list(sent)


def test_non_tensor_outputs_are_json_in_bytes_tensors(client: Client) -> None:
    result = client.infer("echo", [tensor("raw", texts(b"\x00\xff\x00"), "BYTES")])
    assert result.as_numpy("output").tolist() == [b'{"length":3}']


def test_any_body_is_one_bytes_element_for_a_raw_model(client: Client) -> None:
    result = client.infer("simulated", [tensor("input", texts(b"hello"), "BYTES")]).as_numpy("output")
    assert result.tolist() == [expected(b"hello")]


def test_only_requested_outputs_are_returned_in_the_requested_encoding(client: Client) -> None:
    wanted = [
        sync_http.InferRequestedOutput("positive", binary_data=False),
        sync_http.InferRequestedOutput("half", binary_data=True),
    ]
    result = client.infer("arithmetic", [tensor("x", X, "FP32")], outputs=wanted, request_id="my id")
    response = result.get_response()
    assert response["id"] == "my id"
    assert [output["name"] for output in response["outputs"]] == ["positive", "half"]
    assert response["outputs"][0]["data"] == [True, False, True, True]
    assert response["outputs"][1]["parameters"] == {"binary_data_size": 8}
    assert result.as_numpy("half").tolist() == [[0.5, -1.0], [1.5, 2.0]]
    all_of_them = client.infer("arithmetic", [tensor("x", X, "FP32")])
    assert [output["name"] for output in all_of_them.get_response()["outputs"]] == ["double", "half", "positive"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_requests_and_responses(client: Client, coding: str, binary: bool) -> None:
    array = np.arange(60_000, dtype=np.int32).reshape(2, 30_000)
    result = client.infer(
        "echo",
        [tensor("input", array, "INT32", binary=binary)],
        outputs=[sync_http.InferRequestedOutput("output", binary_data=binary)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    np.testing.assert_array_equal(result.as_numpy("output"), array)


def test_photo_is_a_bytes_element_and_classes_have_labels(client: Client, cat: bytes) -> None:
    wanted = [sync_http.InferRequestedOutput("logits", class_count=2)]
    result = client.infer("efficientnet_lite0", [tensor("image", texts(cat, cat), "BYTES")], outputs=wanted)
    classes = result.as_numpy("logits")
    assert classes.shape == (2, 2)
    probability, index, label = classes[1][0].decode().split(":")
    assert (index, label) == ("285", "Egyptian cat") and 0.7 < float(probability) < 0.8
    logits = client.infer("efficientnet_lite0", [tensor("image", texts(cat), "BYTES")]).as_numpy("logits")
    assert logits.shape == (1, 1000) and logits.argmax() == 285


def test_priority_timeout_and_custom_parameters_are_accepted(client: Client) -> None:
    result = client.infer(
        "arithmetic", [tensor("x", X, "FP32")], priority=3, timeout=5_000_000, parameters={"mine": "yes"}
    )
    assert result.as_numpy("double").tolist() == [[2, -4], [6, 8]]


def test_timeout_in_microseconds_is_enforced(client: Client) -> None:
    slow = np.array([[1400, 0]], np.float32)
    with pytest.raises(InferenceServerException, match="not answered within") as caught:
        client.infer("arithmetic", [tensor("x", slow, "FP32")], timeout=100_000)
    assert caught.value.status() == "504"


def test_pregenerated_body_is_accepted(client: Client, system: Stack) -> None:
    body, length = sync_http.InferenceServerClient.generate_request_body([tensor("x", X, "FP32")])
    headers = {"Inference-Header-Content-Length": str(length)}
    response = system.client.post(f"{system.url}/v2/models/arithmetic/infer", content=body, headers=headers)
    parsed: Any = sync_http.InferenceServerClient.parse_response_body(
        response.content, header_length=int(response.headers["inference-header-content-length"])
    )
    assert parsed.as_numpy("double").tolist() == [[2, -4], [6, 8]]


def test_concurrent_requests_each_get_their_own_response(client: Client) -> None:
    handles = [client.async_infer("echo", [tensor("input", np.array([[n]], np.int32), "INT32")]) for n in range(40)]
    assert [int(handle.get_result().as_numpy("output")[0, 0]) for handle in handles] == list(range(40))


def test_statistics_count_requests_and_rows(client: Client) -> None:
    def counts() -> tuple[int, int]:
        (model,) = client.get_inference_statistics("arithmetic", "1")["model_stats"]
        return model["inference_count"], model["inference_stats"]["success"]["count"]

    rows, requests = counts()  # perhaps of a second ago
    for _ in range(5):
        client.infer("arithmetic", [tensor("x", X, "FP32")])
    eventually(lambda: counts() >= (rows + 10, requests + 5))
    (model,) = client.get_inference_statistics("arithmetic")["model_stats"]
    parts = model["inference_stats"]
    assert parts["success"]["ns"] == sum(parts[part]["ns"] for part in ("queue", "compute_input", "compute_infer"))
    assert parts["compute_infer"]["count"] == parts["queue"]["count"] >= model["execution_count"] > 0
    assert model["last_inference"] > 1_600_000_000_000
    assert len(client.get_inference_statistics()["model_stats"]) == 4


def test_errors_raise_exceptions_with_a_detail(client: Client) -> None:
    def rejected(model: str, *inputs: sync_http.InferInput, status: str, text: str, **how) -> None:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(model, list(inputs), **how)
        assert (caught.value.status(), text in str(caught.value.message())) == (status, True), caught.value

    x = tensor("x", X, "FP32")
    rejected("nope", x, status="404", text="model 'nope' not found; available: arithmetic, echo")
    rejected(
        "arithmetic",
        x,
        model_version="2",
        status="404",
        text="model 'arithmetic' has no version 2; available: 1",
    )
    rejected("arithmetic", tensor("y", X, "FP32"), status="422", text="unknown input 'y'; the model takes 'x' (FP32)")
    rejected("arithmetic", x, x, status="422", text="one input, got 2 (x, x)")
    rejected("arithmetic", tensor("x", texts(b"a"), "BYTES"), status="422", text="'x' takes FP32, got 'BYTES'")
    rejected("arithmetic", tensor("x", X.astype(np.int32), "INT32"), status="422", text="floats of any width")
    rejected(
        "arithmetic",
        tensor("x", X[:, :1], "FP32"),
        status="422",
        text="takes shape [-1, 2] (-1: any length), got [2, 1]",
    )
    rejected("arithmetic", tensor("x", np.zeros((4097, 2), np.float32), "FP32"), status="413", text="at most 4096 rows")
    wanted = [sync_http.InferRequestedOutput("third")]
    rejected(
        "arithmetic",
        x,
        outputs=wanted,
        status="422",
        text="unknown output 'third'; the model has double, half, positive",
    )
    classes = [sync_http.InferRequestedOutput("double", class_count=3)]
    rejected("arithmetic", x, outputs=classes, status="422", text="this model is not one")
    rejected("arithmetic", x, sequence_id=7, status="422", text="keep no state")
    rejected(
        "efficientnet_lite0", tensor("image", texts(b"GIF89a"), "BYTES"), status="422", text="not JPEG, PNG or WebP"
    )
    echoed = [sync_http.InferRequestedOutput("other")]
    rejected(
        "echo",
        tensor("input", X, "FP32"),
        outputs=echoed,
        status="422",
        text="the model returned no output 'other', only output",
    )


def test_unsupported_extensions_are_reported(client: Client) -> None:
    for call in (client.get_log_settings, client.get_trace_settings, client.get_system_shared_memory_status):
        with pytest.raises(InferenceServerException, match="path not found: /v2/"):
            call()
    with pytest.raises(InferenceServerException, match="model 'nope' not found"):
        client.get_model_metadata("nope")
    assert not client.is_model_ready("nope")


async def test_asyncio_client(aio_client: Client, cat: bytes) -> None:
    assert await aio_client.is_server_live() and await aio_client.is_server_ready()
    assert await aio_client.is_model_ready("echo")
    assert (await aio_client.get_server_metadata())["name"] == "smartbatch"
    assert (await aio_client.get_model_metadata("arithmetic"))["inputs"][0]["name"] == "x"
    assert (await aio_client.get_model_config("arithmetic"))["max_batch_size"] == 8
    assert len(await aio_client.get_model_repository_index()) == 4
    assert len((await aio_client.get_inference_statistics())["model_stats"]) == 4
    responses = await asyncio.gather(
        *(aio_client.infer("arithmetic", [tensor("x", X * n, "FP32")], request_id=str(n)) for n in range(20))
    )
    assert [result.as_numpy("double")[0, 0] for result in responses] == [2 * n for n in range(20)]
    assert [result.get_response()["id"] for result in responses] == [str(n) for n in range(20)]
    big = await aio_client.infer(
        "echo",
        [tensor("input", np.zeros((1, 100_000), np.float32), "FP32")],
        request_compression_algorithm="gzip",
        response_compression_algorithm="deflate",
    )
    assert big.as_numpy("output").shape == (1, 100_000)
    photo = await aio_client.infer("efficientnet_lite0", [tensor("image", texts(cat), "BYTES", binary=True)])
    assert photo.as_numpy("logits").argmax() == 285
    with pytest.raises(InferenceServerException, match="model 'nope' not found"):
        await aio_client.infer("nope", [tensor("x", X, "FP32")])


def _address(system: Stack) -> str:
    return system.url.removeprefix("http://")
