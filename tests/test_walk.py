"""The path of a request as docs/architecture.md lists it, compared with the functions that a real request enters."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from smartbatch.gateway import server
from smartbatch.gateway.app import create_app
from smartbatch.shared.settings import Settings, from_environment
from tests.brokers import Broker
from tests.system.stack import Stack
from tests.tracing import ROOT, CallTrace

MAX_GATEWAY_FILES = 19
REQUESTS = 5
MODEL = {"MODEL_NAME": "m", "MODEL_PATH": "tests.system.oip.models:Arithmetic"}
BODY = b'{"data": [1.0, 2.0]}'
REQUEST = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


def listed(heading: str) -> list[str]:
    """Return the functions that a numbered list of docs/architecture.md names, in order."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.split("## The path of a request\n", 1)[1].split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\d+\. `(\w+/[\w/]+\.py:[\w.]+)`", section, re.M)


def files(functions: list[str]) -> set[str]:
    return {function.partition(":")[0] for function in functions}


def check(traces: list[list[str]], heading: str, max_files: int) -> None:
    """Compare the functions that several requests entered with the list. Functions that only some entered belong to
    other tasks, such as one that runs every second."""
    functions = listed(heading)
    assert files(functions) == files(sorted(set.intersection(*map(set, traces))))
    for trace in traces:
        assert [function for function in trace if function in functions] == functions
    assert len(files(functions)) <= max_files


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[int]:
    """Run a gateway in this process and return its port."""
    with server.bind(settings) as sock:
        uvicorn_server = server.Server(server._config(create_app(settings), settings))
        serving = asyncio.create_task(uvicorn_server._serve([sock]))
        try:
            while not uvicorn_server.started:
                await asyncio.sleep(0.01)
            yield sock.getsockname()[1]
        finally:
            uvicorn_server.should_exit = True
            await serving


async def predict(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Send one request in one write, as most clients do, and return the response."""
    writer.write(REQUEST % (len(BODY), BODY))
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    return head + await reader.readexactly(int(length[1]))


async def test_a_request_walks_through_the_gateway_as_documented(broker: Broker, tmp_path: Path) -> None:
    settings = from_environment({"REDIS_URL": broker.url, "HOST": "127.0.0.1", "PORT": "0", **MODEL})
    stack = Stack(broker, tmp_path, **MODEL)
    stack.worker()
    trace = CallTrace("gateway")
    traces = []
    try:
        async with gateway(settings) as port, asyncio.timeout(60):
            streams = await asyncio.open_connection("127.0.0.1", port)
            await predict(*streams)  # waits for the worker and fills caches
            for _ in range(REQUESTS):
                await asyncio.sleep(0.05)  # until the tasks of the model queue wait again
                with trace.record() as entered:
                    response = await predict(*streams)
                assert response.startswith(b"HTTP/1.1 200"), response
                traces.append(list(entered))
            streams[1].close()
    finally:
        trace.close()
        stack.close()
    check(traces, "Gateway", MAX_GATEWAY_FILES)
