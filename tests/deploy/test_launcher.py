"""`smartbatch up` as a user runs it: one real process that starts, watches, restarts and drains the others."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from smartbatch.deploy.ports import free_ports
from tests.brokers import Broker, eventually
from tests.deploy.up import Up

SLEEPER = """
import time

class Sleeper:
    def example(self):
        return "short"

    def forward(self, texts):
        time.sleep(20 if "long" in texts else 0)
        return [len(text) for text in texts]
"""


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_up_prints_its_address_and_a_working_command(up: Callable[..., Up]) -> None:
    system = up("--workers", "2", "--model", "simulated:base_ms=5").ready()
    assert f"ready     {system.url}  model simulated, 2 workers" in system.lines
    command = next(line for line in system.lines if line.startswith("try ")).split(maxsplit=1)[1]
    assert command == f"curl -d hello {system.url}/predict"
    response = subprocess.run([*command.split(), "-sS"], capture_output=True, check=True)
    assert b'"outputs"' in response.stdout
    assert (len(system.children("valkey-server")), len(system.children("gateway"))) == (1, 1)
    assert len(system.children("worker")) == 2


def test_the_command_for_a_text_model_works(up: Callable[..., Up]) -> None:
    system = up("--model", "minilm").ready()
    command = next(line for line in system.lines if line.startswith("try ")).split(maxsplit=1)[1]
    response = subprocess.run([*shlex.split(command), "-sS"], capture_output=True, check=True)
    assert b'"embedding"' in response.stdout


def test_workers_serve_metrics_on_consecutive_ports(up: Callable[..., Up]) -> None:
    first = free_ports(2)
    up("--workers", "2", "--model", "simulated:base_ms=5", METRICS_PORT=str(first)).ready()
    for port in (first, first + 1):
        eventually(lambda port=port: listens(port))
        assert "smartbatch_worker_info{" in httpx.get(f"http://127.0.0.1:{port}/metrics").text


def test_grpc_and_http_run_together(up: Callable[..., Up]) -> None:
    system = up("--grpc", "--grpc-port", "0", "--model", "simulated:base_ms=5").ready()
    address = next(line for line in system.lines if line.startswith("gRPC ")).split()[1]
    with grpc.insecure_channel(address) as channel:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        eventually(lambda: ready(b"", wait_for_ready=True, timeout=10) == b"\x08\x01")
    system.interrupt()
    assert system.popen.wait(20) == 0
    assert not system.left


@pytest.mark.parametrize(
    ("options", "kind", "scheme"),
    [
        (("--cluster", "3"), "an embedded cluster of 3 primaries and as many replicas", "redis+cluster"),
        (("--sentinel",), "embedded with 2 replicas and 3 Sentinels", "redis+sentinel"),
    ],
    ids=["cluster", "sentinel"],
)
def test_a_broker_of_several_servers_outlives_each_of_them(
    up: Callable[..., Up], options: tuple[str, ...], kind: str, scheme: str
) -> None:
    system = up(*options, "--model", "simulated:base_ms=5").ready()
    assert any(re.search(rf"^broker    Valkey .*, {kind}, at {re.escape(scheme)}://", line) for line in system.lines)
    servers = system.children("valkey-server")
    assert len(servers) == 6
    for server in servers[:3]:  # the primaries of the cluster; the primary and its replicas
        server.kill()
        server.wait()
        eventually(system.serves, 30)
        eventually(lambda: len(system.children("valkey-server")) == 6, 20)
        time.sleep(2)  # a server that came back is a full replica
    (url,) = [match[1] for line in system.lines if (match := re.search(r"export REDIS_URL=(\S+)", line))]
    command = [sys.executable, "-m", "smartbatch.deploy.cli", "queue", "--redis-url", url]
    queue = subprocess.run(command, capture_output=True, text=True)
    assert "simulated  waiting 0, running 0" in queue.stdout, queue.stderr
    system.interrupt()
    assert system.popen.wait(20) == 0
    assert not system.left


def test_killed_worker_is_restarted_while_requests_succeed(up: Callable[..., Up]) -> None:
    system = up("--workers", "2", "--model", "simulated:base_ms=5").ready()
    eventually(lambda: sum(system.client.get("/readyz").json()["ready_workers"].values()) == 2)
    victim = system.children("worker")[0]
    victim.kill()
    assert [system.predict().status_code for _ in range(20)] == [200] * 20

    def replaced() -> bool:
        workers = {process.pid for process in system.children("worker")}
        return len(workers) == 2 and victim.pid not in workers

    eventually(replaced)
    assert any(re.fullmatch(r"worker \d was killed by signal 9; restarting in .* s", line) for line in system.lines)
    assert system.predict().status_code == 200


def test_worker_that_keeps_ending_is_restarted_after_growing_pauses(up: Callable[..., Up]) -> None:
    system = up("--model", "simulated:base_ms=5").ready()
    for count in range(3):
        (worker,) = eventually(lambda: system.children("worker"), 20)
        worker.kill()
        worker.wait()
        eventually(lambda count=count: len(ended(system)) > count)
    assert ended(system) == ["0.2", "1", "2"]


def test_wedged_worker_is_ended_and_restarted_while_another_serves(up: Callable[..., Up]) -> None:
    model = ("--model", "tests.system.hostile_model:Hostile")
    system = up("--workers", "2", *model, STALL_TIMEOUT="2", MAX_DELIVERIES="2", TORCH_THREADS="1").ready()
    eventually(lambda: sum(system.client.get("/readyz").json()["ready_workers"].values()) == 2, 20)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(system.client.post, "/predict", content=b"hang")
        eventually(system.running)
        statuses = [system.client.post("/predict", content=b"good").status_code for _ in range(20)]
        assert (statuses, hanging.done()) == ([200] * 20, False)
        assert (hanging.result().status_code, hanging.result().json()["code"]) == (500, "dead_lettered")
    lines = [line for line in system.lines if re.fullmatch(r"worker \d exited with code 70; restarting .*", line)]
    assert len(lines) == 2
    eventually(lambda: sum(system.client.get("/readyz").json()["ready_workers"].values()) == 2, 20)


def ended(system: Up) -> list[str]:
    """The pauses before a worker was started again."""
    matches = (re.fullmatch(r"worker was killed by signal 9; restarting in (.*) s", line) for line in system.lines)
    return [match[1] for match in matches if match]


def test_killed_broker_is_restarted_and_requests_succeed_again(up: Callable[..., Up]) -> None:
    system = up("--workers", "2", "--model", "simulated:base_ms=5").ready()
    port = system.broker_port
    # "ready" needs one worker; one that is still starting ends without a broker
    eventually(lambda: system.client.get("/readyz").json()["ready_workers"] == {"simulated": 2}, 20)
    workers = {process.pid for process in system.children("worker")}
    (broker,) = system.children("valkey-server")
    broker.kill()
    broker.wait()
    eventually(system.serves, 20)
    (again,) = system.children("valkey-server")
    assert (again.pid != broker.pid, system.broker_port) == (True, port)
    assert {process.pid for process in system.children("worker")} == workers


def test_broker_and_worker_killed_together_are_both_restarted(up: Callable[..., Up]) -> None:
    system = up("--model", "simulated:base_ms=5").ready()
    (broker,), (worker,) = system.children("valkey-server"), system.children("worker")
    broker.suspend()  # its port stays open but silent, so a worker that starts now cannot reach it
    worker.kill()
    eventually(lambda: any("worker exited with code 2" in line for line in system.lines), 20)
    broker.kill()
    eventually(system.serves, 20)
    assert system.popen.poll() is None


def test_ctrl_c_drains_and_leaves_nothing(up: Callable[..., Up]) -> None:
    system = up("--workers", "2", "--model", "simulated:base_ms=800", MAX_BATCH_SIZE="1").ready()
    port = system.broker_port
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(system.predict)
        eventually(system.running)
        system.interrupt()
        assert pending.result().status_code == 200
    assert system.popen.wait(10) == 0
    assert system.left == []
    assert not listens(port)
    assert not listens(system.port)


def test_second_ctrl_c_ends_a_long_forward_at_once(up: Callable[..., Up], tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    environ = {"PYTHONPATH": str(tmp_path), "MAX_BATCH_SIZE": "1", "GATEWAY_PROCESSES": "2"}
    system = up("--model", "sleeper:Sleeper", **environ).ready()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(system.predict, "long")
        eventually(system.running)
        system.children()
        system.interrupt()
        eventually(lambda: "draining" in system.lines)
        assert system.popen.poll() is None
        interrupted_at = time.monotonic()
        system.interrupt()
        assert system.popen.wait(10) == 0
        assert time.monotonic() - interrupted_at < 10  # the forward takes 20 s
        with pytest.raises(httpx.TransportError):
            pending.result()
    eventually(lambda: system.left == [], 2)


def test_ctrl_c_while_starting_ends_it(up: Callable[..., Up]) -> None:
    system = up("--model", "simulated:load_ms=20000")
    eventually(lambda: any("loading simulated" in line for line in system.lines), 20)
    system.children()
    system.interrupt()
    assert system.popen.wait(5) == 0
    assert system.left == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_killed_launcher_leaves_no_processes(up: Callable[..., Up]) -> None:
    system = up("--workers", "2", "--model", "simulated:base_ms=5").ready()
    port = system.broker_port
    assert len(system.left) >= 4
    system.popen.kill()
    system.popen.wait()
    eventually(lambda: system.left == [], 10)
    assert not listens(port)


@pytest.mark.parametrize("workers", [1, 3])
def test_model_that_cannot_be_loaded_ends_everything_and_is_reported_once(up: Callable[..., Up], workers: int) -> None:
    system = up("--workers", str(workers), "--model", "simulated:speed=9")

    def ended() -> bool:
        system.children()
        return system.popen.poll() is not None

    eventually(ended, 15)
    assert system.popen.returncode == 2
    errors = [line for line in system.lines if line.startswith("smartbatch: ")]
    last = errors.pop()
    assert re.fullmatch(r"smartbatch: worker( \d)? failed to start", last)
    assert errors == [
        "smartbatch: simulated takes milliseconds from 0 as in `simulated:base_ms=4,row_ms=0.2,load_ms=0`, "
        "and a name as in `device=NAME`, got 'speed=9'",
    ]
    assert not any("Traceback" in line for line in system.lines)
    assert system.left == []


def test_given_broker_is_used_and_keeps_running(up: Callable[..., Up], broker: Broker) -> None:
    system = up("--model", "simulated", REDIS_URL=broker.url).ready()
    assert system.children("valkey-server") == []
    assert any(line.endswith(f" at {broker.url} (REDIS_URL)") for line in system.lines)
    assert system.predict().status_code == 200
    assert broker.sync.hkeys("smartbatch:models") == [b"simulated"]
    system.popen.terminate()  # SIGTERM drains as Ctrl-C does
    assert system.popen.wait(10) == 0
    assert system.left == []
    assert broker.sync.ping()


def test_readiness_checks_bypass_a_proxy(up: Callable[..., Up]) -> None:
    system = up("--model", "simulated", http_proxy="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1", no_proxy="")
    system.ready()


def test_port_0_selects_a_free_port_and_prints_it(up: Callable[..., Up]) -> None:
    system = up("--model", "simulated", "--port", "0").ready()
    line = next(line for line in system.lines if line.startswith("ready "))
    url = line.split()[1]
    assert httpx.post(f"{url}/predict", json={"data": ["hello"]}).status_code == 200
