"""Claimed entries and batches, which the worker's stages pass to each other.

Times are monotonic seconds of this process.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any, Literal

import msgspec

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import SmartBatchError, from_wire
from smartbatch.shared.telemetry.trace_context import trace_id_of

CloseReason = Literal["full", "bytes", "window", "idle", "deadline", "drain", "isolated"]
"""Why a batch was closed. `idle`: no other arrival is likely within the window. `isolated`: it holds one entry of a
dead worker, which must not share a batch."""

_NOT_STARTED: Future[None] = Future()  # never resolved, never waited for


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one batch."""

    max_rows: int
    max_bytes: int
    window_s: float
    adaptive: bool = True  # the window ends early once no other arrival is likely


class BatchState(msgspec.Struct, frozen=True):
    """What the batch being filled holds so far: the input of the batching policy."""

    rows: int
    bytes: int
    oldest_at: float  # admission of the oldest entry
    deadline_at: float  # earliest deadline of any entry
    next_too_large: bool = False  # the next waiting entry has more rows than the batch has room for


class ClaimedEntry:
    """One claimed entry. One stage at a time writes it: the batcher creates it, a decode thread fills `rows`, a device
    thread fills `outputs`."""

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
        "first_row",
        "lost",
        "options",
        "outputs",
        "partial",
        "row_errors",
        "rows",
    )

    def __init__(self, entry: Entry, redis_now_ms: int, now: float) -> None:
        self.entry = entry
        self.claimed_at = now
        self.admitted_at = now - max(0, redis_now_ms - entry.t_ms) / 1000
        self.deadline_at = self.admitted_at + entry.timeout_ms / 1000
        self.decoded: Future[None] = _NOT_STARTED  # entries that are decoded together share one future
        self.decoded_at = now
        self.decode_s = 0.0
        self.options: dict[str, Any] = {}
        self.rows: list[Any] = []
        self.outputs: list[Any] = []
        self.error: SmartBatchError | None = None
        self.partial = False  # rows may fail alone
        self.first_row: int | None = None  # its place in the request, of which this is a part
        self.row_errors: dict[int, SmartBatchError] = {}  # of a partial result
        self.cancelled = False  # no client waits for it: don't run it, don't reply
        self.lost = False  # its payload is gone from Redis: drop it, its gateway admits it again

    @property
    def alive(self) -> bool:
        return self.error is None and not self.cancelled and not self.lost

    def runs(self, index: int) -> bool:
        """Whether the row at this index is still to be run."""
        return self.alive and index not in self.row_errors

    def fail_row(self, index: int, error: SmartBatchError) -> None:
        """Fail one row, and the whole entry unless its client accepts a partial result."""
        row = index + (self.first_row or 0)
        if self.partial:
            self.row_errors[index] = error
        elif len(self.rows) == 1 and self.first_row is None:
            self.error = error
        else:
            self.error = from_wire(error.code, f"row {row}: {error}")


class Batch:
    """Entries that run together. Owned by the batcher, then by the engine, then by the reply encoder."""

    __slots__ = ("claimed_entries", "closed", "forward_s", "id", "on_device_at", "rows_run", "run_inline", "started_at")

    def __init__(self, batch_id: str, claimed_entries: list[ClaimedEntry], closed: CloseReason) -> None:
        self.id = batch_id
        self.claimed_entries = claimed_entries
        self.closed: CloseReason = closed
        self.run_inline = False  # no batch follows closely: the device thread itself waits for the outputs
        self.on_device_at = 0.0  # estimated start on the device; the batcher times its next claim by it
        self.started_at = 0.0
        self.forward_s = 0.0
        self.rows_run = 0  # excludes rows that were dropped or failed before the forward

    @property
    def rows(self) -> int:
        return sum(claimed.entry.rows for claimed in self.claimed_entries)


class BatchBuilder:
    """The batch being filled. Owned by the batcher."""

    def __init__(self) -> None:
        self.claimed_entries: list[ClaimedEntry] = []
        self.rows = 0
        self.bytes = 0
        self.last_id = ""  # the group's last-delivered-id; empty until a claim was made with the device free
        self.next_too_large = False
        self.explores = False  # waits out its window although no other arrival is likely
        self._observed = 0

    def __bool__(self) -> bool:
        return bool(self.claimed_entries)

    def add(self, claimed_entries: list[ClaimedEntry]) -> None:
        self.claimed_entries += claimed_entries
        for claimed in claimed_entries:
            self.rows += claimed.entry.rows
            self.bytes += claimed.entry.bytes

    def new_arrivals(self) -> list[float]:
        """Return the admission times of the entries added since the last call, in order."""
        observed, self._observed = self._observed, len(self.claimed_entries)
        return [claimed.admitted_at for claimed in self.claimed_entries[observed:]]

    def state(self) -> BatchState:
        oldest = min((claimed.admitted_at for claimed in self.claimed_entries), default=time.monotonic())
        deadline = min((claimed.deadline_at for claimed in self.claimed_entries), default=float("inf"))
        return BatchState(self.rows, self.bytes, oldest, deadline, self.next_too_large)


def log_fields(entry: Entry, batch_id: str = "") -> dict[str, Any]:
    """Return the structured log fields of an entry. They hold nothing that the client sent."""
    ids = {"request_id": entry.id, "trace_id": trace_id_of(entry.trace), "batch_id": batch_id}
    known = {name: value for name, value in ids.items() if value}
    return {**known, "entry_id": entry.entry_id, "rows": entry.rows, "deliveries": entry.deliveries}
