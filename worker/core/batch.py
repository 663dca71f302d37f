"""Claimed entries and batches, which the worker's stages pass to each other.

Times are monotonic seconds of this process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from typing import Any, Literal

import msgspec

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import SmartBatchError, from_wire
from smartbatch.shared.telemetry.trace_context import trace_id_of

CloseReason = Literal["full", "bytes", "cost", "window", "idle", "deadline", "drain", "isolated"]
"""Why a batch was closed. `cost`: the other claimed rows cost less in batches of their own. `idle`: no other arrival is
likely within the window, or waiting for one does not pay. `isolated`: it holds one entry of a dead worker, which must
not share a batch."""

_NOT_STARTED: Future[None] = Future()  # never resolved, never waited for


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one batch."""

    max_rows: int
    max_bytes: int
    window_s: float
    adaptive: bool = True  # the window ends early once no other arrival is likely
    max_tokens: int = 0  # rows times the largest size; 0: memory decides
    pool_rows: int = 0  # most rows claimed and not yet in a batch; 0: as many as are worthwhile


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
        "done",
        "entry",
        "error",
        "first_row",
        "lost",
        "options",
        "outputs",
        "partial",
        "row_errors",
        "rows",
        "rows_left",
        "sizes",
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
        self.sizes: list[tuple[int, Hashable]] = []  # of a sized model: each row's size and group
        self.rows_left = 0  # of a sized model: rows that no batch has run yet
        self.done = False  # a batch has ended it: its reply is being made
        self.outputs: list[Any] = []
        self.error: SmartBatchError | None = None
        self.partial = False  # rows may fail alone
        self.first_row: int | None = None  # its place in the request, of which this is a part
        self.row_errors: dict[int, SmartBatchError] = {}  # of a partial result
        self.cancelled = False  # no client waits for it: don't run it, don't reply
        self.lost = False  # its payload is gone from Redis: drop it, its gateway admits it again

    def end(self, rows: int) -> bool:
        """Count rows that a batch has run. Returns True once, when none is left or the entry can't succeed."""
        self.rows_left -= rows
        if self.done or (self.alive and self.rows_left > 0):
            return False
        self.done = True
        return True

    def size(self, index: int) -> int:
        """Return the size of a row of a sized model."""
        return self.sizes[index][0] if self.sizes else 1

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


RowRef = tuple[ClaimedEntry, int]  # an entry and the index of one of its rows


def padded_size(row_refs: Sequence[RowRef]) -> int:
    """Return the rows times the size of the largest; the rows where they have one size."""
    return len(row_refs) * max(claimed.size(index) for claimed, index in row_refs)


class Batch:
    """Rows that run together. Owned by the batcher, then by the engine, then by the reply encoder."""

    __slots__ = (
        "claimed_entries",
        "closed",
        "device_wait_s",
        "ended_entries",
        "forward_s",
        "id",
        "on_device_at",
        "padded_size",
        "predicted_s",
        "real_size",
        "row_refs",
        "rows_run",
        "run_inline",
        "source",
        "started_at",
    )

    def __init__(
        self,
        batch_id: str,
        claimed_entries: list[ClaimedEntry],
        closed: CloseReason,
        row_refs: list[RowRef] | None = None,
    ) -> None:
        self.id = batch_id
        self.claimed_entries = claimed_entries  # each with all its rows, or with those in `row_refs`
        self.row_refs = row_refs
        self.closed: CloseReason = closed
        self.source: Any = None  # the partition that the entries were claimed from (batcher.Source)
        self.run_inline = False  # no batch follows closely: the device thread itself waits for the outputs
        self.on_device_at = 0.0  # estimated start on the device; the batcher times its next claim by it
        self.device_wait_s = 0.0  # for other workers that share the device, before it started
        self.started_at = 0.0
        self.predicted_s = 0.0
        self.forward_s = 0.0
        self.rows_run = 0  # excludes rows that were dropped or failed before the forward
        self.real_size = self.padded_size = (
            0  # of the rows that ran: sum of their sizes, and of what they were padded to
        )
        self.ended_entries = claimed_entries if row_refs is None else []  # the others have rows in later batches

    @property
    def rows(self) -> int:
        if self.row_refs is not None:
            return len(self.row_refs)
        return sum(claimed.entry.rows for claimed in self.claimed_entries)

    def end_entries(self) -> None:
        """Find the entries that end with this batch, once it has run. Called by one of the device's threads."""
        if self.row_refs is not None:
            rows = Counter(id(claimed) for claimed, _ in self.row_refs)
            self.ended_entries = [claimed for claimed in self.claimed_entries if claimed.end(rows[id(claimed)])]


def log_fields(entry: Entry, batch_id: str = "") -> dict[str, Any]:
    """Return the structured log fields of an entry. They hold nothing that the client sent."""
    ids = {"request_id": entry.id, "trace_id": trace_id_of(entry.trace), "batch_id": batch_id}
    known = {name: value for name, value in ids.items() if value}
    return {**known, "entry_id": entry.entry_id, "rows": entry.rows, "deliveries": entry.deliveries}
