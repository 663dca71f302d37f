"""Run the phases that are not complete: start a server, get references, warm up, measure, stop."""

from __future__ import annotations

import time
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Any

from loadtest import machine
from loadtest.benchmark.plan import TITLES, Phase, Plan
from loadtest.benchmark.store import Store
from loadtest.benchmark.summary import phase_result
from loadtest.generator.counters import totals
from loadtest.generator.process import LoadSpec, run_load
from loadtest.progress import Progress, clock, log
from loadtest.report.page import milliseconds
from loadtest.system import CpuTimer
from loadtest.workload import scenario
from loadtest.workload.bodies import Body
from loadtest.workload.reference import reference_results

MAX_WARM_S = 90.0
SHOWN_S = 10  # the status line shows the figures of the last 10 s


class Runner:
    """One run. However it ends, its processes have ended and its measurements are in the store."""

    def __init__(self, plan: Plan, store: Store, progress: Progress) -> None:
        self._plan = plan
        self._store = store
        self._progress = progress

    def run(self) -> list[Phase]:
        """Complete all phases; return them in order."""
        bodies = self._bodies()
        closed = self._plan.closed()
        open_phases = 2 * len(self._plan.rates)
        results = [self._complete(phase, bodies, len(closed) - n + open_phases) for n, phase in enumerate(closed, 1)]
        best = max((each["throughput_rps"] for each in results if each["side"] == "smartbatch"), default=0.0)
        opened = self._plan.open(best)
        for number, phase in enumerate(opened, 1):
            self._complete(phase, bodies, len(opened) - number)
        return closed + opened

    def _bodies(self) -> list[Body]:
        plan, store = self._plan, self._store
        if "info" not in store.metadata:
            log(f"loading {plan.served.model} to read its metadata")
            store.update(info=plan.served.describe(), machine=machine.describe())
        name, bodies = scenario.choose(plan.scenario, [Path(file) for file in plan.bodies], store.metadata["info"])
        sizes = sorted(len(body.content) for body in bodies)
        store.update(sent={"scenario": name, "bodies": len(bodies), "min_bytes": sizes[0], "max_bytes": sizes[-1]})
        return bodies

    def _complete(self, phase: Phase, bodies: list[Body], later: int) -> dict[str, Any]:
        """Measure the rest of a phase, which `later` phases follow; return its result."""
        left_s = self._plan.duration_s - self._store.seconds_done(phase)
        if left_s > 0:
            self._measure(phase, bodies, left_s, later)
        result = phase_result(phase, self._store.events(phase))
        log(f"{TITLES[phase.side]}, {phase.load}: complete, {_figures(result)}")
        return result

    def _measure(self, phase: Phase, bodies: list[Body], left_s: int, later: int) -> None:
        plan, store, name = self._plan, self._store, f"{TITLES[phase.side]}, {phase.load}"
        self._progress.show(f"{name}: starting")
        with plan.served.start(phase.side) as system:
            references = reference_results(f"{system.url}/predict", bodies)
            store.append(phase, "piece", {"started_at": round(time.time(), 1), "references": references})
            spec = LoadSpec(
                port=system.port,
                load=phase.load,
                seconds=left_s,
                bodies=bodies,
                references=references,
                warm_s=plan.warm_s,
                max_warm_s=max(plan.warm_s, min(MAX_WARM_S, plan.duration_s)),
            )
            cpu: CpuTimer | None = None
            recent: deque[tuple[str, dict[str, Any]]] = deque(maxlen=SHOWN_S)
            with closing(run_load(system, spec, watch_batches=phase.side == "smartbatch")) as events:
                for event, counts in events:
                    if event == "warm":
                        self._progress.show(f"{name}: warming up, {counts['ok']:,} responses/s")
                        continue
                    if event == "begin":
                        cpu = CpuTimer(system)
                    if event == "second":
                        recent.append((event, counts))
                        left_s -= 1
                        times = f"{clock(left_s)} left, {clock(left_s + later * plan.duration_s)} in all"
                        queue = f", {counts['queue']:,.0f} waiting" if "queue" in counts else ""
                        self._progress.show(f"{name}: {times}\n{_figures(totals(recent))}{queue}")
                    if event == "end" and cpu:
                        counts |= cpu.read(counts["generator_cpu_s"])
                    store.append(phase, event, counts)


def _figures(result: dict[str, Any]) -> str:
    latencies = ", ".join(f"p{percent} {milliseconds(result[f'p{percent}_ms'])}" for percent in (50, 95, 99))
    batch = f", {result['mean_batch_rows']:.1f} rows/batch" if result["mean_batch_rows"] else ""
    failed = "".join(f", {result[name]:,} {name}" for name in ("rejected", "errors") if result[name])
    return f"{result['throughput_rps']:,.1f}/s, {latencies}{batch}{failed}"
