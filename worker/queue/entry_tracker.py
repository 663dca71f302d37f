"""Intake: claimed entries become riders, their bodies are fetched, their decoding starts.

It knows every entry that this worker holds, from claim to finish, so the beat's audit can find one that it is
held to have but doesn't know of (a claim whose answer got lost), and one that was cancelled meanwhile.
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
from smartbatch.worker.core.batch import ClaimedEntry, log_fields
from smartbatch.worker.execution.decoding import Decoder
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.observability.tracing import Tracing
from smartbatch.worker.queue.reply_publisher import ReplyPublisher

log = logging.getLogger(__name__)

RETRY_S = (0.02, 0.1, 0.25, 0.5)
_WEIGHT = 0.1
MIN_DELIVERIES = 2  # the first, in company, proves nothing against anyone: each gets one alone


class EntryTracker:
    """Owned by the worker process; everything is called from the event loop."""

    def __init__(
        self,
        claims: WorkerQueue,
        decoder: Decoder,
        publisher: ReplyPublisher,
        metrics: WorkerMetrics,
        max_deliveries: int,
        tracing: Tracing | None = None,
    ) -> None:
        self.decoder = decoder
        self.metrics = metrics
        self._claims = claims
        self._publisher = publisher
        self._max_deliveries = max_deliveries
        self._tracing = tracing
        self._held: dict[str, ClaimedEntry] = {}  # by entry id
        self._unknown: set[str] = set()
        self._adopted: list[ClaimedEntry] = []
        publisher.on_finished = self._forget_finished
        self._fetches: set[asyncio.Task[None]] = set()
        self.fetch_s = 0.0  # running mean, per claim, of what fetching its bodies takes
        self._forgot = asyncio.Event()

    @property
    def held(self) -> int:
        return len(self._held)

    def receive(
        self, entries: Sequence[Entry], redis_now_ms: int, now: float, *, solo: bool = False
    ) -> list[ClaimedEntry]:
        """Make riders and start decoding them. An entry that has ended enough workers is finished here, unrun."""
        if solo:
            self.metrics.redeliveries.inc(len(entries))
        claimed_entries = []
        for entry in entries:
            claimed = ClaimedEntry(entry, redis_now_ms, now)
            self._held[entry.entry_id] = claimed
            if entry.malformed:
                self._put_aside(claimed)
            elif entry.deliveries > max(MIN_DELIVERIES, self._max_deliveries):
                self._dead_letter(claimed)
            else:
                claimed_entries.append(claimed)
                if solo:
                    _say_redelivered(claimed)
        inline = [claimed for claimed in claimed_entries if claimed.entry.payload]
        if inline:
            self.decoder.decode(inline)
        if len(inline) < len(claimed_entries):
            self._fetch([claimed for claimed in claimed_entries if not claimed.entry.payload])
        elif claimed_entries:
            self._fetched(0.0)
        return claimed_entries

    def _dead_letter(self, claimed: ClaimedEntry) -> None:
        ended = claimed.entry.deliveries - 1
        reason = (
            f"ended {ended} workers, {ended - 1} of them while it ran alone (MAX_DELIVERIES is {self._max_deliveries})"
        )
        self._dead(claimed, reason, DeadLettered(f"this request {reason} and was put aside as a dead letter"))

    def _put_aside(self, claimed: ClaimedEntry) -> None:
        """An entry that no gateway wrote, or that was damaged since: told to whoever may wait for it, and kept."""
        malformed = claimed.entry.malformed
        error = WireError(f"this request's entry on the stream can't be read: {malformed}")
        self._dead(claimed, f"garbled: {malformed}", error)

    def _dead(self, claimed: ClaimedEntry, reason: str, error: SmartBatchError) -> None:
        entry = claimed.entry
        log.error("dead letter: %s", reason, extra=log_fields(entry))
        if self._tracing is not None:
            self._tracing.put_aside(entry, claimed.claimed_at, claimed.admitted_at, error)
        self.metrics.outcome("dead")
        self._publisher.put([Outcome(entry, pack_reply(Reply(error=error)), reason)])

    # --- bodies that lie beside the stream

    def _fetch(self, claimed_entries: list[ClaimedEntry]) -> None:
        """Fetch, then decode. `decoded` is a future of each rider's own from now on, so the engine can wait for it."""
        for claimed in claimed_entries:
            claimed.decoded = Future()
        task = asyncio.create_task(self._fetch_and_decode(claimed_entries))
        self._fetches.add(task)
        task.add_done_callback(self._fetches.discard)

    async def _fetch_and_decode(self, claimed_entries: list[ClaimedEntry]) -> None:
        there: list[ClaimedEntry] = []
        for claimed, body in zip(claimed_entries, await self._bodies(claimed_entries), strict=True):
            if body is None:
                claimed.lost = True
                claimed.decoded.set_result(None)
            else:
                claimed.entry.payload = body
                there.append(claimed)
        self.decoder.decode_later(there)

    async def _bodies(self, claimed_entries: Sequence[ClaimedEntry]) -> list[bytes | None]:
        """Of each rider; all None if the broker can't be asked: their gateways admit again what is still in time."""
        for wait_s in RETRY_S:
            started = time.monotonic()
            try:
                bodies = await self._claims.bodies([claimed.entry.id for claimed in claimed_entries])
            except BrokerUnavailable as error:
                self.metrics.broker_errors.inc()
                log.warning("fetching %d bodies failed: %s", len(claimed_entries), error)
                await asyncio.sleep(wait_s)
            else:
                self._fetched(time.monotonic() - started)
                return bodies
        return [None] * len(claimed_entries)

    def _fetched(self, took_s: float) -> None:
        self.fetch_s += _WEIGHT * (took_s - self.fetch_s)

    # --- what the beat says

    def _forget_finished(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._held.pop(outcome.entry.entry_id, None)
        self._forgot.set()

    def forget(self, claimed: ClaimedEntry) -> None:
        """Drop a rider whose entry is no longer this worker's."""
        self._held.pop(claimed.entry.entry_id, None)
        self._forgot.set()

    async def until_finished(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        """Return when Redis has the outcomes of all of these, or they are no longer this worker's."""
        while any(claimed.entry.entry_id in self._held for claimed in claimed_entries):
            self._forgot.clear()
            await self._forgot.wait()

    def audit(self, pending: Sequence[str], beat_sent_at: float) -> list[str]:
        """Compare with what Redis holds me to have. Returns entry ids unknown in two successive beats.

        An entry I hold that is pending no more was cancelled (or Redis lost it): it isn't run.
        """
        on_redis = set(pending)
        for entry_id, claimed in self._held.items():
            if entry_id not in on_redis and claimed.claimed_at < beat_sent_at:
                claimed.cancelled = True
        unknown = on_redis - self._held.keys()
        strays = unknown & self._unknown
        self._unknown = unknown - strays
        return list(strays)

    async def adopt(self, entry_ids: Sequence[str], redis_now_ms: int) -> None:
        """Read strays again and line them up to be run."""
        for entry_id in entry_ids:
            entry = await self._claims.read(entry_id)
            if entry is not None and entry_id not in self._held:
                log.warning("adopting an entry whose claim got lost", extra=log_fields(entry))
                self._adopted += self.receive([entry], redis_now_ms, time.monotonic())

    def take_adopted(self) -> list[ClaimedEntry]:
        """Return what was adopted and may run in company."""
        adopted = [claimed for claimed in self._adopted if claimed.entry.deliveries == 1]
        self._adopted = self._suspects
        return adopted

    def take_suspect(self) -> list[ClaimedEntry]:
        """Return one that was adopted and came from a dead worker: it must run alone."""
        suspects = self._suspects[:1]
        self._adopted = [claimed for claimed in self._adopted if claimed not in suspects]
        return suspects

    @property
    def has_suspects(self) -> bool:
        return bool(self._suspects)

    @property
    def _suspects(self) -> list[ClaimedEntry]:
        return [claimed for claimed in self._adopted if claimed.entry.deliveries > 1]


def _say_redelivered(claimed: ClaimedEntry) -> None:
    waited_ms = round((claimed.claimed_at - claimed.admitted_at) * 1000)
    log.warning(
        "redelivered from a dead worker, to run alone", extra={**log_fields(claimed.entry), "waited_ms": waited_ms}
    )
