"""Requests while all workers are scaled away."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.brokers import eventually
from tests.system.stack import Stack

DETAIL = re.compile(r"not answered within 0\.\d+ s: no worker is ready, and the last one took ([\d.]+) s to start")


def test_a_request_waits_for_the_first_worker_and_learns_how_long_a_start_takes_if_it_is_not_in_time(
    stack: Callable[..., Stack],
) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0,load_ms=700")
    first = system.gateway()
    before = system.predict(b"x", headers={"x-request-timeout": "0.3"})
    assert (before.status_code, before.json()["code"]) == (504, "deadline_exceeded")  # no start is known
    worker = system.worker()
    assert system.predict(b"x").status_code == 200  # it has waited for the start
    system.ready()
    assert worker.stop() == 0
    assert first.stop() == 0
    system.gateway()  # another gateway: workers have left the time in Redis
    eventually(lambda: "simulated" in system.client.get(f"{system.url}/live/models").text)
    late = system.predict(b"x", headers={"x-request-timeout": "0.3"})
    assert (late.status_code, late.json()["code"]) == (503, "unavailable")
    found = DETAIL.fullmatch(late.json()["detail"])
    assert found and 0.7 < float(found[1]) < 20
    assert float(found[1]) <= int(late.headers["retry-after"]) <= 1.25 * float(found[1]) + 2
    eventually(lambda: system.waiting() == 0)
    system.worker()
    assert system.predict(b"x").status_code == 200
