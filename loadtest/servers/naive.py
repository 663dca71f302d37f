"""Reference of `make bench`: Starlette on uvicorn in one process, which runs the model once per request.

    python -m loadtest.servers.naive PORT echo | sleep:MS

`echo` returns what the simulated model returns: ten floats computed from the body's digest. `sleep:4.2` first occupies
the device for 4.2 ms. The model runs in the event loop, because a thread per request costs more CPU and is not faster
with one device.
"""

from __future__ import annotations

import hashlib
import sys
import time

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def application(model_s: float) -> Starlette:
    async def predict(request: Request) -> JSONResponse:
        row = digest(await request.body())
        if model_s:
            time.sleep(model_s)  # noqa: ASYNC251 (blocks as the only device would)
        return JSONResponse({"outputs": {"output": {"dtype": "float32", "shape": [1, 10], "data": [row]}}})

    async def ready(request: Request) -> JSONResponse:
        return JSONResponse({"ready": True, "ready_workers": {"naive": 1}})

    return Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/readyz", ready)])


def digest(body: bytes) -> list[float]:
    digits = int.from_bytes(hashlib.sha256(body).digest(), "little")
    return [(digits >> place & 0xFFFFFF) / 2**24 for place in range(0, 240, 24)]


def main() -> None:
    port, model = int(sys.argv[1]), sys.argv[2]
    model_s = float(model.removeprefix("sleep:")) / 1000 if model.startswith("sleep:") else 0.0
    uvicorn.run(application(model_s), port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
