"""Yardstick of `make bench`: a server without a batcher. Starlette on uvicorn, the model per request, one process.

    python -m loadtest.servers.naive PORT echo | sleep:MS

`echo` answers as the simulated model does, with ten floats made of the body's digest, and costs what that costs;
`sleep:4.2` first occupies the one device for as many milliseconds. The model runs in the event loop, which is the
cheapest way (a thread per request costs more CPU) and, with one device, as fast as any.
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
            time.sleep(model_s)  # noqa: ASYNC251 (this is what makes it naive)
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
