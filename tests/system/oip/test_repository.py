"""Models loaded and unloaded with tritonclient, by a launcher of this test that starts real workers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from smartbatch.deploy import embedded_broker
from smartbatch.gateway.auth.keys import digest_of
from smartbatch.shared.broker.admin.launchers import Command, CommandQueue, Event, Launcher, Load
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.keys import LAUNCHERS, model_id
from tests.brokers import Broker, eventually
from tests.deploy.up import Up
from tests.system.stack import Process, Stack

Client = Any  # its own annotations say that any answer may be None
Clients = dict[str, Client]
ADMIN, APP, OTHER = ({"authorization": f"Bearer sb_{name}"} for name in ("admin", "app", "other"))
KEYS = (("admin", "role = 'admin'"), ("app", ""), ("other", "role = 'admin'\nmodels = ['other']"))


class RepositoryLauncher:
    """A launcher with one worker for each model that it has loaded; `broken` is one that can't be loaded."""

    def __init__(self, system: Stack, repository: str = "/models") -> None:
        self._system = system
        self._url = system.broker.url
        self._launcher = Launcher("test-1", "box", 1, repository=repository)
        self.commands: list[Command] = []
        self.workers: dict[str, Process] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> RepositoryLauncher:
        self._thread.start()
        eventually(lambda: self._system.broker.sync.exists(LAUNCHERS))
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        connection = MultiplexedConnection(self._url, LAUNCHERS)
        blocking = MultiplexedConnection(self._url, LAUNCHERS, block_s=BLOCK_S)
        queue = CommandQueue(connection, blocking, self._launcher.id)
        running: dict[str, asyncio.Task[None]] = {}
        while not self._stop.is_set():
            await queue.register(msgspec.structs.replace(self._launcher, commands=tuple(running)))
            if command := await queue.next():
                self.commands.append(command)
                task = running[command.id] = asyncio.create_task(self._answer(queue, command))
                task.add_done_callback(lambda _, done=command.id: running.pop(done))
        await queue.unregister()
        connection.close()
        blocking.close()

    async def _answer(self, queue: CommandQueue, command: Command) -> None:
        await queue.report(command.id, Event("progress", "working on it", 1))
        error = await asyncio.to_thread(self._carry_out, command)
        await queue.report(command.id, Event("failed" if error else "done", error, 2))

    def _carry_out(self, command: Command) -> str:
        """Returns why it failed, or nothing."""
        action = command.action
        if action.model == "broken":
            return "loading /models/broken failed: no such file"
        model = model_id(action.model, action.version or 1)
        if isinstance(action, Load):
            where = {"MODEL_NAME": action.model, "MODEL_VERSION": action.version or 1}
            worker = self.workers[model] = self._system.worker(MODEL_PATH="simulated", **where)
            eventually(lambda: worker.log.read_text().rstrip().endswith("ready"), 30)
        else:
            worker = self.workers.pop(model)
            assert worker.stop() == 0
            self._system.processes.remove(worker)
        return ""


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    broker = Broker(str(embedded_broker.server_binary()))
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def system(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway with API keys, and a worker that the launcher hasn't started."""
    folder = Path(tmp_path_factory.mktemp("repository"))
    tables = [f'[keys.{name}]\nsha256 = "{digest_of(f"sb_{name}".encode()).hex()}"\n{more}\n' for name, more in KEYS]
    (folder / "keys.toml").write_text("\n".join(tables))
    stack = Stack(broker, folder, MODEL_PATH="simulated", API_KEYS_FILE=folder / "keys.toml", REQUEST_TIMEOUT=2)
    stack.client.headers.update(ADMIN)
    stack.up()
    yield stack
    stack.close()


@pytest.fixture(scope="module")
def clients(system: Stack) -> Iterator[Clients]:
    grpc_url = system.grpc_gateway().url
    with (
        http_client.InferenceServerClient(system.url.removeprefix("http://")) as http,
        grpc_client.InferenceServerClient(grpc_url) as grpc,
    ):
        yield {"http": http, "grpc": grpc}


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, clients: Clients) -> Client:
    return clients[request.param]


@pytest.fixture
def launcher(system: Stack) -> Iterator[RepositoryLauncher]:
    with RepositoryLauncher(system) as launcher:
        yield launcher


def index(client: Client) -> dict[tuple[str, str], str]:
    how = {"headers": ADMIN} | ({} if isinstance(client, http_client.InferenceServerClient) else {"as_json": True})
    found = client.get_model_repository_index(**how)
    entries = found if isinstance(found, list) else found["models"]
    return {(entry["name"], entry["version"]): entry["state"] for entry in entries}


def refused(call: Any, *args: Any, status: str, text: str, **how: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        call(*args, **how)
    assert (str(caught.value.status()), text in str(caught.value)) == (status, True), caught.value


def statuses(client: Client) -> dict[str, str]:
    """The statuses of refusals: HTTP's and their names in gRPC."""
    http = {"400": "400", "401": "401", "403": "403", "404": "404"}
    names = ("INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND")
    grpc = {status: f"StatusCode.{name}" for status, name in zip(http, names, strict=True)}
    return http if isinstance(client, http_client.InferenceServerClient) else grpc


def test_a_model_is_ready_when_its_load_returns_and_gone_when_its_unload_does(
    client: Client, launcher: RepositoryLauncher
) -> None:
    client.load_model("m", headers=ADMIN)
    assert client.is_model_ready("m", headers=ADMIN)
    client.load_model("m@2", headers=ADMIN)
    assert client.is_model_ready("m", "2", headers=ADMIN)
    assert index(client) == {("m", "1"): "READY", ("m", "2"): "READY", ("simulated", "1"): "READY"}
    client.unload_model("m@2", headers=ADMIN, unload_dependents=True)
    assert not client.is_model_ready("m", "2", headers=ADMIN)
    client.unload_model("m", headers=ADMIN)
    assert index(client) == {("m", "1"): "UNAVAILABLE", ("m", "2"): "UNAVAILABLE", ("simulated", "1"): "READY"}
    assert launcher.workers == {}


def test_a_failed_load_says_why(client: Client, launcher: RepositoryLauncher) -> None:
    refused(
        client.load_model,
        "broken",
        headers=ADMIN,
        status=statuses(client)["400"],
        text="loading /models/broken failed: no such file",
    )
    assert len(launcher.commands) == 1


def test_only_an_admin_of_the_model_may_load_and_unload(client: Client, launcher: RepositoryLauncher) -> None:
    status = statuses(client)
    for call in (client.load_model, client.unload_model):
        refused(call, "m", status=status["401"], text="missing API key")
        refused(call, "m", headers=APP, status=status["403"], text="an API key with the role admin is required")
        refused(call, "m", headers=OTHER, status=status["403"], text="this API key may not use this model")
    assert launcher.commands == []


def test_a_request_can_only_name_a_model(client: Client, launcher: RepositoryLauncher) -> None:
    status = statuses(client)
    refused(client.load_model, "m", headers=ADMIN, config="{}", status=status["400"], text="parameter 'config'")
    for name in ("a b", "m@latest"):
        refused(client.load_model, name, headers=ADMIN, status=status["404"], text="must be")
    assert launcher.commands == []


def test_without_a_launcher_the_error_says_how_models_are_loaded(client: Client) -> None:
    for call in (client.load_model, client.unload_model):
        refused(call, "m", headers=ADMIN, status=statuses(client)["400"], text="no launcher (`smartbatch up`) runs")


def test_a_launcher_without_a_repository_loads_nothing_by_request(client: Client, system: Stack) -> None:
    with RepositoryLauncher(system, repository="") as launcher:
        refused(client.load_model, "m", headers=ADMIN, status=statuses(client)["400"], text="`smartbatch up --models")
        assert launcher.commands == []


def test_load_may_take_longer_than_a_request(client: Client, system: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than REQUEST_TIMEOUT: the client waits for the last event."""
    monkeypatch.setattr(RepositoryLauncher, "_carry_out", lambda self, command: time.sleep(4) or "")
    with RepositoryLauncher(system) as launcher:
        started = time.monotonic()
        client.load_model("m", headers=ADMIN)
        assert time.monotonic() - started > 3.5
        assert len(launcher.commands) == 1


def test_without_api_keys_only_the_management_port_loads(
    broker: Broker, launcher: RepositoryLauncher, tmp_path: Path
) -> None:
    open_system = Stack(broker, tmp_path, MODEL_PATH="simulated", MANAGEMENT_PORT=0)
    try:
        gateway = open_system.gateway()
        management = gateway.log.read_text().split("management on ")[1].split()[0]
        path = "/v2/repository/models/m/load"
        refusal = open_system.client.post(open_system.url + path)
        assert refusal.status_code == 403 and "use an API key with the role admin" in refusal.json()["error"]
        page = httpx.post(management + path, headers={"origin": "https://example.com"})
        assert page.status_code == 403 and "from a web page" in page.json()["error"]
        assert launcher.commands == []
        assert httpx.post(management + path, timeout=30).status_code == 200
        assert httpx.post(f"{management}/v2/repository/models/m/unload", json={}, timeout=30).status_code == 200
        malformed = httpx.post(management + path, content=b"[]")
        assert (malformed.status_code, len(launcher.commands)) == (400, 2)
    finally:
        open_system.close()


@pytest.mark.extended
def test_models_of_a_real_launchers_repository(system: Stack, tmp_path: Path) -> None:
    def add(version: int, path: str) -> None:
        folder = tmp_path / f"models/m/{version}"
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text(f'path = "{path}"')

    add(1, "simulated:base_ms=1")
    add(2, "simulated:base_ms=2")
    keys = {"API_KEYS_FILE": system.environ["API_KEYS_FILE"], "DEBUG_ERRORS": "false"}
    up = Up(tmp_path / "up.log", "--models", str(tmp_path / "models"), **keys)
    try:
        up.ready()
        with http_client.InferenceServerClient(up.url.removeprefix("http://"), network_timeout=60) as client:

            def answered_by(version: str = "") -> str:
                sent = http_client.InferInput("input", [1], "BYTES")
                sent.set_data_from_numpy(np.array([b"x"], np.object_))
                return client.infer("m", [sent], model_version=version, headers=APP).get_response()["model_version"]

            eventually(lambda: ("m", "1") in index(client))
            assert index(client) == {("m", "1"): "UNAVAILABLE", ("m", "2"): "READY"}  # the latest
            ready = httpx.post(f"{up.url}/v2/repository/index", json={"ready": True}, headers=ADMIN).json()
            assert [entry["version"] for entry in ready] == ["2"]
            client.load_model("m@1", headers=ADMIN)
            assert (answered_by("1"), answered_by()) == ("1", "2")
            refused(client.load_model, "m@3", headers=ADMIN, status="400", text="3")
            add(3, "simulated:base_ms=3")
            client.load_model("m", headers=ADMIN)
            assert answered_by("3") == "3"
            eventually(lambda: answered_by() == "3")
            add(4, "no_such_module:Model")
            refused(client.load_model, "m@4", headers=ADMIN, status="400", text="no_such_module")
            ready = {("m", version): "READY" for version in ("1", "2", "3")}
            assert index(client) == {**ready, ("m", "4"): "UNAVAILABLE"}

            def reasons(who: dict[str, str]) -> str:
                return "".join(each["reason"] for each in client.get_model_repository_index(headers=who))

            eventually(lambda: "no_such_module" in reasons(ADMIN))
            assert reasons(APP) == "its load failed"
            client.unload_model("m@3", headers=ADMIN)
            assert answered_by() == "2"
            assert client.get_model_metadata("m", headers=ADMIN)["versions"] == ["1", "2"]
            client.unload_model("m", headers=ADMIN)
            assert not client.is_model_ready("m", headers=ADMIN)
    finally:
        up.close()
