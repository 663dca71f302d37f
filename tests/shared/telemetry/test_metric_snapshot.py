"""Workers' metrics on their way through Redis."""

from __future__ import annotations

import msgpack
import pytest
from prometheus_client import CollectorRegistry

from smartbatch.shared.telemetry import metric_names as names
from smartbatch.shared.telemetry import metric_snapshot


def _packed(rows: int) -> bytes:
    registry = CollectorRegistry()
    names.ROWS.counter(registry).labels("m").inc(rows)
    names.CEILING.gauge(registry).labels("m").set(rows)
    names.BATCH_ROWS.histogram(registry).labels("m").observe(rows)
    return metric_snapshot.pack(registry)


def test_each_family_comes_once_with_every_workers_samples() -> None:
    families = {family.name: family for family in metric_snapshot.merge([("w1", _packed(3)), ("w2", _packed(5))])}
    rows = {s.labels["worker"]: s.value for s in families["smartbatch_rows"].samples}
    assert rows == {"w1": 3, "w2": 5}


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xc1", b"text", msgpack.packb([["a", "nonsense", "", []]]), msgpack.packb([["a", "gauge", "", [[1]]]])],
)
def test_what_is_no_snapshot_is_left_out_and_hides_no_other(garbage: bytes) -> None:
    assert metric_snapshot.unpack(garbage) == []
    [rows, *_] = metric_snapshot.merge([("w1", garbage), ("w2", _packed(5))])
    assert {s.labels["worker"] for s in rows.samples} == {"w2"}
