"""LitServe with the same model code, to compare with, where it is installed (`pip install litserve`).

    MODEL_PATH=resnet50 MAX_BATCH_SIZE=32 python -m loadtest.servers.litserve_server PORT

It reads a worker's settings from the environment. LitServe runs one process for HTTP and one for the model.
"""

import sys
import time
from typing import Annotated, Any

import litserve
from fastapi import Body, Response

from loadtest.servers.same_model import SameModel
from smartbatch.shared.settings import from_environment

TENSOR = "application/x-npy"


class Api(litserve.LitAPI):
    def setup(self, device: object) -> None:
        settings = from_environment()
        self.served = SameModel(settings, settings.max_batch_size)

    def decode_request(self, request: Annotated[bytes, Body(media_type=TENSOR)], **_: Any) -> Any:
        (row,) = self.served.rows(request, TENSOR)
        return row

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, rows: list[Any], **_: Any) -> list[Any]:
        return self.served.run(rows)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any, **_: Any) -> Response:
        return Response(self.served.response([output], time.monotonic()), media_type="application/json")


def main() -> None:
    settings = from_environment()
    api = Api(max_batch_size=settings.max_batch_size, batch_timeout=settings.max_wait_time)
    accelerator = "cuda" if settings.device.startswith("cuda") else "cpu"
    server = litserve.LitServer(api, accelerator=accelerator, devices=1, timeout=False)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
