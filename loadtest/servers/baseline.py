"""The benchmark's baseline: a Starlette server that runs the same model code, one request at a time.

    MODEL_PATH=resnet18 python -m loadtest.servers.baseline 8080
    MODEL_PATH=resnet18 python -m loadtest.servers.baseline describe      # the model's metadata as JSON

It reads a worker's settings from the environment. The model runs in the event loop, which with one device is as fast as
any other way and costs less than a thread per request. It imports the product's code, so that both sides read the same
bodies, run the same model code and write the same responses.
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

from smartbatch.gateway import formats
from smartbatch.gateway.core.problems import problem
from smartbatch.gateway.formats import render
from smartbatch.gateway.formats.render import Format
from smartbatch.gateway.inference.predict import DEFAULT_TOP_K
from smartbatch.shared import model_info
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.settings import Settings, from_environment
from smartbatch.shared.wire import Reply
from smartbatch.worker import models
from smartbatch.worker.models import LoadContext, Model


def load(settings: Settings) -> Model:
    """Load the model as a worker does, without compiling in the background."""
    model = models.resolve(settings.model_path)
    model.load(LoadContext.of(settings, max_batch_size=1))
    return model


def application(settings: Settings, model: Model) -> Starlette:
    info = model.info(settings.model, settings.model_path, settings.max_batch_size)

    def respond(body: bytes, content_type: str) -> bytes:
        started = time.monotonic()
        payload = formats.parse(body, content_type, info, max_rows=settings.max_batch_size)
        payload.options = {"top_k": DEFAULT_TOP_K}
        rows = model.decode(payload)
        outputs = model.separate(model.forward(model.collate(rows)), len(rows))
        reply = Reply(model.encode(outputs, payload.options))
        timing = {"total": round((time.monotonic() - started) * 1000, 3)}
        return render.render(Format.JSON, reply, model=info.name, request_id="", timing=timing)

    async def predict(request: Request) -> Response:
        body = await request.body()
        try:
            return Response(respond(body, request.headers.get("content-type", "")), media_type="application/json")
        except SmartBatchError as error:
            status, headers, content = problem(error, None)
            return Response(content, status, headers)

    async def ready(request: Request) -> Response:
        return Response(msgspec.json.encode({"ready": True, "ready_workers": {info.name: 1}}))

    return Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/readyz", ready)])


def main() -> None:
    try:
        settings = from_environment()
        model = load(settings)
    except SmartBatchError as error:
        sys.exit(f"baseline: {error}")
    match sys.argv[1:]:
        case ["describe"]:
            print(model_info.encode(model.info(settings.model, settings.model_path, settings.max_batch_size)).decode())
        case [port] if port.isdigit():
            uvicorn.run(application(settings, model), port=int(port), log_level="warning", access_log=False)
        case _:
            sys.exit("baseline: expected a port or `describe`")


if __name__ == "__main__":
    main()
