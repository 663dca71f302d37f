"""Counters of one process since its start, published with its status: {group: {name: number}} in MessagePack.

group        counts
a worker's:
total        `requests` and `rows`
batch_rows   batches, by the upper bound of their rows
closed       batches, by close reason
entries      entries, by outcome
seconds      time of requests in `queue`, `decode`, `batch_wait` and `forward`; time of the device in forwards: `busy`,
             and as it had been predicted: `predicted`
size         `real` and `padded` sizes of the rows, where rows have sizes
a gateway process's:
total        `answered`
part         seconds of answered requests, by part

/stats, `smartbatch top` and the live page show these numbers. Prometheus scrapes the processes themselves.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

FIELD = "counts"  # in the status of a process

Counts = dict[str, dict[str, Annotated[float, Meta(ge=0, le=1e18)]]]


def encode(counts: Counts) -> bytes:
    return msgspec.msgpack.encode(counts)


def decode(packed: bytes) -> Counts:
    """Decode counters. Returns {} for bytes that `encode` did not write."""
    try:
        return msgspec.msgpack.decode(packed, type=Counts)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
