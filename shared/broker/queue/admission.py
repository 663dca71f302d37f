"""The gateway's side of the stream: admit requests, cancel them, ask which are still open."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum

import msgspec

from smartbatch.shared.broker.connection.multiplexed import Argument, MultiplexedConnection
from smartbatch.shared.broker.connection.script import ADMIT, CANCEL
from smartbatch.shared.keys import GROUP, Keys

# Larger payloads are external: each is stored under a key of its own. Through a script a byte costs the broker several
# times what it costs through a SET; a key costs three commands more, and the worker another round trip, which a request
# that is alone pays for by itself. `make bench ONLY=growth` with INLINE_BYTES of 64 KiB and of 16: the broker took
# 116 us for a request of 32 KiB and 67, with 51 and 50 for one of 8 KiB in the same runs.
INLINE_BYTES = 16 * 1024
LONE_INLINE_BYTES = 64 * 1024
MAX_CALL_REQUESTS = 256
MAX_CALL_BYTES = 1024 * 1024


class AdmitStatus(IntEnum):
    """What `admit` says to one request."""

    FULL = 0
    ADMITTED = 1
    DEADLINE_UNATTAINABLE = 2


_STATUSES = tuple(AdmitStatus)  # the script's codes are their places; making one of a code takes ten times as long

# Of what the workers measured: who is let in at the very edge is late as soon as they are a little slower, and then all
# who are served are those just about to be late.
SAFETY_FACTOR = 0.9


class Capacity(msgspec.Struct, frozen=True):
    """What may be promised of a model's ready workers together, by what they measured. Zeros: unknown."""

    rows_per_s: float = 0.0
    batch_s: float = 0.0  # from the start of a full batch to its end, on the quickest of them
    gateways: int = 1  # that share it

    @staticmethod
    def of(rates: Iterable[float], batches_s: Iterable[float], gateways: int = 1) -> Capacity:
        """Of each worker's rows a second, and seconds for a full batch; 0 of one that has run nothing yet."""
        return Capacity(SAFETY_FACTOR * sum(rates), min(filter(None, batches_s), default=0.0), max(1, gateways))


UNKNOWN = Capacity()


class AdmitResult(msgspec.Struct, frozen=True):
    """The answer of one `admit`. `open_rows`: waiting and running together."""

    waiting: int
    open_rows: int
    statuses: list[AdmitStatus]


class NewEntry(msgspec.Struct):
    """One request as the stream will hold it. Resent unchanged, under the same id, if Redis loses it."""

    id: str
    timeout_ms: int
    rows: int
    kind: str
    payload: bytes
    trace: str = ""

    @property
    def bytes(self) -> int:
        return max(1, len(self.payload))  # never 0: the sum of what is open says whether anything is


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
        self._limits = (max_entries, max_bytes)
        self._body_ttl_ms = int(body_ttl_s * 1000)

    async def admit(
        self, requests: Sequence[NewEntry], *, force: bool = False, capacity: Capacity = UNKNOWN
    ) -> AdmitResult:
        """Put requests on the stream while there is room. Harmless to repeat. With `force` (what was accepted once)
        neither room nor lateness is asked about; with a `capacity` those that could only be late are refused.

        At most MAX_CALL_REQUESTS requests, each once, and MAX_CALL_BYTES of payload a call (the caller cuts).
        Raises BrokerFull (nothing was admitted) and BrokerUnavailable (unknown what was).
        """
        keys = self._keys
        ids: list[Argument] = []
        each: list[Argument] = []
        bodies: list[NewEntry] = []
        all_bytes = all_rows = 0
        least_timeout_ms = sys.maxsize
        # What is admitted again may have a body there from the first time, which goes when a batch with it is finished.
        inline_bytes = LONE_INLINE_BYTES if len(requests) == 1 and not force else INLINE_BYTES
        for request in requests:
            payload, size, rows, timeout_ms = request.payload, request.bytes, request.rows, request.timeout_ms
            if size > inline_bytes:
                bodies.append(request)
                payload = b""
            all_bytes += size
            all_rows += rows
            if timeout_ms < least_timeout_ms:
                least_timeout_ms = timeout_ms
            ids.append(request.id)
            each += (f"{size}|{rows}", f"{timeout_ms}|{request.kind}|{request.trace}", payload)
        args: list[Argument] = [GROUP, *self._limits, int(force)]
        args += (capacity.rows_per_s / 1000, capacity.batch_s * 1000, self._gateway_id)
        args += (len(ids), all_bytes, all_rows, least_timeout_ms, *ids, *each)
        script_keys = [keys.requests, keys.inflight, keys.fill_lock, keys.wakeup]
        sets = [
            ("SET", keys.body(request.id), request.payload, "PX", request.timeout_ms + self._body_ttl_ms)
            for request in bodies
        ]
        waiting, open_rows, *codes = await ADMIT.call(self._connection, script_keys, args, before=sets)
        statuses = [_STATUSES[code] for code in codes]
        if bodies:
            await self._unlink_refused(bodies, zip(ids, statuses, strict=True))
        return AdmitResult(waiting, open_rows, statuses)

    async def _unlink_refused(
        self, bodies: Sequence[NewEntry], statuses: Iterable[tuple[Argument, AdmitStatus]]
    ) -> None:
        refused = {request_id for request_id, status in statuses if status != AdmitStatus.ADMITTED}
        leftover = [self._keys.body(request.id) for request in bodies if request.id in refused]
        if leftover:
            await self._connection.execute("UNLINK", *leftover)

    async def cancel(self, request_ids: Sequence[str]) -> int:
        """Free the places of requests nobody waits for. Returns how many were still open."""
        keys = self._keys
        bodies = [keys.body(request_id) for request_id in request_ids]
        return await CANCEL.call(self._connection, [keys.requests, keys.inflight, *bodies], [GROUP, *request_ids])

    async def still_open(self, request_ids: Sequence[str]) -> list[bool]:
        """Say of each request whether it is on the stream, waiting or running."""
        values = await self._connection.execute("HMGET", self._keys.inflight, *request_ids)
        return [value is not None for value in values]
