"""Run docker-compose.yml if there is a Docker engine; test_compose_file.py reads the file.

Both images are built, so the first run takes minutes. The worker serves the simulated model.
"""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

from smartbatch.gateway.web.live import page
from smartbatch.shared.keys import GROUP
from tests.deploy.compose import KEYS, ROOT, Load, Stack, eventually, real, run

GATEWAY_LIMIT_BYTES = 250_000_000
PYTHON_SERVICES = ("gateway", "worker")


@real
async def test_workers_scale_up_and_down_under_load_and_no_request_fails(stack):
    async with Load.running(stack) as load:
        await load.more(100)
        for workers in (3, 1):
            await asyncio.to_thread(stack.up, worker=workers)
            await asyncio.to_thread(eventually, lambda: stack.ready_workers() == workers)  # noqa: B023
            await load.more(200)
    assert len(stack.containers("worker")) == 1


@real
async def test_the_page_replaces_weights_under_load_and_no_request_fails(stack):
    page = (ROOT / "docs/new-weights.md").read_text().partition("## Docker Compose")[2]
    [commands] = re.findall(r"^```bash\n(.*?)^```$", page, re.M | re.S)
    name = f"{stack.project}-new-weights"
    for written, here in (
        ("docker compose", " ".join(stack.command)),
        ("new-weights", name),
        ("localhost:8000", stack.urls()[0]),
        ('"Net"', '"simulated"'),  # whose weights aren't read, but tell the old from the new
        (">> .env", f">> {stack.env_file}"),
    ):
        commands = commands.replace(written, here)
    (old,) = stack.containers("worker")
    try:
        async with Load.running(stack) as load:
            await load.more(100)
            await asyncio.to_thread(run, "bash", "-euc", commands, env=stack.env)
            await load.more(100)
    finally:
        run("docker", "rm", "-f", name, check=False)
        stack.env_file.write_text("")
    (new,) = stack.containers("worker")
    assert new != old
    assert "MODEL_WEIGHTS=/models/new.pt" in stack.inspect(new)["Config"]["Env"]
    assert stack.ready_workers() == 1
    await asyncio.to_thread(stack.up)  # as it was


@real
async def test_redis_cli_shows_entries_and_idle_means_empty(stack):
    async with Load.running(stack):
        await asyncio.to_thread(eventually, lambda: stack.pending() > 0)
        stream = await asyncio.to_thread(stack.redis, "XINFO", "STREAM", KEYS.requests)
        groups = await asyncio.to_thread(stack.redis, "XINFO", "GROUPS", KEYS.requests)
    assert "groups\n1\n" in stream
    assert f"name\n{GROUP}\nconsumers\n1\n" in groups
    eventually(lambda: stack.waiting() == 0 and stack.pending() == 0)
    assert stack.redis("--scan", "--pattern", KEYS.body("*")) == ""
    eventually(lambda: stack.redis("--scan", "--pattern", KEYS.reply("*")) == "", 10)


@real
async def test_a_reply_has_its_own_key_with_a_time_to_live(stack):
    (gateway,), (worker,) = stack.containers("gateway"), stack.containers("worker")
    load = Load(stack.urls()[0])
    async with load._client:
        run("docker", "pause", worker)  # so that the request is still on the stream when the gateway is paused
        request = asyncio.create_task(load.one(b"the paused one"))
        try:
            await asyncio.to_thread(eventually, lambda: stack.waiting() == 1)
            run("docker", "pause", gateway)
            run("docker", "unpause", worker)
            key = await asyncio.to_thread(eventually, lambda: stack.redis("--scan", "--pattern", KEYS.reply("*")))
            assert 0 < int(stack.redis("TTL", key)) <= 60
        finally:
            run("docker", "unpause", worker, check=False)
            run("docker", "unpause", gateway, check=False)
        await request
    assert load.wrong == []
    eventually(lambda: stack.redis("EXISTS", key) == "0", 10)


@real
async def test_entries_of_a_killed_worker_are_run_by_another(stack):
    await asyncio.to_thread(stack.up, worker=2)
    await asyncio.to_thread(eventually, lambda: stack.ready_workers() == 2)
    victim = stack.containers("worker")[0]
    async with Load.running(stack) as load:
        await asyncio.to_thread(eventually, lambda: paused_while_holding_entries(stack, victim))
        await asyncio.to_thread(run, "docker", "kill", victim)
        await load.more(200)
    eventually(lambda: stack.waiting() == 0 and stack.pending() == 0)


@real
async def test_worker_that_dies_is_restarted(stack):
    (worker,) = stack.containers("worker")
    async with Load.running(stack) as load:
        await load.more(50)
        await asyncio.to_thread(run, "docker", "exec", worker, "sh", "-c", "kill -9 -1", check=False)
        await asyncio.to_thread(eventually, lambda: stack.inspect(worker)["RestartCount"] == 1)
        await load.more(200)


@real
def test_containers_are_healthy_unprivileged_and_read_only(stack):
    for service in ("redis", *PYTHON_SERVICES):
        (container,) = stack.containers(service)
        eventually(lambda: stack.inspect(container)["State"]["Health"]["Status"] == "healthy")  # noqa: B023
        assert "read-only" in in_container(container, "touch /somewhere 2>&1").lower()
    for service in PYTHON_SERVICES:
        (container,) = stack.containers(service)
        assert in_container(container, "id -u") == "10001"
        assert in_container(container, "grep CapEff /proc/self/status").split()[1] == "0" * 16
        assert in_container(container, "touch /tmp/x && echo written") == "written"


@real
def test_gateway_image_is_small_and_has_no_torch(stack):
    (gateway,) = stack.containers("gateway")
    assert all(httpx.get(f"{stack.urls()[0]}{path}").status_code == 200 for path in page.FILES)
    assert "No module named 'torch'" in in_container(gateway, "python -c 'import torch' 2>&1")
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)", (ROOT / "deploy/docker/gateway.Dockerfile").read_text(), re.M)
    assert base
    sizes = [
        run("docker", "image", "inspect", "-f", "{{.Size}}", image, check=False)
        for image in (stack.env["GATEWAY_IMAGE"], base[1])
    ]
    if not sizes[1]:
        pytest.skip("the base image is not in the engine's own store, so its size is unknown")
    assert int(sizes[0]) - int(sizes[1]) < GATEWAY_LIMIT_BYTES


@real
async def test_two_gateways_serve_on_two_ports(stack):
    await asyncio.to_thread(stack.up, gateway=2)
    urls = stack.urls()
    assert len(set(urls)) == 2
    for url in urls:
        await asyncio.to_thread(eventually, lambda: ready(url))  # noqa: B023
        load = Load(url)
        async with load._client:
            await asyncio.gather(*(load.one(b"%d to %s" % (n, url.encode())) for n in range(20)))
        assert load.wrong == []


@real
async def test_stopping_completes_requests_in_flight_and_every_process_ends_cleanly(stack):
    containers = [*stack.containers("gateway"), *stack.containers("worker")]
    (worker,) = stack.containers("worker")
    load = Load(stack.urls()[0])
    async with load._client:
        run("docker", "pause", worker)
        requests = [asyncio.create_task(load.one(b"%d in flight" % n)) for n in range(16)]
        await asyncio.to_thread(eventually, lambda: stack.waiting() == 16)
        stopping = asyncio.create_task(asyncio.to_thread(stack.compose, "stop"))
        await asyncio.to_thread(eventually, lambda: not ready(str(load._client.base_url)))  # it stops accepting
        run("docker", "unpause", worker)
        await asyncio.gather(*requests, stopping)
    assert load.wrong == []
    assert [stack.inspect(container)["State"]["ExitCode"] for container in containers] == [0, 0]


def paused_while_holding_entries(stack: Stack, worker: str) -> bool:
    """Pause the worker. If it holds no entries at that moment, resume it and return False."""
    run("docker", "pause", worker)
    consumers = stack.redis("XPENDING", KEYS.requests, GROUP)
    if worker[:12] in consumers:  # a worker's id starts with its host name, the container's short id
        return True
    run("docker", "unpause", worker)
    return False


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url.rstrip('/')}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def in_container(container: str, script: str) -> str:
    return run("docker", "exec", container, "sh", "-c", script, check=False)
