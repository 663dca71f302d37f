"""`smartbatch top` as users and scripts run it."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from smartbatch.deploy.top_frame import frame, sizes
from smartbatch.gateway.core.latency_window import Summary, pack
from smartbatch.gateway.monitoring.model_view import ModelView, describe
from smartbatch.gateway.monitoring.window_stats import StatsWindow, WindowStats
from smartbatch.shared.broker.admin.registry import Snapshot
from tests.brokers import Broker, eventually
from tests.deploy.test_cli import ROOT, Ended
from tests.system.conftest import stack  # noqa: F401
from tests.system.stack import Stack
from tests.system.test_batching import bodies, send_all


async def test_top_follows_a_load(stack: Callable[..., Stack], broker: Broker) -> None:  # noqa: F811
    system = stack(MODEL_PATH="simulated:base_ms=4,row_ms=1", MAX_BATCH_SIZE=8)
    system.up()
    watching = system.start(
        "top", {}, [sys.executable, "-m", "smartbatch.deploy.cli", "top", "--json", "--interval", "0.3"]
    )
    eventually(watching.log.read_text, 20)
    await send_all(system.url, bodies(100), 16)
    assert system.predict(b"x", params={"top_k": "many"}).status_code == 400

    def reached() -> dict | None:
        for line in watching.log.read_text().splitlines():
            model = json.loads(line)["models"]["simulated"]
            outcomes, last = model["stats"]["outcomes"], model["last"]
            if outcomes == {"ok": 100, "invalid": 1} and last["answered"] == sum(
                w["rows"] for w in last["workers"].values()
            ):
                return model
        return None

    model = eventually(reached, 20, 0.1)
    assert model["last"]["answered"] == 100
    assert model["stats"]["throughput_rps"] == 10.0
    assert model["stats"]["latency_ms"]["p50"] > 4
    assert model["last"]["parts_ms"]["forward"] > 4
    assert sum(model["last"]["closed"].values()) == sum(model["last"]["rows_at_most"].values()) > 0
    [worker] = model["stats"]["workers"].values()
    assert (worker["state"], worker["rows"]) == ("ready", 100)
    shown = "\n".join(Ended("top", "--once", REDIS_URL=broker.url).out)
    for text in ("answered ", "waiting 0   running 0", "rows per batch", *model["stats"]["workers"]):
        assert text in shown


def test_padding_and_predicted_seconds_are_shown() -> None:
    last = WindowStats(10.0, 0, {}, {}, {}, {}, padding_ratio=1.125, forward_s=8.0, predicted_s=7.5)
    assert sizes(last).plain.split("   ") == ["padded size 1.12 × the real one", "forwards 8 s", "predicted 7.5 s", ""]


def test_versions_of_a_model_are_compared_in_one_table() -> None:
    def view(ok: int, errors: int = 0, workers: int = 1) -> ModelView:
        snapshot = Snapshot(
            "m",
            waiting=3,
            workers={f"w{n}": {"state": "ready", "progress": ""} for n in range(workers)},
            gateways={"g": {"recent": pack(Summary({"ok": ok, "error": errors}, {}, {24: ok}))}},
        )
        return ModelView(describe(snapshot), StatsWindow().add(snapshot), None)

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(frame({"m": view(90, workers=2), "m@10": view(2), "m@2": view(6, errors=2), "other": view(5)}))
    lines = [line.split() for line in console.export_text().splitlines()]
    begin = lines.index(["versions", "of", "m"])
    assert lines[begin + 2 : begin + 5] == [
        ["1", "90%", "9/s", "0/s", "0/s", "8.35", "ms", "8.35", "ms", "3", "2"],
        ["2", "8%", "0.6/s", "0/s", "0.2/s", "8.35", "ms", "8.35", "ms", "3", "1"],
        ["10", "2%", "0.2/s", "0/s", "0/s", "8.35", "ms", "8.35", "ms", "3", "1"],
    ]
    assert lines.count(["versions", "of", "other"]) == 0


def test_top_reports_a_missing_model_and_ends_without_a_broker(broker: Broker) -> None:
    assert "no model has been announced yet" in Ended("top", "--once", REDIS_URL=broker.url).out
    assert json.loads(Ended("top", "--once", "--json", REDIS_URL=broker.url).out[0])["models"] == {}
    ended = Ended("top", "--once", REDIS_URL="redis://127.0.0.1:1/0")
    assert (ended.code, len(ended.err)) == (2, 1)


class Terminal:
    """`smartbatch top` on its own terminal."""

    def __init__(self, broker: Broker) -> None:
        self.master, self._slave = pty.openpty()
        self.before = termios.tcgetattr(self._slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smartbatch.deploy.cli", "top", "--interval", "0.2"],
            cwd=ROOT,
            env={**os.environ, "REDIS_URL": broker.url, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
        )
        os.set_blocking(self.master, False)
        self.shown = b""

    def shows(self, text: str) -> bool:
        try:
            while read := os.read(self.master, 65536):
                self.shown += read
        except BlockingIOError:
            pass
        return text.encode() in self.shown

    @property
    def attributes(self) -> list:
        return termios.tcgetattr(self._slave)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self._slave)


@pytest.fixture
def terminal(broker: Broker) -> Iterator[Terminal]:
    made = Terminal(broker)
    yield made
    made.close()


@pytest.mark.parametrize("how", ["q", "Ctrl-C"])
def test_a_key_quits_top_and_restores_the_terminal(terminal: Terminal, how: str) -> None:
    eventually(lambda: terminal.shows("no model has been announced yet"), 20)
    assert terminal.attributes != terminal.before  # a key works without Enter
    if how == "q":
        os.write(terminal.master, b"xq")
    else:
        terminal.process.send_signal(signal.SIGINT)
    eventually(lambda: terminal.shows("\x1b[?1049l") and terminal.process.poll() is not None, 20)
    assert terminal.process.returncode == 0
    assert terminal.attributes == terminal.before
    assert b"Traceback" not in terminal.shown


def test_top_continues_while_the_broker_is_unreachable(terminal: Terminal, broker: Broker) -> None:
    eventually(lambda: terminal.shows("no model has been announced yet"), 20)
    broker.pause()
    try:
        eventually(lambda: terminal.shows("the broker can't be reached"), 20)
    finally:
        broker.resume()
    os.write(terminal.master, b"q")
    assert terminal.process.wait(20) == 0
