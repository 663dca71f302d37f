"""A registry's samples as msgpack, so that workers' metrics travel through Redis to every gateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgpack
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

Samples = list[tuple[str, dict[str, str], float]]


def pack(registry: CollectorRegistry) -> bytes:
    """[[family name, kind, help, [[sample name, labels, value], …]], …]"""
    families = [
        [family.name, family.type, family.documentation, [[s.name, s.labels, s.value] for s in family.samples]]
        for family in registry.collect()
    ]
    packed = msgpack.packb(families)
    assert packed is not None
    return packed


def merge(packed_by_worker: Iterable[tuple[str, bytes]]) -> Iterator[Metric]:
    """Yield each family once, with every worker's samples under a label `worker`."""
    merged: dict[str, Metric] = {}
    for worker_id, packed in packed_by_worker:
        for name, kind, text, samples in msgpack.unpackb(packed):
            family = merged.setdefault(name, Metric(name, text, kind))
            for sample, labels, value in samples:
                family.add_sample(sample, {**labels, "worker": worker_id}, value)
    yield from merged.values()
