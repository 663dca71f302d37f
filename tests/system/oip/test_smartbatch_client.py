"""smartbatch.client against a real system: every kind of input and output, parts, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from smartbatch.client import AsyncClient, Client, errors
from tests.system.stack import ROOT, Stack

CAT = ROOT / "examples" / "cat.jpg"


@pytest.fixture(scope="module")
def client(system: Stack) -> Iterator[Client]:
    with Client(system.url, model="echo") as client:
        yield client


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32"]
)
def test_arrays_come_back_bit_for_bit(client: Client, dtype: str) -> None:
    rows = (np.random.default_rng(0).random((5, 3, 2)) * 100).astype(dtype)
    came = client.predict(rows).array
    assert (came.dtype, came.shape, came.tobytes()) == (rows.dtype, rows.shape, rows.tobytes())


def test_numbers_that_json_has_not_come_back(client: Client) -> None:
    rows = np.array([[np.nan, np.inf, -np.inf, 1e-300]])
    assert client.predict(rows).array.tobytes() == rows.tobytes()


@pytest.fixture(scope="module")
def strict(system: Stack) -> Iterator[Client]:
    """A client of a gateway that takes little at once."""
    url = system.url
    gateway = system.gateway(MAX_REQUEST_ROWS=7, MAX_BODY_BYTES=3_000_000)
    system.url = url
    with Client(gateway.url, model="echo") as client:
        yield client


def test_more_rows_than_the_server_takes_come_back_in_order(strict: Client) -> None:
    rows = np.arange(200, dtype=np.float32).reshape(100, 2)
    prediction = strict.predict(rows)
    assert prediction.array.tolist() == rows.tolist()
    assert len(prediction.responses) == 15  # of 7 rows each: 100, 50, 25 and 13 were too many
    assert strict.predict([str(number) for number in range(20)]).values == [str(number) for number in range(20)]


def test_a_body_beyond_the_servers_limit_is_sent_in_parts(client: Client, strict: Client) -> None:
    rows = np.random.default_rng(0).random((6, 512, 1024), np.float32)  # 12 MiB
    assert np.array_equal(strict.predict(rows).array, rows)
    assert np.array_equal(client.predict(np.concatenate([rows, rows])).array[6:], rows)


def test_several_outputs_have_their_names_and_types(client: Client) -> None:
    outputs = client.predict(np.array([[1, -2], [3, 4]], np.float32), model="arithmetic").outputs
    assert {name: (array.dtype.name, array.tolist()) for name, array in outputs.items()} == {
        "double": ("float32", [[2, -4], [6, 8]]),
        "half": ("float16", [[0.5, -1], [1.5, 2]]),
        "positive": ("bool", [[True, False], [True, True]]),
    }


def test_lists_are_json(client: Client) -> None:
    assert client.predict([[1, 2], [3, 4]], model="arithmetic").outputs["double"].tolist() == [[2, 4], [6, 8]]
    assert client.predict({"data": [[5, 6]]}, model="arithmetic").outputs["double"].tolist() == [[10, 12]]


def test_texts_and_bytes_give_values(client: Client) -> None:
    assert client.predict("ein Text, größer").values == ["ein Text, größer"]
    assert client.predict([str(number) for number in range(20)]).values == [str(number) for number in range(20)]
    assert client.predict(b"five!").values == [{"length": 5}]


@pytest.mark.parametrize("image", [CAT, CAT.read_bytes()], ids=["path", "bytes"])
def test_images_give_predictions(client: Client, image: bytes | Path) -> None:
    one = client.predict(image, model="efficientnet_lite0", top_k=1)
    assert [[guess["label"] for guess in row] for row in one.predictions] == [["Egyptian cat"]]
    many = client.predict([image] * 12, model="efficientnet_lite0", top_k=0)
    assert many.array.shape == (12, 1000)
    assert set(many.array.argmax(1).tolist()) == {285}


def test_errors_are_those_of_the_server(client: Client) -> None:
    with pytest.raises(errors.InvalidInput, match=r"shape \[2\]") as raised:
        client.predict(np.zeros((1, 3), np.float32), model="arithmetic", request_id="mine")
    assert raised.value.request_id
    with pytest.raises(errors.UnknownModel):
        client.predict("text", model="nobody")
    with pytest.raises(errors.DeadlineExceeded):
        client.predict(np.array([[1500, 0]], np.float32), model="arithmetic", timeout=0.2)


async def test_asyncio_has_the_same(system: Stack) -> None:
    async with AsyncClient(system.url, model="echo") as client:
        rows = np.arange(40).reshape(20, 2)
        assert (await client.predict(rows)).array.tolist() == rows.tolist()
