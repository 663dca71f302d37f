"""Worker heartbeat and deregistration."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from smartbatch.shared.broker.connection.multiplexed import Argument, MultiplexedConnection
from smartbatch.shared.broker.connection.script import HEARTBEAT, LEAVE
from smartbatch.shared.broker.queue.live_limits import LiveLimits, from_redis
from smartbatch.shared.keys import GROUP, Keys

LEASE_MS = 2000
REPORT_TTL_MS = 10_000


class HeartbeatResult(msgspec.Struct):
    """The reply to a heartbeat: this worker's pending entries, the leases of all workers, and the live limits."""

    now_ms: int
    pending: list[str]
    alive: int  # workers with a valid lease, this one included
    expired: dict[str, bytes]  # worker id -> score of its expired lease, as text
    limits: LiveLimits = LiveLimits()


class Leases:
    """One worker's lease. The heartbeat task calls `heartbeat`; the worker calls `leave` once, at its end."""

    def __init__(self, connection: MultiplexedConnection, keys: Keys, worker_id: str) -> None:
        self._connection = connection
        self._keys = keys
        self._worker_id = worker_id

    async def heartbeat(self, report: Mapping[str, Argument]) -> HeartbeatResult:
        """Renew the lease and publish the status report."""
        keys = self._keys
        args: list[Argument] = [GROUP, self._worker_id, LEASE_MS, REPORT_TTL_MS]
        for field, value in report.items():
            args += (field, value)
        script_keys = [keys.leases, keys.requests, keys.worker(self._worker_id), keys.limits]
        now, pending, alive, expired, live = await HEARTBEAT.call(self._connection, script_keys, args)
        scores = dict(zip([name.decode() for name in expired[::2]], expired[1::2], strict=True))
        scores.pop(self._worker_id, None)
        return HeartbeatResult(now, [entry_id.decode() for entry_id in pending], alive, scores, from_redis(*live))

    async def leave(self, *, free_name: bool = True) -> int:
        """Deregister. Returns the number of entries still pending; without any the lease is deleted too. The last
        worker frees the model's name, unless workers of other partitions may need it."""
        keys = self._keys
        script_keys = [
            keys.requests,
            keys.fill_lock,
            keys.wakeup,
            keys.leases,
            keys.worker(self._worker_id),
            *([keys.served] if free_name else []),
        ]
        return await LEAVE.call(self._connection, script_keys, [GROUP, self._worker_id])
