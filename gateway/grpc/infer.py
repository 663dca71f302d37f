"""ModelInfer: as POST /v2/models/{model}/infer (gateway/oip/infer.py), over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from smartbatch.gateway.formats.render import response_headers
from smartbatch.gateway.grpc import infer_request, messages
from smartbatch.gateway.grpc import inference_pb2 as pb
from smartbatch.gateway.grpc.calls import Context, abort, headers_of
from smartbatch.gateway.grpc.statuses import STATUS
from smartbatch.gateway.inference.params import read_headers, timeout_of
from smartbatch.gateway.inference.parsing import parse_body
from smartbatch.gateway.inference.request import InferenceRequest, Response
from smartbatch.gateway.oip import outputs
from smartbatch.gateway.oip.infer_options import InferOptions, check_version, shortest
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.errors import ClientGone, DeadlineExceeded
from smartbatch.shared.telemetry import trace_context
from smartbatch.shared.wire import Reply

_READ = frozenset((b"x-request-id", b"x-request-timeout", *trace_context.HEADERS))
_METHOD = "inference.GRPCInferenceService/ModelInfer"
_ATTRIBUTES = {"rpc.system.name": "grpc", "rpc.method": _METHOD}


class GrpcInferRequest(InferenceRequest):
    """The message says the model, so it is read with the head. The response's headers are trailing metadata."""

    def __init__(self, gateway: GatewayServices, content: bytes, deadline_s: float | None) -> None:
        super().__init__(gateway)
        self._content = content
        self._message = pb.ModelInferRequest()
        self._waits_s = self.deadline_s = deadline_s
        self._wanted = InferOptions()

    @property
    def request_id(self) -> str:
        return self._request_id

    def head(self, headers: Iterable[tuple[bytes, bytes]], query: bytes = b"") -> None:
        found = read_headers(headers, _READ)
        self._take_up(found, headers)
        self._principal = self._gateway.authenticator.identify(headers)
        self._waits_s = shortest(self.deadline_s, timeout_of(found))
        self._wait_at_most(self._waits_s)
        self._message = message = infer_request.message_of(self._content)
        self._enter(message.model_name)
        check_version(message.model_name, message.model_version)
        self._check()

    def request(self, body: bytes) -> NewEntry:
        """The shortest of the call's deadline, its headers' timeout and the message's counts."""
        model = self._queue.keys.model
        info, max_rows = self._gateway.takes(model)
        payload, self._wanted = infer_request.read(self._message, info, max_rows)
        self._wait_at_most(shortest(self._waits_s, self._wanted.timeout_s))
        return self._packed(payload)

    def _traced_as(self) -> tuple[str, dict[str, Any]]:
        return _METHOD, _ATTRIBUTES

    def _ended_as(self, status: int) -> dict[str, Any]:
        return {"rpc.response.status_code": "OK" if status == 200 else STATUS[status].name}

    def _response(self, reply: Reply, timing: dict[str, float]) -> Response:
        given = outputs.output_tensors(reply, self._wanted)
        message = messages.infer_response(self._queue.keys.model, self._wanted.id, given)
        return Response(200, response_headers(self._shown_id, reply.batch, timing), message.SerializeToString())


async def infer(gateway: GatewayServices, content: bytes, context: Context) -> bytes:
    """Answer a ModelInferRequest. A call that its client cancels, or whose deadline passes, is cancelled here: its
    place is free at once."""
    inference = GrpcInferRequest(gateway, content, context.time_remaining())
    try:
        inference.head(headers_of(context))
        request = await parse_body(gateway, inference, content, "")
        response = inference.answered(await inference.submit(request).future)
    except asyncio.CancelledError:
        inference.record_failure(_why_cancelled(inference))
        raise
    except Exception as error:
        inference.record_failure(error)
        await abort(context, error, inference.request_id)
    finally:
        inference.release()
    context.set_trailing_metadata(tuple((name.decode(), value.decode("latin-1")) for name, value in response.headers))
    return response.content


def _why_cancelled(inference: GrpcInferRequest) -> DeadlineExceeded | ClientGone:
    if inference.deadline_s is not None and time.monotonic() - inference.started_at >= inference.deadline_s:
        return DeadlineExceeded("the deadline of the call passed")
    return ClientGone("the client cancelled the call")
