"""A hang is detected wherever it happens, and its batch mates still succeed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.brokers import eventually
from tests.system.hostile_stack import Supervised, hostile, is_empty, send_rows
from tests.system.stack import Stack


@pytest.mark.parametrize(
    ("row", "who"),
    [
        ("hang in decode", "a decode thread"),
        pytest.param("hang", "the running batch", marks=pytest.mark.extended),
        pytest.param("hang in encode", "a decode thread", marks=pytest.mark.extended),
    ],
)
async def test_hang_ends_the_worker_and_other_requests_succeed(stack: Callable[..., Stack], row: str, who: str) -> None:
    system = hostile(stack, MAX_BATCH_SIZE=8, STALL_TIMEOUT=2, MAX_DELIVERIES=2)
    with Supervised(system, 2) as workers:
        good = [f"good {number}" for number in range(7)]
        responses = await send_rows(system, [row, *good])
        eventually(lambda: is_empty(system))
    assert (responses[0].status, responses[0].code) == (500, "dead_lettered")
    assert [response.value for response in responses[1:]] == good
    assert workers.exits == [70, 70]
    assert workers.count_in_logs(f"{who} made no progress for 2 s (STALL_TIMEOUT)") == 2


async def test_hang_of_a_disconnected_client_blocks_others_no_longer_than_the_stall_timeout(
    stack: Callable[..., Stack],
) -> None:
    system = hostile(stack, MAX_WAIT_TIME=0.01, STALL_TIMEOUT=3, DECODE_THREADS=1, REQUEST_TIMEOUT=30)
    with Supervised(system, 1) as workers:
        hanging = system.client.post(
            f"{system.url}/predict", content=b"hang in decode", headers={"x-request-timeout": "0.5"}
        )
        assert hanging.status_code == 504
        responses = await send_rows(system, ["good"])  # its only decode thread still hangs
        assert [response.value for response in responses] == ["good"]
    assert workers.exits == [70]
