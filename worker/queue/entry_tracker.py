"""The tracker knows every entry that this worker holds, from its claim until Redis has its outcome.

It fetches payloads that are stored outside the stream and starts decoding. Each heartbeat compares what it holds with
what Redis lists as pending: an entry that only Redis knows was claimed by a call whose reply got lost; one that only
the tracker knows was cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future

from smartbatch.shared.broker.queue.claims import Entry, Outcome, WorkerQueue
from smartbatch.shared.errors import BrokerUnavailable, DeadLettered, SmartBatchError, WireError
from smartbatch.shared.wire import Reply, pack_reply
from smartbatch.worker.core.batch import Batch, ClaimedEntry, log_fields
from smartbatch.worker.execution.decoding import Decoder
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.observability.tracing import Tracing
from smartbatch.worker.queue.reply_publisher import ReplyPublisher

log = logging.getLogger(__name__)

RETRY_S = (0.02, 0.1, 0.25, 0.5)
MIN_DELIVERIES = 2  # the first delivery shared a batch and proves nothing, so each entry gets one isolated run
_WEIGHT = 0.1  # of the newest measurement in a running mean


class EntryTracker:
    """Owned by the worker; everything is called in the event loop."""

    def __init__(
        self,
        queue: WorkerQueue,
        decoder: Decoder,
        publisher: ReplyPublisher,
        metrics: WorkerMetrics,
        max_deliveries: int,
        tracing: Tracing | None = None,
    ) -> None:
        self.decoder = decoder
        self.metrics = metrics
        self._queue = queue
        self._publisher = publisher
        self._max_deliveries = max_deliveries
        self._tracing = tracing
        self._held: dict[str, ClaimedEntry] = {}  # by entry id
        self._unknown: set[str] = set()  # entry ids that only Redis knew of at the last heartbeat
        self._adopted: list[ClaimedEntry] = []
        publisher.on_published = self._forget_published
        self._fetches: set[asyncio.Task[None]] = set()
        self.fetch_s = 0.0  # running mean per claim of fetching its payloads
        self._forgotten = asyncio.Event()

    def receive(
        self, entries: Sequence[Entry], redis_now_ms: int, now: float, *, isolated: bool = False
    ) -> list[ClaimedEntry]:
        """Track claimed entries, start decoding them and return them. Malformed entries, and those that have ended too
        many workers, become dead letters and are not returned."""
        if isolated:
            self.metrics.redeliveries.inc(len(entries))
        claimed_entries = []
        for entry in entries:
            claimed = ClaimedEntry(entry, redis_now_ms, now)
            self._held[entry.entry_id] = claimed
            if entry.malformed:
                self._dead_letter_malformed(claimed)
            elif entry.deliveries > max(MIN_DELIVERIES, self._max_deliveries):
                self._dead_letter_poison(claimed)
            else:
                claimed_entries.append(claimed)
                if isolated:
                    _log_redelivery(claimed)
        inline = [claimed for claimed in claimed_entries if claimed.entry.payload]
        if inline:
            self.decoder.decode(inline)
        if len(inline) < len(claimed_entries):
            self._fetch([claimed for claimed in claimed_entries if not claimed.entry.payload])
        elif claimed_entries:
            self._record_fetch(0.0)
        return claimed_entries

    @property
    def holds_any(self) -> bool:
        """Whether an entry's outcome isn't on Redis yet."""
        return bool(self._held)

    def finish(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """Publish the outcomes of a batch, and forget its cancelled entries, which have none."""
        self._publisher.put(outcomes)
        for claimed in batch.ended_entries:
            if claimed.cancelled:
                self._forget(claimed.entry)

    async def until_finished(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        """Wait until Redis has the outcomes of all these entries, or they were cancelled."""
        while any(claimed.entry.entry_id in self._held for claimed in claimed_entries):
            self._forgotten.clear()
            await self._forgotten.wait()

    def _forget_published(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._forget(outcome.entry)

    def _forget(self, entry: Entry) -> None:
        self._held.pop(entry.entry_id, None)
        self._forgotten.set()

    # --- dead letters

    def _dead_letter_poison(self, claimed: ClaimedEntry) -> None:
        ended, limit = claimed.entry.deliveries - 1, self._max_deliveries
        reason = f"ended {ended} workers, {ended - 1} of them while isolated (MAX_DELIVERIES is {limit})"
        self._dead_letter(claimed, reason, DeadLettered(f"this request {reason} and is now a dead letter"))

    def _dead_letter_malformed(self, claimed: ClaimedEntry) -> None:
        malformed = claimed.entry.malformed
        error = WireError(f"this request's entry on the stream can't be read: {malformed}")
        self._dead_letter(claimed, f"malformed: {malformed}", error)

    def _dead_letter(self, claimed: ClaimedEntry, reason: str, error: SmartBatchError) -> None:
        """Keep the entry as a dead letter and reply with the error."""
        entry = claimed.entry
        log.error("dead letter: %s", reason, extra=log_fields(entry))
        if self._tracing is not None:
            self._tracing.dead_letter(entry, claimed.claimed_at, claimed.admitted_at, error)
        self.metrics.outcome("dead")
        self._publisher.put([Outcome(entry, pack_reply(Reply(error=error)), reason)])

    # --- payloads stored outside the stream

    def _fetch(self, claimed_entries: list[ClaimedEntry]) -> None:
        """Fetch payloads, then decode. From now on each entry has a `decoded` future that the engine can wait for."""
        for claimed in claimed_entries:
            claimed.decoded = Future()
        task = asyncio.create_task(self._fetch_and_decode(claimed_entries))
        self._fetches.add(task)
        task.add_done_callback(self._fetches.discard)

    async def _fetch_and_decode(self, claimed_entries: list[ClaimedEntry]) -> None:
        fetched: list[ClaimedEntry] = []
        for claimed, payload in zip(claimed_entries, await self._payloads(claimed_entries), strict=True):
            if payload is None:
                claimed.lost = True
                claimed.decoded.set_result(None)
            else:
                claimed.entry.payload = payload
                fetched.append(claimed)
        self.decoder.decode_fetched(fetched)

    async def _payloads(self, claimed_entries: Sequence[ClaimedEntry]) -> list[bytes | None]:
        """Return the payload of each entry. All are None if the broker stays unavailable: the gateways then readmit the
        entries whose deadline has not passed."""
        for wait_s in RETRY_S:
            started = time.monotonic()
            try:
                payloads = await self._queue.bodies([claimed.entry.id for claimed in claimed_entries])
            except BrokerUnavailable as error:
                self.metrics.broker_errors.inc()
                log.warning("fetching %d payloads failed: %s", len(claimed_entries), error)
                await asyncio.sleep(wait_s)
            else:
                self._record_fetch(time.monotonic() - started)
                return payloads
        return [None] * len(claimed_entries)

    def _record_fetch(self, seconds: float) -> None:
        self.fetch_s += _WEIGHT * (seconds - self.fetch_s)

    # --- reconciliation with what Redis lists as pending

    def audit(self, pending: Sequence[str], sent_at: float) -> list[str]:
        """Mark entries as cancelled that were claimed before the heartbeat was sent and are no longer pending. Returns
        ids that are pending and were unknown in two successive heartbeats."""
        on_redis = set(pending)
        for entry_id, claimed in self._held.items():
            if entry_id not in on_redis and claimed.claimed_at < sent_at:
                claimed.cancelled = True
        unknown = on_redis - self._held.keys()
        lost_claims = unknown & self._unknown
        self._unknown = unknown - lost_claims
        return list(lost_claims)

    async def adopt(self, entry_ids: Sequence[str], redis_now_ms: int) -> None:
        """Read entries whose claim got lost, and queue them for the batcher."""
        for entry_id in entry_ids:
            entry = await self._queue.read(entry_id)
            if entry is not None and entry_id not in self._held:
                log.warning("adopting an entry whose claim got lost", extra=log_fields(entry))
                self._adopted += self.receive([entry], redis_now_ms, time.monotonic())

    @property
    def has_adopted(self) -> bool:
        """Whether the batcher still has to take entries whose claim got lost."""
        return bool(self._adopted)

    def take_adopted(self) -> list[ClaimedEntry]:
        """Remove and return the adopted entries that may share a batch."""
        adopted = [claimed for claimed in self._adopted if claimed.entry.deliveries == 1]
        self._adopted = self._suspects
        return adopted

    def take_suspect(self) -> list[ClaimedEntry]:
        """Remove and return at most one adopted entry of a dead worker, which must run isolated."""
        suspects = self._suspects[:1]
        self._adopted = [claimed for claimed in self._adopted if claimed not in suspects]
        return suspects

    @property
    def has_suspects(self) -> bool:
        return bool(self._suspects)

    @property
    def _suspects(self) -> list[ClaimedEntry]:
        return [claimed for claimed in self._adopted if claimed.entry.deliveries > 1]


def _log_redelivery(claimed: ClaimedEntry) -> None:
    waited_ms = round((claimed.claimed_at - claimed.admitted_at) * 1000)
    fields = {**log_fields(claimed.entry), "waited_ms": waited_ms}
    log.warning("redelivered from a dead worker, to run isolated", extra=fields)
