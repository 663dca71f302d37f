"""Whether there is room for another request, as far as this gateway knows, and when to come back if there isn't.

`admit` decides, on Redis, for all gateways at once. After it has refused, what it would refuse too is refused here:
before the body is read and without asking Redis. That keeps a gateway responsive far beyond the workers' capacity.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence

from smartbatch.shared.broker.queue.admission import AdmitResult, AdmitStatus, Capacity, NewEntry
from smartbatch.shared.errors import DeadlineUnattainable, QueueFull, Unavailable

MAX_RETRY_AFTER_S = 60.0
RETRY_JITTER = 0.25  # of the time to come back, and at least a second: those refused together come back apart
REOPEN_BELOW = 0.95  # of what was full; else every place that becomes free would let a whole flush through
SPREAD_S = 10.0  # those refused are told to come back one after the other, as places become free, within so long
CLOSED_S = 0.25  # after so long without an answer from Redis what was learned is out of date


class AdmissionControl:
    """One per lane, in its event loop. Nothing here waits."""

    def __init__(
        self, max_entries: int, capacity: Callable[[], Capacity], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_entries = max_entries
        self.capacity = capacity
        self._clock = clock
        self._open_rows = 0
        self._closed: AdmitStatus | None = None  # why, or None while open
        self._closed_to_ms = 0.0  # requests with a timeout up to this are refused
        self._learned_at = 0.0
        self._tokens = 0.0  # places that have become free since, by the workers' rate
        self._tokens_at = 0.0
        self._turn_at = 0.0  # when the place is free for which the newest of those refused may come back

    def check(self, timeout_ms: int) -> None:
        """Take a place that became free, where there are few.

        Raises QueueFull or DeadlineUnattainable if a request with this timeout would be refused."""
        if self._closed is None or timeout_ms > self._closed_to_ms:
            return
        now = self._clock()
        rate = self.capacity().rows_per_s
        if not rate or now - self._learned_at > CLOSED_S:
            self._closed = None
            return
        self._tokens = min(self._tokens + (now - self._tokens_at) * rate, CLOSED_S * rate + 1)
        self._tokens_at = now
        if self._tokens < 1:
            raise self.refusal(self._closed, timeout_ms)
        self._tokens -= 1

    def learned(self, answer: AdmitResult, refused: Sequence[tuple[NewEntry, AdmitStatus]]) -> None:
        """Take in what Redis answered to a flush."""
        self._open_rows = answer.open_rows
        self._learned_at = now = self._clock()
        full = answer.waiting >= self._max_entries  # else it was for its bytes, and a smaller one may fit
        closed = [(math.inf, v) for _, v in refused if v == AdmitStatus.FULL and full]
        # What a request of many rows learned says nothing of one row, unless that would be late as well.
        late = self._wait_s(1) * 1000
        closed += [(r.timeout_ms, v) for r, v in refused if v == AdmitStatus.TOO_LATE and late > r.timeout_ms]
        if closed:
            if self._closed is None:
                self._tokens, self._tokens_at = 0.0, now
            self._closed_to_ms, self._closed = max(closed)
        elif self._closed is not None and self._has_room(answer):
            self._closed = None

    def _has_room(self, answer: AdmitResult) -> bool:
        if self._closed == AdmitStatus.FULL:
            return answer.waiting < REOPEN_BELOW * self._max_entries
        return self._wait_s(1) * 1000 < REOPEN_BELOW * self._closed_to_ms

    def refusal(self, status: AdmitStatus, timeout_ms: int, rows: int = 1) -> Unavailable:
        """Make the error that says why, and when to come back."""
        if status == AdmitStatus.TOO_LATE:
            wait_s, timeout_s = self._wait_s(rows), timeout_ms / 1000
            own = f" with the {rows} of this request" if rows > 1 else ""
            ahead = f"{self._open_rows} rows are ahead in the queue and take about {wait_s:.3g} s{own}"
            return DeadlineUnattainable(
                f"{ahead}; the timeout is {timeout_s:g} s", self._turn_s(wait_s - timeout_s, rows)
            )
        detail = "the queue is full (MAX_QUEUE or MAX_QUEUE_BYTES)"
        return QueueFull(detail, self._turn_s(self._open_s(), rows))

    def _turn_s(self, seconds: float, rows: int) -> float:
        """When to come back: in so many seconds at the earliest, and each in its turn. If all who were refused came as
        soon as there may be a place, most would be refused again, and refusing them would cost more than the work."""
        now, capacity = self._clock(), self.capacity()
        if capacity.rows_per_s:
            every_s = rows * capacity.gateways / capacity.rows_per_s  # the other gateways send theirs back, too
            self._turn_at = min(max(self._turn_at, now) + every_s, now + SPREAD_S)
            seconds = max(seconds, self._turn_at - now)
        return _jittered(seconds)

    def retry_after_s(self) -> float:
        """When what is open now will have been worked off, by the rate the ready workers measured; jittered."""
        return _jittered(self._open_s())

    def _open_s(self) -> float:
        rate = self.capacity().rows_per_s
        return self._open_rows / rate if rate else 0.0

    def _wait_s(self, rows: int) -> float:
        capacity = self.capacity()
        return (self._open_rows + rows) / capacity.rows_per_s + capacity.batch_s if capacity.rows_per_s else 0.0


def _jittered(seconds: float) -> float:
    seconds = min(MAX_RETRY_AFTER_S, max(0.5, seconds))
    return seconds + max(1.0, seconds * RETRY_JITTER) * random.random()
