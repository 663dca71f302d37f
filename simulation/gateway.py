"""A gateway process: one thread for HTTP, a submitter that sends what gathered, a router that reads what came back.

Arrivals are no events of the loop: the gateway takes all that have come whenever it does something, which is what
makes a million a second cheap to simulate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from simulation.arrivals import NEVER, Arrivals
from simulation.broker import Broker, Command, Entry
from simulation.clock import Timer
from simulation.costs import Costs
from simulation.outcomes import Outcomes
from smartbatch.gateway.queue.admission_control import AdmissionControl
from smartbatch.shared.broker.queue.admission import MAX_CALL_REQUESTS, AdmitResult, AdmitStatus, Capacity, NewEntry
from smartbatch.shared.broker.queue.replies import POP
from smartbatch.shared.errors import Unavailable


class Gateway:
    """Its requests all have the same timeout. What it refuses at the door, the real `Room` refuses."""

    def __init__(
        self,
        broker: Broker,
        arrivals: Arrivals,
        costs: Costs,
        outcomes: Outcomes,
        timeout_s: float,
        capacity: Callable[[], Capacity],
        max_entries: int,
    ) -> None:
        self.inbox: list[Entry] = []
        self.popping: Command | None = None
        self._broker = broker
        self._loop = broker.loop
        self._arrivals = arrivals
        self._costs = costs
        self._outcomes = outcomes
        self._timeout_s = timeout_s
        self._capacity = capacity
        self._room = AdmissionControl(max_entries, capacity, broker.loop.time)
        self._example = NewEntry("", int(timeout_s * 1000), 1, "raw", b"")
        self._handled: deque[tuple[float, Entry]] = deque()  # (when it may leave, what)
        self._busy_until = 0.0
        self._in_flight = False
        self._wake: Timer | None = None
        self._wake_at = NEVER
        self._pop(0)
        self._look()

    # --- the submitter

    def _gather(self) -> None:
        """Take in what has arrived by now."""
        now, arrivals, cores, cost = self._loop.now, self._arrivals, self._broker.cores, self._costs.gateway_in_s
        busy = self._busy_until
        while arrivals.next_at <= now:
            at = arrivals.take()
            busy = busy if busy > at else at
            self._outcomes.arrived()
            try:
                self._room.check(self._example.timeout_ms)
            except Unavailable:
                busy = cores.run(busy, self._costs.gateway_refuse_s)
                self._outcomes.add("refused", at, busy)
                arrivals.answered(cores.run(busy, self._costs.client_s))
            else:
                busy = cores.run(busy, cost)
                self._handled.append((busy, Entry(self, at)))
        self._busy_until = busy

    def _look(self) -> None:
        """Send, or wake when there will be something to send."""
        self._gather()
        if self._in_flight:
            return
        if self._handled:
            when = self._handled[0][0]
            if when <= self._loop.now:
                self._flush()
                return
        else:
            when = self._arrivals.next_at
        if when < self._wake_at or self._wake_at <= self._loop.now:
            if self._wake:
                self._wake.cancel()
            self._wake_at = when
            self._wake = self._loop.at(when, self._look) if when < NEVER else None

    def _flush(self) -> None:
        handled, now, entries = self._handled, self._loop.now, []
        while handled and handled[0][0] <= now and len(entries) < MAX_CALL_REQUESTS:
            entries.append(handled.popleft()[1])
        capacity = self._capacity()
        codes: list[int] = []

        def admit() -> float:
            codes[:] = self._broker.admit(
                entries, self._timeout_s * 1000, capacity.rows_per_s / 1000, capacity.batch_s * 1000
            )
            return self._broker.costs.admit.of(len(entries))

        def admitted() -> None:
            self._in_flight = False
            statuses = [AdmitStatus(code) for code in codes if code != 1]
            answer = AdmitResult(len(self._broker.stream), self._broker.open_rows, [])
            self._room.update(answer, [(self._example, status) for status in statuses])
            if statuses:
                self._respond([e for e, code in zip(entries, codes, strict=True) if code != 1], refused=True)
            self._look()

        self._in_flight = True
        self._broker.call("admit", admit, admitted)

    # --- the router

    def _pop(self, done: int) -> None:
        """UNLINK what came last, BLMPOP the inbox, whose notices carry the replies."""
        broker, taken = self._broker, []

        def pop() -> float:
            if not self.inbox:
                command.blocked = True
                return broker.costs.pop.of(done) if done else 0.0
            taken[:], self.inbox = self.inbox[:POP], self.inbox[POP:]
            return broker.costs.pop.of(len(taken))

        def popped() -> None:
            self._respond(taken)
            self._pop(len(taken))
            self._look()

        self.popping = command = broker.call("pop", pop, popped)

    def _respond(self, entries: list[Entry], *, refused: bool = False) -> None:
        self._gather()
        cores, busy, cost = self._broker.cores, max(self._busy_until, self._loop.now), self._costs.gateway_out_s
        for entry in entries:
            busy = cores.run(busy, cost)
            late = entry.late or busy > entry.arrived_at + self._timeout_s
            self._outcomes.add("refused" if refused else "late" if late else "ok", entry.arrived_at, busy)
            self._arrivals.answered(cores.run(busy, self._costs.client_s))
        self._busy_until = busy
