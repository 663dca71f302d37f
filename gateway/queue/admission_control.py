"""Rejects requests that the broker would reject, from what it answered last, and computes when to retry.

The broker's `admit` decides, for all gateways at once. After it has rejected a request, this gateway rejects what
`admit` would reject too, before it reads the body and without a call. So a gateway stays responsive far beyond the
workers' capacity.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence

from smartbatch.shared.broker.queue.admission import AdmitResult, AdmitStatus, Capacity, NewEntry
from smartbatch.shared.errors import DeadlineExceeded, DeadlineUnattainable, QueueFull, SmartBatchError, Unavailable

MAX_RETRY_AFTER_S = 60.0
RETRY_JITTER = 0.25  # of the delay, and at least a second: clients rejected together retry apart
REOPEN_BELOW = 0.95  # of what was full; otherwise every freed place would let a whole flush through
SPREAD_S = 10.0  # rejected clients are told to retry one after the other, as places become free, within this time
CLOSED_S = 0.25  # without an answer from the broker for so long, the last one is out of date


class AdmissionControl:
    """One per model queue, in its event loop. Nothing here waits."""

    def __init__(
        self, max_entries: int, capacity: Callable[[], Capacity], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_entries = max_entries
        self.capacity = capacity
        self._clock = clock
        self._open_rows = 0.0  # usual rows: what is inflight costs as much as these
        self._closed: AdmitStatus | None = None  # why requests are rejected, or None while open
        self._closed_to_ms = 0.0  # requests with a timeout up to this are rejected
        self._updated_at = 0.0
        self._tokens = 0.0  # places that have become free since, by the workers' rate
        self._tokens_at = 0.0
        self._next_retry_at = 0.0  # when a place is free for the client that was rejected last

    def check(self, timeout_ms: int) -> None:
        """Take a token if places are scarce. Raises QueueFull or DeadlineUnattainable if a request with this timeout
        would be rejected."""
        if self._closed is None or timeout_ms > self._closed_to_ms:
            return
        now = self._clock()
        rate = self.capacity().rows_per_s
        if not rate or now - self._updated_at > CLOSED_S:
            self._closed = None
            return
        self._tokens = min(self._tokens + (now - self._tokens_at) * rate, CLOSED_S * rate + 1)
        self._tokens_at = now
        if self._tokens < 1:
            raise self.rejection(self._closed, timeout_ms)
        self._tokens -= 1

    def check_rows(self, rows: int, timeout_ms: int) -> None:
        """Raises DeadlineUnattainable if so many rows would not be done in time. The broker only sees some of them at
        once, so it can't tell."""
        if self._clock() - self._updated_at > CLOSED_S:
            self._open_rows = 0  # out of date
        if self._wait_s(rows) * 1000 > timeout_ms:
            raise self.rejection(AdmitStatus.DEADLINE_UNATTAINABLE, timeout_ms, rows)

    def update(self, result: AdmitResult, rejected: Sequence[tuple[NewEntry, AdmitStatus]]) -> None:
        """Take over the broker's answer to a flush."""
        self._open_rows = self.capacity().cost(result.inflight_rows, result.inflight_bytes)
        self._updated_at = now = self._clock()
        if not rejected and self._closed is None:
            return
        full = result.waiting >= self.max_entries  # otherwise its bytes were too many, and a smaller one may fit
        closed = [(math.inf, status) for _, status in rejected if status == AdmitStatus.FULL and full]
        # That a request of many rows was too late says nothing of one row, unless one row would be late as well.
        late_ms = self._wait_s(1) * 1000
        closed += [
            (entry.timeout_ms, status)
            for entry, status in rejected
            if status == AdmitStatus.DEADLINE_UNATTAINABLE and late_ms > entry.timeout_ms
        ]
        if closed:
            if self._closed is None:
                self._tokens, self._tokens_at = 0.0, now
            self._closed_to_ms, self._closed = max(closed)
        elif self._closed is not None and self._has_room(result):
            self._closed = None

    def _has_room(self, result: AdmitResult) -> bool:
        if self._closed == AdmitStatus.FULL:
            return result.waiting < REOPEN_BELOW * self.max_entries
        return self._wait_s(1) * 1000 < REOPEN_BELOW * self._closed_to_ms

    def rejection(self, status: AdmitStatus, timeout_ms: int, rows: int = 1, size_bytes: int = 0) -> Unavailable:
        """Return the error that says why a request is rejected and when to retry. Without `size_bytes` it counts as
        usual rows."""
        cost = self.capacity().cost(rows, size_bytes) if size_bytes else rows
        if status is AdmitStatus.DEADLINE_UNATTAINABLE:
            retry_s = self._next_retry_s(self._wait_s(cost) - timeout_ms / 1000, cost)
            return DeadlineUnattainable(self._why_late(timeout_ms, cost), retry_s)
        detail = "the queue is full (MAX_QUEUE or MAX_QUEUE_BYTES)"
        if self._awaits_start():
            return QueueFull(f"{detail}; {self._why_no_worker()}", _jittered(self.capacity().start_s))
        return QueueFull(detail, self._next_retry_s(self._backlog_s(), cost))

    def expiry(self, waited_s: float) -> SmartBatchError:
        """Return the error of a request that was not answered within its timeout."""
        detail = f"not answered within {waited_s:.3g} s"
        if self._awaits_start():
            return Unavailable(f"{detail}: {self._why_no_worker()}", _jittered(self.capacity().start_s))
        return DeadlineExceeded(detail)

    def _awaits_start(self) -> bool:
        """Whether there is no ready worker and it is known how long the start of one takes."""
        capacity = self.capacity()
        return not capacity.workers and capacity.start_s > 0

    def _why_no_worker(self) -> str:
        return f"no worker is ready, and the last one took {self.capacity().start_s:.3g} s to start"

    def _why_late(self, timeout_ms: int, cost: float) -> str:
        """Compute the wait from the rounded numbers that the text shows, so that a reader who checks it gets the same.
        It exceeds the timeout, unless it has fallen since a rejection and not yet by enough to reopen."""
        capacity, timeout_s = self.capacity(), timeout_ms / 1000
        rate, ahead, own = float(f"{capacity.rows_per_s:.3g}"), round(self._open_rows), round(cost, 1)
        usual = " of the usual size" if capacity.byte_weight else ""
        if not rate:
            return f"the timeout of {timeout_s:g} s is too short for {ahead} rows ahead"
        queue_s, batch_s = round((ahead + own) / rate, 2), round(capacity.batch_s, 2)
        wait_s = round(queue_s + batch_s, 2)
        text = (
            f"{ahead} row{'s' * (ahead != 1)}{usual} ahead and {own:g} of this request at {rate:g} rows/s: "
            f"{_decimal(queue_s)} s, plus {_decimal(batch_s)} s for its own batch = {_decimal(wait_s)} s; "
        )
        if wait_s <= timeout_s and self._closed is AdmitStatus.DEADLINE_UNATTAINABLE:
            closed_to_s = self._closed_to_ms / 1000
            reopen_s = REOPEN_BELOW * closed_to_s
            return f"{text}timeouts up to {closed_to_s:g} s are accepted again below {reopen_s:g} s"
        return f"{text}the timeout is {timeout_s:g} s"

    def _next_retry_s(self, seconds: float, rows: float) -> float:
        """Return a retry delay of at least `seconds`, later than those of the clients rejected before. If all retried
        as soon as a place may be free, most would be rejected again, which would cost more than the work."""
        now, capacity = self._clock(), self.capacity()
        if capacity.rows_per_s:
            every_s = rows * capacity.gateways / capacity.rows_per_s  # the other gateways' clients retry too
            self._next_retry_at = min(max(self._next_retry_at, now) + every_s, now + SPREAD_S)
            seconds = max(seconds, self._next_retry_at - now)
        return _jittered(seconds)

    def retry_after_s(self) -> float:
        """Return the jittered time in which ready workers finish what is open now."""
        return _jittered(self._backlog_s())

    def _backlog_s(self) -> float:
        rate = self.capacity().rows_per_s
        return self._open_rows / rate if rate else 0.0

    def _wait_s(self, rows: float) -> float:
        capacity = self.capacity()
        return (self._open_rows + rows) / capacity.rows_per_s + capacity.batch_s if capacity.rows_per_s else 0.0


def _decimal(seconds: float) -> str:
    return f"{seconds:.2f}".rstrip("0").rstrip(".")


def _jittered(seconds: float) -> float:
    seconds = min(MAX_RETRY_AFTER_S, max(0.5, seconds))
    return seconds + max(1.0, seconds * RETRY_JITTER) * random.random()
