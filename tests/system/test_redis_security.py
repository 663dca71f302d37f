"""The broker with least-privilege ACL users and with TLS: a whole system runs, and nothing else is permitted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
import trustme
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from smartbatch.deploy import embedded_broker
from smartbatch.shared.keys import Keys
from tests.brokers import Broker, eventually
from tests.conftest import KINDS
from tests.system.stack import ROOT, Process, Stack
from tests.system.test_batching import bodies, send_all

ACL = ROOT / "deploy/redis/users.acl"
USERS = ("gateway", "worker", "viewer", "operator")
NEVER = Retry(NoBackoff(), 0)
# For other databases, Sentinels, clusters, and a person's redis-cli.
UNUSED_AT_REST = {"client|setname", "ping", "select", "role", "cluster|info", "cluster|slots"}


def password_of(user: str) -> str:
    return f"{user}'s password, with / and @"


def acl_file(folder: Path) -> Path:
    """The shipped ACL file, with passwords and a user for the test itself."""
    text = ACL.read_text()
    for user in USERS:
        text = text.replace(f"{user.upper()}_PASSWORD_SHA256", hashlib.sha256(password_of(user).encode()).hexdigest())
    path = folder / "users.acl"
    path.write_text(text + "user root on >root ~* &* +@all\n")
    return path


def binary_of(kind: str) -> str:
    binary = str(embedded_broker.server_binary()) if kind == "valkey" else shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    return binary


@pytest.fixture(params=KINDS)
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """A broker with the shipped users."""
    options = ("--aclfile", str(acl_file(tmp_path)))
    server = Broker(binary_of(request.param), *options, sync_url="redis://root:root@127.0.0.1:{port}/0")
    yield server
    server.stop()


@pytest.fixture
def stack(guarded: Broker, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """A stack whose processes each use their own user, with the password in a file."""
    for user in USERS:
        (tmp_path / user).write_text(password_of(user) + "\n")
    made: list[Stack] = []

    class Guarded(Stack):
        def start(self, name: str, settings: Mapping[str, object], command: Sequence[str] = ()) -> Process:
            user = name if name in USERS else "operator" if name in ("dead", "limits") else "viewer"
            mine = {"REDIS_URL": f"redis://{user}@127.0.0.1:{guarded.port}/0", "REDIS_PASSWORD_FILE": tmp_path / user}
            return super().start(name, {**settings, **mine}, command)

    def make(**settings: object) -> Stack:
        made.append(Guarded(guarded, tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def as_user(broker: Broker, user: str) -> Any:
    return redis.Redis(port=broker.port, username=user, password=password_of(user), protocol=2, driver_info=None)


def granted() -> dict[str, set[str]]:
    """The commands of each user in the shipped file."""
    lines = [line.split() for line in ACL.read_text().splitlines()[1:]]
    return {words[1]: {word[1:] for word in words if word.startswith("+")} for words in lines}


def deliveries(broker: Broker) -> int:
    """The highest delivery count of the pending entries."""
    pending = broker.sync.xpending_range("smartbatch:{simulated}:requests", "workers", "-", "+", 100)
    return max((row["times_delivered"] for row in pending), default=0)


async def test_system_runs_with_the_shipped_acl_and_needs_every_right(
    stack: Callable[..., Stack], guarded: Broker, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f"[keys.app]\nsha256 = '{hashlib.sha256(b'k').hexdigest()}'\nrate = 1000\nquota = 100000\n")
    system = stack(MODEL_PATH="simulated:base_ms=150,row_ms=0", MAX_BATCH_SIZE=8, MAX_DELIVERIES=1, API_KEYS_FILE=keys)
    system.gateway()
    first = system.worker()
    headers = {"authorization": "Bearer k"}
    ready = lambda: system.client.get(f"{system.url}/readyz").status_code == 200  # noqa: E731
    eventually(ready, 30)
    # Small and large, of one row and of several, one by one and in bursts.
    assert system.predict(b"x" * 300_000, headers=headers).status_code == 200
    await send_all(system.url, bodies(60), 30, headers=headers)
    # A client that hangs up, and one whose time is up, waiting and running.
    with pytest.raises(Exception, match="timed out"):
        system.predict(b"x" * 300_000, headers=headers, timeout=0.1)
    assert system.predict(b"x", headers={**headers, "x-request-timeout": "0.05"}).status_code == 504
    # A worker killed in mid-batch: another finds it dead, runs its entries isolated, and dead-letters one.
    async with aiohttp.ClientSession(headers=headers) as client:

        async def code(number: int) -> str:
            async with client.post(f"{system.url}/predict", data=b"%d" % number) as response:
                return (await response.json()).get("code", "answered")

        sending = [asyncio.create_task(code(number)) for number in range(8)]
        await asyncio.to_thread(eventually, system.running)
        first.kill()
        second = system.worker()
        await asyncio.to_thread(eventually, lambda: deliveries(guarded) == 2, 20)  # one runs alone
        second.kill()
        third = system.worker()
        assert "dead_lettered" in await asyncio.gather(*sending)
    for arguments in ("list", "show 0-0", "requeue --all", "drop --all --yes"):
        dead = system.start("dead", {}, [sys.executable, "-m", "smartbatch.deploy.cli", "dead", *arguments.split()])
        assert await asyncio.to_thread(dead.popen.wait, 20) == (2 if "0-0" in arguments else 0), dead.log.read_text()
    for arguments in ("--max-wait-time 0.02", "--reset"):
        limits = system.start(
            "limits", {}, [sys.executable, "-m", "smartbatch.deploy.cli", "limits", *arguments.split()]
        )
        assert await asyncio.to_thread(limits.popen.wait, 20) == 0, limits.log.read_text()
    for arguments in ("1=1", "--history", ""):
        user = "operator" if "=" in arguments else "viewer"
        command = [sys.executable, "-m", "smartbatch.deploy.cli", "route", "simulated", *arguments.split()]
        route = system.start(user, {}, command)
        assert await asyncio.to_thread(route.popen.wait, 20) == 0, route.log.read_text()
    # The broker loses everything, and the queue is listed.
    guarded.sync.flushall()
    assert (await asyncio.to_thread(system.predict, b"x", headers=headers)).status_code == 200
    await asyncio.to_thread(eventually, lambda: guarded.sync.exists("smartbatch:models"))  # with the next heartbeat
    viewer = system.start("queue", {})
    assert viewer.popen.wait(20) == 0, viewer.log.read_text()
    assert "simulated  waiting 0" in viewer.log.read_text()
    await operate(system, third)
    # Shutdown.
    gateway = system.processes[0]
    assert await asyncio.to_thread(third.stop) == 0
    assert await asyncio.to_thread(gateway.stop) == 0
    assert guarded.sync.acl_log() == []
    used = {name.removeprefix("cmdstat_") for name in guarded.sync.info("commandstats")}
    assert set().union(*granted().values()) - UNUSED_AT_REST <= used
    for process in system.processes:
        assert "permission" not in process.log.read_text()


async def operate(system: Stack, worker: Process) -> None:
    """List and cancel a request, each as the user for that."""

    def run(user: str, *arguments: str) -> str:
        process = system.start(user, {}, [sys.executable, "-m", "smartbatch.deploy.cli", *arguments])
        assert process.popen.wait(20) == 0, process.log.read_text()
        system.processes.remove(process)  # its log is checked here: one command is expected to be denied
        return process.log.read_text()

    worker.popen.send_signal(signal.SIGSTOP)
    sending = asyncio.create_task(
        asyncio.to_thread(system.predict, b"x" * 300_000, headers={"authorization": "Bearer k"})
    )
    await asyncio.to_thread(eventually, lambda: system.waiting() == 1)
    listed = await asyncio.to_thread(run, "viewer", "queue", "--json")
    [model] = json.loads(listed)
    [entry] = model["entries"]
    assert system.broker.sync.acl_log() == []
    assert "not readable: " in await asyncio.to_thread(run, "viewer", "queue", "show", entry["entry"])
    assert [denied["object"] for denied in system.broker.sync.acl_log()] == [Keys("simulated").body(entry["request"])]
    system.broker.sync.acl_log_reset()
    shown = await asyncio.to_thread(run, "operator", "queue", "show", entry["entry"])
    assert ["payload", "bytes", "300000"] in [line.split() for line in shown.splitlines()]
    assert "simulated" in await asyncio.to_thread(run, "viewer", "top", "--once")
    assert "  cancelled\n" in await asyncio.to_thread(run, "operator", "queue", "cancel", entry["entry"])
    assert (await sending).json()["code"] == "cancelled_by_operator"
    worker.popen.send_signal(signal.SIGCONT)
    await asyncio.to_thread(system.until_clean, 1)


@pytest.mark.parametrize("user", USERS)
def test_acl_users_can_do_nothing_else(guarded: Broker, user: str) -> None:
    guarded.sync.set("somebody:else", "secret")
    guarded.sync.set("smartbatch:{m}:body:r", "a client's photo")
    client = as_user(guarded, user)
    assert client.ping()
    for command in (
        *("FLUSHALL", "FLUSHDB", "CONFIG GET *", "KEYS *", "SCAN 0", "DBSIZE", "SHUTDOWN NOSAVE"),
        *("ACL LIST", "ACL SETUSER x on", "CLIENT LIST", "CLIENT KILL TYPE normal", "MONITOR", "SAVE", "BGREWRITEAOF"),
        *("REPLICAOF NO ONE", "SCRIPT FLUSH", "FUNCTION LIST", "MODULE LIST", "SLOWLOG GET", "SUBSCRIBE c"),
        *("GET somebody:else", "SET somebody:else x", "DEL somebody:else", "RENAME somebody:else b", "MOVE a 1"),
        *("RESTORE smartbatch:{m}:body:x 0 x", "MIGRATE h 1 k 0 5", "SORT smartbatch:{m}:requests"),
    ):
        with pytest.raises(NoPermissionError):
            client.execute_command(*command.split())
    if user == "viewer":
        for command in (
            *("EVAL return(1) 0", "GET smartbatch:{m}:body:r", "GET smartbatch:{m}:reply:r"),
            *("SET smartbatch:{m}:fill_lock x", "HSET smartbatch:models m {}"),
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())
    else:
        # A script has the rights of who sends it, and no more.
        for script in ("return redis.call('FLUSHALL')", "return redis.call('GET', 'somebody:else')"):
            with pytest.raises(redis.ResponseError, match=r"can't run|can't access|permission"):
                client.eval(script, 0)
    assert guarded.sync.get("somebody:else") == b"secret"


def test_gateways_and_workers_cannot_write_each_others_keys(guarded: Broker) -> None:
    gateway, worker = as_user(guarded, "gateway"), as_user(guarded, "worker")
    for client, command in (
        (gateway, "HSET smartbatch:models m {}"),  # only workers announce models
        (gateway, "HSET smartbatch:{m}:worker:w state ready"),
        (worker, "HSET smartbatch:{m}:gateway:g recent x"),
        (worker, "HSET smartbatch:access:{usage}:counts:2030-01-01 app 0"),  # nobody's usage count
        (gateway, "HSET smartbatch:{routes}:tables m {}"),  # only operators change who gets requests
        (worker, "HGETALL smartbatch:{routes}:tables"),
        (worker, "HMGET smartbatch:access:{usage}:counts:2030-01-01 app"),
    ):
        with pytest.raises(NoPermissionError):
            client.execute_command(*command.split())


def test_connections_without_a_password_are_rejected(guarded: Broker) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=guarded.port, protocol=2, retry=NEVER).ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=guarded.port, username="gateway", password="gateway", protocol=2, retry=NEVER).ping()


def test_shipped_acl_file_is_rejected_until_passwords_are_set(tmp_path: Path) -> None:
    for kind in ("valkey", "redis"):
        command = [binary_of(kind), "--port", "0", "--unixsocket", f"{tmp_path}/{kind}", "--aclfile", str(ACL)]
        server = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert server.returncode != 0
        assert "users.acl:2" in server.stdout + server.stderr


def test_a_password_is_changed_without_a_restart(stack: Callable[..., Stack], guarded: Broker, tmp_path: Path) -> None:
    system = stack(MODEL_PATH="simulated")
    system.up()
    for user in ("gateway", "worker"):
        guarded.sync.acl_setuser(user, passwords=["+another", f"-{password_of(user)}"], enabled=True)
        (tmp_path / user).write_text("another")
        guarded.sync.execute_command("CLIENT", "KILL", "USER", user)
    eventually(lambda: system.predict(b"x").status_code == 200, 20, 0.1)


# --- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_certificates(authority: trustme.CA, folder: Path, host: str) -> None:
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, certificate in (("server", authority.issue_cert(host)), ("client", authority.issue_cert("me"))):
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> Iterator[Broker]:
    """A broker that speaks TLS only and asks for a client's certificate."""
    write_certificates(authority, tmp_path, "localhost")
    options = ("--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "yes")
    options += ("--tls-ca-cert-file", f"{tmp_path}/ca.pem", "--tls-cert-file", f"{tmp_path}/server.pem")
    options += ("--tls-key-file", f"{tmp_path}/server.key", "--requirepass", "pw")
    server = Broker(binary_of("redis"), *options, sync_url="rediss://:pw@localhost:{port}/0" + certificates(tmp_path))
    server.url = f"rediss://:pw@localhost:{server.port}/0"
    yield server
    server.stop()


def certificates(folder: Path) -> str:
    return f"?ssl_ca_certs={folder}/ca.pem&ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/client.key"


async def test_a_whole_system_runs_over_tls_with_certificates(tls: Broker, tmp_path: Path) -> None:
    system = Stack(tls, tmp_path, MODEL_PATH="simulated", REDIS_URL=tls.url + certificates(tmp_path))
    try:
        system.up()
        assert system.predict(b"x" * 300_000).status_code == 200
        await send_all(system.url, bodies(50), 10)
        for process in reversed(system.processes):
            assert await asyncio.to_thread(process.stop) == 0
            assert "WARNING" not in process.log.read_text()
    finally:
        system.close()


@pytest.mark.parametrize(
    ("host", "options", "text"),
    [
        ("localhost", "", "CERTIFICATE_VERIFY_FAILED"),  # signed by an unknown CA
        ("127.0.0.1", "{all}", "CERTIFICATE_VERIFY_FAILED"),  # another name than the certificate's
        ("localhost", "?ssl_ca_certs={folder}/ca.pem", ""),  # without a certificate of its own
        ("localhost", "?ssl_ca_certs={folder}/none.pem", "No such file or directory"),
    ],
)
@pytest.mark.parametrize("command", ["gateway", "worker"])
def test_untrusted_broker_certificate_is_rejected(
    tls: Broker, tmp_path: Path, command: str, host: str, options: str, text: str
) -> None:
    url = f"rediss://:canary@{host}:{tls.port}/0" + options.format(folder=tmp_path, all=certificates(tmp_path))
    words = [sys.executable, "-m", "smartbatch.deploy.cli", command]
    process = Process(words, {"REDIS_URL": url, "MODEL_PATH": "simulated", "PORT": "0"}, tmp_path / "out.log")
    try:
        assert process.popen.wait(20) == 2
        [line] = process.log.read_text().splitlines()[-1:]
        assert line.startswith("smartbatch: the broker can't be reached or can't answer: ")
        assert text in line
        assert "canary" not in process.log.read_text()
    finally:
        process.kill()
