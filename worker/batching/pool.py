"""The claimed entries of which rows are in no batch yet. Batches are taken from it one by one, so rows that arrive
while a batch runs take part in the choice of the next one."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from smartbatch.worker.batching.cut import Costs, cut_batches, equal_rows
from smartbatch.worker.core.batch import BatchState, ClaimedEntry, RowRef

REMEMBERED = 64  # uses of `next_rows` after which it is computed anew


class Row(NamedTuple):
    """One row that can be run. Sorts by size."""

    size: int
    number: int  # of its addition to the pool
    claimed: ClaimedEntry
    index: int


class Part(NamedTuple):
    """What the next batch takes. `row_refs` is None if it takes all rows of its entries."""

    claimed_entries: list[ClaimedEntry]
    row_refs: list[RowRef] | None
    rows: int
    size: int  # of the largest row


class Pool:
    """Owned by the batcher. `sized`: rows have sizes, which are known once they are decoded."""

    def __init__(self, *, sized: bool = False) -> None:
        self.sized = sized
        self.entries: list[ClaimedEntry] = []  # of which no row is in a batch; if sized, those not known to be decoded
        self._rows: list[Row] = []  # decoded rows of a sized model
        self._failed: list[ClaimedEntry] = []  # entries that need a reply and no device
        self._numbers = 0
        self.last_id = ""  # the group's last-delivered-id; empty until a claim was made with the device free
        self.next_too_large = False
        self.explores = False  # the next batch waits out its window although no other arrival is likely
        self.cut = False  # what is here was left by a batch
        self._new: list[float] = []
        self._next_rows: dict[tuple[int, int, int], int] = {}
        self._taken = 0

    def __bool__(self) -> bool:
        return bool(self.entries or self._rows or self._failed)

    @property
    def rows(self) -> int:
        return sum(claimed.entry.rows for claimed in (*self.entries, *self._failed)) + len(self._rows)

    @property
    def bytes(self) -> int:
        return sum(claimed.entry.bytes for claimed in self._all())

    def _all(self) -> list[ClaimedEntry]:
        """Return every entry with rows here, once."""
        in_part = {id(row.claimed): row.claimed for row in self._rows}
        return [*self.entries, *self._failed, *in_part.values()]

    def add(self, claimed_entries: list[ClaimedEntry]) -> None:
        self.entries += claimed_entries
        self._new += [claimed.admitted_at for claimed in claimed_entries]

    def new_arrivals(self) -> list[float]:
        """Return the admission times of the entries added since the last call, in order."""
        new, self._new = self._new, []
        return new

    def state(self) -> BatchState:
        entries = self._all()
        oldest = min((claimed.admitted_at for claimed in entries), default=time.monotonic())
        deadline = min((claimed.deadline_at for claimed in entries), default=math.inf)
        return BatchState(self.rows, self.bytes, oldest, deadline, self.next_too_large)

    def ready(self, rows: int = 1) -> bool:
        """Return whether a batch can be taken. Of a sized model that is so once `rows` rows are decoded, or whatever is
        here; entries that won't run are not waited for."""
        if not self.sized:
            return bool(self.entries)
        undecoded, now = [], time.monotonic()
        for claimed in self.entries:
            decoded = claimed.decoded.done()
            if decoded and claimed.alive:
                self._add_rows(claimed)
            elif decoded or claimed.cancelled or now >= claimed.deadline_at:
                self._failed.append(claimed)
            else:
                undecoded.append(claimed)
        self.entries = undecoded
        return bool(self._rows or self._failed) and (not undecoded or rows <= max(1, len(self._rows)))

    def _add_rows(self, claimed: ClaimedEntry) -> None:
        claimed.rows_left = 0
        for index, (size, _) in enumerate(claimed.sizes):
            if claimed.runs(index):
                self._rows.append(Row(size, self._numbers, claimed, index))
                self._numbers += 1
                claimed.rows_left += 1
        if not claimed.rows_left:
            self._failed.append(claimed)

    def take_all(self) -> Part:
        """Remove all entries, decoded or not, for one batch."""
        entries, rows = self.entries, self.rows
        self.entries, self.cut, self.last_id = [], False, ""
        return Part(entries, None, rows, 1)

    def take(self, costs: Costs, max_rows: int, max_tokens: float) -> Part:
        """Remove and return the next one of the batches that cost least together."""
        self.next_too_large = self.explores = False
        self.last_id = ""
        part = self._take_rows(costs, max_rows, max_tokens) if self.sized else self._take_entries(costs, max_rows)
        self.cut = bool(self)
        return part

    def _take_entries(self, costs: Costs, max_rows: int) -> Part:
        waiting = self.rows
        if len(self.entries) == 1 or (most := self.next_rows(waiting, costs, max_rows)) >= waiting:
            return self.take_all()
        self.entries.sort(key=_urgency)
        count = rows = 0
        for claimed in self.entries:
            if rows and rows + claimed.entry.rows > most:
                break
            rows += claimed.entry.rows
            count += 1
        taken, self.entries = self.entries[:count], self.entries[count:]
        return Part(taken, None, rows, 1)

    def next_rows(self, waiting: int, costs: Costs, max_rows: int, size: int = 1) -> int:
        """Return how many of the waiting rows of one size a batch takes. Remembered for a while: costs change
        slowly."""
        self._taken += 1
        if self._taken % REMEMBERED == 0:
            self._next_rows.clear()
        key = waiting, max_rows, size
        if key not in self._next_rows:
            self._next_rows[key] = equal_rows(waiting, costs, max_rows, size)
        return self._next_rows[key]

    def _take_rows(self, costs: Costs, max_rows: int, max_tokens: float) -> Part:
        failed, self._failed = self._failed, []
        groups: dict[Hashable, list[Row]] = {}
        for row in self._rows:
            if row.claimed.alive:
                groups.setdefault(row.claimed.sizes[row.index][1], []).append(row)
            elif not row.claimed.done and row.claimed not in failed:
                failed.append(row.claimed)
        batches: list[list[Row]] = []
        for rows in groups.values():
            rows.sort()
            start = 0
            sizes = np.array([row.size for row in rows])
            for count in cut_batches(sizes, costs, max_rows, max_tokens):
                batches.append(rows[start : start + count])
                start += count
        taken = _next(batches, costs) if batches else []
        numbers = {row.number for row in taken}
        self._rows = [row for row in self._rows if row.claimed.alive and row.number not in numbers]
        entries = {id(row.claimed): row.claimed for row in taken}
        row_refs = [(row.claimed, row.index) for row in taken]
        return Part([*entries.values(), *failed], row_refs, len(taken), taken[-1].size if taken else 1)


def _next(batches: list[list[Row]], costs: Costs) -> list[Row]:
    """Return the batch that runs next: one that would be late behind all others, by deadline; else the one with the
    highest product of its rows per second and the square of its oldest row's wait.

    So a short row isn't answered after many long ones, and the turn of a long one comes, since its wait grows. (With
    the wait itself, long rows would wait twice as long where every connection always has a request waiting.)
    """
    now = time.monotonic()
    rows = np.array([len(batch) for batch in batches])
    seconds = costs(rows, np.array([batch[-1].size for batch in batches]))
    urgent = min(batches, key=_earliest_deadline)
    if _earliest_deadline(urgent) < now + float(seconds.sum()):
        return urgent
    waited = np.array([now - min(row.claimed.admitted_at for row in batch) for batch in batches])
    return batches[int((waited**2 * rows / seconds).argmax())]


def _earliest_deadline(batch: list[Row]) -> float:
    return min(row.claimed.deadline_at for row in batch)


def _urgency(claimed: ClaimedEntry) -> tuple[float, float]:
    return claimed.deadline_at, claimed.admitted_at
