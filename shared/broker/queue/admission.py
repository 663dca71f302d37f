"""The gateway's operations on the stream: admit and cancel requests, and check which are inflight."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum

import msgspec

from smartbatch.shared.broker.connection.multiplexed import Argument, MultiplexedConnection
from smartbatch.shared.broker.connection.script import ADMIT, CANCEL
from smartbatch.shared.keys import GROUP, Keys

# Larger payloads are external: each is stored under its own key. A byte costs the broker several times more through a
# script than through SET. A key costs three more commands and the worker a round trip, which the requests of a batch
# share; so a request admitted alone has a higher limit. `make bench ONLY=growth`: a request of 32 KiB cost the broker
# 116 us with INLINE_BYTES of 64 KiB and 67 us with 16 KiB (one of 8 KiB: 51 and 50 us).
INLINE_BYTES = 16 * 1024
LONE_INLINE_BYTES = 64 * 1024
MAX_CALL_REQUESTS = 256
MAX_CALL_BYTES = 1024 * 1024


class AdmitStatus(IntEnum):
    """The result of `admit` for one request. The values are the codes of admit.lua."""

    FULL = 0
    ADMITTED = 1
    DEADLINE_UNATTAINABLE = 2


_STATUSES = tuple(AdmitStatus)  # indexed by code: AdmitStatus(code) takes ten times as long

# Share of the measured throughput that admission counts on. At 1.0, requests would be admitted that just meet their
# deadline, and as soon as the workers are a little slower, all of these would miss it.
SAFETY_FACTOR = 0.9


class Capacity(msgspec.Struct, frozen=True):
    """Capacity of a model's ready workers together, as they measured it. 0 means unknown."""

    rows_per_s: float = 0.0
    batch_s: float = 0.0  # duration of a full batch on the fastest worker
    gateways: int = 1  # that share the capacity
    workers: int = 0
    row_weight: float = 1.0  # cost of each row, in usual rows
    byte_weight: float = 0.0  # cost of each byte of payload, in usual rows, where rows have sizes
    start_s: float = 0.0  # how long the start of a worker takes

    @staticmethod
    def of(
        rates: Iterable[float],
        batches_s: Iterable[float],
        gateways: int = 1,
        bytes_shares: Iterable[tuple[float, float]] = (),
        start_s: float = 0.0,
    ) -> Capacity:
        """Combine the workers' rows per second and seconds per full batch, which are 0 before a first batch.

        `bytes_shares`: the bytes of a usual row, and the share of its cost that is proportional to bytes.
        """
        shares = [(row_bytes, share) for row_bytes, share in bytes_shares if row_bytes > 0]
        share = sum(share for _, share in shares) / len(shares) if shares else 0.0
        row_bytes = sum(row_bytes for row_bytes, _ in shares) / len(shares) if shares else 1.0
        each = list(rates)
        return Capacity(
            SAFETY_FACTOR * sum(each),
            min(filter(None, batches_s), default=0.0),
            max(1, gateways),
            len(each),
            1.0 - share,
            share / row_bytes,
            start_s,
        )

    def cost(self, rows: int, size_bytes: int) -> float:
        """Return what so many rows of so many bytes in all cost, in usual rows."""
        return rows * self.row_weight + size_bytes * self.byte_weight


UNKNOWN = Capacity()


class AdmitResult(msgspec.Struct, frozen=True):
    """The result of one `admit`. `inflight_rows` and `inflight_bytes` are of what waits or runs."""

    waiting: int
    inflight_rows: int
    statuses: list[AdmitStatus]
    inflight_bytes: int = 0


class NewEntry(msgspec.Struct):
    """A request to be added to the stream. It is sent again unchanged, with the same ID, if Redis loses it."""

    id: str
    timeout_ms: int
    rows: int
    kind: str
    payload: bytes
    trace: str = ""

    @property
    def bytes(self) -> int:
        return max(1, len(self.payload))  # never 0, so that the sum is 0 only if nothing is inflight


class Admission:
    """One model's admissions from one gateway process. Called by the submitter and the reconciler only."""

    def __init__(
        self,
        connection: MultiplexedConnection,
        keys: Keys,
        gateway_id: str,
        *,
        max_entries: int,
        max_bytes: int,
        body_ttl_s: float,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._gateway_id = gateway_id
        self.limits = (max_entries, max_bytes)
        self._body_ttl_ms = int(body_ttl_s * 1000)

    async def admit(
        self, requests: Sequence[NewEntry], *, force: bool = False, capacity: Capacity = UNKNOWN
    ) -> AdmitResult:
        """Add requests to the stream while the queue has room. Safe to repeat.

        `capacity` rejects requests that would miss their deadline. `force` disables both checks, for requests that were
        admitted before. The caller passes at most MAX_CALL_REQUESTS requests and MAX_CALL_BYTES of payload, and each
        request once. Raises BrokerFull (nothing was admitted) or BrokerUnavailable (any of them may be admitted).
        """
        keys = self._keys
        ids: list[Argument] = []
        each: list[Argument] = []
        bodies: list[NewEntry] = []
        all_bytes = all_rows = 0
        min_timeout_ms = sys.maxsize
        # A request that is admitted again may have an external payload, which is deleted only with an external entry.
        inline_bytes = LONE_INLINE_BYTES if len(requests) == 1 and not force else INLINE_BYTES
        for request in requests:
            payload, size, rows, timeout_ms = request.payload, request.bytes, request.rows, request.timeout_ms
            if size > inline_bytes:
                bodies.append(request)
                payload = b""
            all_bytes += size
            all_rows += rows
            if timeout_ms < min_timeout_ms:
                min_timeout_ms = timeout_ms
            ids.append(request.id)
            each += (f"{size}|{rows}", f"{timeout_ms}|{request.kind}|{request.trace}", payload)
        args: list[Argument] = [GROUP, *self.limits, int(force)]
        args += (capacity.rows_per_s / 1000, capacity.batch_s * 1000, capacity.row_weight, capacity.byte_weight)
        args += (self._gateway_id, len(ids), all_bytes, all_rows, min_timeout_ms, *ids, *each)
        script_keys = [keys.requests, keys.inflight, keys.fill_lock, keys.wakeup]
        sets = [
            ("SET", keys.body(request.id), request.payload, "PX", request.timeout_ms + self._body_ttl_ms)
            for request in bodies
        ]
        waiting, inflight_rows, inflight_bytes, *codes = await ADMIT.call(
            self._connection, script_keys, args, before=sets
        )
        statuses = [_STATUSES[code] for code in codes]
        if bodies:
            await self._unlink_rejected(bodies, zip(ids, statuses, strict=True))
        return AdmitResult(waiting, inflight_rows, statuses, inflight_bytes)

    async def _unlink_rejected(
        self, bodies: Sequence[NewEntry], statuses: Iterable[tuple[Argument, AdmitStatus]]
    ) -> None:
        rejected = {request_id for request_id, status in statuses if status != AdmitStatus.ADMITTED}
        unused = [self._keys.body(request.id) for request in bodies if request.id in rejected]
        if unused:
            await self._connection.execute("UNLINK", *unused)

    async def cancel(self, request_ids: Sequence[str]) -> int:
        """Remove requests that no client waits for. Returns how many were still inflight."""
        keys = self._keys
        bodies = [keys.body(request_id) for request_id in request_ids]
        return await CANCEL.call(self._connection, [keys.requests, keys.inflight, *bodies], [GROUP, *request_ids])

    async def are_inflight(self, request_ids: Sequence[str]) -> list[bool]:
        """Return for each request whether it is inflight, that is, waiting or running."""
        values = await self._connection.execute("HMGET", self._keys.inflight, *request_ids)
        return [value is not None for value in values]
