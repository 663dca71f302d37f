"""One system for all tests of the protocol: three models that take a tensor, a photo or any bytes, and one of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from smartbatch.deploy import embedded_broker
from tests.brokers import Broker, eventually
from tests.system.stack import Process, Stack

MODELS = {
    "simulated": "simulated:base_ms=1,row_ms=0",
    "echo": "tests.system.oip.models:Echo",
    "arithmetic": "tests.system.oip.models:Arithmetic",
    "efficientnet_lite0": "efficientnet_lite0",
}


@pytest.fixture(scope="package")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    broker = Broker(str(embedded_broker.server_binary()))
    stack = Stack(broker, Path(tmp_path_factory.mktemp("oip")), MAX_BATCH_SIZE=8, TORCH_THREADS=1)
    try:
        stack.gateway()
        for name, path in MODELS.items():
            stack.worker(MODEL_NAME=name, MODEL_PATH=path)
        eventually(lambda: _ready_models(stack) == set(MODELS), 100, 0.1)
        yield stack
    finally:
        stack.close()
        broker.stop()


@pytest.fixture(scope="package")
def grpc_gateway(system: Stack) -> Process:
    """A gRPC gateway on the same broker."""
    return system.grpc_gateway()


@pytest.fixture(scope="session")
def cat() -> bytes:
    return (Path(__file__).parents[3] / "examples" / "cat.jpg").read_bytes()


def _ready_models(stack: Stack) -> set[str]:
    models = stack.client.get(f"{stack.url}/readyz").json()["ready_workers"]
    for process in stack.processes:
        assert process.popen.poll() is None, process.log.read_text()
    return {name for name, workers in models.items() if workers}
