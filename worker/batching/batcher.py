"""The claimer: it fills batches from the stream and hands them to the engine.

    device free    claim (idle), or wait for the bell and claim; fill until the policy closes; submit
    device busy    claim ahead what no idle worker could take, one batch at the most; nothing behind a batch that is
                   over at once, or that nobody is expected behind (the next is asked for as it ends)
    worker dead    when a worker was convicted: one of its entries at a time, alone

Only one idle worker at a time fills a batch (it holds the *turn*), so idle workers never tear one batch into
several small ones. PROTOCOL in docs/protocol.md argues why each claim is as it is.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time

from smartbatch.shared.broker.queue.claims import Claim, Mode, WorkerQueue
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.worker.batching.arrivals import ArrivalPredictor
from smartbatch.worker.batching.policy import BatchState, CloseReason, Limits, decide
from smartbatch.worker.batching.throughput import ThroughputEstimator
from smartbatch.worker.core.batch import Batch, BatchBuilder
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.execution.latency import LatencyEstimator
from smartbatch.worker.queue.entry_tracker import EntryTracker
from smartbatch.worker.queue.failure_detection import FailureDetector

log = logging.getLogger(__name__)

BELL_S = 0.5  # a crashed filler's unclaimed work is found after this at the latest
TURN_SLACK_MS = 100
MIN_AHEAD_POLL_S = 0.002
AHEAD_POLLS = 4  # in a batch's run
# So long before the end of a batch that nobody is expected behind the next claim leaves already, if no other worker
# could take what comes: then only the replies are left to do, and Redis is awake for them. (The event loop's timers
# count whole milliseconds.)
EARLY_S = 0.001
# A batch that takes so much less than a claim is over before what is claimed meanwhile would be here.
SHORT = 4
RETRY_S = (0.02, 0.1, 0.25, 0.5)


class Batcher:
    """One long-lived task; the only one that claims. `device_freed` is called from the event loop."""

    def __init__(
        self,
        claims: WorkerQueue,
        tracker: EntryTracker,
        engine: Engine,
        limits: Limits,
        times: LatencyEstimator,
        service: ThroughputEstimator,
        failure_detector: FailureDetector,
        worker_id: str,
    ) -> None:
        self._claims = claims
        self._tracker = tracker
        self._engine = engine
        self._limits = limits
        self._times = times
        self._service = service
        self._failure_detector = failure_detector
        self.sole_worker = False  # no other worker serves this model
        self._arrivals = ArrivalPredictor()
        self._last_batch: Batch | None = None
        self._batch_ids = (f"{worker_id}-{n}" for n in itertools.count(1))
        self._builder = BatchBuilder()
        self._on_device: list[Batch] = []  # the running one and the one claimed ahead
        self._freed = asyncio.Event()
        self._drained = asyncio.Event()
        self._draining = False
        self._solo = False
        self._claim_s = 0.001  # running mean of a claim's round trip
        self._may_hold_turn = False
        self._waiting: float = math.inf  # entries on the stream, by a claim just made; unknown since
        self._last_id = ""  # the group's last-delivered-id then
        self._releases: set[asyncio.Task[None]] = set()
        self._free_since: float | None = None

    # --- called by others

    async def drain(self) -> None:
        """Claim nothing more; return when what is held has run."""
        self._draining = True
        self._freed.set()
        await self._drained.wait()

    @property
    def limits(self) -> Limits:
        return self._limits

    def set_limits(self, limits: Limits) -> None:
        """Hold from the next decision on; the batch that is filling may be larger by then."""
        self._limits = limits
        self._service.max_rows = limits.max_rows

    def device_freed(self, batch: Batch, at: float) -> None:
        self._on_device.remove(batch)
        if batch.closed != "isolated":
            self._service.record(batch.rows_run, at - batch.on_device_at, backlog=batch.closed in ("full", "bytes"))
        self._arrivals.answered(len(batch.claimed_entries), at, last=batch is self._last_batch)
        if self._on_device:
            self._on_device[0].on_device_at = at
        else:
            self._free_since = at
        self._freed.set()
        self._claims.wake()

    async def run(self) -> None:
        failures = 0
        while not self._draining:
            try:
                await (self._while_busy() if self._on_device else self._while_free())
                failures = 0
            except BrokerUnavailable as error:
                self._tracker.metrics.broker_errors.inc()
                log.warning("claiming failed: %s", error)
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1
        if self._builder:
            self._submit("drain")
        await self._until_free()
        self._drained.set()
        await asyncio.Event().wait()  # the task ends by being cancelled; ending by itself would mean an error

    # --- device free

    async def _while_free(self) -> None:
        if not self._builder:
            self._builder.add(self._tracker.take_suspect())
            self._solo = bool(self._builder)
        if not self._solo:
            self._builder.add(self._tracker.take_adopted())
        if not self._builder and not await self._first():
            return
        if self._solo:
            claimed_entries = self._builder.claimed_entries
            self._submit("isolated")
            await self._until_free()
            await self._tracker.until_finished(
                claimed_entries
            )  # else the next, should it kill, would have this one counted too
            self._solo = False
            return
        await self._fill()

    async def _first(self) -> bool:
        """Claim for an empty batch once the bell rings; it has rung already if work waits. False if nothing came."""
        # A turn that isn't taken needn't be given back.
        running = sum(
            len(batch.claimed_entries) for batch in self._on_device
        )  # what comes is likely to come after them
        window_s = self._limits.window_s
        hold_ms = self._hold_ms(window_s) if self._expects_others(window_s, running=running) else 0
        if dead_worker := next(iter(self._failure_detector.convicts), None):
            claim = await self._claim("idle", hold_ms=hold_ms, dead_worker=dead_worker)
            self._solo = claim.kind == "isolated" and bool(self._builder)
            if claim.kind != "isolated" and dead_worker in self._failure_detector.convicts:
                self._failure_detector.convicts.remove(dead_worker)  # the claim found nothing of theirs left
            if claim.kind != "empty":
                return bool(self._builder)
        await self._claim("idle", hold_ms=hold_ms, after_bell_s=BELL_S)
        return bool(self._builder)

    async def _fill(self) -> None:
        """Wait for more until the policy closes the batch, then submit it."""
        builder = self._builder
        while True:
            run_s = self._run_s(builder.rows)
            now, state = time.monotonic(), builder.state()
            idle_at = self._idle_at(state, now)
            decision = decide(state, self._limits, now, run_s, idle_at=idle_at, draining=self._draining)
            if decision.reason in ("full", "bytes"):
                break
            left_s = max(0.0, decision.until - time.monotonic())
            # Claimed ahead or adopted: one top-up, now that the device is free. Or it waits though nobody was expected.
            if not builder.last_id or not (decision.reason or self._may_hold_turn):
                await self._claim("idle", hold_ms=self._hold_ms(left_s) if left_s else 0)
                continue
            if decision.reason:
                break
            wait = (builder.last_id, math.ceil(left_s * 1000))
            claim = await self._claim("top", hold_ms=self._hold_ms(left_s), after_entry=wait)
            if claim.kind == "empty" and claim.waiting:
                break  # the turn was lost to another: what waits is theirs
        if decision.reason not in ("full", "bytes") and self._may_hold_turn:
            self._release()
        self._submit(decision.reason or "window")

    def _idle_at(self, state: BatchState, now: float) -> float:
        """When nobody else will be expected. Never for a batch that explores: it waits out its window."""
        builder = self._builder
        if not self._limits.adaptive or state.rows >= self._limits.max_rows:
            return math.inf
        self._arrivals.came(builder.news(), learn=True)
        if builder.explores:
            return math.inf
        idle_at = self._arrivals.idle_at(now, state.oldest_at + self._limits.window_s)
        if idle_at <= now < state.oldest_at + self._limits.window_s and self._arrivals.explores():
            builder.explores = True
            return math.inf
        return idle_at

    def _expects_others(self, within_s: float, *, running: int = 0) -> bool:
        """Whether others are expected so soon after a request that comes now; or comes once so many `running` are
        answered."""
        return not self._limits.adaptive or self._arrivals.expects(within_s, running=running)

    # --- device busy

    async def _while_busy(self) -> None:
        """One claim ahead, or a wait for the device, whichever is due.

        A whole batch is worth looking for while they come whole; what is there when the device is nearly free is
        claimed in any case."""
        if len(self._on_device) > 1 or self._failure_detector.convicts or self._tracker.has_suspects:
            await self._until_freed(None)
            return
        running = self._on_device[0]
        backlog = running.closed in ("full", "bytes")
        forward_s = self._times.estimate(running.rows)
        run_s = forward_s + self._claim_s
        remaining_s = running.on_device_at + run_s - time.monotonic()
        if running.run_inline or not (backlog or self._expects_others(run_s)):
            early_s = remaining_s - self._claim_s - EARLY_S
            if not self.sole_worker or forward_s < 2 * EARLY_S:
                await self._until_freed(None)
            elif early_s > 0:
                await self._until_freed(early_s + EARLY_S / 2)
            else:
                await self._while_free()
            return
        lead_s = self._claim_s + self._tracker.fetch_s + self._tracker.decoder.mean_s * self._limits.max_rows
        soon = remaining_s <= lead_s
        if soon and self.sole_worker and self._last_id:  # nobody else could make a fuller batch of what comes now
            wait_ms = math.ceil(max(MIN_AHEAD_POLL_S, remaining_s) * 1000)
            claim = await self._claim_ahead(soon=True, after_entry=(self._last_id, wait_ms))
            if claim.entries or not claim.waiting:
                return
            self._waiting = 0  # what waits isn't for me, so somebody else is there: look again, but don't wait for it
        wanted = 1 if soon else self._limits.max_rows - self._builder.rows if backlog else math.inf
        if self._waiting >= wanted:
            await self._claim_ahead(soon=soon)
        poll_s = max(MIN_AHEAD_POLL_S, run_s / AHEAD_POLLS)
        if not soon:
            until_soon_s = max(MIN_AHEAD_POLL_S / 4, remaining_s - lead_s)
            poll_s = min(poll_s, until_soon_s) if backlog else until_soon_s
        self._waiting = math.inf
        await self._until_freed(poll_s)

    async def _claim_ahead(self, **how) -> Claim:
        claim = await self._claim("ahead", hold_ms=0, **how)
        state = self._builder.state()
        if not self._on_device:
            pass  # freed meanwhile: the batch is topped up first
        elif state.rows >= self._limits.max_rows or state.next_too_large:
            self._submit("full")
        elif state.bytes >= self._limits.max_bytes:
            self._submit("bytes")
        return claim

    async def _until_freed(self, timeout_s: float | None) -> None:
        """Wait until a batch leaves the device, or draining begins, or the time is up."""
        self._freed.clear()
        if self._draining:
            return
        handle = None
        if timeout_s is not None:
            handle = asyncio.get_running_loop().call_later(timeout_s, self._freed.set)
        try:
            await self._freed.wait()
        finally:
            if handle:
                handle.cancel()

    async def _until_free(self) -> None:
        while self._on_device:
            self._freed.clear()
            await self._freed.wait()

    # --- claiming and submitting

    async def _claim(self, mode: Mode, *, hold_ms: int, **how) -> Claim:
        """Claim into the batch being filled, with the room it has left."""
        builder = self._builder
        if mode != "ahead" and hold_ms > 0:
            self._may_hold_turn = True
        started = time.monotonic()
        claim = await self._claims.claim(
            mode,
            room_rows=max(1, self._limits.max_rows - builder.rows),
            room_bytes=max(1, self._limits.max_bytes - builder.bytes),
            held_rows=builder.rows,
            hold_ms=hold_ms,
            **how,
        )
        now = time.monotonic()
        if "after_bell_s" not in how and "after_entry" not in how:
            self._claim_s += 0.1 * (now - started - self._claim_s)
        self._waiting, self._last_id = claim.waiting, claim.last_id
        builder.next_too_large = claim.next_too_large
        builder.last_id = claim.last_id if mode != "ahead" else ""
        if claim.entries:
            builder.add(self._tracker.receive(claim.entries, claim.now_ms, now, solo=claim.kind == "isolated"))
        return claim

    def _submit(self, closed: CloseReason) -> None:
        now = time.monotonic()
        self._arrivals.came(self._builder.news(), learn=False)
        self._arrivals.closed(now, sole_worker=self.sole_worker)
        self._last_batch = batch = Batch(next(self._batch_ids), self._builder.claimed_entries, closed)
        self._builder = BatchBuilder()
        batch.on_device_at = now
        last = closed == "idle" and not self._expects_others(self._run_s(batch.rows))
        batch.run_inline = last or SHORT * self._times.estimate(batch.rows) < self._claim_s
        if self._free_since is not None and closed in ("full", "bytes"):
            all_there_at = max(claimed.admitted_at for claimed in batch.claimed_entries)
            self._tracker.metrics.starved.inc(max(0.0, now - max(self._free_since, all_there_at)))
        self._free_since = None
        self._may_hold_turn = False
        self._on_device.append(batch)
        self._engine.submit(batch)

    def _release(self) -> None:
        """Pass the turn on without waiting for the answer; if it gets lost, the turn expires by itself."""
        task = asyncio.create_task(self._release_quietly())
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release_quietly(self) -> None:
        try:
            await self._claims.release()
        except BrokerUnavailable as error:
            log.warning("giving the turn back failed: %s", error)

    def _run_s(self, rows: int) -> float:
        return self._times.estimate(rows) + self._claim_s

    def _hold_ms(self, seconds: float) -> int:
        return math.ceil(seconds * 1000) + TURN_SLACK_MS if self._limits.window_s > 0 else 0
