"""The live page's stream and files on a real gateway, without a browser."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from smartbatch.gateway.web.live.events import MAX_VIEWERS
from tests.brokers import eventually
from tests.system.stack import Stack


@contextmanager
def live_events(url: str) -> Iterator[Iterator[dict]]:
    with httpx.stream("GET", f"{url}/live/events", timeout=10) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield (json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line)


@pytest.mark.parametrize("processes", [1, 2])
def test_live_event_covers_the_whole_system_from_any_process(stack: Callable[..., Stack], processes: int) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=2,row_ms=0", GATEWAY_PROCESSES=processes)
    system.up()
    for number in range(20):
        with httpx.Client() as client:  # a connection each: the kernel hands them to either process
            assert client.post(f"{system.url}/predict", content=b"%d" % number).status_code == 200
    with live_events(system.url) as events:
        moment = next(m for m in events if m["models"]["simulated"]["stats"]["outcomes"].get("ok") == 20)
    model = moment["models"]["simulated"]
    assert (moment["broker"], moment["default"], moment["predict"]) == ("up", "simulated", "here")
    assert model["stats"]["throughput_rps"] == 2.0
    assert model["info"]["input"]["kinds"] == ["raw"]
    assert len(model["stats"]["gateways"]) == processes
    assert list(model["last"]["workers"]) == list(model["stats"]["workers"])


def test_a_late_viewer_gets_the_history_of_an_idle_gateway(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=2,row_ms=0")
    system.up()
    for number in range(20):
        assert system.predict(b"%d" % number).status_code == 200

    def history() -> dict[str, list]:
        with live_events(system.url) as events:
            return next(events)["history"]["simulated"]

    eventually(lambda: max(history()["answered"]) == 2.0)  # per second, over ten
    columns = history()
    assert columns["p50"][0] is None and columns["p50"][-1] is not None
    assert columns["forward"][-1] > 1
    with live_events(system.url) as events:
        assert ["history" in next(events) for _ in range(2)] == [True, False]


def test_timing_parts_add_up_to_the_latency(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=20,row_ms=0")
    system.up()
    with live_events(system.url) as events:
        next(m for m in events if m["models"]["simulated"]["stats"]["gateways"])
        totals = [system.predict(b"%d" % number).json()["timing_ms"] for number in range(10)]
        last = next(m for m in (m["models"]["simulated"]["last"] for m in events) if m["answered"] == 10)
    assert list(last["parts_ms"]) == ["admit", "queue", "decode", "batch_wait", "forward", "reply"]
    # Admission is known in whole milliseconds of Redis's clock, so a worker's parts may exceed the total by one.
    assert sum(last["parts_ms"].values()) == pytest.approx(sum(t["total"] for t in totals) / 10, abs=0.5)
    assert last["parts_ms"]["forward"] == pytest.approx(sum(t["forward"] for t in totals) / 10, abs=0.01)


def test_one_viewer_too_many_gets_retry_after(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    gateway = system.gateway()
    with contextlib.ExitStack() as open_streams:
        events = [open_streams.enter_context(live_events(system.url)) for _ in range(MAX_VIEWERS)]
        rejected = system.client.get(f"{system.url}/live/events")
        assert (rejected.status_code, rejected.headers["retry-after"]) == (503, "10")
        assert "viewers of the live page" in rejected.json()["detail"]
        assert next(events[-1])["default"] == "simulated"
        assert system.client.head(f"{system.url}/live/events").status_code == 503
        # They are open when SIGTERM arrives and don't delay the shutdown.
        assert gateway.stop(signal.SIGTERM, timeout_s=15) == 0
        for each in events:
            assert list(each) is not None  # it ends, without an error


def test_disconnected_viewer_frees_its_place(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    gateway = system.gateway()

    def all_let_in() -> bool:
        with contextlib.ExitStack() as open_streams, httpx.Client(timeout=10) as client:
            streams = [client.stream("GET", f"{system.url}/live/events") for _ in range(MAX_VIEWERS)]
            return all(open_streams.enter_context(stream).status_code == 200 for stream in streams)

    assert all_let_in()
    eventually(all_let_in)  # as soon as the gateway has noticed that they disconnected
    assert "Traceback" not in gateway.log.read_text()


def test_page_files_are_sent_again_only_when_they_changed(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    system.gateway()
    page = system.client.get(f"{system.url}/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src 'self'" in page.headers["content-security-policy"]
    again = system.client.get(f"{system.url}/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert system.client.get(f"{system.url}/live/").status_code == 404
    assert system.client.get(f"{system.url}/live/vendor/uPlot.LICENSE").status_code == 404
    assert system.client.post(f"{system.url}/", content=b"x").status_code == 405
