"""One broker: the rules of the scripts (`shared/broker/scripts/`), on one thread that takes its time.

Requests have one row each, so `#wide` and the reading of an entry at a time, which are for others, aren't here. A test
puts the same calls to these rules and to the real scripts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgspec

from simulation.clock import Timer, VirtualLoop
from simulation.cores import Cores
from simulation.costs import BrokerCosts
from smartbatch.shared.broker.queue.claims import Mode


class Entry:
    """One request, from its arrival at the gateway to its outcome. Also what a claimer takes for a rider."""

    __slots__ = ("admitted_at", "arrived_at", "deadline_at", "gateway", "late", "number", "t_ms")

    rows = 1
    bytes = 1

    def __init__(self, gateway: Any, arrived_at: float) -> None:
        self.gateway = gateway
        self.arrived_at = arrived_at
        self.t_ms = 0
        self.number = 0  # its place on the stream
        self.admitted_at = 0.0  # as its worker knows it: to the millisecond
        self.deadline_at = 0.0
        self.late = False  # its deadline passed before it reached the device

    @property
    def entry(self) -> Entry:
        return self


class Answer(msgspec.Struct):
    """Of a claim, as `smartbatch.shared.broker.queue.claims.Claim` has it."""

    kind: str
    now_ms: int
    waiting: int
    last_id: str
    entries: list[Entry]
    next_too_large: bool = False


class Broker:
    """Execution is one command after the other; what is called here runs when the broker comes to it."""

    def __init__(self, loop: VirtualLoop, costs: BrokerCosts, max_entries: int, cores: Cores | None = None) -> None:
        self.loop = loop
        self.costs = costs
        self.cores = cores or Cores()
        self.busy_s = 0.0
        self.commands: Counter[str] = Counter()
        self.stream: deque[Entry] = deque()  # what waits; `open_rows` counts what is claimed, too
        self.open_rows = 0
        self._max_entries = max_entries
        self._added = 0
        self._delivered = 0
        self._turn = ""
        self._turn_ends = 0.0
        self._bell = False
        self._on_bell: deque[Command] = deque()
        self._on_stream: list[tuple[int, Command]] = []
        self._commands: deque[Command] = deque()
        self._free_at = 0.0
        self._woken = False

    # --- the thread

    def call(self, name: str, run: Callable[[], float], done: Callable[[], Any]) -> Command:
        """Send a command. `run` does it and returns what it costs; `done` is called when its answer is back."""
        command = Command(name, run, done)
        self.loop.at(self.loop.now + self.costs.hop_s, self._arrived, command)
        return command

    def _arrived(self, command: Command) -> None:
        if self._commands or self._free_at > self.loop.now:
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
        self._run(self._commands.popleft())
        if self._commands:
            self._wake()

    def _run(self, command: Command) -> None:
        cost = command.run()
        self.commands[command.name] += 1
        self.busy_s += cost
        self._free_at = self.cores.run(max(self._free_at, self.loop.now), cost)
        if not command.blocked:
            self.loop.at(self._free_at + self.costs.hop_s, command.done)

    def _unblock(self, command: Command) -> None:
        """What it waited for is there: it runs next, before anybody else's."""
        if command.timer:
            command.timer.cancel()
        command.blocked = False
        self._commands.appendleft(command)
        self._wake()

    # --- waits: a command that is not run before something happens

    def after_bell(self, command: Command, timeout_s: float) -> None:
        """BLPOP bell, then `command`."""
        if self._bell:
            self._bell = False
        else:
            command.blocked = True
            self._on_bell.append(command)
            command.timer = self.loop.at(self.loop.now + timeout_s, self._bell_timeout, command)

    def _bell_timeout(self, command: Command) -> None:
        self._on_bell.remove(command)
        self._unblock(command)

    def after_entry(self, command: Command, last_id: str) -> None:
        """XREAD BLOCK after `last_id`, then `command`. `unblock` ends it."""
        if self._added <= int(last_id.partition("-")[0]):
            command.blocked = True
            self._on_stream.append((int(last_id.partition("-")[0]), command))

    def unblock(self, command: Command) -> None:
        """CLIENT UNBLOCK. Harmless if it isn't blocked."""
        for waiting in self._on_stream:
            if waiting[1] is command:
                self._on_stream.remove(waiting)
                self._unblock(command)
                return

    # --- the scripts

    def ring(self) -> None:
        if self.stream and not self.fill_lock() and not self._bell:
            if self._on_bell:
                self._unblock(self._on_bell.popleft())
            else:
                self._bell = True

    def fill_lock(self) -> str:
        """Who fills a batch right now."""
        return self._turn if self._turn_ends > self.loop.now else ""

    def admit(self, entries: list[Entry], timeout_ms: float, rows_per_ms: float, batch_ms: float) -> list[int]:
        """Return a code per entry, as `admit.lua`: 1 admitted, 0 full, 2 it could only be late."""
        t_ms, codes = int(self.loop.now * 1000), []
        for entry in entries:
            if len(self.stream) >= self._max_entries:
                codes.append(0)
            elif rows_per_ms and self.stream and (self.open_rows + 1) / rows_per_ms + batch_ms > timeout_ms:
                codes.append(2)
            else:
                self._added += 1
                entry.t_ms, entry.number = t_ms, self._added
                self.stream.append(entry)
                self.open_rows += 1
                codes.append(1)
        readers, self._on_stream = self._on_stream, []
        for waiting in readers:
            if self._added > waiting[0]:
                self._unblock(waiting[1])
            else:
                self._on_stream.append(waiting)
        self.ring()
        return codes

    def claim(
        self, me: str, mode: Mode, *, held_rows: int = 0, room_rows: int = 32, hold_ms: int = 0, soon: bool = False
    ) -> Answer:
        stream, holder = self.stream, self.fill_lock()
        taken, waiting = bool(holder) and holder != me, len(stream)
        if not waiting and mode == "idle" and held_rows and hold_ms > 0 and not taken:
            self._hold(me, hold_ms)
        if (
            not waiting
            or (mode == "top" and taken)
            or (mode == "idle" and taken and waiting < room_rows)
            or (mode == "ahead" and (taken or not self._bell or (waiting < room_rows and not soon)))
        ):
            return self._answer("empty", [])
        entries = [stream.popleft() for _ in range(min(room_rows, waiting))]
        self._delivered = entries[-1].number
        if not taken:
            self._hold(me, 0 if len(entries) >= room_rows else hold_ms)
        self.ring()
        return self._answer("batch", entries)

    def _hold(self, me: str, hold_ms: int) -> None:
        self._turn, self._turn_ends = me, self.loop.now + hold_ms / 1000 if hold_ms > 0 else 0.0

    def _answer(self, kind: str, entries: list[Entry]) -> Answer:
        return Answer(kind, int(self.loop.now * 1000), len(self.stream), f"{self._delivered}-0", entries)

    def release(self, me: str) -> None:
        if self.fill_lock() == me:
            self._turn_ends = 0.0
        self.ring()

    def finish(self, entries: list[Entry]) -> None:
        """Close them, and tell the gateways of those that have a reply."""
        self.open_rows -= len(entries)
        by_gateway: dict[Any, list[Entry]] = {}
        for entry in entries:
            by_gateway.setdefault(entry.gateway, []).append(entry)
        for gateway, its in by_gateway.items():
            gateway.inbox += its
            if gateway.popping and gateway.popping.blocked:
                self._unblock(gateway.popping)


class Command:
    """One command on its way."""

    __slots__ = ("blocked", "done", "name", "run", "timer")

    def __init__(self, name: str, run: Callable[[], float], done: Callable[[], Any]) -> None:
        self.name = name
        self.run = run
        self.done = done
        self.blocked = False
        self.timer: Timer | None = None
