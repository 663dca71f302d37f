"""`stack(MODEL_PATH=…, MAX_BATCH_SIZE=…)` makes a system on an empty broker; the test starts its processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
