"""The cost benchmark: measure the CPU time of the broker's commands with one entry per call and with a full batch.

costs.py has its results from a quiet machine. It needs Linux, and nothing else may run at the same time.
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

from simulation.costs import CommandCost
from smartbatch.deploy import embedded_broker
from smartbatch.deploy.ports import free_port
from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.connection.multiplexed import Argument, MultiplexedConnection
from smartbatch.shared.broker.queue.admission import Admission, NewEntry
from smartbatch.shared.broker.queue.claims import Entry, Outcome, WorkerQueue
from smartbatch.shared.broker.queue.leases import Leases
from smartbatch.shared.broker.queue.replies import Inbox
from smartbatch.shared.errors import BrokerUnavailable, StartupError
from smartbatch.shared.keys import Keys

FULL = 32
ROUNDS = 150
CONNECTIONS = 8  # concurrent, each with its own model, so that the broker never sleeps between calls
PAYLOAD, REPLY = bytes(1024), bytes(300)
COMMANDS = ("admit", "claim", "release", "finish", "pop", "heartbeat", "report", "load", "snapshot")
# As many fields as the product's have, and as many bytes.
WORKER_REPORT: dict[str, Argument] = {"state": "ready", "counts": bytes(300)} | {
    f"field_{n}": f"value {n}" for n in range(20)
}
GATEWAY_REPORT: dict[str, Argument] = {
    "host": "host",
    "recent": bytes(400),
    "minute": bytes(500),
    "total": bytes(550),
    "counts": bytes(150),
} | {f"field_{n}": n for n in range(3)}
SETTLE_S = 0.001  # the broker still works after its last reply


def measure() -> dict[str, CommandCost]:
    """Return the cost of each command. Raises StartupError if the system's CPU times are too coarse."""
    if not sys.platform.startswith("linux"):
        raise StartupError("the cost of the broker's commands can be measured on Linux only")
    with _broker() as (url, pid):
        return asyncio.run(_measure(url, pid))


def request_s(costs: dict[str, CommandCost]) -> float:
    """Return the cost of one request in full batches."""
    return sum(costs[name].of(FULL) for name in ("admit", "claim", "finish", "pop")) / FULL


@contextmanager
def _broker() -> Iterator[tuple[str, int]]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="cost-benchmark-") as folder:
        process = subprocess.Popen(embedded_broker.arguments(port, folder), stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}", process.pid
        finally:
            process.kill()
            process.wait()


async def _measure(url: str, pid: int) -> dict[str, CommandCost]:
    connections = [MultiplexedConnection(url) for _ in range(CONNECTIONS)]
    for _ in range(100):
        try:
            await connections[0].execute("PING")
            break
        except BrokerUnavailable:
            await asyncio.sleep(0.05)
    single, full = [await _costs(connections, pid, size) for size in (1, FULL)]
    for connection in connections:
        connection.close()
    costs = {}
    for name, cost in single.items():
        entry_s = max(0.0, full[name] - cost) / (FULL - 1)
        costs[name] = CommandCost(cost - entry_s, entry_s)
    for name in ("wait", "release", "load", "heartbeat", "report"):  # their cost does not depend on entries
        costs[name] = CommandCost((single[name] + full[name]) / 2)
    return costs


class _Caller:
    """A gateway and a worker that take turns, with `size` entries per call."""

    def __init__(self, connection: MultiplexedConnection, number: int, size: int) -> None:
        keys = Keys(f"cost-benchmark-{number}")
        self._admission = Admission(connection, keys, "gateway", max_entries=10_000, max_bytes=1 << 30, body_ttl_s=60)
        self._claims = WorkerQueue(connection, connection, keys, "worker", lease_ms=60_000, reply_ttl_s=60)
        self._inbox = Inbox(connection, keys, "gateway")
        self._ids = (f"{size}-{n}" for n in itertools.count())
        self._size = size
        self._entries: list[Entry] = []
        self._done: list[str] = []
        self._admitted: list[str] = []
        self._keys = keys
        self._connection = connection
        self._leases = [Leases(connection, keys, f"worker-{n}") for n in range(size)]

    async def admit(self) -> None:
        self._admitted = list(itertools.islice(self._ids, self._size))
        await self._admission.admit([NewEntry(each, 60_000, 1, "raw", PAYLOAD) for each in self._admitted])

    async def cancel(self) -> None:
        await self._admission.cancel(self._admitted)

    async def claim(self, after_wakeup_s: float = 0.0) -> None:
        claim = await self._claims.claim(
            "idle", room_rows=self._size, room_bytes=1 << 30, after_wakeup_s=after_wakeup_s
        )
        self._entries = claim.entries

    async def claim_after_wakeup(self) -> None:
        await self.claim(after_wakeup_s=1.0)

    async def release(self) -> None:
        await self._claims.release()

    async def finish(self) -> None:
        await self._claims.finish([Outcome(entry, REPLY) for entry in self._entries])

    async def pop(self) -> None:
        self._done = [notice.request_id for notice in await self._inbox.pop(self._done)]
        assert len(self._done) == self._size

    async def heartbeat(self) -> None:
        await self._leases[0].heartbeat(WORKER_REPORT)

    async def all_heartbeats(self) -> None:
        for leases in self._leases:
            await leases.heartbeat(WORKER_REPORT)

    async def report(self) -> None:
        await registry.report_gateway(self._connection, self._keys, "gateway", GATEWAY_REPORT)

    async def load(self) -> None:
        await registry.load(self._connection, self._keys)

    async def snapshot(self) -> None:
        await registry.snapshot(self._connection, self._keys.model)


async def _costs(connections: Sequence[MultiplexedConnection], pid: int, size: int) -> dict[str, float]:
    """Return the median seconds of a call with `size` entries, by command."""
    callers = [_Caller(connection, number, size) for number, connection in enumerate(connections)]
    cpu_s: dict[str, list[float]] = {}
    for number in range(2 * ROUNDS):
        claim = "claim_after_wakeup" if number % 2 else "claim"
        await asyncio.gather(*(caller.all_heartbeats() for caller in callers))  # so that no lease expires
        for name in COMMANDS if number % 2 else (*COMMANDS, "admit", "cancel"):
            name = claim if name == "claim" else name
            before = _cpu_s(pid)
            await asyncio.gather(*(getattr(caller, name)() for caller in callers))
            await asyncio.sleep(SETTLE_S)
            cpu_s.setdefault(name, []).append((_cpu_s(pid) - before) / len(callers))
    cost = {name: statistics.median(times) for name, times in cpu_s.items()}
    cost["wait"] = max(0.0, cost.pop("claim_after_wakeup") - cost["claim"])
    return cost


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process's first thread in nanoseconds, up to date while it sleeps."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
