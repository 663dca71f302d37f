"""Requests with more rows than a batch may have, and requests some of whose rows fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np
import pytest

from smartbatch import InvalidInput
from smartbatch.client import Client
from tests.system.stack import Stack

MODEL = """
from smartbatch import InputSpec, InvalidInput, to_torch

class Doubler:
    input = InputSpec(("tensor",), "float32", (2,))

    def decode(self, payload):
        rows = list(to_torch(payload.content))
        if any(row[0] == -1 for row in rows):
            raise ValueError("-1 is not accepted")
        return rows

    def forward(self, batch):
        if (batch[:, 0] == -2).any():
            raise InvalidInput("-2 is not accepted")
        return batch * 2

    def encode(self, row):
        if row[0] == -6:
            raise KeyError("secret")
        return row
"""
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def system(shared: Callable[..., Stack], tmp_path_factory: pytest.TempPathFactory) -> Stack:
    file = tmp_path_factory.mktemp("model") / "doubler.py"
    file.write_text(MODEL)
    return shared(2, MODEL_PATH=f"{file}:Doubler", MAX_BATCH_SIZE=8, MAX_REQUEST_ROWS=100)


def rows(count: int, **bad: float) -> list[list[float]]:
    """Rows [n, n], but for `r3=-1`: row 3 begins with -1."""
    return [[bad.get(f"r{n}", float(n)), float(n)] for n in range(count)]


def ask(system: Stack, data: list[list[float]], query: str = "", **how):
    return system.client.post(f"{system.url}/predict{query}", json={"data": data}, **how)


@pytest.mark.parametrize("count", [8, 9, 100])
def test_more_rows_than_a_batch_may_have_are_answered_in_order(system: Stack, count: int) -> None:
    response = ask(system, rows(count))
    assert response.status_code == 200, response.text
    output = response.json()["outputs"]["output"]
    assert output["shape"] == [count, 2]
    assert output["data"] == [[2.0 * n, 2.0 * n] for n in range(count)]
    assert response.json()["batch"]["rows"] <= 8


def test_npy_and_fortran_order_are_split_too(system: Stack, tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(60, dtype=np.float32).reshape(30, 2))
    np.save(tmp_path / "x.npy", array)
    response = system.predict(
        (tmp_path / "x.npy").read_bytes(),
        headers={"content-type": "application/x-npy", "accept": "application/msgpack"},
    )
    output = msgpack.unpackb(response.content)["outputs"]["output"]
    assert output["data"] == (array * 2).tobytes("C")


def test_a_request_may_have_only_so_many_rows(system: Stack) -> None:
    response = ask(system, rows(101))
    assert response.status_code == 413
    assert response.json()["detail"] == "a request may have at most 100 rows (MAX_REQUEST_ROWS), got 101"


@pytest.mark.parametrize("value", [-1, -2])
@pytest.mark.parametrize(("count", "row"), [(3, 2), (30, 17), (9, 8)])
def test_an_error_names_the_row(system: Stack, count: int, row: int, value: float) -> None:
    response = ask(system, rows(count, **{f"r{row}": value}))
    assert response.status_code == 422
    assert response.json()["detail"] == f"row {row}: {value} is not accepted"


def test_an_error_of_a_single_row_names_no_row(system: Stack) -> None:
    assert ask(system, rows(1, r0=-1)).json()["detail"] == "-1 is not accepted"


def test_a_bug_in_encode_names_the_row_and_nothing_else(system: Stack) -> None:
    response = ask(system, rows(4, r1=-3))
    assert (response.status_code, response.json()["code"]) == (500, "model_failed")
    assert response.json()["detail"] == "row 1: the model's output could not be encoded (KeyError)"


@pytest.mark.parametrize("count", [6, 30])
def test_a_partial_result_has_the_good_rows_and_an_error_in_place_of_each_bad_one(system: Stack, count: int) -> None:
    response = ask(system, rows(count, r1=-1, r3=-2, r4=-3), "?partial=true")
    assert response.status_code == 200, response.text
    answer = response.json()
    expected: list[list[float] | None] = [[2.0 * n, 2.0 * n] for n in range(count)]
    expected[1] = expected[3] = expected[4] = None
    assert answer["outputs"]["output"]["shape"] == [count, 2]
    assert answer["outputs"]["output"]["data"] == expected
    assert answer["errors"] == [
        {"row": 1, "code": "invalid_input", "detail": "-1 is not accepted"},
        {"row": 3, "code": "invalid_input", "detail": "-2 is not accepted"},
        {"row": 4, "code": "model_failed", "detail": "the model's output could not be encoded (KeyError)"},
    ]


def test_a_partial_result_in_messagepack_has_zeros_in_place_of_bad_rows(system: Stack) -> None:
    response = ask(system, rows(3, r1=-1), "?partial=true", headers={"accept": "application/msgpack"})
    answer = msgpack.unpackb(response.content)
    assert np.frombuffer(answer["outputs"]["output"]["data"], np.float32).tolist() == [0, 0, 0, 0, 4, 4]
    assert [error["row"] for error in answer["errors"]] == [1]


def test_a_partial_result_may_have_no_good_row(system: Stack) -> None:
    answer = ask(system, rows(2, r0=-1, r1=-2), "?partial=true").json()
    assert answer["values"] == [None, None]
    assert [error["detail"] for error in answer["errors"]] == ["-1 is not accepted", "-2 is not accepted"]


def test_a_request_whose_rows_are_all_good_has_no_errors(system: Stack) -> None:
    assert "errors" not in ask(system, rows(3), "?partial=true").json()


def test_npy_holds_no_errors(system: Stack) -> None:
    response = ask(system, rows(3), "?partial=true", headers={"accept": "application/x-npy"})
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
    assert ask(system, rows(3), "?partial=yes").json()["detail"] == "partial: expected true or false, got 'yes'"


def test_the_client_has_errors_in_the_places_of_bad_rows(system: Stack) -> None:
    array = np.stack([np.arange(30, dtype=np.float32)] * 2, 1)
    array[[4, 17], 0] = -1
    with Client(system.url) as client:
        prediction = client.predict(array, partial=True)
        nothing = client.predict(array[4:5], partial=True)
    array[[4, 17]] = 0
    assert prediction.array.tolist() == (array * 2).tolist()
    assert {row: (type(error), str(error)) for row, error in prediction.failed.items()} == {
        4: (InvalidInput, "-1 is not accepted"),
        17: (InvalidInput, "-1 is not accepted"),
    }
    assert [str(value) for value in nothing.values] == ["-1 is not accepted"]
