"""ModelInfer: as POST /v2/models/{model}/infer (gateway/oip/infer.py), over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from gateway.asking import Asking, Response
from gateway.envelope import read_headers, timeout_of
from gateway.formats.answers import response_headers
from gateway.gateway import Gateway
from gateway.oip import outputs
from gateway.oip.wanted import Wanted, check_version, shortest
from gateway.parsing import made
from gateway.rpc import infer_request, messages
from gateway.rpc import inference_pb2 as pb
from gateway.rpc.calls import Context, abort, headers_of
from gateway.rpc.statuses import STATUS
from shared import trace_context
from shared.broker.admission import Request
from shared.errors import ClientGone, DeadlineExceeded
from shared.wire import Reply

_READ = frozenset((b"x-request-id", b"x-request-timeout", *trace_context.HEADERS))
_METHOD = "inference.GRPCInferenceService/ModelInfer"
_ATTRIBUTES = {"rpc.system.name": "grpc", "rpc.method": _METHOD}


class RpcInference(Asking):
    """The message says the model, so it is read with the head. The response's headers are trailing metadata."""

    def __init__(self, gateway: Gateway, content: bytes, deadline_s: float | None) -> None:
        super().__init__(gateway)
        self._content = content
        self._message = pb.ModelInferRequest()
        self._waits_s = self.deadline_s = deadline_s
        self._wanted = Wanted()

    @property
    def request_id(self) -> str:
        return self._request_id

    def head(self, headers: Iterable[tuple[bytes, bytes]], query: bytes = b"") -> None:
        found = read_headers(headers, _READ)
        self._take_up(found, headers)
        self._caller = self._gateway.guard.identify(headers)
        self._waits_s = shortest(self.deadline_s, timeout_of(found))
        self._wait_at_most(self._waits_s)
        self._message = message = infer_request.message_of(self._content)
        self._enter(message.model_name)
        check_version(message.model_name, message.model_version)
        self._check()

    def request(self, body: bytes) -> Request:
        """The shortest of the call's deadline, its headers' timeout and the message's counts."""
        model = self._lane.keys.model
        info, max_rows = self._gateway.takes(model)
        payload, self._wanted = infer_request.read(self._message, info, max_rows)
        self._wait_at_most(shortest(self._waits_s, self._wanted.timeout_s))
        return self._packed(payload)

    def _traced_as(self) -> tuple[str, dict[str, Any]]:
        return _METHOD, _ATTRIBUTES

    def _ended_as(self, status: int) -> dict[str, Any]:
        return {"rpc.response.status_code": "OK" if status == 200 else STATUS[status].name}

    def _response(self, reply: Reply, timing: dict[str, float]) -> Response:
        given = outputs.given(reply, self._wanted)
        message = messages.infer_response(self._lane.keys.model, self._wanted.id, given)
        return Response(200, response_headers(self._shown_id, reply.batch, timing), message.SerializeToString())


async def infer(gateway: Gateway, content: bytes, context: Context) -> bytes:
    """Answer a ModelInferRequest. A call that its client cancels, or whose deadline passes, is cancelled here: its
    place is free at once."""
    asking = RpcInference(gateway, content, context.time_remaining())
    try:
        asking.head(headers_of(context))
        request = await made(gateway, asking, content, "")
        response = asking.answered(await asking.submit(request).future)
    except asyncio.CancelledError:
        asking.account(_why_cancelled(asking))
        raise
    except Exception as error:
        asking.account(error)
        await abort(context, error, asking.request_id)
    finally:
        asking.forget()
    context.set_trailing_metadata(tuple((name.decode(), value.decode("latin-1")) for name, value in response.headers))
    return response.content


def _why_cancelled(asking: RpcInference) -> DeadlineExceeded | ClientGone:
    if asking.deadline_s is not None and time.monotonic() - asking.started_at >= asking.deadline_s:
        return DeadlineExceeded("its deadline passed")
    return ClientGone("the client cancelled the call")
