"""tritonclient.grpc unmodified, sync and asyncio, and messages that it can't send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as sync_grpc
import tritonclient.grpc.aio as aio_grpc
from tritonclient.utils import InferenceServerException

from smartbatch.gateway.auth.keys import digest_of
from smartbatch.gateway.grpc import inference_pb2 as pb
from smartbatch.worker.models.simulated import expected
from tests.brokers import eventually
from tests.system.oip.test_http_client import TYPES, Client, X, texts
from tests.system.stack import COMMAND, Process, Stack

SLOW = np.array([[1800, 0]], np.float32)  # takes 0.8 s
ONES = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def client(grpc_gateway: Process) -> Iterator[Client]:
    with _client(grpc_gateway) as client:
        yield client


@pytest.fixture
async def aio_client(grpc_gateway: Process) -> AsyncIterator[Client]:
    async with aio_grpc.InferenceServerClient(grpc_gateway.url) as client:
        yield client


@pytest.fixture
def channel(grpc_gateway: Process) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(grpc_gateway.url) as channel:
        yield channel


def tensor(name: str, array: np.ndarray, datatype: str) -> sync_grpc.InferInput:
    made = sync_grpc.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def infer(channel: grpc.Channel, request: pb.ModelInferRequest, **how) -> pb.ModelInferResponse:
    return _stub(channel)(request, **how)


def _client(process: Process) -> Client:
    return sync_grpc.InferenceServerClient(process.url)


def _stub(channel: grpc.Channel) -> Any:
    return channel.unary_unary(INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)


def test_server_and_model_metadata(client: Client, system: Stack) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("echo") and client.is_model_ready("echo", "1")
    assert (
        client.get_server_metadata(as_json=True)["extensions"]
        == (system.client.get(f"{system.url}/v2").json()["extensions"])
    )
    metadata = client.get_model_metadata("arithmetic")
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [("x", "FP32", [-1, 2])]
    assert [(o.name, o.datatype) for o in metadata.outputs] == [
        ("double", "FP32"),
        ("half", "FP16"),
        ("positive", "BOOL"),
    ]
    config = client.get_model_config("efficientnet_lite0").config
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (8, True)
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("input", 11, [3, 224, 224])]
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, 2)]
    index = client.get_model_repository_index().models
    assert [(m.name, m.state) for m in index] == [
        (name, "READY") for name in ("arithmetic", "echo", "efficientnet_lite0", "simulated")
    ]


@pytest.mark.parametrize("datatype", TYPES)
def test_every_datatype_makes_the_round_trip(client: Client, datatype: str) -> None:
    reply = client.infer("echo", [tensor("input", TYPES[datatype], datatype)]).as_numpy("output")
    assert reply is not None and reply.dtype == TYPES[datatype].dtype
    np.testing.assert_array_equal(reply, TYPES[datatype])


def test_bytes_photos_and_classes(client: Client, cat: bytes) -> None:
    sent = texts("Käse".encode(), b"", b"x" * 300_000)
    assert client.infer("echo", [tensor("text", sent, "BYTES")]).as_numpy("output").tolist() == list(sent)
    reply = client.infer("simulated", [tensor("input", texts(b"hello"), "BYTES")]).as_numpy("output")
    assert reply.tolist() == [expected(b"hello")]
    wanted = [sync_grpc.InferRequestedOutput("logits", class_count=2)]
    photo = client.infer("efficientnet_lite0", [tensor("image", texts(cat), "BYTES")], outputs=wanted)
    assert photo.as_numpy("logits")[0, 0].endswith(b":285:Egyptian cat")


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_outputs_ids_and_compression(client: Client, coding: str | None) -> None:
    wanted = [sync_grpc.InferRequestedOutput("positive"), sync_grpc.InferRequestedOutput("half")]
    reply = client.infer(
        "arithmetic",
        [tensor("x", X, "FP32")],
        model_version="1",
        outputs=wanted,
        request_id="my id",
        priority=3,
        timeout=5_000_000,
        compression_algorithm=coding,
        parameters={"mine": "yes"},
    )
    response = reply.get_response()
    assert (response.id, response.model_name, response.model_version) == ("my id", "arithmetic", "1")
    assert [output.name for output in response.outputs] == ["positive", "half"]
    assert reply.as_numpy("half").tolist() == [[0.5, -1.0], [1.5, 2.0]]


def test_numbers_as_typed_contents(channel: grpc.Channel) -> None:
    def typed(datatype: str, **contents: list) -> list:
        (values,) = contents.values()
        one = pb.ModelInferRequest.InferInputTensor(
            name="input", datatype=datatype, shape=[1, len(values)], contents=pb.InferTensorContents(**contents)
        )
        response = infer(channel, pb.ModelInferRequest(model_name="echo", inputs=[one]))
        return np.frombuffer(response.raw_output_contents[0], TYPES[datatype].dtype).tolist()

    assert typed("FP32", fp32_contents=[1.5, -2]) == [1.5, -2]
    assert typed("FP64", fp64_contents=[0.1]) == [0.1]
    assert typed("BOOL", bool_contents=[True, False]) == [True, False]
    assert typed("INT8", int_contents=[-128, 127]) == [-128, 127]
    assert typed("INT64", int64_contents=[-(2**63)]) == [-(2**63)]
    assert typed("UINT16", uint_contents=[65535]) == [65535]
    assert typed("UINT64", uint64_contents=[2**64 - 1]) == [2**64 - 1]
    large = list(range(100_000))  # longer than what is parsed on the event loop
    assert typed("INT32", int_contents=large) == large
    for datatype, contents, text in (
        ("INT8", {"int_contents": [128]}, "INT8 values must be from -128 to 127"),
        ("FP16", {"fp32_contents": [1]}, "FP16 has no field in contents"),
        ("INT32", {"int64_contents": [1]}, "needs 4 bytes, got 0"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            typed(datatype, **contents)
        assert text in str(caught.value)


def test_errors_have_a_status_code_and_a_detail(client: Client) -> None:
    def rejected(model: str, *inputs: sync_grpc.InferInput, code: str, text: str, **how) -> None:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(model, list(inputs), **how)
        assert caught.value.status() == f"StatusCode.{code}"
        assert text in caught.value.message()

    x = tensor("x", X, "FP32")
    rejected("nope", x, code="NOT_FOUND", text="model 'nope' not found; available: arithmetic, echo")
    rejected("arithmetic", x, model_version="2", code="NOT_FOUND", text="no version 2; available: 1")
    invalid = "INVALID_ARGUMENT"
    rejected("arithmetic", tensor("y", X, "FP32"), code=invalid, text="unknown input 'y'")
    rejected("arithmetic", x, x, code=invalid, text="one input, got 2")
    rejected("arithmetic", tensor("x", X[:, :1], "FP32"), code=invalid, text="takes shape [-1, 2]")
    rejected("arithmetic", tensor("x", np.zeros((4097, 2), np.float32), "FP32"), code=invalid, text="at most 4096 rows")
    rejected("arithmetic", x, sequence_id=7, code=invalid, text="keep no state")
    rejected("arithmetic", x, outputs=[sync_grpc.InferRequestedOutput("z")], code=invalid, text="unknown output 'z'")
    rejected("arithmetic", x, timeout=-1, code=invalid, text="0 or more microseconds")
    rejected(
        "echo", tensor("input", np.zeros((1, 17_000_000), np.uint8), "UINT8"), code="RESOURCE_EXHAUSTED", text="larger"
    )
    rejected(
        "arithmetic", tensor("x", SLOW, "FP32"), timeout=50_000, code="DEADLINE_EXCEEDED", text="not answered within"
    )
    with pytest.raises(InferenceServerException, match="model 'nope' not found"):
        client.get_model_metadata("nope")
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        client.get_trace_settings("echo")


def test_bytes_that_are_no_message_are_rejected(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(INFER)(b"\xff\xff")
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert dict(error.trailing_metadata())["error-code"] == "malformed_body"


def test_cancelled_or_expired_call_frees_its_place_in_the_queue(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    process = system.grpc_gateway(ready=False)  # and no worker: what is admitted waits
    sent = tensor("input", texts(b"hello"), "BYTES")
    with _client(process) as client:
        ended: SimpleQueue = SimpleQueue()
        call = client.async_infer("simulated", [sent], lambda result, error: ended.put(error))
        eventually(lambda: system.waiting() == 1)
        call.cancel()
        assert "CANCELLED" in str(ended.get(timeout=5))
        eventually(lambda: system.waiting() == 0)
        eventually(lambda: "client_gone: the client cancelled the call" in process.log.read_text())
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
            client.infer("simulated", [sent], client_timeout=0.3)
        eventually(lambda: "deadline_exceeded: " in process.log.read_text())
        eventually(lambda: system.waiting() == 0)
        assert process.stop() == 0


def test_response_has_timings(channel: grpc.Channel) -> None:
    request = pb.ModelInferRequest(
        model_name="arithmetic", inputs=[ONES], raw_input_contents=[np.ones(2, np.float32).tobytes()]
    )
    response, call = _stub(channel).with_call(request, metadata=(("x-request-id", "mine"),))
    trailing = dict(call.trailing_metadata())
    assert trailing["x-request-id"] == "mine"
    assert "forward;dur=" in trailing["server-timing"] and trailing["x-batch-rows"] == "1"
    assert response.raw_output_contents[0] == np.full(2, 2, np.float32).tobytes()


async def test_asyncio_client(aio_client: Client, cat: bytes) -> None:
    assert await aio_client.is_server_live() and await aio_client.is_server_ready()
    assert await aio_client.is_model_ready("echo")
    responses = await asyncio.gather(
        *(aio_client.infer("arithmetic", [tensor("x", X * n, "FP32")], request_id=str(n)) for n in range(20))
    )
    assert [reply.as_numpy("double")[0, 0] for reply in responses] == [2 * n for n in range(20)]
    photo = await aio_client.infer("efficientnet_lite0", [tensor("image", texts(cat), "BYTES")])
    assert photo.as_numpy("logits").argmax() == 285
    statistics = await aio_client.get_inference_statistics("arithmetic")
    assert [model.name for model in statistics.model_stats] == ["arithmetic"]
    assert len((await aio_client.get_inference_statistics()).model_stats) == 4
    with pytest.raises(InferenceServerException, match="model 'nope' not found"):
        await aio_client.infer("nope", [tensor("x", X, "FP32")])


def test_api_keys_management_port_and_drain(stack: Callable[..., Stack]) -> None:
    """One process through its life: authentication, metrics, and a drain that completes admitted requests."""
    key = "sb_client"
    system = stack(MODEL_PATH="tests.system.oip.models:Arithmetic", MODEL_NAME="arithmetic")
    keys = system.folder / "keys.toml"
    keys.write_text(f'[keys.app]\nsha256 = "{digest_of(key.encode()).hex()}"\nmodels = ["arithmetic"]\n')
    process = system.grpc_gateway(ready=False, API_KEYS_FILE=keys, MANAGEMENT_PORT=0)
    log = process.log.read_text()
    system.url = next(line for line in log.splitlines() if "management on " in line).split("management on ")[1]
    system.worker()
    system.ready()
    with _client(process) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match=r"UNAUTHENTICATED.*missing API key"):
            client.infer("arithmetic", [tensor("x", X, "FP32")])
        mine = {"authorization": f"Bearer {key}"}
        assert client.infer("arithmetic", [tensor("x", X, "FP32")], headers=mine).as_numpy("double")[0, 0] == 2
        with pytest.raises(InferenceServerException, match=r"PERMISSION_DENIED.*may not use this model"):
            client.get_model_metadata("other", headers=mine)
        with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
            client.get_inference_statistics("arithmetic", headers=mine)
        assert system.counter("smartbatch_requests_total", 'outcome="ok"') == 1
        assert system.counter("smartbatch_requests_total", 'outcome="denied"') == 1
        held: SimpleQueue = SimpleQueue()
        client.async_infer(
            "arithmetic", [tensor("x", SLOW, "FP32")], lambda result, error: held.put((result, error)), headers=mine
        )
        eventually(lambda: system.running("arithmetic") == 1)
        assert process.stop() == 0
        result, error = held.get(timeout=5)
        assert error is None and result.as_numpy("double")[0, 0] == 3600


def test_port_in_use_is_reported_in_one_line(grpc_gateway: Process, system: Stack) -> None:
    environ = {**system.environ, "GRPC_PORT": grpc_gateway.url.rpartition(":")[2]}
    second = system.start("second", environ, [*COMMAND, "gateway", "--grpc"])
    assert second.popen.wait(20) == 2
    system.processes.remove(second)
    assert "Choose another port (GRPC_PORT, --grpc-port)" in second.log.read_text()
