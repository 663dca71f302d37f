"""POST /predict end to end: user models, exported models, several rows a request, rejections."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgpack
import numpy as np
import pytest
import torch

from tests.system.stack import Stack


def test_rows_of_one_request_come_back_in_order(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="examples.tabular:Iris", MODEL_NAME="iris")
    system.up()
    flowers = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.7, 2.8, 4.5, 1.3]]
    response = system.client.post(f"{system.url}/predict", json={"data": flowers}).json()
    assert [value["species"] for value in response["values"]] == ["setosa", "virginica", "versicolor"]
    assert (response["batch"]["rows"], response["batch"]["requests"]) == (3, 1)
    too_many = system.client.post(f"{system.url}/predict", json={"data": flowers * 1366})
    assert too_many.status_code == 413
    assert "4096" in too_many.json()["detail"]
    ragged = system.client.post(f"{system.url}/predict", json={"data": [[1, 2, 3, 4], [1, 2, 3]]})
    assert ragged.status_code == 422


async def test_requests_of_several_rows_never_overfill_a_batch(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="examples.tabular:Iris", MODEL_NAME="iris", MAX_BATCH_SIZE=8)
    system.up()
    async with aiohttp.ClientSession() as client:

        async def send(rows: int) -> int:
            data = [[5.0 + 0.01 * n, 3.0, 1.4, 0.2] for n in range(rows)]
            async with client.post(f"{system.url}/predict", json={"data": data}) as response:
                result = await response.json()
                assert response.status == 200, result
                assert len(result["values"]) == rows
                return result["batch"]["rows"]

        batches = await asyncio.gather(*(send(1 + n % 8) for n in range(200)))
    assert max(batches) == 8


def test_one_request_holds_texts_of_different_lengths(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="examples.text_embedding:TextEmbedding", MODEL_NAME="text", TORCH_THREADS=1)
    system.up()
    texts = ["a cat", "a small cat sat on a mat in the warm sun of the afternoon", "the stock market fell"]
    response = system.client.post(f"{system.url}/predict", json={"data": texts}).json()
    [output] = response["outputs"].values()
    cat, long_cat, market = np.asarray(output["data"])
    assert output["shape"] == [3, 384]
    assert cat @ long_cat > cat @ market + 0.2


def test_an_exported_program_is_served(stack: Callable[..., Stack], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh())
    rows = torch.export.Dim("rows", min=1, max=64)
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net, (torch.zeros(2, 6),), dynamic_shapes=({0: rows},)), path)
    system = stack(MODEL_PATH=path, TORCH_THREADS=1)
    system.up()
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    body = io.BytesIO()
    np.save(body, x)
    npy = {"content-type": "application/x-npy", "accept": "application/x-npy"}
    served = np.load(io.BytesIO(system.predict(body.getvalue(), headers=npy).content))
    with torch.inference_mode():
        direct = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(served, direct, atol=1e-6)
    packed = msgpack.packb({"data": x.tobytes(), "shape": [5, 6], "dtype": "float32"}) or b""
    response = system.predict(packed, headers={"content-type": "application/msgpack", "accept": "application/msgpack"})
    [output] = msgpack.unpackb(response.content)["outputs"].values()
    np.testing.assert_array_equal(np.frombuffer(output["data"], np.float32).reshape(5, 4), served)


def test_body_over_the_limit_is_rejected_while_it_is_read(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated", MAX_BODY_BYTES=1000)
    system.gateway()
    host, port = system.url.removeprefix("http://").split(":")
    for head, sent in (
        ("content-length: 1000000000", b""),  # rejected before its first byte
        ("transfer-encoding: chunked", b"400\r\n" + b"x" * 1024 + b"\r\n"),  # rejected at the chunk over the limit
    ):
        with socket.create_connection((host, int(port)), 5) as client:
            client.sendall(f"POST /predict HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n".encode() + sent)
            response = b"".join(iter(lambda: client.recv(65536), b""))  # until the server closes
            assert b" 413 " in response.splitlines()[0]
            assert b"MAX_BODY_BYTES" in response
            assert b"connection: close" in response.lower()


def test_body_that_never_arrives_times_out(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated", REQUEST_TIMEOUT=0.5)
    system.gateway()
    host, port = system.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nab")
        response = b"".join(iter(lambda: client.recv(65536), b""))
    assert b" 408 " in response.splitlines()[0]
    assert b"body_timeout" in response


@pytest.mark.parametrize(("path", "method", "status"), [("/predict", "GET", 405), ("/nothing", "GET", 404)])
def test_unknown_paths_and_methods_get_problem_json(
    shared: Callable[..., Stack], path: str, method: str, status: int
) -> None:
    system = shared(workers=0, MODEL_PATH="simulated")
    response = system.client.request(method, system.url + path)
    assert response.status_code == status
    assert response.json()["status"] == status


def test_pipelined_requests_are_answered_in_order(stack: Callable[..., Stack]) -> None:
    """Responses keep the order of their requests, whether errors, pages or the last before the close."""
    system = stack(MODEL_PATH="simulated:base_ms=2,row_ms=0.1")
    system.up()
    requests = [  # and what its response contains
        (b"POST /predict", b"outputs", 200),
        (b"POST /predict?top_k=many", b"many", 400),
        (b"POST /predict", b"outputs", 200),
        (b"GET /healthz", b"ok", 200),
        (b"POST /predict?top_k=few", b"few", 400),
        (b"POST /predict?top_k=none", b"none", 400),
        (b"POST /predict", b"outputs", 200),
    ]
    line = b"%b HTTP/1.1\r\nhost: x\r\nx-request-id: r-%d\r\n%bcontent-length: 1\r\n\r\nx"
    ends = [b""] * (len(requests) - 1) + [b"connection: close\r\n"]
    sent = [line % (head, n, end) for n, ((head, _, _), end) in enumerate(zip(requests, ends, strict=True))]
    host, port = system.url.removeprefix("http://").split(":")
    came = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"".join(sent))
        while piece := connection.recv(65536):
            came += piece
    responses = came.split(b"HTTP/1.1 ")[1:]
    assert [int(result[:3]) for result in responses] == [status for *_, status in requests]
    for number, (result, (head, holds, _)) in enumerate(zip(responses, requests, strict=True)):
        assert holds in result
        assert (b"x-request-id: r-%d\r\n" % number in result) is (b"/predict" in head)
    assert b"connection: close" in responses[-1]
