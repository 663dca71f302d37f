"""What a process has counted since it started, as its heartbeat carries it: {what: {which: number}} in MessagePack.

A worker's: `total` (`requests`, `rows`), `batch_rows` (batches, by the most rows that they may have had), `closed`
(batches, by why), `entries` (by outcome), `seconds` (requests' time in `queue`, `decode`, `batch_wait` and `forward`,
and the device's in forwards: `busy`). A gateway process's: `total` (`answered`), `part` (seconds of answered requests).

/stats, `smartbatch top` and the live page are made of these; Prometheus scrapes the processes themselves.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

FIELD = "counts"  # of a report

Counts = dict[str, dict[str, Annotated[float, Meta(ge=0, le=1e18)]]]


def encode(counts: Counts) -> bytes:
    return msgspec.msgpack.encode(counts)


def decode(packed: bytes) -> Counts:
    """Return what `encode` was given; nothing if this isn't of its making."""
    try:
        return msgspec.msgpack.decode(packed, type=Counts)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
