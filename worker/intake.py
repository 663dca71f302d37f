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

from shared.broker.claims import Claims, Entry, Outcome
from shared.errors import BrokerUnavailable, DeadLettered, SmartBatchError, WireError
from shared.wire import Reply, pack_reply
from worker.batch import Rider, facts_of
from worker.decoding import Decoder
from worker.finisher import Finisher
from worker.meters import Meters
from worker.tracing import Tracing

log = logging.getLogger(__name__)

RETRY_S = (0.02, 0.1, 0.25, 0.5)
_WEIGHT = 0.1
MIN_DELIVERIES = 2  # the first, in company, proves nothing against anyone: each gets one alone


class Intake:
    """Owned by the worker process; everything is called from the event loop."""

    def __init__(
        self,
        claims: Claims,
        decoder: Decoder,
        finisher: Finisher,
        meters: Meters,
        max_deliveries: int,
        tracing: Tracing | None = None,
    ) -> None:
        self.decoder = decoder
        self.meters = meters
        self._claims = claims
        self._finisher = finisher
        self._max_deliveries = max_deliveries
        self._tracing = tracing
        self._held: dict[str, Rider] = {}  # by entry id
        self._unknown: set[str] = set()
        self._adopted: list[Rider] = []
        finisher.on_finished = self._forget_finished
        self._fetches: set[asyncio.Task[None]] = set()
        self.fetch_s = 0.0  # running mean, per claim, of what fetching its bodies takes
        self._forgot = asyncio.Event()

    @property
    def held(self) -> int:
        return len(self._held)

    def receive(self, entries: Sequence[Entry], redis_now_ms: int, now: float, *, solo: bool = False) -> list[Rider]:
        """Make riders and start decoding them. An entry that has ended enough workers is finished here, unrun."""
        if solo:
            self.meters.redeliveries.inc(len(entries))
        riders = []
        for entry in entries:
            rider = Rider(entry, redis_now_ms, now)
            self._held[entry.entry_id] = rider
            if entry.garbled:
                self._put_aside(rider)
            elif entry.deliveries > max(MIN_DELIVERIES, self._max_deliveries):
                self._bury(rider)
            else:
                riders.append(rider)
                if solo:
                    _say_redelivered(rider)
        inline = [rider for rider in riders if rider.entry.payload]
        if inline:
            self.decoder.decode(inline)
        if len(inline) < len(riders):
            self._fetch([rider for rider in riders if not rider.entry.payload])
        elif riders:
            self._fetched(0.0)
        return riders

    def _bury(self, rider: Rider) -> None:
        ended = rider.entry.deliveries - 1
        reason = (
            f"ended {ended} workers, {ended - 1} of them while it ran alone (MAX_DELIVERIES is {self._max_deliveries})"
        )
        self._dead(rider, reason, DeadLettered(f"this request {reason} and was put aside as a dead letter"))

    def _put_aside(self, rider: Rider) -> None:
        """An entry that no gateway wrote, or that was damaged since: told to whoever may wait for it, and kept."""
        garbled = rider.entry.garbled
        error = WireError(f"this request's entry on the stream can't be read: {garbled}")
        self._dead(rider, f"garbled: {garbled}", error)

    def _dead(self, rider: Rider, reason: str, error: SmartBatchError) -> None:
        entry = rider.entry
        log.error("dead letter: %s", reason, extra=facts_of(entry))
        if self._tracing is not None:
            self._tracing.put_aside(entry, rider.claimed_at, rider.admitted_at, error)
        self.meters.outcome("dead")
        self._finisher.put([Outcome(entry, pack_reply(Reply(error=error)), reason)])

    # --- bodies that lie beside the stream

    def _fetch(self, riders: list[Rider]) -> None:
        """Fetch, then decode. `decoded` is a future of each rider's own from now on, so the engine can wait for it."""
        for rider in riders:
            rider.decoded = Future()
        task = asyncio.create_task(self._fetch_and_decode(riders))
        self._fetches.add(task)
        task.add_done_callback(self._fetches.discard)

    async def _fetch_and_decode(self, riders: list[Rider]) -> None:
        there: list[Rider] = []
        for rider, body in zip(riders, await self._bodies(riders), strict=True):
            if body is None:
                rider.lost = True
                rider.decoded.set_result(None)
            else:
                rider.entry.payload = body
                there.append(rider)
        self.decoder.decode_later(there)

    async def _bodies(self, riders: Sequence[Rider]) -> list[bytes | None]:
        """Of each rider; all None if the broker can't be asked: their gateways admit again what is still in time."""
        for wait_s in RETRY_S:
            started = time.monotonic()
            try:
                bodies = await self._claims.bodies([rider.entry.id for rider in riders])
            except BrokerUnavailable as error:
                self.meters.broker_errors.inc()
                log.warning("fetching %d bodies failed: %s", len(riders), error)
                await asyncio.sleep(wait_s)
            else:
                self._fetched(time.monotonic() - started)
                return bodies
        return [None] * len(riders)

    def _fetched(self, took_s: float) -> None:
        self.fetch_s += _WEIGHT * (took_s - self.fetch_s)

    # --- what the beat says

    def _forget_finished(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._held.pop(outcome.entry.entry_id, None)
        self._forgot.set()

    def forget(self, rider: Rider) -> None:
        """Drop a rider whose entry is no longer this worker's."""
        self._held.pop(rider.entry.entry_id, None)
        self._forgot.set()

    async def until_finished(self, riders: Sequence[Rider]) -> None:
        """Return when Redis has the outcomes of all of these, or they are no longer this worker's."""
        while any(rider.entry.entry_id in self._held for rider in riders):
            self._forgot.clear()
            await self._forgot.wait()

    def audit(self, pending: Sequence[str], beat_sent_at: float) -> list[str]:
        """Compare with what Redis holds me to have. Returns entry ids unknown in two successive beats.

        An entry I hold that is pending no more was cancelled (or Redis lost it): it isn't run.
        """
        on_redis = set(pending)
        for entry_id, rider in self._held.items():
            if entry_id not in on_redis and rider.claimed_at < beat_sent_at:
                rider.cancelled = True
        unknown = on_redis - self._held.keys()
        strays = unknown & self._unknown
        self._unknown = unknown - strays
        return list(strays)

    async def adopt(self, entry_ids: Sequence[str], redis_now_ms: int) -> None:
        """Read strays again and line them up to be run."""
        for entry_id in entry_ids:
            entry = await self._claims.read(entry_id)
            if entry is not None and entry_id not in self._held:
                log.warning("adopting an entry whose claim got lost", extra=facts_of(entry))
                self._adopted += self.receive([entry], redis_now_ms, time.monotonic())

    def take_adopted(self) -> list[Rider]:
        """Return what was adopted and may run in company."""
        adopted = [rider for rider in self._adopted if rider.entry.deliveries == 1]
        self._adopted = self._suspects
        return adopted

    def take_suspect(self) -> list[Rider]:
        """Return one that was adopted and came from a dead worker: it must run alone."""
        suspects = self._suspects[:1]
        self._adopted = [rider for rider in self._adopted if rider not in suspects]
        return suspects

    @property
    def has_suspects(self) -> bool:
        return bool(self._suspects)

    @property
    def _suspects(self) -> list[Rider]:
        return [rider for rider in self._adopted if rider.entry.deliveries > 1]


def _say_redelivered(rider: Rider) -> None:
    waited_ms = round((rider.claimed_at - rider.admitted_at) * 1000)
    log.warning("redelivered from a dead worker, to run alone", extra={**facts_of(rider.entry), "waited_ms": waited_ms})
