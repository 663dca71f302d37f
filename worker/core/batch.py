"""What the worker holds: riders (entries with all that becomes of them on the way) and batches of them."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.telemetry.trace_context import trace_id_of
from smartbatch.worker.batching.policy import BatchState, CloseReason

_PENDING: Future[None] = Future()  # stands for "not begun"; never resolved, never waited for


class ClaimedEntry:
    """One claimed entry. Written by one stage after the other, never by two at once:
    the claimer makes it, a decode thread fills `rows`, a device thread `outputs`. Times are monotonic seconds."""

    __slots__ = (
        "admitted_at",
        "cancelled",
        "claimed_at",
        "deadline_at",
        "decode_s",
        "decoded",
        "decoded_at",
        "entry",
        "error",
        "lost",
        "options",
        "outputs",
        "rows",
    )

    def __init__(self, entry: Entry, redis_now_ms: int, now: float) -> None:
        self.entry = entry
        self.claimed_at = now
        self.admitted_at = now - max(0, redis_now_ms - entry.t_ms) / 1000
        self.deadline_at = self.admitted_at + entry.timeout_ms / 1000
        self.decoded: Future[None] = _PENDING  # set when its decoding is begun; riders decoded together share one
        self.decoded_at = now
        self.decode_s = 0.0
        self.options: dict[str, Any] = {}
        self.rows: list[Any] = []
        self.outputs: list[Any] = []
        self.error: SmartBatchError | None = None
        self.cancelled = False  # its client is gone: run nothing, reply nothing
        self.lost = False  # its body is gone from Redis: give it up, its gateway will admit it again

    @property
    def alive(self) -> bool:
        return self.error is None and not self.cancelled and not self.lost


class Batch:
    """Riders that run together. Owned by the claimer until submitted, then by the engine, then by the finisher."""

    __slots__ = ("claimed_entries", "closed", "forward_s", "id", "on_device_at", "rows_run", "run_inline", "started_at")

    def __init__(self, batch_id: str, claimed_entries: list[ClaimedEntry], closed: CloseReason) -> None:
        self.id = batch_id
        self.claimed_entries = claimed_entries
        self.closed: CloseReason = closed
        self.run_inline = False  # nothing is claimed while it runs
        self.on_device_at = 0.0  # the claimer's guess of when it starts, to time its claims ahead
        self.started_at = 0.0
        self.forward_s = 0.0
        self.rows_run = 0  # without those that were dropped or failed before the forward

    @property
    def rows(self) -> int:
        return sum(claimed.entry.rows for claimed in self.claimed_entries)


class BatchBuilder:
    """The batch that the claimer is filling."""

    def __init__(self) -> None:
        self.claimed_entries: list[ClaimedEntry] = []
        self.rows = 0
        self.bytes = 0
        self.last_id = ""  # the group's last-delivered-id; empty until claimed with the device free
        self.next_too_large = False
        self._known = 0
        self.explores = False  # waits out its window although nobody is expected

    def __bool__(self) -> bool:
        return bool(self.claimed_entries)

    def add(self, claimed_entries: list[ClaimedEntry]) -> None:
        self.claimed_entries += claimed_entries
        for claimed in claimed_entries:
            self.rows += claimed.entry.rows
            self.bytes += claimed.entry.bytes

    def news(self) -> list[float]:
        """When the riders were admitted that came since this was asked last, in order."""
        known, self._known = self._known, len(self.claimed_entries)
        return [claimed.admitted_at for claimed in self.claimed_entries[known:]]

    def state(self) -> BatchState:
        """What the policy is asked about."""
        oldest = min((claimed.admitted_at for claimed in self.claimed_entries), default=time.monotonic())
        deadline = min((claimed.deadline_at for claimed in self.claimed_entries), default=float("inf"))
        return BatchState(self.rows, self.bytes, oldest, deadline, self.next_too_large)


def log_fields(entry: Entry, batch_id: str = "") -> dict[str, Any]:
    """What a log line says of an entry; nothing that its client sent."""
    facts = {"request_id": entry.id, "trace_id": trace_id_of(entry.trace), "batch_id": batch_id}
    known = {name: value for name, value in facts.items() if value}
    return {**known, "entry_id": entry.entry_id, "rows": entry.rows, "deliveries": entry.deliveries}
