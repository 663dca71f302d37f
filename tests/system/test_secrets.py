"""No secret reaches a log, response, page or process list: canaries, over runs in which things fail."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from smartbatch.deploy import embedded_broker
from tests.brokers import Broker, eventually
from tests.system.stack import ROOT, Process, Stack
from tests.system.test_batching import bodies, send_all

PASSWORD = "canary-password"
KEY = "sb_canary-key"
WRONG_KEY = "sb_canary-of-somebody"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
CANARIES = re.compile(rf"canary|{DIGEST}", re.I)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Broker]:
    server = Broker(
        str(embedded_broker.server_binary()),
        *("--requirepass", PASSWORD),
        sync_url=f"redis://:{PASSWORD}@127.0.0.1:{{port}}/0",
    )
    server.url = f"redis://default:{PASSWORD}@127.0.0.1:{server.port}/0"
    yield server
    server.stop()


@pytest.fixture
def stack(locked: Broker, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    made: list[Stack] = []

    def make(**settings: object) -> Stack:
        made.append(Stack(locked, tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def command_lines() -> str:
    """The command lines of everything that this test started, children of children included."""
    lines = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "valkey" not in process.name():  # whose --requirepass the test itself sets
                lines += process.cmdline()
        except psutil.NoSuchProcess:
            continue
    return " ".join(lines)


async def test_no_log_response_or_process_list_holds_a_secret(stack: Callable[..., Stack], locked: Broker) -> None:
    system = stack(
        MODEL_PATH="simulated:base_ms=50,row_ms=0",
        API_KEYS=f"app:{DIGEST}",
        GATEWAY_PROCESSES=2,
        LOG_LEVEL="debug",
        REQUEST_TIMEOUT=20,
    )
    shown: list[str] = []
    headers = {"authorization": f"Bearer {KEY}"}

    def send(content: bytes = b"x", **how) -> int:
        response = system.predict(content, **{"headers": headers, **how})
        shown.append(f"{response.headers} {response.text}")
        return response.status_code

    gateway = system.gateway()
    worker = system.worker()
    eventually(lambda: system.client.get(f"{system.url}/readyz").status_code == 200, 30)
    assert send() == 200
    assert send(headers={"authorization": f"Bearer {WRONG_KEY}"}) == 401
    assert send(headers={"x-api-key": WRONG_KEY}) == 401
    assert send(params={"top_k": "many"}) == 400
    assert send(params={"model": "no-such"}) == 404
    assert send(headers={**headers, "content-encoding": "gzip"}) == 400
    shown.append(command_lines())
    for path in ("/healthz", "/readyz"):
        shown.append(system.client.get(system.url + path).text)
    for path in ("/metrics", "/stats"):
        assert system.client.get(system.url + path, headers=headers).status_code == 403
    # A worker dies in mid-batch; the password is changed under everybody; the broker goes away.
    sending = asyncio.create_task(send_all(system.url, bodies(20), 20, headers))
    await asyncio.to_thread(eventually, system.running)
    worker.kill()
    system.worker()
    await sending
    locked.sync.config_set("requirepass", "another")
    locked.sync.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await asyncio.to_thread(eventually, lambda: send() == 503, 20, 0.1)
    assert "see the server's log" in shown[-1]
    await asyncio.to_thread(eventually, lambda: "WRONGPASS" in gateway.log.read_text())
    locked.process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(eventually, lambda: send() == 503, 20, 0.1)
    assert "127.0.0.1" not in shown[-1]  # nor where the broker is
    await asyncio.to_thread(gateway.stop)
    for process in system.processes:
        shown.append(process.log.read_text())
    assert [found for text in shown for found in CANARIES.findall(text)] == []


@pytest.mark.parametrize("level", ["warning", "debug"])
def test_smartbatch_up_passes_no_secret_on_a_command_line(locked: Broker, tmp_path: Path, level: str) -> None:
    environ = {
        "REDIS_URL": locked.url,
        "MODEL_PATH": "simulated",
        "API_KEYS": f"app:{DIGEST}",
        "PORT": "0",
        "MANAGEMENT_PORT": "0",
        "LOG_LEVEL": level,
    }
    process = Process([sys.executable, "-m", "smartbatch.deploy.cli", "up"], environ, tmp_path / "up.log")
    try:
        eventually(lambda: "ready     http" in process.log.read_text(), 40)
        lines = command_lines()
        assert "smartbatch.deploy.cli gateway" in lines
        assert "smartbatch.deploy.cli worker" in lines
        assert process.stop() == 0
    finally:
        process.kill()
    assert CANARIES.findall(lines + process.log.read_text()) == []
    assert "$SMARTBATCH_API_KEY" in process.log.read_text()


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (["settings"], {}),
        (["settings"], {"REDIS_URL": f"redis://u:{PASSWORD}@h:1/0?ssl_password=canary"}),
        (["settings"], {"REDIS_URL": f"http://u:{PASSWORD}@h:1/0"}),
        (["settings"], {"REDIS_URL": f"redis://u:{PASSWORD}@h:1/0?canary_no_option={PASSWORD}"}),
        (["queue"], {}),
        (["models"], {}),
        (["gateway"], {}),
        (["worker"], {"MODEL_PATH": "simulated"}),
        (["up"], {}),
        (["gateway"], {"API_KEYS": KEY}),
        (["predict", "README.md", "--url", "http://127.0.0.1:1"], {"SMARTBATCH_API_KEY": KEY}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_no_command_prints_a_secret_when_it_fails(words: list[str], environ: dict[str, str]) -> None:
    given = {"REDIS_URL": f"redis://u:{PASSWORD}@127.0.0.1:1/0", "API_KEYS": f"app:{DIGEST}", "COLUMNS": "300"}
    command = [sys.executable, "-m", "smartbatch.deploy.cli", *words]
    done = subprocess.run(
        command, env={**os.environ, **given, **environ}, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    output = (done.stdout + done.stderr).replace("canary_no_option", "")  # an option's name is no secret
    assert output
    assert CANARIES.findall(output) == []
