"""The profiles of docker-compose.yml: gRPC, load, Prometheus."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from smartbatch.worker.models import simulated
from tests.deploy.compose import eventually, real, run
from tests.deploy.test_compose_file import load


@real
def test_prometheus_finds_every_gateway_and_worker_and_loads_the_rules(stack):
    """Grafana is not started, because its image is not available everywhere. system/test_prometheus.py runs the
    dashboard's queries."""
    image = load()["services"]["prometheus"]["image"]
    if not run("docker", "image", "inspect", image, check=False) and not run("docker", "pull", image, check=False):
        pytest.skip(f"{image} can't be had here")
    stack.up(gateway=2)
    try:
        stack.compose("up", "-d", "--no-build", "prometheus")
        url = f"http://{stack.env['PROMETHEUS_PORTS']}/api/v1"
        eventually(lambda: value_of(url, 'sum(up{job="smartbatch-gateway"})') == 2)
        eventually(lambda: value_of(url, 'sum(up{job="smartbatch-worker"})') == 1)
        eventually(lambda: value_of(url, "max(smartbatch_workers{state='ready'})") == 1)
        groups = httpx.get(f"{url}/rules").json()["data"]["groups"]
        assert {group["name"] for group in groups} == {"smartbatch", "triton"}
        assert all(len(group["rules"]) > 10 for group in groups)
        (container,) = stack.containers("prometheus")
        eventually(lambda: stack.inspect(container)["State"]["Health"]["Status"] == "healthy")
    finally:
        stack.compose("rm", "-fs", "prometheus", check=False)


@real
def test_the_grpc_profile_serves_a_triton_client(stack):
    stack.compose("--profile", "grpc", "up", "-d", "--no-build", "grpc")
    try:
        (container,) = stack.containers("grpc")
        eventually(lambda: stack.inspect(container)["State"]["Health"]["Status"] == "healthy")
        with InferenceServerClient(stack.env["GRPC_PORTS"]) as client:
            eventually(client.is_server_ready)
            sent = InferInput("input", [1], "BYTES")
            sent.set_data_from_numpy(np.array([b"by gRPC"], np.object_))
            result = client.infer("simulated", [sent])
        assert result is not None
        output = result.as_numpy("output")
        assert output is not None
        assert output.ravel().tolist() == pytest.approx(simulated.expected(b"by gRPC"))
    finally:
        stack.compose("rm", "-fs", "grpc", check=False)


@real
def test_the_v2_profile_serves_a_second_version(stack):
    stack.compose("--profile", "v2", "up", "-d", "--no-build", "worker-v2")
    try:
        model = f"{stack.urls()[0]}/v2/models/simulated"
        eventually(lambda: httpx.get(f"{model}/versions/2/ready").status_code == 200)
        assert httpx.get(model).json()["versions"] == ["1", "2"]
        assert httpx.get(f"{model}/versions/1/ready").status_code == 200
    finally:
        stack.compose("rm", "-fs", "worker-v2", check=False)


@real
def test_the_loadtest_profile_loads_the_stack_and_finds_every_response_correct(stack):
    profile = ("--profile", "loadtest")
    stack.compose(*profile, "build", "locust")
    try:
        stack.compose(*profile, "up", "-d", "--no-build", "--scale", "locust-worker=2", "locust", "locust-worker")
        page = f"http://{stack.env['LOCUST_PORTS']}"
        eventually(lambda: len(statistics(page).get("workers", [])) == 2)
        form = {"user_count": 8, "spawn_rate": 8, "host": "http://gateway:8000"}
        assert httpx.post(f"{page}/swarm", data=form).json()["success"]
        eventually(lambda: total_of(page)["num_requests"] > 100)
        httpx.get(f"{page}/stop")
        assert total_of(page)["num_failures"] == 0
        (container,) = stack.containers("locust")
        eventually(lambda: stack.inspect(container)["State"]["Health"]["Status"] == "healthy")
    finally:
        stack.compose(*profile, "rm", "-fs", "locust", "locust-worker", check=False)


def statistics(page: str) -> dict[str, Any]:
    try:
        return httpx.get(f"{page}/stats/requests").json()
    except httpx.TransportError:
        return {}


def total_of(page: str) -> dict[str, Any]:
    return next(entry for entry in statistics(page)["stats"] if entry["name"] == "Aggregated")


def value_of(url: str, query: str) -> float | None:
    try:
        response = httpx.get(f"{url}/query", params={"query": query}, timeout=5)
    except httpx.TransportError:
        return None
    if response.status_code == 503:  # it listens, but is still starting
        return None
    result = response.json()
    return next((float(series["value"][1]) for series in result["data"]["result"]), None)
