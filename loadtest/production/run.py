"""Running the phases that are not done yet: start a server, ask it alone, warm up, measure, stop it."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

from loadtest.bench import machine
from loadtest.drive import scenario, servers
from loadtest.drive.driving import drive
from loadtest.drive.order import Order
from loadtest.drive.servers import Served
from loadtest.production.cpu import Cpu
from loadtest.production.display import Display
from loadtest.production.plan import Phase, Plan
from loadtest.production.store import Store
from loadtest.production.summary import phase_result
from loadtest.traffic.asking import alone
from loadtest.traffic.bodies import Body


class Runner:
    """One run. Whatever ends it, what was started has ended too, and what was measured is on disk."""

    def __init__(self, plan: Plan, store: Store, display: Display, own: list) -> None:
        self._plan = plan
        self._store = store
        self._display = display
        self._own = own

    def run(self) -> list[Phase]:
        """Return the phases, in order, all of them done."""
        bodies = self._bodies()
        phases = self._display.phases
        phases += self._plan.closed()
        for phase in list(phases):
            self._phase(phase, bodies)
        opened = self._plan.open(self._best_rate(phases))
        phases += opened
        for phase in opened:
            self._phase(phase, bodies)
        return phases

    def _bodies(self) -> list[Body]:
        if "info" not in self._store.facts:
            self._display.say(f"loading {self._plan.served.model} to see what it takes")
            self._store.remember(info=servers.describe(self._plan.served), machine=machine.describe())
        name, bodies = scenario.choose(self._plan.scenario, self._own, self._store.facts["info"])
        sizes = sorted(len(body.content) for body in bodies)
        self._store.remember(sent={"scenario": name, "bodies": len(bodies), "least": sizes[0], "most": sizes[-1]})
        return bodies

    def _best_rate(self, phases: list[Phase]) -> float:
        """What SmartBatch answered in the closed loop; without one, "auto" was not allowed."""
        ours = [phase for phase in phases if phase.side == "smartbatch"]
        return max((phase_result(each, self._store.events(each))["throughput_rps"] for each in ours), default=0.0)

    def _phase(self, phase: Phase, bodies: list[Body]) -> None:
        left_s = self._plan.duration_s - self._store.seconds_done(phase)
        if left_s > 0:
            self._measure(phase, bodies, left_s)
        result = phase_result(phase, self._store.events(phase))
        self._display.finish(result)

    def _measure(self, phase: Phase, bodies: list[Body], left_s: int) -> None:
        plan, store, display = self._plan, self._store, self._display
        display.enter(phase, plan.duration_s - left_s)
        with servers.start(phase.side, plan.served) as system:
            references = alone(f"{system.url}/predict", bodies)
            store.append(phase, "piece", {"started_at": round(time.time(), 1), "references": references})
            order = Order(
                port=system.port,
                load=phase.load,
                seconds=left_s,
                bodies=bodies,
                references=references,
                warm_s=plan.warm_s,
                warm_most_s=max(plan.warm_s, min(90.0, plan.duration_s)),
            )
            cpu: Cpu | None = None
            with closing(drive(system, order, batches=phase.side == "smartbatch")) as events:
                for event, counted in events:
                    if event == "warm":
                        display.warm(counted)
                        continue
                    if event == "begin":
                        cpu = Cpu(system)
                    if event == "second":
                        display.second(counted)
                    if event == "end" and cpu:
                        counted |= cpu.since(counted["generator_cpu_s"])
                    store.append(phase, event, counted)


def plan_of(model: str, weights: str, workers: int, **rest: Any) -> Plan:
    """The plan, with the settings that the shell holds."""
    served = Served(servers.at_home(model), servers.at_home(weights), workers, servers.from_shell())
    return Plan(served, **rest)
