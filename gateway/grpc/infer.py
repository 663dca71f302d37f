"""ModelInfer: the same as POST /v2/models/{model}/infer (oip/infer.py), over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from smartbatch.gateway.formats.render import response_headers
from smartbatch.gateway.grpc import infer_request, messages
from smartbatch.gateway.grpc import inference_pb2 as pb
from smartbatch.gateway.grpc.calls import Context, abort, headers_of
from smartbatch.gateway.grpc.statuses import STATUS
from smartbatch.gateway.inference.codec import COMMON_HEADERS, Codec, Response
from smartbatch.gateway.inference.parsing import parse_body
from smartbatch.gateway.inference.request import InferenceRequest
from smartbatch.gateway.inference.request_services import RequestServices
from smartbatch.gateway.oip import outputs
from smartbatch.gateway.oip.infer_options import InferOptions
from smartbatch.shared.errors import ClientGone, DeadlineExceeded
from smartbatch.shared.keys import parse_version
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.wire import Payload, Reply

_METHOD = "inference.GRPCInferenceService/ModelInfer"


class GrpcCodec(Codec):
    """The message contains the model's name, so `parse_head` decodes it. Response headers become trailing metadata."""

    header_names = COMMON_HEADERS

    _options = InferOptions()

    def __init__(self, content: bytes, deadline_s: float | None) -> None:
        self._content = content
        self._message = pb.ModelInferRequest()
        self.timeout_s = deadline_s

    def parse_head(self, headers: Mapping[bytes, str], query: bytes) -> None:
        self._message = infer_request.parse_message(self._content)
        self.model = self._message.model_name or None
        if self._message.model_version:
            self.version = parse_version(self._message.model_version)

    def check_head(self) -> None:
        pass

    def parse_body(self, body: bytes, info: ModelInfo | None, max_rows: int) -> Payload:
        payload, self._options = infer_request.read(self._message, info, max_rows)
        self.timeout_s = self._options.timeout_s
        return payload

    def render_reply(
        self, reply: Reply, timing_ms: dict[str, float], *, model: str, version: int, request_id: str, client_id: str
    ) -> Response:
        tensors = outputs.output_tensors(reply, self._options)
        message = messages.infer_response(model, version, self._options.id, tensors)
        return Response(200, response_headers(client_id, reply.batch, timing_ms), message.SerializeToString())

    def span(self) -> tuple[str, Mapping[str, Any]]:
        return _METHOD, {"rpc.system.name": "grpc", "rpc.method": _METHOD}

    def response_attributes(self, status: int) -> Mapping[str, Any]:
        return {"rpc.response.status_code": "OK" if status == 200 else STATUS[status].name}


async def infer(services: RequestServices, content: bytes, context: Context) -> bytes:
    """Handle a ModelInferRequest. gRPC cancels the task when the client cancels the call or its deadline passes."""
    deadline_s = context.time_remaining()
    request = InferenceRequest(services, GrpcCodec(content, deadline_s))
    try:
        request.parse_head(headers_of(context), b"")
        await parse_body(services, request, content, "")
        response = request.finish(await request.reply())
    except asyncio.CancelledError:
        expired = deadline_s is not None and time.monotonic() - request.started_at >= deadline_s
        request.record_failure(
            DeadlineExceeded("the deadline of the call passed")
            if expired
            else ClientGone("the client cancelled the call")
        )
        raise
    except Exception as error:
        request.record_failure(error)
        await abort(context, error, request.id)
    finally:
        request.release()
    context.set_trailing_metadata(tuple((name.decode(), value.decode("latin-1")) for name, value in response.headers))
    return response.content
