"""API keys on real gateways: authentication, permissions, rate limits and quotas."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import httpx
import pytest

from smartbatch.deploy.ports import free_port
from smartbatch.shared.model_info import InputSpec, ModelInfo, encode
from tests.brokers import Broker, eventually
from tests.system.stack import Stack

APP, ADMIN, MONITOR = "sb_app", "sb_admin", "sb_monitor"


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def write(path: Path, **keys: str) -> Path:
    """Write a file of keys: name="key; further lines of its table"."""
    tables = []
    for name, text in keys.items():
        key, *lines = text.split(";")
        tables.append("\n".join([f"[keys.{name}]", f'sha256 = "{sha(key)}"', *lines]))
    path.write_text("\n".join(tables))
    return path


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(
        tmp_path_factory.mktemp("keys") / "keys.toml",
        app=APP,
        boss=f"{ADMIN};role='admin'",
        prometheus=f"{MONITOR};role='monitor'",
    )


def test_only_a_valid_key_is_let_in(stack: Callable[..., Stack], keys: Path) -> None:
    system = stack(MODEL_PATH="simulated", API_KEYS_FILE=keys, API_KEYS=f"other:{sha('from the environment')}")
    system.gateway()
    system.worker()
    eventually(lambda: system.client.get(f"{system.url}/readyz").status_code == 200, 30)
    assert system.predict(b"x", headers=bearer(APP)).status_code == 200
    assert system.predict(b"x", headers={"authorization": f"bearer   {APP}"}).status_code == 200
    assert system.predict(b"x", headers={"x-api-key": APP}).status_code == 200
    assert system.predict(b"x", headers={"x-api-key": APP, "authorization": "Basic eDp5"}).status_code == 200
    assert system.predict(b"x", headers=bearer("from the environment")).status_code == 200
    for headers in (
        {},
        {"authorization": "Bearer"},
        bearer("wrong"),
        bearer(sha(APP)),
        {"authorization": APP},
        {"x-api-key": APP + "x"},
    ):
        response = system.predict(b"x", headers={**headers, "x-request-id": "mine"})
        assert (response.status_code, response.headers["x-request-id"]) == (401, "mine")
        assert response.json()["code"] == "unauthenticated"
        assert response.headers["www-authenticate"] == 'Bearer realm="smartbatch"'


@pytest.mark.parametrize(
    ("path", "none", "client", "monitor", "admin"),
    [
        ("/healthz", 200, 200, 200, 200),
        ("/readyz", 503, 503, 503, 503),
        ("/metrics", 401, 403, 200, 200),
        ("/stats", 401, 403, 200, 200),
        ("/live/events", 401, 403, 200, 200),
        ("/live/models", 401, 200, 200, 200),
        ("/", 200, 200, 200, 200),
        ("/live/page.js", 200, 200, 200, 200),
        ("/nothing", 401, 404, 404, 404),
        ("/predict", 401, 405, 405, 405),
    ],
)
def test_access_to_pages_by_role(
    shared: Callable[..., Stack], keys: Path, path: str, none: int, client: int, monitor: int, admin: int
) -> None:
    system = shared(workers=0, MODEL_PATH="simulated", API_KEYS_FILE=keys)
    attempts = [{}, bearer(APP), bearer(MONITOR), bearer(ADMIN)]
    statuses = []
    for headers in attempts:
        with system.client.stream("GET", system.url + path, headers=headers) as response:  # one of them has no end
            statuses.append(response.status_code)
    assert statuses == [none, client, monitor, admin]
    assert system.predict(b"x", headers=bearer(MONITOR)).status_code == 403


def test_key_limited_to_models_learns_nothing_of_others(stack: Callable[..., Stack], tmp_path: Path) -> None:
    file = write(tmp_path / "keys.toml", app=f"{APP};models=['second']")
    system = stack(MODEL_PATH="simulated", API_KEYS_FILE=file)
    system.gateway()
    system.worker(MODEL_NAME="second")
    second = {"params": {"model": "second"}, "headers": bearer(APP)}
    eventually(lambda: system.predict(b"x", **second).status_code == 200, 30)
    responses = [system.predict(b"x", params={"model": m}, headers=bearer(APP)) for m in ("simulated", "no-such")]
    assert [response.status_code for response in responses] == [403, 403]
    offer = system.client.get(f"{system.url}/live/models", headers=bearer(APP)).json()
    assert (offer["default"], list(offer["models"])) == ("", ["second"])
    outputs = [{"name": "output", "dtype": "float32", "shape": [10]}]
    described = {"input": {"kinds": ["raw"]}, "inputs": [], "outputs": outputs, "classifier": False, "example": None}
    assert offer["models"]["second"] == described
    assert {response.json()["detail"] for response in responses} == {"this API key may not use this model"}


def test_keys_are_revoked_and_added_while_the_gateway_runs(stack: Callable[..., Stack], tmp_path: Path) -> None:
    file = write(tmp_path / "keys.toml", old="sb_old", app=APP)
    system = stack(MODEL_PATH="simulated", API_KEYS_FILE=file, GATEWAY_PROCESSES=2)
    gateway = system.gateway()
    system.worker()
    eventually(lambda: system.predict(b"x", headers=bearer("sb_old"), timeout=5).status_code == 200, 30)
    write(file, new="sb_new", app=APP)

    def all_say(key: str, status: int) -> bool:
        # New connections, as the kernel hands them to one process or the other.
        return all(httpx.post(f"{system.url}/predict", headers=bearer(key)).status_code == status for _ in range(10))

    eventually(lambda: all_say("sb_old", 401) and all_say("sb_new", 200), 10, 0.1)
    file.write_text("[keys.new]\nsha256 = 'not a digest'")
    eventually(lambda: "the previous keys stay valid" in gateway.log.read_text())
    assert all_say("sb_new", 200)
    file.unlink()
    eventually(lambda: "No such file" in gateway.log.read_text())
    assert all_say("sb_new", 200)
    write(tmp_path / "next.toml", last="sb_last").rename(file)  # replaced, as Kubernetes does it
    eventually(lambda: all_say("sb_new", 401) and all_say("sb_last", 200), 10, 0.1)


def test_gateway_does_not_start_with_an_unreadable_key_file(stack: Callable[..., Stack], tmp_path: Path) -> None:
    for settings, text in (
        ({"API_KEYS_FILE": tmp_path / "none.toml"}, "none.toml: No such file or directory"),
        ({"API_KEYS": "app:1234"}, "API_KEYS: app: expected the key's SHA-256"),
    ):
        for processes in (1, 2):
            process = stack(MODEL_PATH="simulated", GATEWAY_PROCESSES=processes, **settings).start("gateway", {})
            assert process.popen.wait(20) == 2
            assert text in process.log.read_text()
            assert "Traceback" not in process.log.read_text()


def test_unauthorized_request_is_rejected_before_its_body(shared: Callable[..., Stack], keys: Path) -> None:
    system = shared(workers=0, MODEL_PATH="simulated", API_KEYS_FILE=keys)
    host, port = system.url.removeprefix("http://").split(":")
    for head in ("content-length: 1000000000", "transfer-encoding: chunked", "content-length: 100"):
        with socket.create_connection((host, int(port)), 5) as client:
            client.sendall(f"POST /predict HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n".encode())  # and no byte of the body
            response = client.recv(65536)
            assert b" 401 " in response.splitlines()[0]
            assert (b"connection: close" in response.lower()) == (head != "content-length: 100")


def test_connection_stays_open_after_a_short_body_was_rejected(shared: Callable[..., Stack], keys: Path) -> None:
    system = shared(workers=0, MODEL_PATH="simulated", API_KEYS_FILE=keys)
    host, port = system.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as client:
        for _ in range(3):
            client.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
            response = b""
            while b'"unauthenticated"' not in response:
                response += client.recv(65536)
            assert b" 401 " in response.splitlines()[0]


def test_flood_without_a_key_never_reaches_the_broker_and_is_rate_limited_in_the_log(
    stack: Callable[..., Stack], keys: Path
) -> None:
    system = stack(MODEL_PATH="simulated", API_KEYS_FILE=keys)
    gateway = system.gateway()
    began = time.monotonic()
    assert {system.predict(b"x" * 1000, headers=bearer(f"guess {n}")).status_code for n in range(500)} == {401}
    seconds = time.monotonic() - began
    lines = [line for line in gateway.log.read_text().splitlines() if "unauthenticated" in line]
    assert 10 <= len(lines) <= (seconds + 2) * 11
    assert system.broker.sync.exists("smartbatch:{simulated}:requests") == 0
    text = system.client.get(f"{system.url}/metrics", headers=bearer(ADMIN)).text
    assert 'smartbatch_api_key_requests_total{decision="unauthenticated",key=""} 500.0' in text


def test_requests_are_counted_by_key_and_decision(stack: Callable[..., Stack], tmp_path: Path) -> None:
    file = write(tmp_path / "keys.toml", app=f"{APP};rate=0.001;burst=2", boss=f"{ADMIN};role='admin'")
    system = stack(MODEL_PATH="simulated", API_KEYS_FILE=file)
    system.gateway()
    system.worker()
    eventually(lambda: system.client.get(f"{system.url}/readyz").status_code == 200, 30)
    statuses = [system.predict(b"x", headers=bearer(APP)).status_code for _ in range(3)]
    statuses.append(system.predict(b"x").status_code)
    assert statuses == [200, 200, 429, 401]
    text = system.client.get(f"{system.url}/metrics", headers=bearer(ADMIN)).text
    assert 'smartbatch_api_key_requests_total{decision="admitted",key="app"} 2.0' in text
    assert 'smartbatch_api_key_requests_total{decision="rate",key="app"} 1.0' in text
    assert 'smartbatch_requests_total{model="simulated",outcome="denied",version="1"} 1.0' in text
    assert 'smartbatch_requests_total{model="simulated",outcome="rejected",version="1"} 1.0' in text


# --- limits over several gateways


async def hammer(urls: list[str], key: str, seconds: float) -> int:
    """Send to all of `urls` without a pause; return how many requests were let through."""
    through = 0
    until = time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:

        async def send(url: str) -> None:
            nonlocal through
            while time.monotonic() < until:
                async with session.post(f"{url}/predict", data=b"x", headers=bearer(key)) as response:
                    assert response.status in (200, 429)
                    through += response.status == 200
                    if response.status == 429:
                        assert int(response.headers["retry-after"]) >= 1
                        await asyncio.sleep(0.01)

        await asyncio.gather(*(send(url) for url in urls for _ in range(4)))
    return through


async def test_two_gateways_share_a_rate_limit_within_the_documented_bound(
    stack: Callable[..., Stack], tmp_path: Path
) -> None:
    file = write(tmp_path / "keys.toml", app=f"{APP};rate=40;burst=20")
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0", API_KEYS_FILE=file)
    system.gateway()
    urls = [system.url]
    system.gateway()
    urls.append(system.url)
    system.worker()
    eventually(lambda: all(httpx.get(f"{url}/readyz").status_code == 200 for url in urls), 30)
    started = time.monotonic()
    through = await hammer(urls, APP, 4.0)
    took = time.monotonic() - started
    one_gateway = 20 + 40 * took
    assert through <= one_gateway + (20 + 40 * 1.2)  # (N - 1) x (burst + a second's rate); settling takes a moment
    assert through >= 0.8 * 40 * took
    # The excess has been compensated by then: from here on the rate holds.
    started = time.monotonic()
    through += await hammer(urls, APP, 3.0)
    assert through <= one_gateway + 40 * (time.monotonic() - started) + (20 + 40 * 1.2)


async def test_quota_is_shared_by_gateways_and_survives_their_restart(
    stack: Callable[..., Stack], tmp_path: Path
) -> None:
    file = write(tmp_path / "keys.toml", app=f"{APP};quota=30")
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0", API_KEYS_FILE=file)
    first = system.gateway()
    system.worker()
    eventually(lambda: system.client.get(f"{system.url}/readyz").status_code == 200, 30)
    for _ in range(20):
        assert system.predict(b"x", headers=bearer(APP)).status_code == 200
    assert await asyncio.to_thread(first.stop) == 0
    system.gateway()
    statuses = [system.predict(b"x", headers=bearer(APP)).status_code for _ in range(12)]
    assert statuses == [200] * 10 + [429] * 2
    rejected = system.predict(b"x", headers=bearer(APP))
    assert rejected.json()["code"] == "quota_exceeded"
    assert 1 <= int(rejected.headers["retry-after"]) <= 86400


def test_server_failures_are_not_charged_to_the_quota(stack: Callable[..., Stack], tmp_path: Path) -> None:
    file = write(tmp_path / "keys.toml", app=f"{APP};quota=2")
    system = stack(MODEL_PATH="simulated", API_KEYS_FILE=file, REQUEST_TIMEOUT=0.05)
    system.gateway()
    assert [system.predict(b"x", headers=bearer(APP)).status_code for _ in range(5)] == [504] * 5  # no worker
    bad = {"headers": bearer(APP), "params": {"top_k": "x"}}
    assert [system.predict(b"x", **bad).status_code for _ in range(3)] == [400, 400, 400]  # never got that far
    unreadable = {"headers": {**bearer(APP), "content-encoding": "gzip"}}
    assert [system.predict(b"x", **unreadable).status_code for _ in range(3)] == [400, 400, 429]


def test_timeouts_chosen_by_the_client_are_charged(stack: Callable[..., Stack], tmp_path: Path) -> None:
    file = write(tmp_path / "keys.toml", app=f"{APP};quota=2")
    system = stack(MODEL_PATH="simulated", API_KEYS_FILE=file)
    system.gateway()
    hurried = {**bearer(APP), "x-request-timeout": "0.05"}
    assert [system.predict(b"x", headers=hurried).status_code for _ in range(3)] == [504, 504, 429]


# --- ports, and warnings at the start


@pytest.mark.parametrize("processes", [1, 3])
def test_management_has_its_own_port(stack: Callable[..., Stack], keys: Path, processes: int) -> None:
    system = stack(MODEL_PATH="simulated", MANAGEMENT_PORT=0, API_KEYS_FILE=keys, GATEWAY_PROCESSES=processes)
    gateway = system.gateway()
    [line] = [line for line in gateway.log.read_text().splitlines() if "management on " in line]
    management = line.split("management on ")[1]
    for path, here, there in (
        ("/healthz", 200, 200),
        ("/readyz", 404, 503),
        ("/metrics", 404, 200),
        ("/stats", 404, 200),
        ("/", 404, 200),
        ("/predict", 405, 404),
    ):
        assert httpx.get(system.url + path, headers=bearer(ADMIN)).status_code == here
        assert httpx.get(management + path).status_code == there
    assert httpx.post(f"{management}/predict", headers=bearer(ADMIN), content=b"x").status_code == 404
    assert gateway.stop() == 0


def test_management_port_in_use_is_reported_in_one_line(stack: Callable[..., Stack]) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        process = stack(MODEL_PATH="simulated", MANAGEMENT_PORT=used.getsockname()[1]).start("gateway", {})
        assert process.popen.wait(20) == 2
    assert "MANAGEMENT_PORT" in process.log.read_text()
    assert len(process.log.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "keyed", "warned"), [("127.0.0.1", False, 0), ("0.0.0.0", False, 1), ("0.0.0.0", True, 0)]
)
@pytest.mark.parametrize("processes", [1, 2])
def test_gateway_open_to_the_network_warns_once(
    stack: Callable[..., Stack], keys: Path, host: str, keyed: bool, warned: int, processes: int
) -> None:
    system = stack(MODEL_PATH="simulated", HOST=host, GATEWAY_PROCESSES=processes, LOG_LEVEL="info")
    gateway = system.gateway(**({"API_KEYS_FILE": keys} if keyed else {}))
    assert gateway.log.read_text().count("NO API KEYS") == warned
    assert ("WARNING" in gateway.log.read_text()) == bool(warned)
    assert os.fspath(keys) not in gateway.log.read_text()


def test_the_api_document_has_examples_for_the_models_of_the_key_only(
    stack: Callable[..., Stack], broker: Broker, tmp_path: Path
) -> None:
    file = write(tmp_path / "keys.toml", app=APP, boss=f"{ADMIN};role='admin';models=['iris']")
    system = stack(MODEL_PATH="simulated", API_KEYS_FILE=file, MANAGEMENT_PORT=free_port())
    for name in ("iris", "words"):
        broker.sync.hset("smartbatch:models", name, encode(ModelInfo(name, "x", InputSpec(("text",)), 8)))
    system.gateway()

    def examples(url: str, key: str = "") -> list[str]:
        document = system.client.get(f"{url}/openapi.json", headers=bearer(key) if key else {}).json()
        content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
        return list(content["text/plain"].get("examples", {}))

    assert eventually(lambda: examples(system.url, APP)) == ["iris", "words"]
    assert examples(system.url, ADMIN) == ["iris"]
    assert system.client.get(f"{system.url}/openapi.json").status_code == 401
    assert system.client.get(f"{system.url}/docs").status_code == 200
    management = f"http://127.0.0.1:{system.environ['MANAGEMENT_PORT']}"
    assert examples(management) == ["iris", "words"]  # it needs no key
