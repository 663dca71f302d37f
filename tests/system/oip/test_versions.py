"""What the protocol says of a model with two versions, read with tritonclient over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from smartbatch.deploy import embedded_broker
from tests.brokers import Broker, eventually
from tests.system.stack import Process, Stack

Client = Any  # its own annotations say that any answer may be None


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two versions of `m` that take different inputs, and one of `other`."""
    broker = Broker(str(embedded_broker.server_binary()))
    stack = Stack(broker, Path(tmp_path_factory.mktemp("versions")), MODEL_NAME="m", MAX_BATCH_SIZE=8, TORCH_THREADS=1)
    try:
        stack.gateway()
        stack.worker(MODEL_PATH="simulated")
        stack.worker(MODEL_PATH="tests.system.oip.models:Arithmetic", MODEL_VERSION=2)
        stack.worker(MODEL_PATH="simulated", MODEL_NAME="other")
        eventually(lambda: workers(stack) == {"m": 1, "m@2": 1, "other": 1}, 100, 0.1)
        yield stack
    finally:
        stack.close()
        broker.stop()


@pytest.fixture(scope="module")
def grpc_gateway(system: Stack) -> Process:
    return system.grpc_gateway()


def workers(stack: Stack) -> dict[str, int]:
    for process in stack.processes:
        assert process.popen.poll() in (None, 0), process.log.read_text()
    return stack.client.get(f"{stack.url}/readyz").json()["ready_workers"]


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, system: Stack) -> Iterator[Client]:
    if request.param == "http":
        with http_client.InferenceServerClient(system.url.removeprefix("http://")) as client:
            yield client
    else:
        url = request.getfixturevalue("grpc_gateway").url
        with grpc_client.InferenceServerClient(url) as client:
            yield client


def plain(client: Client, method: str, *args: str) -> Any:
    """Call a method of either client. Returns JSON."""
    more = {} if isinstance(client, http_client.InferenceServerClient) else {"as_json": True}
    return getattr(client, method)(*args, **more)


def index(client: Client) -> list[tuple[str, str, str]]:
    found = plain(client, "get_model_repository_index")
    entries = found if isinstance(found, list) else found["models"]
    return [(entry["name"], entry["version"], entry["state"]) for entry in entries]


def test_metadata_lists_all_versions_and_describes_the_requested_one(client: Client) -> None:
    def described(*target: str) -> tuple[list[str], str]:
        metadata = plain(client, "get_model_metadata", *target)
        return metadata["versions"], metadata["inputs"][0]["name"]

    assert described("m", "1") == (["1", "2"], "input")
    assert described("m", "2") == (["1", "2"], "x")
    assert described("m") == (["1", "2"], "x")
    assert described("other") == (["1"], "input")


def test_config_is_that_of_the_requested_version(client: Client) -> None:
    def described(*target: str) -> tuple[str, list[int]]:
        config = plain(client, "get_model_config", *target)
        config = config.get("config", config)
        assert config["name"] == "m" and config["instance_group"][0]["count"] == 1
        return config["platform"], [int(version) for version in config["version_policy"]["specific"]["versions"]]

    assert described("m", "1") == ("simulated", [1, 2])
    assert described("m", "2") == described("m") == ("pytorch", [1, 2])


def test_statistics_are_kept_for_each_version(client: Client, system: Stack) -> None:
    def counts(*target: str) -> dict[tuple[str, str], int]:
        models = plain(client, "get_inference_statistics", *target)["model_stats"]
        return {(each["name"], each["version"]): int(each.get("inference_count", 0)) for each in models}

    assert set(counts()) == {("m", "1"), ("m", "2"), ("other", "1")}
    assert set(counts("m")) == {("m", "1"), ("m", "2")}
    assert set(counts("m", "2")) == {("m", "2")}
    assert system.predict(b"x", params={"model": "other"}).status_code == 200
    eventually(lambda: counts("other") != {("other", "1"): 0})
    assert counts("m", "2") == {("m", "2"): 0}


def test_infer_runs_the_requested_version_and_names_it(client: Client) -> None:
    module = http_client if isinstance(client, http_client.InferenceServerClient) else grpc_client
    x = module.InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(np.array([[1, -2]], np.float32))
    raw = module.InferInput("input", [1], "BYTES")
    raw.set_data_from_numpy(np.array([b"x"], np.object_))

    def answered_by(*args: Any, **how: Any) -> str:
        response = client.infer("m", *args, **how).get_response()
        return response["model_version"] if isinstance(response, dict) else response.model_version

    def rows(version: str) -> int:
        (model,) = plain(client, "get_inference_statistics", "m", version)["model_stats"]
        return int(model.get("inference_count", 0))

    before = rows("2")
    assert answered_by([x], model_version="2") == answered_by([x]) == "2"
    assert answered_by([raw], model_version="1") == "1"
    eventually(lambda: rows("2") == before + 2)
    with pytest.raises(InferenceServerException, match="model 'm' has no version 3; available: 1, 2"):
        client.infer("m", [x], model_version="3")


def test_unknown_versions_are_refused_with_those_that_exist(client: Client) -> None:
    for method in ("get_model_metadata", "get_model_config", "get_inference_statistics"):
        for version, text in (
            ("3", "model 'm' has no version 3; available: 1, 2"),
            ("latest", "a version must be a whole number from 1 to 999999999, got 'latest'"),
        ):
            with pytest.raises(InferenceServerException) as caught:
                getattr(client, method)("m", version)
            assert (caught.value.status(), text in str(caught.value)) in (("404", True), ("StatusCode.NOT_FOUND", True))
        with pytest.raises(InferenceServerException, match=r"model 'm@2' not found; available: m, other"):
            getattr(client, method)("m@2")


def test_index_and_readiness_follow_the_workers_of_each_version(client: Client, system: Stack) -> None:
    ready = [("m", "1", "READY"), ("m", "2", "READY"), ("other", "1", "READY")]
    eventually(lambda: index(client) == ready)
    second = next(process for process in system.processes if ", model m@2" in process.log.read_text())
    assert second.stop() == 0
    eventually(lambda: index(client)[1] == ("m", "2", "UNAVAILABLE"))
    assert client.is_model_ready("m") and client.is_model_ready("m", "1")
    assert not client.is_model_ready("m", "2")
    assert plain(client, "get_model_metadata", "m")["inputs"][0]["name"] == "input"  # of a version with a worker
    assert plain(client, "get_model_metadata", "m", "2")["versions"] == ["1", "2"]
    system.processes.remove(second)
    system.worker(MODEL_PATH="tests.system.oip.models:Arithmetic", MODEL_VERSION=2)
    eventually(lambda: index(client) == ready, 60, 0.1)
