"""The batcher: when to claim entries from the stream into the pool, and when to submit a batch of them to the engine.

    device free    claim, or wait for the wakeup and claim; wait for more until the policy closes the batch; submit the
                   rows of the pool that cost least together
    device busy    claim ahead entries that no idle worker could claim, and submit one batch behind the running one.
                   During a very short batch, or one that no other arrival is likely to follow, claim nothing: the next
                   claim is sent when it ends
    worker dead    claim one entry of a dead worker at a time and run it isolated
    moving         submit what is in the pool, and claim from another partition from then on

claiming.py makes the claims, policy.py closes batches, and pool.py takes the rows of one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Sequence

from smartbatch.shared.broker.queue.claims import Claim, Outcome
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.worker.batching.arrivals import ArrivalPredictor
from smartbatch.worker.batching.batch_times import BatchTimes
from smartbatch.worker.batching.claiming import Claiming, Source
from smartbatch.worker.batching.policy import decide
from smartbatch.worker.batching.pool import Pool
from smartbatch.worker.batching.throughput import ThroughputEstimator
from smartbatch.worker.core.batch import Batch, BatchState, CloseReason, Limits
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.execution.engine import Engine

log = logging.getLogger(__name__)

WAKEUP_S = 0.5  # longest wait for a wakeup: a worker that crashed with the fill lock delays others no longer
MIN_AHEAD_POLL_S = 0.002
AHEAD_POLLS = 4  # polls for a batch to claim ahead, during one forward
IDLE_OTHERS = 4  # nothing is claimed ahead if so many are expected to be idle: then hardly ever all are busy
# The sole worker sends the next claim this long before the end of a batch that no arrival is likely to follow, so that
# only the replies are left to do afterwards. (asyncio's timers count whole milliseconds.)
EARLY_S = 0.001
SHORT_FACTOR = 4  # a forward so many times shorter than a claim ends before a claim made meanwhile returns
BACKLOG = ("full", "bytes", "cost")  # other entries waited when such a batch was closed
PUBLISH_S = 0.5  # usual time for an outcome to get to Redis, and more
RETRY_S = (0.02, 0.1, 0.25, 0.5)


class Batcher:
    """One long-lived task, the only one that claims. `device_freed` is called in the event loop."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        costs: CostModel,
        throughput: ThroughputEstimator,
        worker_id: str,
    ) -> None:
        self._next_source: Source | None = None  # once it has to move
        self._engine = engine
        self._times = BatchTimes(costs)
        self._throughput = throughput
        self.sized = False  # rows of the model have sizes; set before `run`
        self._arrivals = ArrivalPredictor()
        self._last_batch: Batch | None = None
        self._batch_ids = (f"{worker_id}-{n}" for n in itertools.count(1))
        self._pool = Pool()
        self._claiming = Claiming(self._pool, self._times, limits)
        self._on_device: list[Batch] = []  # the running batch and the one claimed ahead
        self._topped_up: Batch | None = None  # behind this one, a pool that was complete was topped up
        self._freed = asyncio.Event()
        self._drained = asyncio.Event()
        self._draining = False
        self._isolated = False  # the pool holds an entry of a dead worker, alone
        self._free_since: float | None = None
        self._idle_s = 0.0  # how long the device was free before the last claim of a first entry

    def enter(self, source: Source) -> None:
        """Claim from this partition. Called once before `run`."""
        self._claiming.enter(source)
        self._queue, self._tracker, self._failure_detector = source.queue, source.tracker, source.failure_detector

    # --- called by others

    def move_to(self, source: Source) -> None:
        """Claim from another partition, after what is in the pool has been submitted."""
        self._next_source = None if source is self.source else source
        self._freed.set()
        self._queue.interrupt()

    @property
    def idle(self) -> bool:
        """Whether it holds no entry, and Redis has the outcome of the last if that was isolated."""
        return not self._pool and not self._on_device and not self._isolated

    async def drain(self) -> None:
        """Stop claiming. Returns when all claimed entries have run."""
        self._draining = True
        self._freed.set()
        await self._drained.wait()

    @property
    def source(self) -> Source:
        """The partition that it claims from."""
        return self._claiming.source

    @property
    def limits(self) -> Limits:
        return self._claiming.limits

    def set_limits(self, limits: Limits) -> None:
        """Change the limits from the next decision on. The batch being filled may already exceed them."""
        self._claiming.limits = limits
        self._throughput.max_rows = limits.max_rows

    def batch_encoded(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """Pass the outcomes on to the partition that the batch came from."""
        batch.source.tracker.finish(batch, outcomes)

    def device_freed(self, batch: Batch, at: float) -> None:
        """Record that a batch left the device, and wake the task for the next one."""
        self._on_device.remove(batch)
        if batch.closed != "isolated" and batch.rows_run:
            self._record(batch, at - batch.on_device_at - batch.device_wait_s)
        self._arrivals.batch_answered(len(batch.ended_entries), at, last=batch is self._last_batch)
        if self._on_device:
            self._on_device[0].on_device_at = at
        else:
            self._free_since = at
        self._freed.set()
        self._queue.wake()

    def _record(self, batch: Batch, seconds: float) -> None:
        """Learn from a batch that was on the device for this long."""
        self._times.record_batch(batch.rows_run, seconds)
        if batch.row_refs is None:
            self._throughput.record(batch.rows_run, seconds, backlog=batch.closed in BACKLOG)
            return
        rows = [
            (claimed.sizes[index][0], claimed.entry.bytes / len(claimed.sizes)) for claimed, index in batch.row_refs
        ]
        self._throughput.record_sized(rows, seconds, batch.predicted_s)

    async def run(self) -> None:
        """Claim, fill and submit until drained. Never returns: a task that ends means an error."""
        self._pool.sized = self.sized
        self._times.started()
        failures = 0
        while not self._draining:
            try:
                if self._next_source is not None:
                    await self._move(self._next_source)
                await (self._while_busy() if self._on_device else self._while_free())
                failures = 0
            except BrokerUnavailable as error:
                self._tracker.metrics.broker_errors.inc()
                log.warning("claim failed: %s", error)
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1
        await self._empty_pool()
        await self._until_free()
        self._drained.set()
        await asyncio.Event().wait()

    async def _move(self, source: Source) -> None:
        await self._empty_pool()
        self._next_source = None
        self.enter(source)

    async def _empty_pool(self) -> None:
        while self._pool:
            await self._until_decoded()
            self._submit("drain")

    # --- device free

    async def _while_free(self) -> None:
        if not self._pool:
            self._pool.add(self._tracker.take_suspect())
            self._isolated = bool(self._pool)
        if not self._isolated:
            self._pool.add(self._tracker.take_adopted())
        if not self._pool and not await self._claim_first():
            return
        if self._isolated:
            await self._run_isolated()
        else:
            await self._fill()

    async def _claim_first(self) -> bool:
        """Claim for an empty batch: at once if entries wait, else after the wakeup. Returns whether it got any."""
        running = sum(len(batch.claimed_entries) for batch in self._on_device)
        window_s = self.limits.window_s
        # Without a likely arrival don't take the fill lock: then it needs no release.
        hold_ms = self._claiming.hold_ms(window_s) if self._arrival_likely(window_s, running=running) else 0
        if dead_worker := next(iter(self._failure_detector.dead_workers), None):
            claim = await self._claiming.claim("idle", hold_ms=hold_ms, dead_worker=dead_worker)
            self._isolated = claim.kind == "isolated" and bool(self._pool)
            if claim.kind != "isolated" and dead_worker in self._failure_detector.dead_workers:
                self._failure_detector.dead_workers.remove(dead_worker)  # it has no entries left
            if claim.kind != "empty":
                return bool(self._pool)
        await self._claiming.claim("idle", hold_ms=hold_ms, after_wakeup_s=WAKEUP_S)
        if self._free_since is not None:
            self._idle_s = time.monotonic() - self._free_since
        return bool(self._pool)

    async def _run_isolated(self) -> None:
        """Run one entry of a dead worker in a batch of its own, and wait until Redis has its outcome: if the next entry
        kills this worker, this one must not be suspected too."""
        claimed_entries = list(self._pool.entries)
        self._submit("isolated")
        await self._until_free()
        finished = asyncio.create_task(self._tracker.until_finished(claimed_entries))
        while not (await asyncio.wait((finished,), timeout=PUBLISH_S))[0] and self._next_source is None:
            pass
        finished.cancel()  # the broker is away, so go on elsewhere
        self._isolated = False

    async def _fill(self) -> None:
        """Wait for more entries until the policy closes the batch, then submit it."""
        pool = self._pool
        if pool.cut and (self._failure_detector.dead_workers or self._tracker.has_suspects):
            # Without topping up: the pool must be empty before a dead worker's entries are claimed.
            await self._until_decoded()
            self._submit("cost")
            return
        while True:
            run_s = self._times.run_s(pool.rows)
            now, state = time.monotonic(), pool.state()
            idle_at = self._idle_at(state, now)
            decision = decide(state, self.limits, now, run_s, idle_at=idle_at, draining=self._draining)
            if decision.reason in ("full", "bytes"):
                break
            left_s = max(0.0, decision.until - time.monotonic())
            # Top up once with the device free, if the batch was claimed ahead or adopted; and take the fill lock before
            # waiting, if the first claim did not.
            if not pool.last_id or not (decision.reason or self._claiming.may_hold_fill_lock):
                await self._claiming.claim("idle", hold_ms=self._claiming.hold_ms(left_s) if left_s else 0)
                continue
            if decision.reason:
                break
            wait = (pool.last_id, math.ceil(left_s * 1000))
            claim = await self._claiming.claim("top", hold_ms=self._claiming.hold_ms(left_s), after_entry=wait)
            if claim.kind == "empty" and claim.waiting:
                break  # another worker holds the fill lock now: the waiting entries are for its batch
        if decision.reason not in ("full", "bytes") and self._claiming.may_hold_fill_lock:
            self._claiming.release_fill_lock()
        await self._until_decoded()
        self._submit(decision.reason or "window")

    async def _until_decoded(self) -> None:
        """Wait until the next batch can be taken from the pool.

        Of a sized model all entries should be decoded by then. Those that still aren't after the window, and after the
        time that one batch more would take, go without the others.
        """
        pool = self._pool
        if pool.ready(self.limits.max_rows):
            return
        now = time.monotonic()
        together_until = max(now + self._times.run_s(1), pool.state().oldest_at + self.limits.window_s)
        while not pool.ready(self.limits.max_rows if now < together_until else 1):
            until = min(claimed.deadline_at for claimed in pool.entries)
            if now < together_until:
                until = min(until, together_until)
            decoding = [asyncio.wrap_future(decoded) for decoded in {claimed.decoded for claimed in pool.entries}]
            await asyncio.wait(decoding, timeout=max(0.0, until - now), return_when=asyncio.FIRST_COMPLETED)
            now = time.monotonic()

    def _idle_at(self, state: BatchState, now: float) -> float:
        """Return when another arrival stops being likely, or now if a row more costs as much as a batch of its own;
        infinity for a batch that explores."""
        pool = self._pool
        if not self.limits.adaptive or state.rows >= self.limits.max_rows:
            return math.inf
        self._arrivals.observe(pool.new_arrivals(), learn=True)
        if not self._times.waiting_pays(state.rows):
            return now
        if pool.explores:
            return math.inf
        idle_at = self._arrivals.idle_at(now, state.oldest_at + self.limits.window_s)
        if idle_at <= now < state.oldest_at + self.limits.window_s and self._arrivals.should_explore():
            pool.explores = True
            return math.inf
        return idle_at

    def _arrival_likely(self, within_s: float, *, running: int = 0) -> bool:
        """Return whether an arrival is likely within `within_s` of one that comes now, or that comes after the replies
        to the `running` requests."""
        return not self.limits.adaptive or self._arrivals.expects(within_s, running=running)

    # --- device busy

    async def _while_busy(self) -> None:
        """Claim ahead once, or wait for the device.

        Under a backlog claim only what fills the pool; once the device is nearly free, claim whatever waits. If the
        last batch left rows in the pool, the next one is submitted then.
        """
        if len(self._on_device) > 1 or self._failure_detector.dead_workers or self._tracker.has_suspects:
            await self._until_freed(None)
            return
        running = self._on_device[0]
        backlog = running.closed in BACKLOG
        forward_s = running.predicted_s
        run_s = forward_s + self._times.claim_s
        remaining_s = running.on_device_at + running.device_wait_s + run_s - time.monotonic()
        leave_it = not self._pool and self._others_idle(forward_s)
        if running.run_inline or leave_it or not (backlog or self._arrival_likely(run_s)):
            await self._await_end(forward_s, remaining_s)
            return
        lead_s = self._times.claim_s + self._tracker.fetch_s + self._tracker.decoder.mean_s * self.limits.max_rows
        soon, room = remaining_s <= lead_s, self._claiming.room()
        if soon and (closed := self._complete()):
            if self._claiming.waiting and room > 0 and self._topped_up is not running:
                self._topped_up = running
                await self._claim_ahead(soon=True)
            if len(self._on_device) == 1:
                if self._pool.ready(self.limits.max_rows):
                    self._submit(closed)
                else:
                    await self._until_freed(MIN_AHEAD_POLL_S)
            return
        # No other worker could make a fuller batch of these.
        if soon and room > 0 and self._claiming.sole_worker and self._claiming.last_id:
            wait_ms = math.ceil(max(MIN_AHEAD_POLL_S, remaining_s) * 1000)
            claim = await self._claim_ahead(soon=True, after_entry=(self._claiming.last_id, wait_ms))
            if claim.entries or not claim.waiting:
                return
            self._claiming.waiting = 0  # the entries were left to another worker, so there is one: poll from now on
        wanted = 1 if soon else room if backlog else math.inf
        if room > 0 and self._claiming.waiting >= wanted:
            await self._claim_ahead(soon=soon)
        poll_s = max(MIN_AHEAD_POLL_S, run_s / AHEAD_POLLS)
        if not soon:
            until_soon_s = max(MIN_AHEAD_POLL_S / 4, remaining_s - lead_s)
            poll_s = min(poll_s, until_soon_s) if backlog else until_soon_s
        self._claiming.waiting = math.inf
        await self._until_freed(poll_s)

    def _others_idle(self, forward_s: float) -> bool:
        """Whether several workers are idle, if the others wait for their batches as long as this one did. They claim
        all that comes, and with dozens of workers empty claims would take an eighth of the broker's time."""
        return (self.source.workers - 1) * self._idle_s > IDLE_OTHERS * (self._idle_s + forward_s)

    async def _await_end(self, forward_s: float, remaining_s: float) -> None:
        """Wait for the end of a batch that no arrival is likely to follow; the sole worker claims EARLY_S before it."""
        early_s = remaining_s - self._times.claim_s - EARLY_S
        if not self._claiming.sole_worker or forward_s < 2 * EARLY_S:
            await self._until_freed(None)
        elif early_s > 0:
            await self._until_freed(early_s + EARLY_S / 2)
        else:
            await self._while_free()

    async def _claim_ahead(self, **how) -> Claim:
        """Claim while the device is busy; submit the batch behind the running one if it is full."""
        claim = await self._claiming.claim("ahead", hold_ms=0, **how)
        closed = self._complete()
        # If the device became free meanwhile, the batch is topped up first.
        ready = self._pool.ready(self.limits.max_rows)
        if closed in ("full", "bytes") and len(self._on_device) == 1 and ready:
            self._submit(closed)
        return claim

    def _complete(self) -> CloseReason | None:
        """Return why the rows in the pool need not wait for others; None if they may."""
        state = self._pool.state()
        if state.rows >= self.limits.max_rows or state.next_too_large:
            return "full"
        if state.bytes >= self.limits.max_bytes:
            return "bytes"
        return "cost" if self._pool.cut else None

    async def _until_freed(self, timeout_s: float | None) -> None:
        """Wait until a batch leaves the device, draining begins, or the timeout passes."""
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

    # --- submit

    def _submit(self, closed: CloseReason) -> None:
        """Close the batch being filled and hand it to the engine."""
        now = time.monotonic()
        self._arrivals.observe(self._pool.new_arrivals(), learn=False)
        self._arrivals.batch_closed(now, sole_worker=self._claiming.sole_worker)
        pool = self._pool
        part = pool.take_all() if closed == "isolated" else pool.take(self._times.of, *self._batch_limits())
        if pool.cut:
            closed = "full" if part.rows >= self.limits.max_rows else "cost"
        self._last_batch = batch = Batch(next(self._batch_ids), part.claimed_entries, closed, part.row_refs)
        batch.source = self.source
        batch.on_device_at = now
        if part.row_refs:
            self._times.row_size = part.size
        batch.predicted_s = self._times.forward_s(part.rows)
        last = closed == "idle" and not self._arrival_likely(batch.predicted_s + self._times.claim_s)
        batch.run_inline = last or SHORT_FACTOR * batch.predicted_s < self._times.claim_s
        if self._free_since is not None and closed in ("full", "bytes"):
            complete_at = max(claimed.admitted_at for claimed in batch.claimed_entries)
            self._tracker.metrics.starved.inc(max(0.0, now - max(self._free_since, complete_at)))
        self._free_since = None
        self._claiming.may_hold_fill_lock = False
        self._on_device.append(batch)
        self._engine.submit(batch)

    def _batch_limits(self) -> tuple[int, float]:
        """Return the most rows of one batch, and the most rows times size."""
        tokens = [self.limits.max_tokens or math.inf, self._engine.memory_limit] if self.sized else [math.inf]
        return self.limits.max_rows, min(tokens)
