"""Who is dead: suspected by the clock, convicted by observation. Pure.

A lapsed lease alone proves nothing: Redis may have been paused, or everybody at once, or a clock may have
stepped. A worker is convicted when its lapsed lease shows the same score twice, at least CONVICT_AFTER_S apart on
my own monotonic clock, while my own beats went through all the time in between.
"""

from __future__ import annotations

from collections.abc import Mapping

from smartbatch.shared.broker.queue.claims import DeadWorker

CONVICT_AFTER_S = 1.0
MAX_GAP_S = 1.5  # between two of my own beats; after a longer one I was paused myself and know nothing


class FailureDetector:
    """One worker's view of the others. Called by the heartbeat; the claimer reads `convicts`."""

    def __init__(self) -> None:
        self._suspects: dict[str, tuple[bytes, float]] = {}
        self._last_beat_at: float | None = None
        self.convicts: list[DeadWorker] = []

    def beat_succeeded(self, lapsed: Mapping[str, bytes], now: float) -> list[DeadWorker]:
        """Take in what a beat returned. `now`: monotonic seconds. Returns the newly convicted."""
        if self._last_beat_at is not None and now - self._last_beat_at > MAX_GAP_S:
            self._suspects.clear()
        self._last_beat_at = now
        before = set(self.convicts)
        suspects = {}
        self.convicts = []
        for worker_id, score in lapsed.items():
            seen_score, since = self._suspects.get(worker_id, (score, now))
            if seen_score != score:
                since = now
            suspects[worker_id] = (score, since)
            if now - since >= CONVICT_AFTER_S:
                self.convicts.append(DeadWorker(worker_id, score))
        self._suspects = suspects
        return [dead_worker for dead_worker in self.convicts if dead_worker not in before]

    def beat_failed(self) -> None:
        self._suspects.clear()
        self.convicts.clear()
