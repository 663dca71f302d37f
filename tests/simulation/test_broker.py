"""Compare the simulated broker with the real scripts: equal random calls give equal results."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest

from simulation.broker import Broker, Entry, Inbox
from simulation.clock import VirtualLoop
from simulation.costs import FREE
from smartbatch.shared.broker.queue.admission import Admission, NewEntry
from smartbatch.shared.broker.queue.claims import Outcome, WorkerQueue
from smartbatch.shared.keys import Keys
from tests.brokers import Client

KEYS = Keys("m")
LONG_MS = 100_000  # does not end during the test, which takes no virtual time


class Request(NamedTuple):
    id: int


@pytest.mark.parametrize("seed", range(8))
async def test_the_simulated_broker_matches_the_scripts(client: Client, seed: int) -> None:
    draw = random.Random(seed)
    simulated, inbox = Broker(VirtualLoop(), FREE.broker, max_entries=40), Inbox()
    admission = Admission(client, KEYS, "gw", max_entries=40, max_bytes=1 << 30, body_ttl_s=60)
    workers = {name: WorkerQueue(client, client, KEYS, name, lease_ms=60_000, reply_ttl_s=60) for name in "abc"}
    held: dict[str, tuple[list, list[Entry]]] = {name: ([], []) for name in workers}
    numbers = iter(range(10_000))
    for _ in range(150):
        name = draw.choice("abc")
        ours, theirs = held[name]
        what: Any = draw.choice(["admit", "idle", "idle", "top", "ahead", "release", "finish"])
        if what == "admit":
            ids = [next(numbers) for _ in range(draw.randint(1, 12))]
            actual = await admission.admit([NewEntry(f"r{n}", 5000, 1, "raw", b"x") for n in ids])
            assert simulated.admit(inbox, [Request(n) for n in ids], 5000, 0.0, 0.0) == [
                int(status) for status in actual.statuses
            ]
            assert (len(simulated.stream), simulated.inflight_rows) == (actual.waiting, actual.inflight_rows)
        elif what == "release":
            await workers[name].release()
            simulated.release(name)
        elif what == "finish":
            if ours:  # a call always has entries
                assert await workers[name].finish([Outcome(entry, b"reply") for entry in ours]) == len(theirs)
                simulated.finish(theirs)
            held[name] = ([], [])
        else:
            rows = draw.randint(0, 3)
            how: dict[str, Any] = {"held_rows": rows, "room_rows": 8 - rows, "hold_ms": draw.choice([0, LONG_MS])}
            how["soon"] = draw.random() < 0.5
            actual = await workers[name].claim(what, room_bytes=1 << 30, **how)
            expected = simulated.claim(name, what, **how)
            assert (expected.kind, expected.waiting) == (actual.kind, actual.waiting)
            assert [f"r{entry.request.id}" for entry in expected.entries] == [e.id for e in actual.entries]
            ours += actual.entries
            theirs += expected.entries
        holder = await client.get(KEYS.fill_lock)
        assert simulated.lock_holder() == (holder or b"").decode()
        assert simulated._wakeup == bool(await client.llen(KEYS.wakeup))


def test_commands_run_one_after_the_other_in_arrival_order() -> None:
    loop = VirtualLoop()
    broker = Broker(loop, FREE.broker, max_entries=10)
    ran: list[tuple[str, float]] = []

    def command(name: str, cost: float) -> None:
        def run() -> float:
            ran.append((name, loop.now))
            return cost

        broker.call(name, run, lambda: None)

    for name, cost in (("first", 0.3), ("second", 0.2), ("third", 0.1)):
        command(name, cost)
    loop.at(0.4, command, "later", 0.1)
    loop.run_while(lambda: True)
    assert ran == [("first", 0.0), ("second", 0.3), ("third", 0.5), ("later", pytest.approx(0.6))]
    assert broker.busy_s == pytest.approx(0.7)
