"""Mosec with the same model code, to compare with, where it is installed (`pip install mosec`).

    MODEL_PATH=resnet50 MAX_BATCH_SIZE=32 python -m loadtest.servers.mosec_server PORT

It reads a worker's settings from the environment. As in Mosec's own example, processes of their own decode.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import mosec
import msgspec

from loadtest.servers.same_model import SameModel
from smartbatch.shared.settings import from_environment

TENSOR = "application/x-npy"
DECODERS = max(1, min(4, (os.cpu_count() or 1) // 2))


class Decode(mosec.Worker):
    def __init__(self) -> None:
        self._served = SameModel(msgspec.structs.replace(from_environment(), device="cpu", optimize="none"), 1)

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Any:
        (row,) = self._served.rows(data, TENSOR)
        return row


class Infer(mosec.Worker):
    def __init__(self) -> None:
        settings = from_environment()
        self._served = SameModel(settings, settings.max_batch_size)

    def forward(self, data: list[Any]) -> list[Any]:
        return self._served.run(data)

    def serialize(self, data: Any) -> bytes:
        return self._served.response([data], time.monotonic())


def main() -> None:
    settings = from_environment()
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", sys.argv[1], "--log-level", "warning"]
    server = mosec.Server()
    server.append_worker(Decode, num=DECODERS, timeout=60, route="/predict")
    server.append_worker(
        Infer,
        max_batch_size=settings.max_batch_size,
        max_wait_time=round(1000 * settings.max_wait_time),  # milliseconds
        timeout=60,
        route="/predict",
    )
    server.run()


if __name__ == "__main__":
    main()
