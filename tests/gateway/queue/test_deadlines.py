"""Deadlines: in time, by one timer, and with a bounded number of looks whatever clients ask for."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

from smartbatch.gateway.queue.deadlines import EVERY_S, Deadlines
from smartbatch.gateway.queue.pending import Outcome, Pending, PendingFuture
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.errors import DeadlineExceeded


class Watched(NewEntry, weakref=True):
    """A request of which one can say whether it still exists."""


def request(number: int, timeout_ms: int) -> NewEntry:
    return Watched(f"r{number}", timeout_ms, 1, "raw", b"x")


async def test_each_ends_at_its_own_deadline_and_the_others_go_on() -> None:
    ended: dict[str, float] = {}
    outstanding: dict[str, Pending] = {}
    deadlines = Deadlines(outstanding)
    began = time.monotonic()
    for number, timeout_ms in enumerate((300, 60, 5000)):

        def tell(outcome: Outcome, number: int = number) -> None:
            assert isinstance(outcome, DeadlineExceeded)
            ended[f"r{number}"] = time.monotonic() - began
            del outstanding[f"r{number}"]

        pending = Pending(request(number, timeout_ms), began, tell)
        outstanding[pending.request.id] = pending
        deadlines.watch(pending)
    async with asyncio.timeout(5):
        while len(ended) < 2:
            await asyncio.sleep(0.01)
    deadlines.close()
    assert 0.06 <= ended["r1"] < ended["r0"]
    assert ended["r0"] >= 0.3
    assert not outstanding["r2"].done


async def test_many_short_timeouts_do_not_make_it_look_all_the_time() -> None:
    looks = 0

    class Outstanding(dict[str, Pending]):
        def values(self):
            nonlocal looks
            looks += 1
            return super().values()

    outstanding = Outstanding()
    deadlines = Deadlines(outstanding)
    began = time.monotonic()
    while time.monotonic() < began + 0.3:
        pending = PendingFuture(request(0, 1), time.monotonic())
        outstanding["r0"] = pending
        deadlines.watch(pending)
        await asyncio.sleep(0.0005)
    deadlines.close()
    assert looks <= 2 * (0.3 / EVERY_S + 3)  # two walks a look


async def test_what_has_ended_is_held_by_nobody() -> None:
    gc.disable()
    try:
        for ends in (lambda p: p.end(b"reply"), lambda p: p.abandon()):
            pending = PendingFuture(request(1, 1000), 0.0)
            watched = weakref.ref(pending.request)
            ends(pending)
            assert pending.done
            del pending
            assert watched() is None
    finally:
        gc.enable()
