"""A cluster, and Sentinels, that speak TLS only to others, with the shipped users: a whole system runs, and outlives a
primary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme

from smartbatch.deploy.embedded_cluster import PRIMARY_NAME
from smartbatch.deploy.ports import free_port
from tests.brokers import eventually
from tests.clusters import Node, Servers
from tests.system.stack import COMMAND, Process, Stack
from tests.system.test_batching import bodies, send_all
from tests.system.test_redis_security import USERS, acl_file, binary_of, certificates, password_of, write_certificates

pytestmark = [pytest.mark.extended, pytest.mark.timeout(240)]
WATCHER = ("watcher", "who watches")  # the user of Sentinels, at themselves


class Guarded(Stack):
    """Each process has its own user, with the password in a file."""

    def __init__(self, servers: Servers, folder: Path, url_of: Callable[[str], str], **settings: object) -> None:
        super().__init__(servers, folder, **settings)
        self._url_of = url_of
        for user in USERS:
            (folder / user).write_text(password_of(user) + "\n")

    def start(self, name: str, settings: Mapping[str, object], command: Sequence[str] = ()) -> Process:
        user = name if name in USERS else "viewer"
        mine = {"REDIS_URL": self._url_of(user), "REDIS_PASSWORD_FILE": self.folder / user}
        return super().start(name, {**settings, **mine}, command)


def guard(nodes: Sequence[Node], folder: Path) -> None:
    """Give running servers the shipped users, without which nothing is permitted from then on."""
    for node in nodes:
        node.sync.execute_command("CONFIG", "SET", "masteruser", "root", "masterauth", "root")
    for node in nodes:
        default, *users = [line.split()[1:] for line in acl_file(folder).read_text().splitlines()]
        for rules in (*users, default):
            node.sync.execute_command("ACL", "SETUSER", *rules)
        node.sync = redis.Redis(port=node.port, username="root", password="root", protocol=2, socket_timeout=5)


class WithTls:
    """More of the command line of servers that use TLS among each other and for clients; only this test uses their
    other port."""

    def __init__(self, folder: Path, *options: str) -> None:
        write_certificates(trustme.CA(), folder, "127.0.0.1")
        self.ports: list[int] = []
        self._options = [*options, "--tls-replication", "yes", "--tls-auth-clients", "yes"]
        for name, file in (("ca-cert", "ca.pem"), ("cert", "server.pem"), ("key", "server.key")):
            self._options += [f"--tls-{name}-file", str(folder / file)]

    def __call__(self) -> list[str]:
        self.ports.append(free_port())
        return ["--tls-port", str(self.ports[-1]), *self._options]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Servers, Callable[[str], str]]]:
    with_tls = WithTls(tmp_path, "--tls-cluster", "yes")
    servers = Servers("cluster", binary_of("redis"), options=with_tls)
    guard(servers.nodes, tmp_path)
    hosts = ",".join(f"127.0.0.1:{port}" for port in with_tls.ports)
    yield servers, lambda user: f"rediss+cluster://{user}@{hosts}{certificates(tmp_path)}"
    servers.stop()


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[tuple[Servers, Callable[[str], str]]]:
    servers = Servers("sentinel", binary_of("redis"), options=WithTls(tmp_path))
    guard(servers.nodes, tmp_path)
    name, password = WATCHER
    for node in servers.sentinels:
        for option, value in (("auth-user", "root"), ("auth-pass", "root")):
            node.sync.execute_command("SENTINEL", "SET", PRIMARY_NAME, option, value)
        for option, value in (("sentinel-user", name), ("sentinel-pass", password)):
            node.sync.execute_command("SENTINEL", "CONFIG", "SET", option, value)
        node.sync.execute_command("ACL", "SETUSER", name, "on", f">{password}", "~*", "&*", "+@all")
        node.sync.execute_command("ACL", "SETUSER", "default", "off")
        node.sync = redis.Redis(port=node.port, username=name, password=password, protocol=2, socket_timeout=5)
    (tmp_path / name).write_text(password)
    hosts = ",".join(f"127.0.0.1:{node.tls_port}" for node in servers.sentinels)
    options = f"{certificates(tmp_path)}&sentinel_username={name}&sentinel_password_file={tmp_path / name}"
    yield servers, lambda user: f"rediss+sentinel://{user}@{hosts}/{PRIMARY_NAME}{options}"
    servers.stop()


@pytest.fixture(params=["cluster", "sentinels"])
def guarded(request: pytest.FixtureRequest) -> tuple[Servers, Callable[[str], str]]:
    return request.getfixturevalue(request.param)


async def test_a_whole_system_runs_with_the_shipped_users_and_outlives_a_primary(
    guarded: tuple[Servers, Callable[[str], str]], tmp_path: Path
) -> None:
    servers, url_of = guarded
    system = Guarded(servers, tmp_path, url_of, MODEL_PATH="simulated:base_ms=5,row_ms=1")
    try:
        system.up(3)
        assert system.predict(b"x" * 300_000).status_code == 200
        await send_all(system.url, bodies(50), 10)
        listed = system.start("queue", {}, [*COMMAND, "queue"])
        assert listed.popen.wait(20) == 0 and "simulated  waiting 0" in listed.log.read_text()
        assert [entry for node in servers.nodes for entry in denied(node)] == []
        servers.primary().kill()
        eventually(lambda: system.predict(b"x").status_code == 200, 30, 0.1)
        await send_all(system.url, bodies(50), 20)
        assert [entry for node in servers.nodes if node.running for entry in denied(node)] == []
        for process in system.processes:
            assert "permission" not in process.log.read_text()
    finally:
        system.close()


def denied(node: Node) -> list[Any]:
    """What a server has not permitted our users."""
    return [entry for entry in node.sync.acl_log() if entry["username"] in USERS]


@pytest.mark.parametrize("command", ["gateway", "worker"])
def test_servers_that_cannot_be_trusted_are_rejected(
    command: str, guarded: tuple[Servers, Callable[[str], str]], tmp_path: Path
) -> None:
    _, url_of = guarded
    url, _, _ = url_of("gateway").partition("?")
    settings = {"REDIS_URL": url, "REDIS_PASSWORD_FILE": str(tmp_path / "none"), "MODEL_PATH": "simulated", "PORT": "0"}
    (tmp_path / "none").write_text("canary")
    words = [sys.executable, "-m", "smartbatch.deploy.cli", command]
    process = Process(words, settings, tmp_path / "out.log")
    try:
        assert process.popen.wait(20) == 2
        assert "CERTIFICATE_VERIFY_FAILED" in process.log.read_text().splitlines()[-1]
        assert "canary" not in process.log.read_text()
    finally:
        process.kill()
