"""One broker: the rules of the scripts in shared/broker/scripts, on a single thread where each command takes time.

Requests have one row each; the rules for entries of several rows are omitted. tests/simulation/test_broker.py makes the
same calls here and to the real scripts.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from simulation.clock import Timer, VirtualLoop
from simulation.cores import Cores
from simulation.costs import BrokerCosts
from smartbatch.shared.broker.queue.admission import UNKNOWN, Capacity
from smartbatch.shared.broker.queue.claims import Mode
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.worker.batching.throughput import ThroughputEstimator
from smartbatch.worker.queue.heartbeat import INTERVAL_S as HEARTBEAT_S


class Entry:
    """One admitted request on the stream. Also stands in for the batcher's ClaimedEntry."""

    __slots__ = ("admitted_at", "deadline_at", "inbox", "late", "number", "request", "t_ms")

    rows = 1
    bytes = 1

    def __init__(self, inbox: Inbox, request: Any, t_ms: int, number: int) -> None:
        self.inbox = inbox
        self.request = request
        self.t_ms = t_ms
        self.number = number  # its position on the stream
        self.admitted_at = 0.0  # on the worker's clock, with a resolution of a millisecond
        self.deadline_at = 0.0
        self.late = False  # whether its deadline passed before its forward

    @property
    def entry(self) -> Entry:
        return self


class Inbox:
    """The replies for one gateway, and its pop that waits for them."""

    def __init__(self) -> None:
        self.replies: list[Entry] = []
        self.popping: Command | None = None


class ClaimResult(msgspec.Struct):
    """Stands in for `smartbatch.shared.broker.queue.claims.Claim`."""

    kind: str
    now_ms: int
    waiting: int
    last_id: str
    entries: list[Entry]
    next_too_large: bool = False


class Broker:
    """Runs commands one after the other, in the order in which they arrive."""

    def __init__(self, loop: VirtualLoop, costs: BrokerCosts, max_entries: int, cores: Cores | None = None) -> None:
        self.loop = loop
        self.costs = costs
        self.cores = cores or Cores()
        self.busy_s = 0.0
        self.commands: Counter[str] = Counter()
        self.stream: deque[Entry] = deque()  # waiting entries; `inflight_rows` also counts claimed rows
        self.inflight_rows = 0
        self._max_entries = max_entries
        self._added = 0
        self._delivered = 0
        self._holder = ""  # of the fill lock
        self._lock_ends = 0.0
        self._wakeup = False  # whether the wakeup list holds an element
        self._on_wakeup: deque[Command] = deque()
        self._on_stream: list[tuple[int, Command]] = []
        self._commands: deque[Command] = deque()
        self._free_at = 0.0
        self._woken = False
        self.dead = False
        self.leases: dict[str, ThroughputEstimator] = {}  # of the workers that have joined
        self.inboxes: list[Inbox] = []  # of the gateways
        self.gateways = 0  # that report their status
        self._reported = UNKNOWN
        self._report_due_at = 0.0

    def capacity(self) -> Capacity:
        """Return what the workers reported with their last heartbeats."""
        if self.loop.now >= self._report_due_at:
            self._report_due_at = self.loop.now + HEARTBEAT_S
            rates = self.leases.values()
            self._reported = Capacity.of((each.rows_per_s() for each in rates), (each.batch_full_s() for each in rates))
        return self._reported

    # --- the thread

    def call(
        self, name: str, run: Callable[[], float], done: Callable[[], Any], failed: Callable[[], Any] | None = None
    ) -> Command:
        """Send a command. `run` executes it and returns its cost; `done` is called when its reply has arrived, and
        `failed` if the broker is dead or dies before."""
        command = Command(name, run, done, failed)
        self.loop.at(self.loop.now + self.costs.hop_s, self._arrived, command)
        return command

    async def execute(self, name: str, run: Callable[[], float]) -> None:
        """Send a command and wait for its reply. Raises BrokerUnavailable."""
        replied = self.loop.create_future()
        self.call(name, run, *settle(replied))
        await replied

    def die(self) -> None:
        """Lose all data. Calls fail from now on, those in flight too."""
        self.dead = True
        commands = [*self._commands, *self._on_wakeup, *(command for _, command in self._on_stream)]
        commands += [inbox.popping for inbox in self.inboxes if inbox.popping and inbox.popping.blocked]
        for waiting in (self._commands, self._on_wakeup, self._on_stream, self.stream):
            waiting.clear()
        for command in commands:
            if command.timer:
                command.timer.cancel()
            self.loop.at(self.loop.now + self.costs.hop_s, self._reply, command)

    def _reply(self, command: Command) -> None:
        if not self.dead:
            command.done()
        elif command.failed:
            command.failed()

    def _arrived(self, command: Command) -> None:
        if self.dead:
            self.loop.at(self.loop.now + self.costs.hop_s, self._reply, command)
        elif self._commands or self._free_at > self.loop.now:
            self._commands.append(command)
            self._wake()
        else:
            self._run(command)

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self.loop.at(max(self._free_at, self.loop.now), self._next)

    def _next(self) -> None:
        self._woken = False
        if self.dead:
            return
        self._run(self._commands.popleft())
        if self._commands:
            self._wake()

    def _run(self, command: Command) -> None:
        cost = command.run()
        self.commands[command.name] += 1
        self.busy_s += cost
        self._free_at = self.cores.run(max(self._free_at, self.loop.now), cost)
        if not command.blocked:
            self.loop.at(self._free_at + self.costs.hop_s, self._reply, command)

    def _unblock(self, command: Command) -> None:
        """Run a blocked command next, before any other."""
        if command.timer:
            command.timer.cancel()
        command.blocked = False
        self._commands.appendleft(command)
        self._wake()

    # --- commands that block

    def after_wakeup(self, command: Command, timeout_s: float) -> None:
        """BLPOP wakeup, then `command`."""
        if self._wakeup:
            self._wakeup = False
        else:
            command.blocked = True
            self._on_wakeup.append(command)
            command.timer = self.loop.at(self.loop.now + timeout_s, self._wakeup_timeout, command)

    def _wakeup_timeout(self, command: Command) -> None:
        self._on_wakeup.remove(command)
        self._unblock(command)

    def after_entry(self, command: Command, last_id: str) -> None:
        """XREAD BLOCK after `last_id`, then `command`. `unblock` ends it."""
        if self._added <= int(last_id.partition("-")[0]):
            command.blocked = True
            self._on_stream.append((int(last_id.partition("-")[0]), command))

    def unblock(self, command: Command) -> None:
        """CLIENT UNBLOCK; has no effect if the command is not blocked."""
        if command in self._on_wakeup:
            self._on_wakeup.remove(command)
            self._unblock(command)
            return
        for waiting in self._on_stream:
            if waiting[1] is command:
                self._on_stream.remove(waiting)
                self._unblock(command)
                return

    # --- the scripts

    def wake(self) -> None:
        """Wake an idle worker if entries wait and no worker fills a batch."""
        if self.stream and not self.lock_holder() and not self._wakeup:
            if self._on_wakeup:
                self._unblock(self._on_wakeup.popleft())
            else:
                self._wakeup = True

    def lock_holder(self) -> str:
        """Return the worker that holds the fill lock; empty if none does."""
        return self._holder if self._lock_ends > self.loop.now else ""

    def admit(
        self,
        inbox: Inbox,
        requests: Sequence[Any],
        timeout_ms: float,
        rows_per_ms: float,
        batch_ms: float,
        *,
        force: bool = False,
    ) -> list[int]:
        """Return a code per request as admit.lua does: 1 admitted, 0 queue full, 2 deadline unattainable."""
        t_ms, codes = int(self.loop.now * 1000), []
        for request in requests:
            if not force and len(self.stream) >= self._max_entries:
                codes.append(0)
            elif not force and rows_per_ms and self.stream and self._wait_ms(rows_per_ms, batch_ms) > timeout_ms:
                codes.append(2)
            else:
                self._added += 1
                self.stream.append(Entry(inbox, request, t_ms, self._added))
                self.inflight_rows += 1
                codes.append(1)
        readers, self._on_stream = self._on_stream, []
        for waiting in readers:
            if self._added > waiting[0]:
                self._unblock(waiting[1])
            else:
                self._on_stream.append(waiting)
        self.wake()
        return codes

    def _wait_ms(self, rows_per_ms: float, batch_ms: float) -> float:
        return (self.inflight_rows + 1) / rows_per_ms + batch_ms

    def claim(
        self, me: str, mode: Mode, *, held_rows: int = 0, room_rows: int = 32, hold_ms: int = 0, soon: bool = False
    ) -> ClaimResult:
        stream, holder = self.stream, self.lock_holder()
        locked, waiting = bool(holder) and holder != me, len(stream)
        if not waiting and mode == "idle" and held_rows and hold_ms > 0 and not locked:
            self._hold(me, hold_ms)
        if (
            not waiting
            or (mode == "top" and locked)
            or (mode == "idle" and locked and waiting < room_rows)
            or (mode == "ahead" and (locked or not self._wakeup or (waiting < room_rows and not soon)))
        ):
            return self._result("empty", [])
        entries = [stream.popleft() for _ in range(min(room_rows, waiting))]
        self._delivered = entries[-1].number
        if not locked:
            self._hold(me, 0 if len(entries) >= room_rows else hold_ms)
        self.wake()
        return self._result("batch", entries)

    def _hold(self, me: str, hold_ms: int) -> None:
        self._holder, self._lock_ends = me, self.loop.now + hold_ms / 1000 if hold_ms > 0 else 0.0

    def _result(self, kind: str, entries: list[Entry]) -> ClaimResult:
        return ClaimResult(kind, int(self.loop.now * 1000), len(self.stream), f"{self._delivered}-0", entries)

    def release(self, me: str) -> None:
        if self.lock_holder() == me:
            self._lock_ends = 0.0
        self.wake()

    def finish(self, entries: list[Entry]) -> None:
        """Finish the entries and push their replies to the gateways' inboxes."""
        self.inflight_rows -= len(entries)
        by_inbox: dict[Inbox, list[Entry]] = {}
        for entry in entries:
            by_inbox.setdefault(entry.inbox, []).append(entry)
        for inbox, replies in by_inbox.items():
            inbox.replies += replies
            if inbox.popping and inbox.popping.blocked:
                self._unblock(inbox.popping)

    def cancel(self, request_ids: Collection[int]) -> None:
        """Remove requests that wait. (The script also forgets those that run.)"""
        before = len(self.stream)
        self.stream = deque(entry for entry in self.stream if entry.request.id not in request_ids)
        self.inflight_rows -= before - len(self.stream)


class Command:
    """One command, sent to the broker or waiting there."""

    __slots__ = ("blocked", "done", "failed", "name", "run", "timer")

    def __init__(
        self, name: str, run: Callable[[], float], done: Callable[[], Any], failed: Callable[[], Any] | None
    ) -> None:
        self.name = name
        self.run = run
        self.done = done
        self.failed = failed
        self.blocked = False
        self.timer: Timer | None = None


def settle(future: asyncio.Future[None]) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what to call when a command is done, and when it failed."""

    def done() -> None:
        if not future.done():
            future.set_result(None)

    def failed() -> None:
        if not future.done():
            future.set_exception(BrokerUnavailable("the broker is dead"))

    return done, failed
