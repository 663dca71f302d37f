"""A lane: one model's way from this process to Redis and back. Owns a submitter, a reply router and a sweep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.deadlines import Deadlines
from gateway.meters import LaneMeters
from gateway.pending import Awaited, Outcome, Pending
from gateway.room import Room
from gateway.router import ReplyRouter
from gateway.submitter import Submitter
from gateway.sweep import Sweep
from shared import tasks
from shared.broker.admission import Admission, Capacity, Request
from shared.broker.connection import BLOCK_S, connect
from shared.broker.replies import Inbox
from shared.errors import BrokerUnavailable, Unavailable
from shared.keys import Keys
from shared.settings import Settings


class Lane:
    """Made and closed by the gateway's lifespan; used by request handlers of the same event loop."""

    def __init__(
        self,
        model: str,
        settings: Settings,
        gateway_id: str,
        meters: LaneMeters,
        capacity: Callable[[], Capacity],
    ) -> None:
        self.keys = Keys(model)
        self.meters = meters
        self._room = Room(settings.max_queue, capacity)
        self._redis = connect(settings.broker_url)
        self._sweep_redis = connect(settings.broker_url)
        self._blocking_redis = connect(settings.broker_url, block_s=BLOCK_S)
        self.outstanding: dict[str, Pending] = {}
        self._deadlines = Deadlines(self.outstanding)
        limits: dict[str, Any] = {
            "max_entries": settings.max_queue,
            "max_bytes": settings.max_queue_bytes,
            "body_ttl_s": settings.reply_ttl,
        }
        admission = Admission(self._redis, self.keys, gateway_id, **limits)
        self._submitter = Submitter(admission, meters, self._room)
        self._sweep = Sweep(
            Admission(self._sweep_redis, self.keys, gateway_id, **limits),
            Inbox(self._sweep_redis, self.keys, gateway_id),
            self.outstanding,
            meters,
        )
        inbox = Inbox(self._blocking_redis, self.keys, gateway_id)
        self._router = ReplyRouter(inbox, self.outstanding, meters, self._broker_seen)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, watch: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """Start the tasks; `watch` makes a task whose unexpected end is noticed."""
        self._tasks = [watch(self._submitter.run()), watch(self._router.run()), watch(self._sweep.run())]

    async def close(self) -> None:
        self._deadlines.close()
        await tasks.end(self._tasks)
        for client in (self._redis, self._sweep_redis, self._blocking_redis):
            await client.aclose()

    def check(self, timeout_ms: int) -> None:
        """Refuse, before any work, what can't be taken now. Raises BrokerUnavailable, QueueFull or TooLate."""
        if not self._submitter.broker_up:
            raise BrokerUnavailable("the broker can't be reached", self._room.retry_after_s())
        self._room.check(timeout_ms)

    @property
    def closed(self) -> bool:
        """Whether `would_refuse` is worth asking."""
        return self._room.closed

    def would_refuse(self, timeout_ms: int) -> Unavailable | None:
        """Why `check` would refuse a request for want of room; None where it would take it, or has another reason."""
        return self._room.would_refuse(timeout_ms) if self._submitter.broker_up else None

    def submit(self, request: Request, started_at: float) -> Awaited:
        """Send a request on its way. `started_at`: monotonic, when it arrived. The caller has called `check`; it
        awaits `pending.future` and then calls `finished`, whatever happened."""
        pending = Awaited(request, started_at)
        self._put(pending)
        return pending

    def submit_and_tell(self, request: Request, started_at: float, ended: Callable[[Outcome], None]) -> Pending:
        """The same without a future: `ended` is called with the outcome, and calls `finished`."""
        pending = Pending(request, started_at, ended)
        self._put(pending)
        return pending

    def _put(self, pending: Pending) -> None:
        self.outstanding[pending.request.id] = pending
        self._deadlines.watch(pending)
        self._submitter.put(pending)

    def finished(self, pending: Pending, *, answered: bool) -> None:
        """Forget a request. One that ended without its reply is taken back from the stream."""
        self.outstanding.pop(pending.request.id, None)
        pending.abandon()
        if not answered:
            self._submitter.cancel(pending)

    @property
    def broker_up(self) -> bool:
        return self._submitter.broker_up

    def _broker_seen(self, up: bool) -> None:
        if up and not self._submitter.broker_up:
            self._sweep.soon()
        self._submitter.broker_up = up
