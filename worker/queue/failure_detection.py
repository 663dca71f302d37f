"""Which workers are dead: suspected by an expired lease, confirmed by observation. Pure.

An expired lease alone proves nothing: Redis may have been paused, or all workers at once, or a clock may have stepped.
A worker counts as dead when its expired lease shows the same score twice, at least DEAD_AFTER_S apart on the observer's
monotonic clock, while the observer's own heartbeats succeeded all the time in between.
"""

from __future__ import annotations

from collections.abc import Mapping

from smartbatch.shared.broker.queue.claims import DeadWorker

DEAD_AFTER_S = 1.0
MAX_GAP_S = 1.5  # between two own heartbeats; a longer gap means that this process was paused: start over


class FailureDetector:
    """One worker's view of the others. Called by the heartbeat; the batcher reads and shortens `dead_workers`."""

    def __init__(self) -> None:
        self._suspects: dict[str, tuple[bytes, float]] = {}  # score of the expired lease, time of its first observation
        self._last_success_at: float | None = None
        self.dead_workers: list[DeadWorker] = []

    def heartbeat_succeeded(self, expired: Mapping[str, bytes], now: float) -> list[DeadWorker]:
        """Add an observation: expired leases with their scores, at `now` (monotonic). Returns newly dead workers."""
        if self._last_success_at is not None and now - self._last_success_at > MAX_GAP_S:
            self._suspects.clear()
        self._last_success_at = now
        before = set(self.dead_workers)
        suspects = {}
        self.dead_workers = []
        for worker_id, score in expired.items():
            seen_score, since = self._suspects.get(worker_id, (score, now))
            if seen_score != score:
                since = now
            suspects[worker_id] = (score, since)
            if now - since >= DEAD_AFTER_S:
                self.dead_workers.append(DeadWorker(worker_id, score))
        self._suspects = suspects
        return [dead_worker for dead_worker in self.dead_workers if dead_worker not in before]

    def heartbeat_failed(self) -> None:
        self._suspects.clear()
        self.dead_workers.clear()
