"""The path of a request through the worker is the one that docs/architecture.md lists: one real request is traced."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from smartbatch.shared.settings import from_environment
from smartbatch.worker.process import Worker
from tests.brokers import Broker, eventually
from tests.system.stack import Stack

ROOT = Path(__file__).parents[2]
MAX_FILES = 15
# These run at any time, whether a request comes or not, or before or after the replies leave.
BACKGROUND = (
    "worker/process.py:Worker._keep_announced",
    "worker/queue/heartbeat.py",
    "worker/watchdog.py",
    "worker/batching/throughput.py",
)


class Tracer:
    """Records which functions of worker/ are entered, by thread, while `recording`. Set it before threads start."""

    def __init__(self) -> None:
        self.recording = False
        self.entered: dict[str, list[str]] = {}  # by thread: file:function, in the order of the first entry

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if self.recording and (step := step_of(frame)) and not in_background(frame):
            steps = self.entered.setdefault(threading.current_thread().name, [])
            if step not in steps:
                steps.append(step)

    @property
    def steps(self) -> set[str]:
        return {step for steps in list(self.entered.values()) for step in list(steps)}


def step_of(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(ROOT / "worker"):
        return ""
    return f"{path.relative_to(ROOT)}:{frame.f_code.co_qualname}"


def in_background(frame: FrameType | None) -> bool:
    while frame:
        if step_of(frame).startswith(BACKGROUND):
            return True
        frame = frame.f_back
    return False


def listed_steps() -> list[str]:
    """Return what the section of the docs lists: file:function of each item."""
    text = (ROOT / "docs/architecture.md").read_text()
    section = text.split("\n## The path of a request\n")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `(worker/[^`]+)`", section, re.MULTILINE)


@pytest.fixture
async def tracer() -> AsyncIterator[Tracer]:
    tracer = Tracer()
    threading.settrace(tracer)  # for threads that start from now on
    sys.settrace(tracer)
    yield tracer
    sys.settrace(None)
    threading.settrace(None)  # pyright: ignore[reportArgumentType]


async def test_a_request_takes_the_listed_path(tracer: Tracer, broker: Broker, tmp_path: Path) -> None:
    settings = from_environment({"REDIS_URL": broker.url, "MODEL_PATH": "simulated", "METRICS_PORT": "-1"})
    worker = Worker(settings)
    running = asyncio.create_task(worker.run())
    system = Stack(broker, tmp_path, MODEL_PATH="simulated")
    listed = listed_steps()
    try:
        await asyncio.to_thread(system.gateway)
        await asyncio.to_thread(eventually, lambda: system.client.get(f"{system.url}/readyz").json()["ready"])
        tracer.recording = True
        body = {"inputs": [[1.0, 2.0]]}
        response = await asyncio.to_thread(lambda: system.client.post(f"{system.url}/predict", json=body))
        assert response.status_code == 200, response.text
        await asyncio.to_thread(eventually, lambda: set(listed) <= tracer.steps or running.done(), 5)
    finally:
        tracer.recording = False
        await asyncio.to_thread(system.close)
        worker._stop_requested.set()
        await running
        gc.unfreeze()
    assert {step.partition(":")[0] for step in tracer.steps} == {step.partition(":")[0] for step in listed}
    assert len({step.partition(":")[0] for step in tracer.steps}) <= MAX_FILES
    for thread, steps in tracer.entered.items():
        in_list = [step for step in steps if step in listed]
        assert in_list == sorted(in_list, key=listed.index), thread
