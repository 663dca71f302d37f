"""Load for the tests: it records every request and checks every response against the bytes that were sent.

The model is `simulated` or inherits from it, so its output depends only on the request's bytes. A response that belongs
to another request, or that arrives twice on one connection, is detected.
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

NO_RESPONSE = 0  # the status of a request whose connection broke or whose client disconnected


class SentRequest(msgspec.Struct):
    """A request and its outcome. Times are monotonic seconds."""

    number: int
    kind: str
    sent_at: float
    url: str = ""
    done_at: float = 0.0
    status: int = NO_RESPONSE
    code: str = ""  # of the problem, or the name of the client's error
    correct: bool = False
    retry_after: int | None = None
    request_id: str = ""
    closed: str = ""  # the close reason of its batch
    version: int = 0  # of the model that answered
    gateway_s: float = 0.0  # from its arrival at the gateway to the response, as the response says

    @property
    def seconds(self) -> float:
        return self.done_at - self.sent_at


class Load:
    """Use as `async with`. `urls` returns the current gateways, from which each request chooses."""

    def __init__(self, urls: Callable[[], list[str]], *, connections: int = 0, give_up_s: float = 60.0) -> None:
        self.urls = urls
        self._connections = connections
        self._give_up_s = give_up_s
        self._open: set[asyncio.Task[Any]] = set()
        self.sent: list[SentRequest] = []

    async def __aenter__(self) -> Load:
        # A draining gateway closes idle connections, perhaps just as a request is sent on one. This race is inherent
        # in HTTP; not reusing connections that were idle for long avoids it.
        connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=15)
        self._client = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(self._give_up_s))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._client.close()

    async def send(
        self, kind: str = "plain", body: bytes | None = None, *, headers: Mapping[str, str] | None = None
    ) -> SentRequest:
        """Send one request and record its outcome. Without `body`, a unique body is made."""
        request = SentRequest(len(self.sent), kind, time.monotonic(), random.choice(self.urls()))
        self.sent.append(request)
        body = b"input number %d" % request.number if body is None else body
        try:
            async with self._client.post(f"{request.url}/predict", data=body, headers=headers) as response:
                content = await response.json(content_type=None)
                request.status = response.status
                request.request_id = content.get("request_id", "")
                request.code = content.get("code", "")
                request.retry_after = (
                    int(response.headers["retry-after"]) if "retry-after" in response.headers else None
                )
                if response.status == 200:
                    request.correct = is_correct(content, body)
                    request.closed = content["batch"]["closed"]
                    request.version = content["version"]
                    request.gateway_s = content["timing_ms"]["total"] / 1000
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            request.code = type(error).__name__
        finally:
            request.done_at = time.monotonic()
        return request

    async def closed_loop(self, connections: int, requests: int) -> None:
        """Send `requests` over `connections`, each connection sending its next request after the response."""
        left = iter(range(requests))

        async def connection() -> None:
            for _ in left:
                await self.send()

        await asyncio.gather(*(connection() for _ in range(connections)))

    async def open_loop(self, rate: float, seconds: float) -> None:
        """Send at this rate regardless of responses, then wait for all of them."""
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

    def begin(self, **how: Any) -> asyncio.Task[SentRequest]:
        """Send a request without waiting for its response; `finish` waits for it."""
        return self.also(self.send(**how))

    def also(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine, for which `finish` waits as well."""
        task = asyncio.create_task(coroutine)
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        return task

    async def finish(self) -> None:
        while self._open:
            await asyncio.wait(self._open)

    def statuses(self) -> Counter[int]:
        return Counter(request.status for request in self.sent)


def is_correct(content: Mapping[str, Any], body: bytes) -> bool:
    [row] = content["outputs"]["output"]["data"]
    return max(abs(a - b) for a, b in zip(row, expected(body), strict=True)) < 1e-7


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def assert_all_answered(requests: list[SentRequest]) -> None:
    assert [(r.status, r.code) for r in requests if r.status != 200] == []
    assert all(request.correct for request in requests)
    assert len({request.request_id for request in requests}) == len(requests)
