"""External payloads: which payloads are external, and that they are deleted with their requests."""

from __future__ import annotations

import pytest

from smartbatch.shared.broker.queue.admission import INLINE_BYTES, LONE_INLINE_BYTES
from smartbatch.shared.broker.queue.claims import Outcome, WorkerQueue
from tests.brokers import Client
from tests.shared.broker.test_protocol import ADMITTED, FULL, KEYS, admission, claim, claims, request


async def test_bytes_over_the_limit_are_rejected_and_leave_no_payload(client: Client) -> None:
    large = b"y" * 100_000
    result = await admission(client, max_bytes=150_000).admit([request(n, payload=large) for n in (1, 2)])
    assert result.statuses == [ADMITTED, FULL]
    assert await client.keys("*body*") == [KEYS.body("r1").encode()]


async def test_payloads_of_a_flush_are_external_at_a_smaller_size_than_a_single_one(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = b"p" * (INLINE_BYTES + 1)
    await admission(client).admit([request(1, payload=photo)])
    await admission(client).admit([request(2, payload=photo), request(3, payload=photo[:-1])])
    await admission(client).admit([request(4, payload=photo)], force=True)
    await admission(client).admit([request(5, payload=b"p" * (LONE_INLINE_BYTES + 1))])
    entries = (await claim(client)).entries
    assert [entry.id for entry in entries if entry.external] == ["r2", "r4", "r5"]
    assert [len(entry.payload) for entry in entries] == [len(photo), 0, len(photo) - 1, 0, 0]
    assert set(await client.keys("*body*")) == {KEYS.body(name).encode() for name in ("r2", "r4", "r5")}
    monkeypatch.setattr(WorkerQueue, "_finish", None)  # by `finish_plain`
    assert await claims(client).finish([Outcome(entry, b"done") for entry in entries]) == 5
    assert await client.keys("*body*") == []


async def test_external_payloads_are_removed_even_if_an_entry_was_cancelled(client: Client) -> None:
    photo = b"p" * (INLINE_BYTES + 1)
    flush = [request(1, payload=photo), request(2), request(3, payload=photo)]
    for _ in range(2):  # as after a lost reply
        await admission(client).admit(flush)
    entries = (await claim(client)).entries
    await admission(client).cancel(["r2"])
    assert await claims(client).finish([Outcome(entry, b"done") for entry in entries]) == 2
    assert await client.keys("*body*") == []
    assert await client.xlen(KEYS.requests) == 0


@pytest.mark.parametrize("alone", [True, False])
async def test_a_request_admitted_again_leaves_no_earlier_payload(client: Client, alone: bool) -> None:
    photo = request(1, payload=b"p" * (INLINE_BYTES + 1))
    await admission(client).admit([photo] if alone else [photo, request(2)])
    await client.delete(KEYS.requests, KEYS.inflight)  # a failover lost them
    await admission(client).admit([photo], force=True)
    [entry] = (await claim(client)).entries
    assert await claims(client).bodies(["r1"]) == [photo.payload]
    await claims(client).finish([Outcome(entry, b"done")])
    assert await client.keys("*body*") == []
