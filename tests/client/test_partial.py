"""Results of which some rows failed, joined by the client."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from smartbatch import client as module
from smartbatch.client import Client, errors
from tests.client.server import Answer, Server, in_turn


def partial_echo(body: bytes) -> Answer:
    """Answer as the gateway does with `partial` for a model that refuses odd numbers and returns two outputs."""
    request = msgspec.msgpack.decode(body)
    rows = np.frombuffer(request["data"], np.int64).reshape(-1, 1)
    bad = [int(row) for row in np.flatnonzero(rows[:, 0] % 2)]
    good = np.where(rows % 2, 0, rows)
    tensors = {"output": {"dtype": "int64", "shape": rows.shape, "data": good.tobytes()}}
    answer = {"outputs": tensors} if len(bad) < len(rows) else {"values": [None] * len(rows)}
    problems = [{"row": row, "code": "invalid_input", "detail": f"{rows[row, 0]} is odd"} for row in bad]
    content = msgspec.msgpack.encode({"model": "m", **answer, **({"errors": problems} if bad else {})})
    return 200, {"content-type": "application/msgpack"}, content


def test_with_partial_the_rows_that_failed_are_named_across_parts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 16)  # two rows in a request
    server.answer = partial_echo
    with Client(server.url) as client:
        prediction = client.predict(np.array([[2], [3], [5], [7], [4], [6]]), partial=True)
        all_bad = client.predict(np.array([[1], [3], [5]]), partial=True)
    assert set(server.paths) == {"/predict?partial=true"}
    assert prediction.array.tolist() == [[2], [0], [0], [0], [4], [6]]
    assert {row: str(error) for row, error in prediction.failed.items()} == {
        1: "3 is odd",
        2: "5 is odd",
        3: "7 is odd",
    }
    assert {type(error) for error in prediction.failed.values()} == {errors.InvalidInput}
    assert prediction.responses == [{"model": "m"}] * 3
    assert (all_bad.outputs, all_bad.values) == ({}, list(all_bad.failed.values()))
    assert list(all_bad.failed) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["values", "predictions"])
def test_with_partial_errors_are_in_the_places_of_their_rows(server: Server, client: Client, kind: str) -> None:
    problems = [{"row": 1, "code": "model_failed", "detail": "no"}]
    content = msgspec.msgpack.encode({kind: [[{"label": "a"}], None], "errors": problems})
    server.answer = in_turn((200, {"content-type": "application/msgpack"}, content))
    good, bad = getattr(client.predict(["a", "b"], partial=True), kind)
    assert good == [{"label": "a"}]
    assert (type(bad), bad.code, str(bad)) == (errors.ModelFailed, "model_failed", "no")
