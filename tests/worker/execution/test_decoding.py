"""Decode threads: rows, their sizes and groups; a model's wrong `size` costs no request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import ModelFailed
from smartbatch.shared.wire import Payload, pack_payload
from smartbatch.worker.batching.pool import Pool
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.execution.decoding import Decoder
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.observability.metrics import WorkerMetrics
from tests.brokers import eventually
from tests.worker.execution.test_engine import Doubler


class Texts(Doubler):
    """Rows are the lengths of texts; their size is what `sizes` says."""

    sized = True

    def __init__(self) -> None:
        super().__init__()
        self.sizes: Callable[[int], Any] = lambda row: row
        self.groups: Callable[[int], Any] = lambda row: None

    def decode(self, payload: Payload) -> list[int]:
        return [len(text) for text in payload.content]  # pyright: ignore[reportGeneralTypeIssues]

    def size(self, row: int) -> int:
        return self.sizes(row)

    def group(self, row: int) -> Any:
        return self.groups(row)


@pytest.fixture
def model() -> Texts:
    return Texts()


@pytest.fixture
def decoder(model: Texts) -> Iterator[Decoder]:
    decoder = Decoder(model, 32, threads=2)
    yield decoder
    decoder.close()


def claimed(*texts: str) -> ClaimedEntry:
    payload = pack_payload(Payload("text", list(texts)))
    return ClaimedEntry(
        Entry("1-0", "r", "gw", 1000, 60_000, len(texts), 1, "text", "", payload), 1000, time.monotonic()
    )


def decoded(decoder: Decoder, *claimed_entries: ClaimedEntry) -> None:
    decoder.decode(claimed_entries)
    for each in claimed_entries:
        each.decoded.result(10)


def answered(model: Texts, *claimed_entries: ClaimedEntry) -> None:
    """Run decoded entries as a worker does, to their end."""
    engine, pool = Engine(model, 32, CostModel(), WorkerMetrics("m", "w")), Pool(sized=True)
    engine.start()
    ended: list[ClaimedEntry] = []
    engine.on_done = lambda batch: ended.extend(batch.ended_entries)
    pool.add(list(claimed_entries))
    while pool.ready():
        part = pool.take(lambda rows, sizes: 1.0 + rows * sizes, 32, float("inf"))
        engine.submit(Batch("b", part.claimed_entries, "cost", part.row_refs))
    eventually(lambda: len(ended) == len(claimed_entries))
    engine.close()


def test_each_row_gets_its_size_and_its_group(model: Texts, decoder: Decoder) -> None:
    model.groups = lambda row: row > 3
    entry = claimed("ab", "abcdef")
    decoded(decoder, entry)
    assert entry.sizes == [(2, False), (6, True)]


def test_an_integer_of_numpy_is_a_size(model: Texts, decoder: Decoder) -> None:
    model.sizes = lambda row: np.int64(row)
    entry = claimed("abc")
    decoded(decoder, entry)
    assert entry.sizes == [(3, None)] and type(entry.sizes[0][0]) is int


def raises(row: int) -> int:
    raise KeyError("secret")


def ends_the_process(row: int) -> int:
    raise SystemExit(1)


@pytest.mark.parametrize(
    "size",
    [
        lambda row: -row,
        lambda row: 0,
        lambda row: 2**31 + 1,
        lambda row: 10**5000,
        lambda row: 1.5,
        lambda row: "3",
        lambda row: None,
        lambda row: np.ones(2),
        raises,
        ends_the_process,
    ],
    ids=["negative", "0", "huge", "unprintable", "float", "str", "None", "array", "raises", "exits"],
)
def test_a_wrong_size_is_logged_once_by_name_and_the_worker_goes_on_by_rows(
    model: Texts, decoder: Decoder, caplog: pytest.LogCaptureFixture, size: Callable[[int], Any]
) -> None:
    right = claimed("a", "abc")
    decoded(decoder, right)
    model.sizes = size
    entries = [claimed("ab"), claimed("abc", "abcd"), claimed("abcde")]
    with caplog.at_level(logging.ERROR):
        decoded(decoder, *entries)
    assert [record.getMessage().count("size()") > 0 for record in caplog.records] == [True]
    assert all(each.sizes == [(1, None)] * len(each.rows) for each in entries)
    answered(model, right, *entries)
    assert [each.outputs for each in (right, *entries)] == [[2, 6], [4], [6, 8], [10]]


def test_the_largest_size_allowed_is_served(model: Texts, decoder: Decoder) -> None:
    model.sizes = lambda row: 2**31
    entries = [claimed(*["abc"] * 32) for _ in range(3)]
    decoded(decoder, *entries)
    answered(model, *entries)
    assert all(each.outputs == [6] * 32 for each in entries)


@pytest.mark.parametrize("group", [lambda row: [], raises], ids=["unhashable", "raises"])
def test_a_wrong_group_fails_its_row(model: Texts, decoder: Decoder, group: Callable[[int], Any]) -> None:
    model.groups = lambda row: group(row) if row == 3 else None
    good, bad = claimed("ab"), claimed("abc")
    decoded(decoder, good, bad)
    assert isinstance(bad.error, ModelFailed) and good.error is None
    answered(model, good, bad)
    assert good.outputs == [4]
