"""Load for the tests: every request is a row in a ledger, every answer is checked against the bytes that were sent.

The model behind it is a `simulated` one (or one that inherits from it), whose answer only the request's own bytes give:
an answer that belongs to another request, or comes twice on one connection, can't go unseen.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import aiohttp
import msgspec

from smartbatch.worker.models.simulated import expected

T = TypeVar("T")

NO_ANSWER = 0  # the status of a request whose connection broke or whose client gave up


class Asked(msgspec.Struct):
    """One request, from sending to whatever came of it. Times are monotonic seconds."""

    number: int
    kind: str
    sent_at: float
    url: str = ""
    done_at: float = 0.0
    status: int = NO_ANSWER
    code: str = ""  # of the problem, or the client's own error
    right: bool = False
    retry_after: int | None = None
    request_id: str = ""
    closed: str = ""  # why its batch was

    @property
    def seconds(self) -> float:
        return self.done_at - self.sent_at


class Load:
    """Use as `async with`. `urls` gives the gateways to choose from at any moment."""

    def __init__(self, urls: Callable[[], list[str]], *, connections: int = 0, give_up_s: float = 60.0) -> None:
        self.urls = urls
        self._connections = connections
        self._give_up_s = give_up_s
        self._open: set[asyncio.Task[Any]] = set()
        self.ledger: list[Asked] = []

    async def __aenter__(self) -> Load:
        # A gateway that drains closes its idle connections, so one may close just as a request is sent on it: not
        # reusing those that idled for long keeps that inherent race of HTTP out of the count.
        connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=15)
        self._client = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(self._give_up_s))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._client.close()

    async def ask(
        self, kind: str = "plain", body: bytes | None = None, *, headers: Mapping[str, str] | None = None
    ) -> Asked:
        """Send one request and keep what came of it. Without `body` it gets one that no other has."""
        asked = Asked(len(self.ledger), kind, time.monotonic(), random.choice(self.urls()))
        self.ledger.append(asked)
        body = b"input number %d" % asked.number if body is None else body
        try:
            async with self._client.post(f"{asked.url}/predict", data=body, headers=headers) as response:
                answer = await response.json(content_type=None)
                asked.status = response.status
                asked.request_id = answer.get("request_id", "")
                asked.code = answer.get("code", "")
                asked.retry_after = int(response.headers["retry-after"]) if "retry-after" in response.headers else None
                if response.status == 200:
                    asked.right = is_right(answer, body)
                    asked.closed = answer["batch"]["closed"]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            asked.code = type(error).__name__
        finally:
            asked.done_at = time.monotonic()
        return asked

    async def closed_loop(self, connections: int, requests: int) -> None:
        """So many requests over so many connections, each sending its next when it has its answer."""
        left = iter(range(requests))

        async def connection() -> None:
            for _ in left:
                await self.ask()

        await asyncio.gather(*(connection() for _ in range(connections)))

    async def open_loop(self, rate: float, seconds: float) -> None:
        """Send at this rate, whatever comes back, and wait for the answers."""
        until = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, until.set)
        await self.open_loop_until(until, rate)

    async def open_loop_until(self, until: asyncio.Event, rate: float) -> None:
        started = time.monotonic()
        for number in itertools.count():
            if until.is_set():
                break
            self.begin()
            await asyncio.sleep(max(0.0, started + (number + 1) / rate - time.monotonic()))
        await self.finish()

    def begin(self, **how: Any) -> asyncio.Task[Asked]:
        """Send one without waiting for its answer; `finish` does."""
        return self.also(self.ask(**how))

    def also(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something that `finish` waits for, too."""
        task = asyncio.create_task(coroutine)
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        return task

    async def finish(self) -> None:
        while self._open:
            await asyncio.wait(self._open)

    def statuses(self) -> Counter[int]:
        return Counter(asked.status for asked in self.ledger)


def is_right(answer: Mapping[str, Any], body: bytes) -> bool:
    [row] = answer["outputs"]["output"]["data"]
    return max(abs(a - b) for a, b in zip(row, expected(body), strict=True)) < 1e-7


def percentile(values: Iterable[float], percent: float) -> float:
    """The value that `percent` of them don't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
