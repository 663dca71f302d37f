"""Deadlines end requests in time, with one timer and a bounded number of checks."""

from __future__ import annotations

import asyncio
import time

import pytest

from smartbatch.gateway.queue.model_queue import DEADLINE_INTERVAL_S, Deadlines
from smartbatch.gateway.queue.queued_request import QueuedRequest
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.errors import DeadlineExceeded
from tests.gateway.queue.requests import Queued


def expiry(waited_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"waited for {waited_s} s")


def watch(deadlines: Deadlines, outstanding: dict[str, QueuedRequest], number: int, timeout_ms: int) -> Queued:
    request = Queued(NewEntry(f"r{number}", timeout_ms, 1, "raw", b"x"))
    outstanding[request.entry.id] = request
    if request.deadline_at < deadlines.next_check_at:
        deadlines.check_by(request.deadline_at)
    return request


async def test_each_request_ends_at_its_own_deadline_and_the_others_continue() -> None:
    ended: dict[str, float] = {}
    outstanding: dict[str, QueuedRequest] = {}
    deadlines = Deadlines(outstanding, expiry)
    began = time.monotonic()
    requests = [watch(deadlines, outstanding, number, timeout_ms) for number, timeout_ms in enumerate((300, 60, 5000))]

    async def wait(request: Queued) -> None:
        with pytest.raises(DeadlineExceeded):
            await request.future
        ended[request.entry.id] = time.monotonic() - began
        del outstanding[request.entry.id]

    async with asyncio.timeout(5):
        await asyncio.gather(*map(wait, requests[:2]))
    deadlines.close()
    assert 0.06 <= ended["r1"] < ended["r0"]
    assert ended["r0"] >= 0.3
    assert requests[2].waiting


async def test_many_short_timeouts_cause_a_bounded_number_of_checks() -> None:
    checks = 0

    class Outstanding(dict[str, QueuedRequest]):
        def values(self):
            nonlocal checks
            checks += 1
            return super().values()

    outstanding = Outstanding()
    deadlines = Deadlines(outstanding, expiry)
    began = time.monotonic()
    while time.monotonic() < began + 0.3:
        watch(deadlines, outstanding, 0, 1).future.add_done_callback(lambda future: future.exception())
        await asyncio.sleep(0.0005)
    deadlines.close()
    assert checks <= 2 * (0.3 / DEADLINE_INTERVAL_S + 3)  # each check iterates twice
