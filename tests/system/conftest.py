"""`stack(MODEL_PATH=…, MAX_BATCH_SIZE=…)` makes a system on an empty broker; the test starts its processes.

`shared(MODEL_PATH=…)` is a running one, shared by all tests of a module with the same settings: for those
that look at nothing but their own requests, and end no process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smartbatch.deploy import embedded_broker
from tests.brokers import Broker
from tests.system.stack import Stack


@pytest.fixture
def stack(broker: Broker, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    made: list[Stack] = []

    def make(**settings: object) -> Stack:
        made.append(Stack(broker, tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Stack]]:
    systems: dict[tuple[object, ...], Stack] = {}

    def find(workers: int = 1, **settings: object) -> Stack:
        key = (workers, *sorted(settings.items()))
        if key not in systems:
            broker = Broker(str(embedded_broker.server_binary()))
            systems[key] = Stack(broker, tmp_path_factory.mktemp("shared"), **settings)
            systems[key].up(workers)
        return systems[key]

    yield find
    for system in systems.values():
        system.close()
        system.broker.stop()
