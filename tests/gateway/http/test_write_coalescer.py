"""Answers leave together, each once, in their order, and before anything that comes after them."""

from __future__ import annotations

import asyncio

from smartbatch.gateway.http.write_coalescer import WriteCoalescer


class Noted:
    def __init__(self, name: str, sent: list[str]) -> None:
        self.name, self.sent = name, sent

    def flush(self) -> None:
        self.sent.append(self.name)


async def test_what_is_put_in_one_turn_leaves_in_the_next_in_order() -> None:
    outbox, sent = WriteCoalescer(), list[str]()
    for name in "abc":
        outbox.put(Noted(name, sent))
    assert sent == []
    await asyncio.sleep(0)
    assert sent == ["a", "b", "c"]
    await asyncio.sleep(0)
    assert sent == ["a", "b", "c"]


async def test_what_is_put_while_the_rest_leaves_has_its_turn_too() -> None:
    outbox, sent = WriteCoalescer(), list[str]()

    class Asks(Noted):
        def flush(self) -> None:
            super().flush()
            outbox.put(Noted("next", sent))

    outbox.put(Asks("first", sent))
    outbox.put(Noted("second", sent))
    await asyncio.sleep(0)
    assert sent == ["first", "second"]
    await asyncio.sleep(0)
    assert sent == ["first", "second", "next"]
