"""A registry's samples as msgpack, so that workers' metrics travel through Redis to every gateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgpack
import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

Kind = Literal["counter", "gauge", "histogram"]
Sample = tuple[str, dict[str, str], float]
Family = tuple[str, Kind, str, list[Sample]]


def pack(registry: CollectorRegistry) -> bytes:
    """[[family name, kind, help, [[sample name, labels, value], …]], …]"""
    families = [
        [family.name, family.type, family.documentation, [[s.name, s.labels, s.value] for s in family.samples]]
        for family in registry.collect()
    ]
    packed = msgpack.packb(families)
    assert packed is not None
    return packed


def unpack(packed: bytes) -> list[Family]:
    """Return what `pack` made of a registry; nothing if this isn't that."""
    try:
        return msgspec.msgpack.decode(packed, type=list[Family])
    except msgspec.DecodeError:
        return []


def merge(packed_by_worker: Iterable[tuple[str, bytes]]) -> Iterator[Metric]:
    """Yield each family once, with every worker's samples under a label `worker`."""
    merged: dict[str, Metric] = {}
    for worker_id, packed in packed_by_worker:
        for name, kind, text, samples in unpack(packed):
            family = merged.setdefault(name, Metric(name, text, kind))
            for sample, labels, value in samples:
                family.add_sample(sample, {**labels, "worker": worker_id}, value)
    yield from merged.values()
