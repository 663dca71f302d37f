"""A model with two inputs, examples/photo_and_numbers.py, from every kind of request to its answer."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
import torch
import tritonclient.grpc as sync_grpc
import tritonclient.http as sync_http
from tritonclient.utils import InferenceServerException

from examples.photo_and_numbers import PhotoAndNumbers
from smartbatch.shared.wire import Payload, Tensor
from tests.system.stack import Process, Stack

Client = Any

PATH = "examples/photo_and_numbers.py:PhotoAndNumbers"
MODEL = "PhotoAndNumbers"
NUMBERS = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
PHOTOS = {"name": "photo", "datatype": "BYTES", "shape": [-1, 1]}


@pytest.fixture(scope="module")
def cat() -> bytes:
    return (Path(__file__).parents[2] / "examples" / "cat.jpg").read_bytes()


@pytest.fixture(scope="module")
def system(shared: Callable[..., Stack]) -> Stack:
    return shared(MODEL_PATH=PATH, MODEL_NAME=MODEL, MAX_BATCH_SIZE=4, TORCH_THREADS=1)


@pytest.fixture(scope="module")
def grpc_gateway(system: Stack) -> Process:
    return system.grpc_gateway()


@pytest.fixture(scope="module")
def expected(cat: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """The module's own answer to this photo with each of the rows of numbers."""
    model = PhotoAndNumbers().eval()

    @torch.inference_mode()
    def answer(numbers: np.ndarray) -> np.ndarray:
        tensor = Tensor("float32", numbers.shape, numbers.tobytes())
        inputs = {"photo": Payload("image", [cat] * len(numbers)), "numbers": Payload("tensor", tensor)}
        rows = model.decode(inputs)
        return model(*(torch.stack([row[name] for row in rows]) for name in ("photo", "numbers"))).numpy()

    return answer


def data_of(response: httpx.Response) -> list:
    assert response.status_code == 200, response.text
    return response.json()["outputs"]["output"]["data"]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_every_format_of_predict_gives_the_modules_answer(system: Stack, cat: bytes, expected: Callable) -> None:
    photo, want = base64.b64encode(cat).decode(), pytest.approx(expected(NUMBERS), abs=1e-4)
    in_json = {"inputs": {"photo": [photo, photo], "numbers": NUMBERS.tolist()}}
    assert data_of(system.predict(json.dumps(in_json).encode())) == want
    packed = {"data": NUMBERS.tobytes(), "shape": [2, 3], "dtype": "float32"}
    in_msgpack = msgpack.packb({"inputs": {"photo": [cat, cat], "numbers": packed}}) or b""
    assert data_of(system.predict(in_msgpack, headers={"content-type": "application/msgpack"})) == want
    files = [("photo", ("a.jpg", cat)), ("numbers", ("n.npy", npy(NUMBERS))), ("photo", ("b.jpg", cat))]
    assert data_of(system.client.post(f"{system.url}/predict", files=files)) == want
    form = system.client.post(f"{system.url}/predict", files=files[::2], data={"numbers": json.dumps(NUMBERS.tolist())})
    assert data_of(form) == want


def test_requests_of_several_inputs_share_batches_and_split_where_they_are_too_long(
    system: Stack, cat: bytes, expected: Callable
) -> None:
    numbers = np.arange(30, dtype=np.float32).reshape(10, 3)  # ten rows, in batches of four
    body = {"inputs": {"photo": [base64.b64encode(cat).decode()] * 10, "numbers": numbers.tolist()}}
    assert data_of(system.predict(json.dumps(body).encode())) == pytest.approx(expected(numbers), abs=1e-4)
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"inputs": {"photo": body["inputs"]["photo"][0], "numbers": row.tolist()}} for row in numbers]
        answers = list(pool.map(lambda body: system.predict(json.dumps(body).encode()), bodies))
    assert [data_of(answer)[0] for answer in answers] == pytest.approx(expected(numbers), abs=1e-4)
    assert max(answer.json()["batch"]["rows"] for answer in answers) > 1


def test_one_bad_photo_is_named_and_the_others_come_with_partial(system: Stack, cat: bytes, expected: Callable) -> None:
    photos = [base64.b64encode(photo).decode() for photo in (cat, b"\xff\xd8\xff no photo")]
    body = json.dumps({"inputs": {"photo": photos, "numbers": NUMBERS.tolist()}}).encode()
    refused = system.predict(body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
    assert refused.json()["detail"].startswith("row 1: the photo can't be decoded")
    partial = system.predict(body, params={"partial": "true"}).json()
    assert [error["row"] for error in partial["errors"]] == [1]
    assert partial["outputs"]["output"]["data"][0] == pytest.approx(expected(NUMBERS)[0], abs=1e-4)


def test_wrong_inputs_are_refused_by_the_gateway(system: Stack, cat: bytes) -> None:
    photo = base64.b64encode(cat).decode()
    for inputs, text in (
        ({"photo": photo, "numbers": NUMBERS.tolist()}, "'photo' has 1 and 'numbers' has 2"),
        ({"photo": photo}, "missing required field `numbers`"),
        ({"photo": photo, "numbers": [1, 2]}, "input 'numbers': the model takes 3 numbers per row"),
    ):
        refused = system.predict(json.dumps({"inputs": inputs}).encode())
        assert refused.status_code == 422 and text in refused.json()["detail"]
    assert "several inputs by name (photo, numbers)" in system.predict(cat).json()["detail"]


def test_metadata_and_config_list_all_inputs(system: Stack, grpc_gateway: Process) -> None:
    metadata = system.client.get(f"{system.url}/v2/models/{MODEL}").json()
    assert metadata["inputs"] == [PHOTOS, {"name": "numbers", "datatype": "FP32", "shape": [-1, 3]}]
    assert metadata["alternative_inputs"] == []
    config = system.client.get(f"{system.url}/v2/models/{MODEL}/config").json()
    assert [(each["name"], each["data_type"], each["dims"]) for each in config["input"]] == [
        ("photo", "TYPE_STRING", [1]),
        ("numbers", "TYPE_FP32", [3]),
    ]
    with sync_grpc.InferenceServerClient(grpc_gateway.url) as client:
        metadata: Any = client.get_model_metadata(MODEL)
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [
        ("photo", "BYTES", [-1, 1]),
        ("numbers", "FP32", [-1, 3]),
    ]


@pytest.mark.parametrize("protocol", ["http binary", "http JSON", "grpc"])
def test_tritonclient_sends_inputs_by_name(
    system: Stack, grpc_gateway: Process, cat: bytes, expected: Callable, protocol: str
) -> None:
    module: Any = sync_grpc if protocol == "grpc" else sync_http
    how = {} if protocol == "grpc" else {"binary_data": protocol == "http binary"}
    url = grpc_gateway.url if protocol == "grpc" else system.url.removeprefix("http://")

    def tensor(name: str, array: np.ndarray, datatype: str, **how: bool) -> Any:
        made = module.InferInput(name, list(array.shape), datatype)
        made.set_data_from_numpy(array, **how)
        return made

    numbers = tensor("numbers", NUMBERS, "FP32", **how)
    binary = {} if protocol == "grpc" else {"binary_data": True}  # JPEG is no text
    photos = tensor("photo", np.array([[cat], [cat]], object), "BYTES", **binary)
    one_photo = tensor("photo", np.array([cat], object), "BYTES", **binary)
    with module.InferenceServerClient(url) as client:
        for inputs in ([photos, numbers], [numbers, photos]):
            answer = client.infer(MODEL, inputs)
            assert answer.as_numpy("output") == pytest.approx(expected(NUMBERS), abs=1e-4)
        for inputs, text in (
            ([numbers], "the input 'photo' is missing; the model takes photo, numbers"),
            ([photos, numbers, tensor("x", NUMBERS, "FP32")], "unknown input 'x'"),
            ([photos, numbers, numbers], "an input is there twice: photo, numbers, numbers"),
            ([one_photo, numbers], "'photo' has 1 and 'numbers' has 2"),
            ([photos, tensor("numbers", NUMBERS[:, :2], "FP32")], "input 'numbers' takes shape [-1, 3]"),
            ([photos, tensor("numbers", NUMBERS.astype(np.int32), "INT32")], "input 'numbers': the model takes floats"),
        ):
            with pytest.raises(InferenceServerException) as caught:
                client.infer(MODEL, inputs)
            assert text in caught.value.message()


def test_binary_tensors_that_do_not_add_up_are_refused(system: Stack, cat: bytes) -> None:
    photo = {"name": "photo", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(cat).decode()]}
    photo["parameters"] = {"content_type": "base64"}
    numbers = {"name": "numbers", "shape": [1, 3], "datatype": "FP32"}

    def infer(size: int, behind: bytes, *, length: int | None = None) -> httpx.Response:
        inputs = [photo, {**numbers, "parameters": {"binary_data_size": size}}]
        text = json.dumps({"inputs": inputs}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text) if length is None else length)}
        return system.client.post(f"{system.url}/v2/models/{MODEL}/infer", content=text + behind, headers=headers)

    assert infer(12, bytes(12)).status_code == 200
    assert "binary_data_size of 12, but 8 bytes follow" in infer(12, bytes(8)).json()["error"]
    assert "4 bytes follow those of the last input" in infer(12, bytes(16)).json()["error"]
    assert "takes several inputs" in infer(12, bytes(12), length=0).json()["error"]
