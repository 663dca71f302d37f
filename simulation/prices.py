"""What the broker's commands cost on this machine: the CPU time that a busy one takes for a call with one entry, and
with a full batch. `costs.py` holds what came of it on a quiet machine. On Linux only, and nothing else may run
meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis.exceptions

from simulation.costs import Price
from smartbatch.deploy import embedded_broker
from smartbatch.deploy.ports import free_port
from smartbatch.shared.broker.connection.client import Client, connect
from smartbatch.shared.broker.queue.admission import Admission, NewEntry
from smartbatch.shared.broker.queue.claims import Entry, Outcome, WorkerQueue
from smartbatch.shared.broker.queue.replies import Inbox
from smartbatch.shared.errors import StartupError
from smartbatch.shared.keys import Keys

FULL = 32
ROUNDS = 150
CLIENTS = 8  # at once, each with a model of its own: the broker comes from one call to the next without a sleep
PAYLOAD, REPLY = bytes(1024), bytes(300)
SETTLE_S = 0.001  # after its last answer the broker still has something to do


def measured() -> dict[str, Price]:
    """Return each command's price. Raises StartupError where the system doesn't tell CPU time that exactly."""
    if not sys.platform.startswith("linux"):
        raise StartupError("what the broker's commands cost can be measured on Linux only")
    with _broker() as (url, pid):
        return asyncio.run(_measured(url, pid))


def request_s(prices: dict[str, Price]) -> float:
    """What a request in full batches comes to."""
    return sum(prices[name].of(FULL) for name in ("admit", "claim", "finish", "pop")) / FULL


@contextmanager
def _broker() -> Iterator[tuple[str, int]]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="prices-") as folder:
        process = subprocess.Popen(embedded_broker.arguments(port, folder), stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}", process.pid
        finally:
            process.kill()
            process.wait()


async def _measured(url: str, pid: int) -> dict[str, Price]:
    clients = [connect(url) for _ in range(CLIENTS)]
    for _ in range(100):
        try:
            await clients[0].ping()
            break
        except redis.exceptions.ConnectionError:
            await asyncio.sleep(0.05)
    sole_worker, full = [await _costs(clients, pid, size) for size in (1, FULL)]
    for client in clients:
        await client.aclose()
    prices = {}
    for name, cost in sole_worker.items():
        entry_s = max(0.0, full[name] - cost) / (FULL - 1)
        prices[name] = Price(cost - entry_s, entry_s)
    for name in ("wait", "release"):  # entries make no difference to these
        prices[name] = Price((sole_worker[name] + full[name]) / 2)
    return prices


class _Caller:
    """A gateway and a worker that take turns with so many entries."""

    def __init__(self, client: Client, number: int, size: int) -> None:
        keys = Keys(f"prices-{number}")
        self._admission = Admission(client, keys, "gateway", max_entries=10_000, max_bytes=1 << 30, body_ttl_s=60)
        self._claims = WorkerQueue(client, client, keys, "worker", lease_ms=60_000, reply_ttl_s=60)
        self._inbox = Inbox(client, keys, "gateway")
        self._ids = (f"{size}-{n}" for n in itertools.count())
        self._size = size
        self._entries: list[Entry] = []
        self._done: list[str] = []

    async def admit(self) -> None:
        ids = itertools.islice(self._ids, self._size)
        await self._admission.admit([NewEntry(request_id, 60_000, 1, "raw", PAYLOAD) for request_id in ids])

    async def claim(self, after_bell_s: float = 0.0) -> None:
        claim = await self._claims.claim("idle", room_rows=self._size, room_bytes=1 << 30, after_bell_s=after_bell_s)
        self._entries = claim.entries

    async def rung(self) -> None:
        await self.claim(after_bell_s=1.0)

    async def release(self) -> None:
        await self._claims.release()

    async def finish(self) -> None:
        await self._claims.finish([Outcome(entry, REPLY) for entry in self._entries])

    async def pop(self) -> None:
        self._done = [notice.request_id for notice in await self._inbox.pop(self._done)]
        assert len(self._done) == self._size


async def _costs(clients: Sequence[Client], pid: int, size: int) -> dict[str, float]:
    """Return the seconds that a call with so many entries takes, each the median of many."""
    callers = [_Caller(client, number, size) for number, client in enumerate(clients)]
    took: dict[str, list[float]] = {}
    for number in range(2 * ROUNDS):
        claim = "rung" if number % 2 else "claim"
        for name in ("admit", claim, "release", "finish", "pop"):
            before = _cpu_s(pid)
            await asyncio.gather(*(getattr(caller, name)() for caller in callers))
            await asyncio.sleep(SETTLE_S)
            took.setdefault(name, []).append((_cpu_s(pid) - before) / len(callers))
    cost = {name: statistics.median(times) for name, times in took.items()}
    cost["wait"] = max(0.0, cost.pop("rung") - cost["claim"])
    return cost


def _cpu_s(pid: int) -> float:
    """Of a process's first thread, to the nanosecond; up to date while it sleeps."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
