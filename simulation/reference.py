"""The reference for batching: one in-process queue for all devices, where only the devices take time.

One batch fills at a time, and the same policy closes it; a free device then runs it.
"""

from __future__ import annotations

import heapq
from collections import deque

from simulation.arrivals import NEVER, Arrivals
from simulation.costs import Curve
from simulation.outcomes import Outcomes
from smartbatch.worker.batching.policy import BatchState, Limits, decide


def one_queue(
    arrivals: Arrivals, devices: int, curve: Curve, limits: Limits, outcomes: Outcomes, timeout_s: float = 5.0
) -> None:
    """Run every arrival and record it in `outcomes`. Nothing is rejected."""
    waiting: deque[float] = deque()
    ends: list[float] = []  # of the running batches
    now = 0.0
    while waiting or arrivals.next_at < NEVER:
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        while arrivals.next_at <= now:
            waiting.append(arrivals.pop())
            outcomes.arrived()
        wake = arrivals.next_at
        if waiting and len(ends) < devices:
            rows = min(len(waiting), limits.max_rows)
            state = BatchState(rows, rows, waiting[0], waiting[0] + timeout_s)
            decision = decide(state, limits, now, curve(rows))
            if decision.reason:
                end = now + curve(rows)
                heapq.heappush(ends, end)
                outcomes.batch(rows, decision.reason, now, curve(rows))
                for _ in range(rows):
                    at = waiting.popleft()
                    outcomes.add("ok" if end <= at + timeout_s else "late", at, end)
                continue
            wake = min(wake, decision.until)
        elif waiting:
            wake = min(wake, ends[0])
        now = max(now, wake)
