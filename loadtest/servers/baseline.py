"""The benchmark's baseline: a Starlette server that runs the same model code, one request at a time.

    MODEL_PATH=resnet18 python -m loadtest.servers.baseline 8080
    MODEL_PATH=resnet18 python -m loadtest.servers.baseline describe      # the model's metadata as JSON

It reads a worker's settings from the environment. The model runs in the event loop, which with one device is as fast as
any other way and costs less than a thread per request.
"""

from __future__ import annotations

import sys
import time

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtest.servers.same_model import SameModel
from smartbatch.gateway.core.problems import problem
from smartbatch.shared import model_info
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.settings import from_environment


def application(served: SameModel) -> Starlette:
    def respond(body: bytes, content_type: str) -> bytes:
        started = time.monotonic()
        return served.response(served.run(served.rows(body, content_type)), started)

    async def predict(request: Request) -> Response:
        body = await request.body()
        try:
            return Response(respond(body, request.headers.get("content-type", "")), media_type="application/json")
        except SmartBatchError as error:
            status, headers, content = problem(error, None)
            return Response(content, status, headers)

    async def ready(request: Request) -> Response:
        return Response(msgspec.json.encode({"ready": True, "ready_workers": {served.info.name: 1}}))

    return Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/readyz", ready)])


def main() -> None:
    try:
        served = SameModel(from_environment(), 1)
    except SmartBatchError as error:
        sys.exit(f"baseline: {error}")
    match sys.argv[1:]:
        case ["describe"]:
            print(model_info.encode(served.info).decode())
        case [port] if port.isdigit():
            uvicorn.run(application(served), port=int(port), log_level="warning", access_log=False)
        case _:
            sys.exit("baseline: expected a port or `describe`")


if __name__ == "__main__":
    main()
