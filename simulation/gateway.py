"""A gateway process: one thread for HTTP, a submitter and a reply router.

An arrival is not an event of the loop. The gateway processes all arrivals up to now whenever it does something, so a
million per second are cheap to simulate.
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
from smartbatch.shared.broker.queue.replies import POP_COUNT
from smartbatch.shared.errors import Unavailable


class Gateway:
    """One gateway. All requests have the same timeout. The product's admission control decides what it rejects."""

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
        self._admission_control = AdmissionControl(max_entries, capacity, broker.loop.time)
        self._example = NewEntry("", int(timeout_s * 1000), 1, "raw", b"")
        self._received: deque[tuple[float, Entry]] = deque()  # (time at which it can be submitted, entry)
        self._busy_until = 0.0
        self._in_flight = False
        self._timer: Timer | None = None
        self._timer_at = NEVER
        self._pop(0)
        self._submit_or_wait()

    # --- the submitter

    def _receive(self) -> None:
        """Process all arrivals up to now."""
        now, arrivals, cores, cost = self._loop.now, self._arrivals, self._broker.cores, self._costs.gateway_in_s
        busy = self._busy_until
        while arrivals.next_at <= now:
            at = arrivals.pop()
            busy = busy if busy > at else at
            self._outcomes.arrived()
            try:
                self._admission_control.check(self._example.timeout_ms)
            except Unavailable:
                busy = cores.run(busy, self._costs.gateway_reject_s)
                self._outcomes.add("rejected", at, busy)
                arrivals.responded(cores.run(busy, self._costs.client_s))
            else:
                busy = cores.run(busy, cost)
                self._received.append((busy, Entry(self, at)))
        self._busy_until = busy

    def _submit_or_wait(self) -> None:
        """Submit what is ready, or set the timer for the next request that becomes ready."""
        self._receive()
        if self._in_flight:
            return
        if self._received:
            when = self._received[0][0]
            if when <= self._loop.now:
                self._submit()
                return
        else:
            when = self._arrivals.next_at
        if when < self._timer_at or self._timer_at <= self._loop.now:
            if self._timer:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self._loop.at(when, self._submit_or_wait) if when < NEVER else None

    def _submit(self) -> None:
        received, now, entries = self._received, self._loop.now, []
        while received and received[0][0] <= now and len(entries) < MAX_CALL_REQUESTS:
            entries.append(received.popleft()[1])
        capacity = self._capacity()
        codes: list[int] = []

        def admit() -> float:
            codes[:] = self._broker.admit(
                entries, self._timeout_s * 1000, capacity.rows_per_s / 1000, capacity.batch_s * 1000
            )
            return self._broker.costs.admit.of(len(entries))

        def admitted() -> None:
            self._in_flight = False
            rejected = [AdmitStatus(code) for code in codes if code != 1]
            result = AdmitResult(len(self._broker.stream), self._broker.inflight_rows, [])
            self._admission_control.update(result, [(self._example, each) for each in rejected])
            if rejected:
                self._respond([e for e, code in zip(entries, codes, strict=True) if code != 1], rejected=True)
            self._submit_or_wait()

        self._in_flight = True
        self._broker.call("admit", admit, admitted)

    # --- the reply router

    def _pop(self, done: int) -> None:
        """UNLINK the previous replies and BLMPOP the inbox, whose notices carry the next ones."""
        broker, popped = self._broker, []

        def pop() -> float:
            if not self.inbox:
                command.blocked = True
                return broker.costs.pop.of(done) if done else 0.0
            popped[:], self.inbox = self.inbox[:POP_COUNT], self.inbox[POP_COUNT:]
            return broker.costs.pop.of(len(popped))

        def respond() -> None:
            self._respond(popped)
            self._pop(len(popped))
            self._submit_or_wait()

        self.popping = command = broker.call("pop", pop, respond)

    def _respond(self, entries: list[Entry], *, rejected: bool = False) -> None:
        self._receive()
        cores, busy, cost = self._broker.cores, max(self._busy_until, self._loop.now), self._costs.gateway_out_s
        for entry in entries:
            busy = cores.run(busy, cost)
            late = entry.late or busy > entry.arrived_at + self._timeout_s
            self._outcomes.add("rejected" if rejected else "late" if late else "ok", entry.arrived_at, busy)
            self._arrivals.responded(cores.run(busy, self._costs.client_s))
        self._busy_until = busy
