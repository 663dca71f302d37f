"""Closed and open loop over keep-alive connections, with the answers checked.

An answer is `ok` (200, and right if it was checked), `refused` (503 with Retry-After), or an error. Latency runs from
when a request was to start; in the open loop that is the schedule's moment, so neither a slow server nor a late
generator hides anything (coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

from loadtest.bench.http_client import UNANSWERED, Answered, Connection, Lost, request_bytes
from loadtest.drive.order import Order
from loadtest.drive.tally import Tally
from loadtest.traffic import answers

HOST = "127.0.0.1"
AGAIN_S = 0.1  # before a connection is tried again
MAX_PAUSE_S = 30.0
TICK_S = 0.0005  # what is due within it leaves together: timers are no finer
MOST_CONNECTIONS = 2048  # of an open loop; more requests than that wait for one, and their clocks run
IDLE_S = 2.0  # then a connection is closed: servers do so after five, perhaps just when it is used again


class Reading(Connection):
    """Keeps the whole answer. `mark` is when its request was to start."""

    def __init__(self, answered: Answered, lost: Lost) -> None:
        super().__init__(answered, lost)
        self.answer = b""
        self.body = 0  # which was sent
        self.sending = False
        self.freed_at = 0.0
        self.retired = False  # closed by us, and replaced if need be

    def send(self, request: bytes) -> None:
        self.answer = b""
        self.sending = True
        super().send(request)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        super().data_received(data)

    def abort(self) -> None:
        self._transport.abort()

    def retire(self) -> None:
        self.retired = True
        self.abort()


class Loop(ABC):
    """Runs in one event loop: `start`, then `take` once a second, then `stop`."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._requests = [
            request_bytes(order.port, body.content, content_type=body.content_type, **order.headers)
            for body in order.bodies
        ]
        self._references = [order.references.get(body.name) for body in order.bodies]
        self._choice = random.Random(order.seed)
        self._number = itertools.count(1)
        self._open: set[Reading] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock = asyncio.get_running_loop().time
        self._stopped = False
        self.tally = Tally()

    @abstractmethod
    def start(self) -> None: ...

    @property
    @abstractmethod
    def warm(self) -> bool:
        """Whether the load is what it will be."""

    @abstractmethod
    def waiting_since(self) -> list[float]:
        """When each request was to start that has no answer yet."""

    @abstractmethod
    def _free(self, connection: Reading, pause_s: float) -> None:
        """The connection has its answer; it may be sent on again after the pause that the server asked for."""

    @abstractmethod
    def _broken(self, connection: Reading) -> None:
        """The connection is gone."""

    def give_up(self) -> None:
        """Close what has waited for too long; it counts as an error."""
        oldest = self._clock() - self._order.give_up_s
        for connection in [each for each in self._open if each.sending and each.mark < oldest]:
            connection.abort()

    def stop(self) -> list[float]:
        """Return for how long each unanswered request has waited, in seconds."""
        now = self._clock()
        ages = [now - start for start in self.waiting_since()]
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        for connection in list(self._open):
            connection.close()
        return ages

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> Reading:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        answered, lost = cast(Answered, self._answered), cast(Lost, self._lost)
        _, connection = await loop.create_connection(lambda: Reading(answered, lost), HOST, self._order.port)
        self._open.add(connection)
        return connection

    def _send(self, connection: Reading, start: float) -> None:
        connection.mark = start
        connection.body = self._choice.randrange(len(self._requests))
        connection.send(self._requests[connection.body])

    def _answered(self, connection: Reading, status: int) -> None:
        connection.sending = False
        if self._stopped:
            return
        pause_s = 0.0
        if status == 200:
            if self._is_right(connection):
                self.tally.answered(self._clock() - connection.mark)
        elif status == 503 and (retry_after := _header(connection.answer, b"retry-after")).isdigit():
            self.tally.refused += 1
            pause_s = min(MAX_PAUSE_S, float(retry_after))  # a closed loop's user comes back then
        else:
            self.tally.errors["no answer" if status == UNANSWERED else str(status)] += 1
        if status != UNANSWERED:
            connection.freed_at = self._clock()
            self._free(connection, pause_s)

    def _is_right(self, connection: Reading) -> bool:
        """Compare one in so many; a wrong one is an error, and no latency."""
        reference = self._references[connection.body]
        if reference is None or next(self._number) % self._order.check_every:
            return True
        self.tally.checked += 1
        try:
            apart = answers.difference(reference, answers.result(connection.answer.partition(b"\r\n\r\n")[2]))
        except answers.Unreadable:
            apart = float("inf")
        if apart > 1:
            self.tally.wrong += 1
            self.tally.errors["wrong answer"] += 1
        return apart <= 1

    def _lost(self, connection: Reading) -> None:
        self._open.discard(connection)
        if not self._stopped and not connection.retired:
            self._broken(connection)


class Closed(Loop):
    """Each connection is a user."""

    def start(self) -> None:
        self._users = int(self._order.load.amount)
        self._served = 0  # users that were answered once
        for _ in range(self._users):
            self._spawn(self._user())

    @property
    def warm(self) -> bool:
        return self._served >= self._users

    def waiting_since(self) -> list[float]:
        return [each.mark for each in self._open if each.sending]

    async def _user(self, pause_s: float = 0.0) -> None:
        await asyncio.sleep(pause_s)
        try:
            connection = await self._connect()
        except OSError:
            self.tally.sent += 1
            self.tally.errors["no connection"] += 1
            self._spawn(self._user(AGAIN_S))
        else:
            self._ask(connection)

    def _ask(self, connection: Reading) -> None:
        self.tally.sent += 1
        self._send(connection, self._clock())

    def _free(self, connection: Reading, pause_s: float) -> None:
        self._served += 1
        if pause_s:
            connection.retire()
            self._spawn(self._user(pause_s))
        else:
            self._ask(connection)

    def _broken(self, connection: Reading) -> None:
        self._spawn(self._user(AGAIN_S))


class Open(Loop):
    """Independent arrivals (Poisson), the same in each run."""

    def start(self) -> None:
        self._idle: dict[Reading, None] = {}  # the last one used is used next
        self._due: deque[float] = deque()  # to be sent as soon as a connection is free
        self._connections = 0
        self._spawn(self._arrive())

    @property
    def warm(self) -> bool:
        return True

    def waiting_since(self) -> list[float]:
        return [*(each.mark for each in self._open if each.sending), *self._due]

    def give_up(self) -> None:
        super().give_up()
        oldest = self._clock() - self._order.give_up_s
        while self._due and self._due[0] < oldest:
            self._due.popleft()
            self.tally.errors["no answer"] += 1
        idle_since = self._clock() - IDLE_S
        for connection in [each for each in self._idle if each.freed_at < idle_since]:
            self._broken(connection)
            connection.retire()

    async def _arrive(self) -> None:
        for start in self._starts(self._clock()):
            if (wait_s := start - self._clock()) > TICK_S:
                await asyncio.sleep(wait_s)
            elif wait_s < -TICK_S:
                await asyncio.sleep(0)  # late: answers must be read all the same
            self._due.append(start)
            self.tally.sent += 1
            self.tally.was_late(self._clock() - start)
            self._serve()

    def _starts(self, clock: float) -> Iterator[float]:
        chance = random.Random(self._order.seed)
        while True:
            clock += chance.expovariate(self._order.load.amount)
            yield clock

    def _serve(self) -> None:
        while self._due and self._idle:
            connection, _ = self._idle.popitem()
            self._send(connection, self._due.popleft())
        if self._due and self._connections < MOST_CONNECTIONS:
            self._connections += 1
            self._spawn(self._add())

    async def _add(self) -> None:
        while True:
            try:
                connection = await self._connect()
                break
            except OSError:  # what is due meanwhile waits, and its clock runs
                await asyncio.sleep(AGAIN_S)
        connection.freed_at = self._clock()
        self._idle[connection] = None
        self._serve()

    def _free(self, connection: Reading, pause_s: float) -> None:
        self._idle[connection] = None
        self._serve()

    def _broken(self, connection: Reading) -> None:
        self._idle.pop(connection, None)
        self._connections -= 1
        self._serve()


def _header(answer: bytes, name: bytes) -> str:
    head = answer.partition(b"\r\n\r\n")[0].lower()
    return head.partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0].strip().decode("latin-1")
